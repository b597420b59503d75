package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// maxQuery bounds what stands behind the question mark.
const maxQuery = 16 << 10

// reading is a request message as it is put together. Members may come by path, query and body; what comes twice must
// say the same.
type reading struct {
	op      operation
	message protoreflect.Message
	given   map[protoreflect.Name]string // as JSON
	users   map[protoreflect.Name]string // fields with an ID of a user that was named instead
	owner   string                       // of a pre-auth key, which older clients say beside the key
}

// read puts the request message together, and the users' IDs in the place of their names.
func (g *gateway) read(ctx context.Context, w http.ResponseWriter, r *http.Request, op operation, m proto.Message, st *style) error {
	rd := &reading{op: op, message: m.ProtoReflect(), given: map[protoreflect.Name]string{}, users: map[protoreflect.Name]string{}}
	for _, wildcard := range wildcards(op.path) {
		if err := rd.text(wildcard, r.PathValue(wildcard)); err != nil {
			return err
		}
	}
	if err := rd.query(r); err != nil {
		return err
	}
	if r.Method != http.MethodGet {
		if err := rd.body(w, r); err != nil {
			return err
		}
	}
	if err := g.settle(ctx, rd, m, st); err != nil {
		return err
	}
	return g.matches(ctx, r, m)
}

// wildcards are the names in braces.
func wildcards(path string) (names []string) {
	for segment := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
}

func (rd *reading) query(r *http.Request) error {
	if len(r.URL.RawQuery) > maxQuery {
		return status.Errorf(codes.InvalidArgument, "the query is longer than %d bytes", maxQuery)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return invalid("reading the query: %w", err)
	}
	for name, values := range query {
		if strings.HasPrefix(name, "_") {
			continue // browsers' libraries add such things against caches
		}
		f, err := rd.field(name)
		if err != nil {
			return err
		}
		if f != nil && f.IsList() {
			list, err := json.Marshal(values)
			if err != nil {
				return invalid("reading %s: %w", name, err)
			}
			if err := rd.put(name, list); err != nil {
				return err
			}
			continue
		}
		for _, v := range values {
			if err := rd.text(name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// text puts what is written without JSON's quotes: it stands for any type. Nothing is nothing.
func (rd *reading) text(name, value string) error {
	f, err := rd.field(name)
	if err != nil || value == "" {
		return err
	}
	if f != nil && f.Kind() == protoreflect.BoolKind {
		if value != "true" && value != "false" {
			return invalid("%s has to be true or false", name)
		}
		return rd.put(name, json.RawMessage(value))
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return invalid("reading %s: %w", name, err)
	}
	return rd.put(name, raw)
}

func (rd *reading) body(w http.ResponseWriter, r *http.Request) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return errTooLong
	}
	if err != nil {
		return invalid("reading the body: %w", err)
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return invalid("the body has to be a JSON object, and is a JSON %s", kind.Value)
		}
		return invalid("the body is no JSON: %w", err)
	}
	for name, raw := range members {
		if string(raw) == "null" {
			if _, err := rd.field(name); err != nil {
				return err
			}
			continue
		}
		if err := rd.put(name, raw); err != nil {
			return err
		}
	}
	return nil
}

// Older clients say namespace for user, and name users where there is a field of another name for that.
const (
	userWord      = "user"
	namespaceWord = "namespace"
	userRefField  = "user_ref"
)

// field is the request's field of that name: as JSON has it, as the .proto has it, or as it was once called. It is nil
// for the owner of a key that is named beside the key.
func (rd *reading) field(name string) (protoreflect.FieldDescriptor, error) {
	fields := rd.message.Descriptor().Fields()
	if f := fields.ByJSONName(name); f != nil {
		return f, nil
	}
	if f := fields.ByName(protoreflect.Name(name)); f != nil {
		return f, nil
	}
	if name == namespaceWord || name == userWord {
		for _, now := range []protoreflect.Name{userWord, userRefField} {
			if f := fields.ByName(now); f != nil {
				return f, nil
			}
		}
		if fields.ByName("key") != nil {
			return nil, nil
		}
	}
	var known []string
	for i := range fields.Len() {
		known = append(known, fields.Get(i).JSONName())
	}
	if len(known) == 0 {
		return nil, invalid("this takes nothing, and there is %q", clip(name))
	}
	return nil, invalid("there is no %q here, only %s", clip(name), strings.Join(known, ", "))
}

// clip keeps a sentence short that repeats what somebody sent.
func clip(text string) string {
	const enough = 64
	if len(text) > enough {
		return strings.ToValidUTF8(text[:enough], "") + "…"
	}
	return text
}

// put sets a member of the request.
func (rd *reading) put(name string, raw json.RawMessage) error {
	f, err := rd.field(name)
	if err != nil {
		return err
	}
	if f == nil {
		rd.owner = bare(raw)
		return nil
	}
	switch isUser := name == userWord || name == namespaceWord; {
	case rd.op.user == string(f.Name()), isUser && f.Kind() == protoreflect.Uint64Kind:
		if who := bare(raw); who == "" {
			return nil
		} else if strings.Trim(who, "0123456789") != "" && !looksLikeJSON(raw) {
			rd.users[f.Name()] = who
			return nil
		}
	case isUser && f.Kind() == protoreflect.StringKind && !looksLikeJSON(raw):
		if raw, err = json.Marshal(bare(raw)); err != nil { // an ID may come as a number
			return invalid("reading %s: %w", name, err)
		}
	}
	if was, twice := rd.given[f.Name()]; twice && was != bare(raw) {
		return invalid("%s is there twice, and not the same", f.JSONName())
	}
	rd.given[f.Name()] = bare(raw)
	one := rd.message.New().Interface()
	key, err := json.Marshal(f.JSONName())
	if err != nil {
		return invalid("reading %s: %w", name, err)
	}
	if protojson.Unmarshal(slices.Concat([]byte{'{'}, key, []byte{':'}, raw, []byte{'}'}), one) != nil {
		return invalid("%s has to be %s", f.JSONName(), wanted(f))
	}
	rd.message.Clear(f)
	proto.Merge(rd.message.Interface(), one)
	return nil
}

// bare is a JSON text without its quotes, or anything else as it is written.
func bare(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// looksLikeJSON tells lists, objects and words of JSON from texts and numbers.
func looksLikeJSON(raw json.RawMessage) bool {
	return len(raw) > 0 && strings.IndexByte("[{tfn", raw[0]) >= 0
}

// wanted says in words what the field takes.
func wanted(f protoreflect.FieldDescriptor) string {
	var one, many string
	switch f.Kind() {
	case protoreflect.BoolKind:
		one, many = "true or false", "true and false"
	case protoreflect.StringKind:
		one, many = "a text", "texts"
	case protoreflect.MessageKind:
		one, many = "a time like 2026-05-04T12:00:00Z", "times like 2026-05-04T12:00:00Z"
	case protoreflect.DoubleKind:
		one, many = "a number", "numbers"
	default:
		one, many = "a whole number", "whole numbers"
	}
	if f.IsList() {
		return "a list of " + many
	}
	return one
}

// settle finds the users that were named, and what older releases decided by them.
func (g *gateway) settle(ctx context.Context, rd *reading, m proto.Message, st *style) error {
	for field, who := range rd.users {
		if req, ok := m.(*headscalev1.CreatePreAuthKeyRequest); ok {
			u, err := g.server.userNamed(ctx, req.GetTailnet(), who)
			if errors.Is(err, tailnet.ErrNotFound) {
				return invalid("there is no user %q", clip(who))
			}
			if err != nil {
				return err
			}
			req.User, st.userNames = uint64(u.ID), true
			continue
		}
		u, err := g.server.userNamed(ctx, "", who)
		if err != nil {
			return err
		}
		f := rd.message.Descriptor().Fields().ByName(field)
		rd.message.Set(f, protoreflect.ValueOfUint64(uint64(u.ID)))
	}
	switch req := m.(type) {
	case *headscalev1.ListPreAuthKeysRequest:
		st.userNames = strings.Trim(req.GetUserRef(), "0123456789") != ""
	case *headscalev1.ExpirePreAuthKeyRequest:
		return g.checkOwner(ctx, rd.owner, req.GetId(), req.GetKey())
	case *headscalev1.DeletePreAuthKeyRequest:
		return g.checkOwner(ctx, rd.owner, req.GetId(), req.GetKey())
	}
	return nil
}

// checkOwner makes sure that a key is of the user who is named beside it, if one is.
func (g *gateway) checkOwner(ctx context.Context, owner string, id uint64, text string) error {
	if owner == "" {
		return nil
	}
	u, err := g.server.userNamed(ctx, "", owner)
	if err != nil {
		return err
	}
	k, err := g.server.preAuthKey(ctx, id, text)
	if err != nil {
		return err
	}
	keys, err := g.server.cfg.Store.ListPreAuthKeys(ctx, store.KeyFilter{TailnetID: u.TailnetID, UserID: u.ID})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(keys, func(each *tailnet.PreAuthKey) bool { return each.ID == k }) {
		return fmt.Errorf("%w: user %s has no such pre-auth key", tailnet.ErrNotFound, u.Name)
	}
	return nil
}
