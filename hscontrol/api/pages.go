package api

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Bounds of a page of a list.
const (
	usualPage = 100
	maxPage   = 1000
	maxCursor = 512 // bytes of a page_token
)

// nextPageField is in the answers that come in pages.
const nextPageField = "next_page_token"

// paged is a request for a list that may come in pages.
type paged interface {
	proto.Message
	GetPageSize() uint32
	GetPageToken() string
}

// place is where an item stands in its list: the list is sorted by number, then by text.
type place struct {
	number uint64
	text   string
}

func (p place) isAfter(q place) bool {
	return p.number > q.number || p.number == q.number && p.text > q.text
}

// page cuts out of a list, which is in the order of its places, what the request asks for, and says how the next
// request goes on: empty where nothing is left, or no pages were asked for.
//
// A cursor is the place of the last item that was shown, so that others may come and go meanwhile: what is there all
// the time is shown once. It is good for the question that it was given for. It is no secret and opens nothing.
func page[T any](req paged, all []T, placeOf func(T) place) (part []T, next string, err error) {
	size := int(req.GetPageSize())
	switch {
	case size > maxPage:
		return nil, "", invalid("a page of %d is too large: pageSize is %d at most", size, maxPage)
	case size == 0 && req.GetPageToken() == "":
		return all, "", nil
	case size == 0:
		size = usualPage
	}
	question, err := questionOf(req)
	if err != nil {
		return nil, "", err
	}
	if token := req.GetPageToken(); token != "" {
		last, err := readCursor(token, question)
		if err != nil {
			return nil, "", err
		}
		for len(all) > 0 && !placeOf(all[0]).isAfter(last) {
			all = all[1:]
		}
	}
	if len(all) <= size {
		return all, "", nil
	}
	return all[:size], writeCursor(question, placeOf(all[size-1])), nil
}

// questionOf tells requests apart that ask for different lists. How much of the list is no part of the question.
func questionOf(req paged) (uint64, error) {
	bare := proto.Clone(req).ProtoReflect()
	for _, name := range []protoreflect.Name{"page_size", "page_token"} {
		bare.Clear(bare.Descriptor().Fields().ByName(name))
	}
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(bare.Interface())
	if err != nil {
		return 0, fmt.Errorf("reading the request: %w", err)
	}
	h := fnv.New64a()
	h.Write([]byte(bare.Descriptor().Name())) // a hash returns no error
	h.Write(text)
	return h.Sum64(), nil
}

// A cursor is, in base64: its form, one byte; the question and the place's number, eight bytes each; the place's text.
const (
	cursorForm = 1
	cursorHead = 1 + 8 + 8
)

func writeCursor(question uint64, last place) string {
	b := append(make([]byte, 0, cursorHead+len(last.text)), cursorForm)
	b = binary.BigEndian.AppendUint64(b, question)
	b = binary.BigEndian.AppendUint64(b, last.number)
	return base64.RawURLEncoding.EncodeToString(append(b, last.text...))
}

func readCursor(token string, question uint64) (place, error) {
	if len(token) > maxCursor {
		return place{}, invalid("the pageToken is longer than %d bytes: begin again without one", maxCursor)
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < cursorHead || b[0] != cursorForm {
		return place{}, invalid("the pageToken is none that this server gives (nextPageToken): begin again without one")
	}
	if binary.BigEndian.Uint64(b[1:]) != question {
		return place{}, invalid("the pageToken is of another list: ask as you asked for the page before, or begin again without one")
	}
	return place{number: binary.BigEndian.Uint64(b[1+8:]), text: string(b[cursorHead:])}, nil
}
