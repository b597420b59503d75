package api

import (
	"net/http"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// firstOurs is the number from which on the fields of headscale's messages are ours.
const firstOurs = 100

// style is what an answer looks like.
type style struct {
	// bare leaves out what headscale 0.30 does not have: our own members and those of older releases. It is for programs
	// that accept nothing in particular (no Accept header), so that they may compare answers with headscale's.
	bare  bool
	older olderWords
	// userNames writes the owner of a pre-auth key as a name, as releases up to 0.25 did. Their clients can be told from
	// others: they name the user in the request; since 0.26 it is an ID, or nothing.
	userNames bool
}

func styleOf(r *http.Request, op operation) style {
	return style{bare: op.older == 0 && r.Header.Get("Accept") == "", older: op.older}
}

// olderWords are what machines and users were called.
type olderWords int

const (
	machineFamily   olderWords = iota + 1 // /machine: machine, and namespace beside user
	namespaceFamily                       // /namespace
	withMachine                           // /routes: machine beside node
)

// top is the name of a member of the whole answer.
func (o olderWords) top(name string) string {
	switch {
	case o == machineFamily && name == "node":
		return "machine"
	case o == machineFamily && name == "nodes":
		return "machines"
	case o == namespaceFamily && name == "user":
		return "namespace"
	case o == namespaceFamily && name == "users":
		return "namespaces"
	}
	return name
}

// forever is the expiration of an API key that has none: user interfaces take a key without one for broken.
var forever = timestamppb.New(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC))

// noDisco is the disco key of a node that has not told its own.
var noDisco = key.DiscoPublic{}.String()

// odd writes the fields whose JSON differs from the message. It reports whether it did.
func (j *jsonWriter) odd(m protoreflect.Message, f protoreflect.FieldDescriptor) bool {
	switch m := m.Interface().(type) {
	case *headscalev1.Node:
		if f.Name() == "disco_key" && m.GetDiscoKey() == "" {
			j.text(noDisco)
			return true
		}
	case *headscalev1.ApiKey:
		switch f.Name() {
		case "prefix": // that its whole key begins with it is how a user interface knows its own
			shown := tailnet.KeyStart(m.GetPrefix())
			if j.style.bare {
				shown = maskedKey(tailnet.APIKeySecret, m.GetPrefix())
			}
			j.text(shown)
			return true
		case "expiration":
			if m.GetExpiration() == nil {
				j.time(forever.AsTime())
				return true
			}
		}
	case *headscalev1.PreAuthKey:
		if f.Name() == "user" && j.style.userNames {
			j.text(m.GetUser().GetName())
			return true
		}
	}
	return false
}

// more adds the members that older releases had.
func (j *jsonWriter) more(m protoreflect.Message) {
	if j.style.bare {
		return
	}
	switch m := m.Interface().(type) {
	case *headscalev1.Node:
		j.name("forcedTags")
		j.texts(m.GetTags())
		j.name("validTags") // a client's wishes that were granted are tags as well
		j.texts(nil)
		j.name("invalidTags")
		j.texts(nil)
		if j.style.older == machineFamily {
			j.name(namespaceWord)
			j.field(m.ProtoReflect(), m.ProtoReflect().Descriptor().Fields().ByName(userWord))
		}
	case *headscalev1.Route:
		j.name("deletedAt")
		j.buf = append(j.buf, "null"...)
		if j.style.older == withMachine || j.style.older == machineFamily {
			j.name("machine")
			j.field(m.ProtoReflect(), m.ProtoReflect().Descriptor().Fields().ByName("node"))
		}
	case *headscalev1.PreAuthKey:
		if j.style.userNames {
			j.name(namespaceWord)
			j.text(m.GetUser().GetName())
		}
	}
}

func (j *jsonWriter) texts(list []string) {
	j.buf = append(j.buf, '[')
	for i, s := range list {
		if i > 0 {
			j.buf = append(j.buf, ',')
		}
		j.text(s)
	}
	j.buf = append(j.buf, ']')
}
