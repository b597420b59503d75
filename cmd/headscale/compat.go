package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// Releases whose answers can be asked for with --output-compat.
const (
	compat015 = "0.15" // the table of routes
	compat029 = "0.29" // JSON and YAML
)

// firstOurs is the number from which on the fields of headscale's messages are ours.
const firstOurs = 100

func (c *cli) checkCompat() error {
	if c.compat != "" && c.compat != compat015 && c.compat != compat029 {
		return fmt.Errorf("there is no output of release %q: --output-compat takes 0.29, or 0.15 for routes", c.compat)
	}
	return nil
}

// encode writes a message as JSON, in the shape of the API or of an older release.
func (c *cli) encode(m proto.Message) (json.RawMessage, error) {
	if c.compat == compat029 {
		o := older{yaml: c.output == "yaml"}
		return o.message(nil, m.ProtoReflect()), nil
	}
	data, err := shape.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing the answer: %w", err)
	}
	return data, nil
}

// said029 is what headscale 0.29 answered in another way than with the message: with its sentence, whatever the form
// (plain), or with an object around it.
func (c *cli) said029(sentence string, m proto.Message) (plain bool, object any) {
	if c.compat != compat029 {
		return false, nil
	}
	switch m.(type) {
	case *headscalev1.GetPolicyResponse, *headscalev1.SetPolicyResponse, *headscalev1.CheckPolicyResponse:
		return true, nil
	case *headscalev1.DeleteNodeResponse:
		return false, map[string]string{"Result": sentence}
	}
	return false, nil
}

// older writes messages as the command line up to 0.29 did, which was as Go's libraries write the structs of generated
// code: numbers are numbers, a time is {seconds, nanos}, an enumeration its number. In JSON the names are those of the
// .proto and what is empty is left out; in YAML the names are lower case without anything between the words, and what
// is empty is there. Members that headscale does not have are left out.
type older struct{ yaml bool }

func (o older) message(b []byte, m protoreflect.Message) []byte {
	b = append(b, '{')
	first := true
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Number() >= firstOurs || !m.Has(f) && !o.yaml {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, o.name(f)...)
		b = append(b, '"', ':')
		b = o.field(b, m, f)
	}
	return append(b, '}')
}

func (o older) name(f protoreflect.FieldDescriptor) string {
	if o.yaml {
		return strings.ReplaceAll(string(f.Name()), "_", "")
	}
	return string(f.Name())
}

func (o older) field(b []byte, m protoreflect.Message, f protoreflect.FieldDescriptor) []byte {
	if !f.IsList() {
		if f.Kind() == protoreflect.MessageKind && !m.Has(f) {
			return append(b, "null"...)
		}
		return o.value(b, m.Get(f), f)
	}
	b = append(b, '[')
	list := m.Get(f).List()
	for i := range list.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		b = o.value(b, list.Get(i), f)
	}
	return append(b, ']')
}

func (o older) value(b []byte, v protoreflect.Value, f protoreflect.FieldDescriptor) []byte {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return o.message(b, v.Message())
	case protoreflect.EnumKind:
		return strconv.AppendInt(b, int64(v.Enum()), 10)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return strconv.AppendUint(b, v.Uint(), 10)
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return strconv.AppendInt(b, v.Int(), 10)
	default: // texts, truths and fractions
		text, err := json.Marshal(v.Interface())
		if err != nil { // the .proto files have no kind that cannot be written; a test goes through them
			panic(err)
		}
		return append(b, text...)
	}
}
