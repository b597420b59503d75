package policy

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/tailscale/hujson"
)

// Bounds on what a policy may hold, so that no text costs more than a moment to read.
const (
	maxText  = 4 << 20 // bytes
	maxDepth = 50      // brackets within brackets
	maxList  = 20_000  // entries of one list or object
	maxWords = 100_000 // texts in the whole policy
)

// word is a text in the policy, with the line where it stands.
type word struct {
	text string
	line int
}

// document is a HuJSON text that remembers its lines.
type document struct {
	text   []byte
	starts []int // offsets at which lines begin
	words  int   // texts read so far
}

// value is a part of a document, and the name of the place for messages: grants[2].src.
type value struct {
	*hujson.Value
	place string
}

func openDocument(text string) (*document, value, *Refusal) {
	d := &document{text: []byte(text), starts: []int{0}}
	if len(text) > maxText {
		return nil, value{}, refuse(0, "split it, or use groups and tags", "the policy is longer than %d bytes", maxText)
	}
	for i, b := range d.text {
		if b == '\n' {
			d.starts = append(d.starts, i+1)
		}
	}
	if offset := tooDeep(d.text); offset >= 0 {
		return nil, value{}, refuse(d.lineAt(offset), "no part of a policy needs that", "brackets are nested deeper than %d", maxDepth)
	}
	v, err := hujson.Parse(d.text)
	if err != nil && len(bytes.TrimSpace(d.text)) == 0 {
		return nil, value{}, refuse(0, "write {} to allow everything within the tailnet", "the policy is empty")
	}
	if err != nil {
		return nil, value{}, badSyntax(err)
	}
	return d, value{&v, ""}, nil
}

// tooDeep is the offset at which brackets are nested too deeply, or -1. The parser recurses at each.
func tooDeep(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '[', '{':
			if depth++; depth > maxDepth {
				return i
			}
		case ']', '}':
			depth--
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '/':
			i = afterComment(text, i)
		}
	}
	return -1
}

// afterComment is the offset of the last byte of the comment that begins at i, or i if none does.
func afterComment(text []byte, i int) int {
	end, from := "", text[i:]
	switch {
	case bytes.HasPrefix(from, []byte("//")):
		end = "\n"
	case bytes.HasPrefix(from, []byte("/*")):
		end = "*/"
	default:
		return i
	}
	n := bytes.Index(from[2:], []byte(end))
	if n < 0 {
		return len(text)
	}
	return i + 2 + n + len(end) - 1
}

func (d *document) lineAt(offset int) int {
	return sort.SearchInts(d.starts, offset+1)
}

func (d *document) line(v value) int { return d.lineAt(v.StartOffset) }

func isNull(v value) bool { return v.Value.Value.Kind() == 'n' }

// fields reads an object whose members have names in any letter case. A null member is as good as absent.
func (d *document) fields(v value, readers map[string]func(value) *Refusal) *Refusal {
	seen := map[string]bool{}
	return d.members(v, func(name string, nameAt int, m value) *Refusal {
		for known, read := range readers {
			if !strings.EqualFold(known, name) {
				continue
			}
			if seen[known] {
				return refuse(nameAt, "keep one", "%q is given twice", known).at(v.place)
			}
			seen[known] = true
			m.place = join(v.place, known)
			if isNull(m) {
				return nil
			}
			return read(m)
		}
		var known []string
		for k := range readers {
			known = append(known, k)
		}
		slices.Sort(known)
		remedy := "known are " + strings.Join(known, ", ")
		if like := nearest(name, known); like != "" {
			remedy = fmt.Sprintf("did you mean %q?", like)
		}
		return refuse(nameAt, remedy, "unknown field %q", name).at(v.place)
	})
}

// members reads an object with names that are free.
func (d *document) members(v value, read func(name string, nameLine int, m value) *Refusal) *Refusal {
	obj, ok := v.Value.Value.(*hujson.Object)
	if !ok {
		return d.wrongKind(v, "an object, {...}")
	}
	if len(obj.Members) > maxList {
		return refuse(d.line(v), "use groups, tags or wider prefixes", "more than %d members", maxList).at(v.place)
	}
	seen := make(map[string]bool, len(obj.Members))
	for i := range obj.Members {
		m := &obj.Members[i]
		lit, _ := m.Name.Value.(hujson.Literal)
		name, line := lit.String(), d.lineAt(m.Name.StartOffset)
		if seen[name] {
			return refuse(line, "keep one", "%q is given twice", name).at(v.place)
		}
		seen[name] = true
		if r := read(name, line, value{&m.Value, fmt.Sprintf("%s[%q]", v.place, name)}); r != nil {
			return r
		}
	}
	return nil
}

// list reads a list, element by element.
func (d *document) list(v value, read func(i int, e value) *Refusal) *Refusal {
	arr, ok := v.Value.Value.(*hujson.Array)
	if !ok {
		return d.wrongKind(v, "a list, [...]")
	}
	if len(arr.Elements) > maxList {
		return refuse(d.line(v), "use groups, tags or wider prefixes", "more than %d entries", maxList).at(v.place)
	}
	for i := range arr.Elements {
		if r := read(i, value{&arr.Elements[i], fmt.Sprintf("%s[%d]", v.place, i)}); r != nil {
			return r
		}
	}
	return nil
}

func (d *document) word(v value) (word, *Refusal) {
	lit, ok := v.Value.Value.(hujson.Literal)
	if !ok || lit.Kind() != '"' {
		return word{}, d.wrongKind(v, `a text, "..."`)
	}
	if d.words++; d.words > maxWords {
		return word{}, refuse(d.line(v), "use groups, tags or wider prefixes", "more than %d texts in one policy", maxWords)
	}
	return word{lit.String(), d.line(v)}, nil
}

// wordInto and the like make readers that store what they read.
func (d *document) wordInto(w *word) func(value) *Refusal {
	return func(v value) (r *Refusal) {
		*w, r = d.word(v)
		return r
	}
}

func (d *document) wordsInto(ws *[]word) func(value) *Refusal {
	return func(v value) *Refusal {
		*ws = []word{}
		return d.list(v, func(_ int, e value) *Refusal {
			w, r := d.word(e)
			*ws = append(*ws, w)
			return r
		})
	}
}

func (d *document) boolInto(b *bool) func(value) *Refusal {
	return func(v value) *Refusal {
		lit, ok := v.Value.Value.(hujson.Literal)
		if !ok || lit.Kind() != 't' && lit.Kind() != 'f' {
			return d.wrongKind(v, "true or false")
		}
		*b = lit.Bool()
		return nil
	}
}

// raw is the value as plain JSON without white space.
func (d *document) raw(v value) string {
	c := v.Value.Clone()
	c.Minimize()
	return string(c.Pack())
}

func (d *document) wrongKind(v value, want string) *Refusal {
	return refuse(d.line(v), "it is "+kindOf(v), "this must be %s", want).at(v.place)
}

// kindOf is what a value is, in words.
func kindOf(v value) string {
	switch v.Value.Value.Kind() {
	case '{':
		return "an object, {...}"
	case '[':
		return "a list, [...]"
	case '"':
		return `a text, "..."`
	case '0':
		return "a number"
	case 'n':
		return "null"
	}
	return "true or false"
}

// badSyntax is the parser's error, "hujson: line 3, column 7: ...", as a refusal.
func badSyntax(err error) *Refusal {
	text, line := strings.TrimPrefix(err.Error(), "hujson: "), 0
	if where, what, ok := strings.Cut(text, ": "); ok {
		column := 0
		if n, _ := fmt.Sscanf(where, "line %d, column %d", &line, &column); n == 2 {
			text = fmt.Sprintf("column %d: %s", column, what)
		}
	}
	return refuse(line, "look for a comma, quote or bracket that is missing or too many, there or before", "%s", text)
}

func join(place, name string) string {
	if place == "" {
		return name
	}
	return place + "." + name
}
