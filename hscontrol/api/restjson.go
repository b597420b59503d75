package api

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// flushAt is how much of an answer is kept before it is sent.
const flushAt = 32 << 10

// maxBuffer is the largest one that is used again; a long policy makes larger ones.
const maxBuffer = 4 * flushAt

// maxShared bounds how many texts are kept to be written again.
const maxShared = 1000

// jsonWriter writes messages as proto3's JSON has them: camelCase, 64-bit numbers as texts, RFC 3339, members without a
// value too. It writes as it goes, so that a long list is in memory once only, as messages.
type jsonWriter struct {
	style style
	out   io.Writer
	buf   []byte
	err   error // of out

	shown *shown
	// shared are the texts of the users and keys that many nodes of one answer show; see names.
	shared map[proto.Message]string
}

// writeJSON writes an answer. What goes wrong goes wrong for somebody who hung up.
func (s *Server) writeJSON(w http.ResponseWriter, m proto.Message, st style) {
	buf, there := s.buffers.Get().(*[]byte)
	if !there {
		fresh := make([]byte, 0, flushAt+4<<10)
		buf = &fresh
	}
	j := &jsonWriter{style: st, out: w, shown: &s.shown, buf: *buf, shared: map[proto.Message]string{}}
	j.message(m.ProtoReflect(), true)
	j.buf = append(j.buf, '\n')
	j.flush()
	if cap(j.buf) <= maxBuffer {
		*buf = j.buf
		s.buffers.Put(buf)
	}
}

func (j *jsonWriter) flush() {
	if j.err == nil {
		_, j.err = j.out.Write(j.buf)
	}
	j.buf = j.buf[:0]
}

// name begins a member.
func (j *jsonWriter) name(name string) {
	if j.buf[len(j.buf)-1] != '{' {
		j.buf = append(j.buf, ',')
	}
	j.buf = append(j.buf, '"')
	j.buf = append(j.buf, name...)
	j.buf = append(j.buf, '"', ':')
}

// message writes an object. Names of older releases stand at the top only.
func (j *jsonWriter) message(m protoreflect.Message, top bool) {
	if at, ok := m.Interface().(*timestamppb.Timestamp); ok {
		j.time(at.AsTime())
		return
	}
	j.buf = append(j.buf, '{')
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !j.shows(m, f) {
			continue
		}
		name := f.JSONName()
		if top {
			name = j.style.older.top(name)
		}
		j.name(name)
		if !j.odd(m, f) {
			j.field(m, f)
		}
	}
	j.more(m)
	j.buf = append(j.buf, '}')
}

// shows reports whether the field is there for this caller. Who asks for pages gets the way to the next one, and nobody
// else hears of pages.
func (j *jsonWriter) shows(m protoreflect.Message, f protoreflect.FieldDescriptor) bool {
	if f.Name() == nextPageField {
		return m.Has(f)
	}
	return !j.style.bare || f.Number() < firstOurs
}

// inner writes a message inside of another one.
func (j *jsonWriter) inner(m protoreflect.Message) {
	one := m.Interface()
	switch one := one.(type) {
	case *headscalev1.Node:
		j.node(one)
		return
	case *headscalev1.User, *headscalev1.PreAuthKey:
	default:
		j.message(m, false)
		return
	}
	if text, there := j.shared[one]; there {
		j.buf = append(j.buf, text...)
		return
	}
	begin := len(j.buf)
	j.message(m, false) // too short to be flushed
	if len(j.shared) < maxShared {
		j.shared[one] = string(j.buf[begin:])
	}
}

// node writes a node, as it was written before if it was.
func (j *jsonWriter) node(m *headscalev1.Node) {
	kept := j.shown.of(m)
	if kept == nil || j.style != (style{}) {
		j.message(m.ProtoReflect(), false)
		return
	}
	if text := kept.json.Load(); text != nil {
		j.buf = append(j.buf, *text...)
		return
	}
	begin := len(j.buf)
	j.message(m.ProtoReflect(), false) // too short to be flushed
	text := string(j.buf[begin:])
	kept.json.Store(&text)
}

func (j *jsonWriter) field(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	if f.IsList() {
		j.list(m.Get(f).List(), f)
		return
	}
	if f.Kind() == protoreflect.MessageKind && !m.Has(f) {
		j.buf = append(j.buf, "null"...)
		return
	}
	j.value(m.Get(f), f)
}

func (j *jsonWriter) list(list protoreflect.List, f protoreflect.FieldDescriptor) {
	j.buf = append(j.buf, '[')
	for i := range list.Len() {
		if i > 0 {
			j.buf = append(j.buf, ',')
		}
		j.value(list.Get(i), f)
		if f.Kind() == protoreflect.MessageKind && len(j.buf) >= flushAt {
			j.flush()
			j.buf = append(j.buf, ' ') // name looks at what is before it
		}
	}
	j.buf = append(j.buf, ']')
}

func (j *jsonWriter) value(v protoreflect.Value, f protoreflect.FieldDescriptor) {
	switch f.Kind() {
	case protoreflect.MessageKind:
		j.inner(v.Message())
	case protoreflect.StringKind:
		j.text(v.String())
	case protoreflect.BoolKind:
		j.buf = strconv.AppendBool(j.buf, v.Bool())
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			j.text(string(e.Name()))
		} else {
			j.buf = strconv.AppendInt(j.buf, int64(v.Enum()), 10)
		}
	case protoreflect.Uint64Kind:
		j.buf = append(j.buf, '"')
		j.buf = strconv.AppendUint(j.buf, v.Uint(), 10)
		j.buf = append(j.buf, '"')
	case protoreflect.Uint32Kind:
		j.buf = strconv.AppendUint(j.buf, v.Uint(), 10)
	case protoreflect.Int32Kind:
		j.buf = strconv.AppendInt(j.buf, v.Int(), 10)
	case protoreflect.DoubleKind:
		j.float(v.Float())
	default:
		panic("no JSON for " + f.FullName()) // the .proto files have no other kinds; a test goes through them
	}
}

func (j *jsonWriter) float(v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		v = 0
	}
	j.buf = strconv.AppendFloat(j.buf, v, 'f', -1, 64)
}

func (j *jsonWriter) time(t time.Time) {
	j.buf = append(j.buf, '"')
	j.buf = t.UTC().AppendFormat(j.buf, time.RFC3339Nano)
	j.buf = append(j.buf, '"')
}

func (j *jsonWriter) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, err := json.Marshal(s) // a text always can be
			if err == nil {
				j.buf = append(j.buf, quoted...)
			}
			return
		}
	}
	j.buf = append(j.buf, '"')
	j.buf = append(j.buf, s...)
	j.buf = append(j.buf, '"')
}
