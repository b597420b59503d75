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

// span is the part of a list that a request asks for.
type span struct {
	size     int // 0: all of it
	after    place
	begun    bool // after is set
	question uint64
}

func spanOf(req paged) (span, error) {
	sp := span{size: int(req.GetPageSize())}
	switch token := req.GetPageToken(); {
	case sp.size > maxPage:
		return sp, invalid("a page of %d is too large: pageSize is %d at most", sp.size, maxPage)
	case sp.size == 0 && token == "":
		return sp, nil
	case sp.size == 0:
		sp.size = usualPage
	}
	var err error
	if sp.question, err = questionOf(req); err != nil || req.GetPageToken() == "" {
		return sp, err
	}
	sp.after, err = readCursor(req.GetPageToken(), sp.question)
	sp.begun = true
	return sp, err
}

// limit is how many have to be read to know whether there is another page; 0 for all.
func (sp span) limit() int {
	if sp.size == 0 {
		return 0
	}
	return sp.size + 1
}

// cut takes the part out of a list, or out of what of it comes after the last page, and says how the next request goes
// on: empty where nothing is left, or no pages were asked for. The list is in the order of its places.
//
// A cursor is the place of the last item that was shown, so that others may come and go meanwhile: what is there all
// the time is shown once. It is good for the question that it was given for. It is no secret and opens nothing.
func cut[T any](sp span, all []T, placeOf func(T) place) (part []T, next string) {
	for sp.begun && len(all) > 0 && !placeOf(all[0]).isAfter(sp.after) {
		all = all[1:]
	}
	if sp.size == 0 || len(all) <= sp.size {
		return all, ""
	}
	return all[:sp.size], writeCursor(sp.question, placeOf(all[sp.size-1]))
}

// page is spanOf and cut for a list that is there as a whole.
func page[T any](req paged, all []T, placeOf func(T) place) (part []T, next string, err error) {
	sp, err := spanOf(req)
	if err != nil {
		return nil, "", err
	}
	part, next = cut(sp, all, placeOf)
	return part, next, nil
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
