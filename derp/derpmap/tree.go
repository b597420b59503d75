package derpmap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// value is a piece of JSON or YAML: what both have in common, and where it stood.
type value struct {
	line   int
	kind   kind
	text   string   // of a scalar, as it was written, without quotes
	items  []*value // of a list
	fields []field  // of an object, in order
}

type field struct {
	name  string
	line  int
	value *value
}

type kind string

const (
	null   kind = "nothing"
	scalar kind = "a value"
	list   kind = "a list"
	object kind = "an object"
)

const (
	maxDepth = 32        // of nesting; a DERP map needs six
	maxYAML  = 256 << 10 // bytes; the time of the YAML parser grows with the square
	maxJSON  = 300_000   // values; there are fewer in any map of MaxSize that makes sense
)

var errDeep = fmt.Errorf("nested deeper than %d", maxDepth)

// readTree reads JSON if the text begins like it, and YAML otherwise.
func readTree(text []byte) (*value, error) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if trimmed := bytes.TrimLeft(text, " \t\r\n"); len(trimmed) == 0 {
		return nil, errors.New("the DERP map is empty")
	} else if trimmed[0] == '{' || trimmed[0] == '[' {
		return readJSON(text)
	}
	return readYAML(text)
}

func readJSON(text []byte) (*value, error) {
	r := &jsonReader{text: text, dec: json.NewDecoder(bytes.NewReader(text)), line: 1}
	r.dec.UseNumber()
	v, err := r.value(0)
	if err == nil {
		if _, more := r.dec.Token(); more != io.EOF {
			err = errors.New("something follows the end of the map")
		}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("reading JSON, line %d: %w", r.at(), err)
	}
	return v, nil
}

type jsonReader struct {
	text []byte
	dec  *json.Decoder
	line int // at offset
	read int // offset up to which lines are counted
	seen int // values
}

// at is the line that the decoder has come to.
func (r *jsonReader) at() int {
	now := min(int(r.dec.InputOffset()), len(r.text))
	r.line += bytes.Count(r.text[r.read:now], []byte("\n"))
	r.read = now
	return r.line
}

func (r *jsonReader) value(depth int) (*value, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	if r.seen++; r.seen > maxJSON {
		return nil, fmt.Errorf("more than %d values", maxJSON)
	}
	tok, err := r.dec.Token()
	if err != nil {
		return nil, err
	}
	v := &value{line: r.at(), kind: scalar}
	switch tok := tok.(type) {
	case nil:
		v.kind = null
	case json.Delim:
		return v, r.compound(v, tok, depth)
	default:
		v.text = fmt.Sprint(tok)
	}
	return v, nil
}

func (r *jsonReader) compound(v *value, open json.Delim, depth int) error {
	v.kind = list
	if open == '{' {
		v.kind = object
	}
	for r.dec.More() {
		var name string
		var line int
		if v.kind == object {
			tok, err := r.dec.Token()
			if err != nil {
				return err
			}
			name, _ = tok.(string) // the decoder admits nothing else
			line = r.at()
		}
		item, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		if v.kind == object {
			v.fields = append(v.fields, field{name, line, item})
		} else {
			v.items = append(v.items, item)
		}
	}
	_, err := r.dec.Token() // the closing one
	return err
}

func readYAML(text []byte) (*value, error) {
	if len(text) > maxYAML {
		return nil, fmt.Errorf("YAML is larger than %d bytes (JSON may be larger)", maxYAML)
	}
	if nests(text) {
		return nil, fmt.Errorf("reading YAML: %w", errDeep)
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		// The parser goes on to quote the text, as long as it is.
		first, _, _ := strings.Cut(err.Error(), "\n")
		return nil, fmt.Errorf("reading YAML: %s", shorten(first))
	}
	var v *value
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case v != nil:
			return nil, errors.New("reading YAML: more than one document")
		default:
			if v, err = fromYAML(doc.Body, 0); err != nil {
				return nil, fmt.Errorf("reading YAML, line %d: %w", lineOf(doc.Body), err)
			}
		}
	}
	if v == nil {
		return nil, errors.New("the DERP map is empty")
	}
	return v, nil
}

// nests reports whether the parser would be led deeper than maxDepth. It takes minutes for
// what is nested some thousand times, so it must not see that; brackets within quotes are
// counted too, which no DERP map has many of.
func nests(text []byte) bool {
	brackets, marks := 0, 0
	for i, c := range text {
		switch c {
		case '[', '{':
			brackets++
		case ']', '}':
			brackets = max(0, brackets-1)
		case '-', '?':
			if i+1 < len(text) && text[i+1] == ' ' {
				marks++ // a list in a list in a list, on one line
			}
		case '\n':
			marks = 0
		}
		if brackets > maxDepth || marks > maxDepth {
			return true
		}
	}
	return false
}

func lineOf(n ast.Node) int {
	if tok := n.GetToken(); tok != nil && tok.Position != nil {
		return tok.Position.Line
	}
	return 0
}

// fromYAML converts what a DERP map can be made of. Anchors and aliases are not among it: a
// few of them can stand for more than fits in memory.
func fromYAML(n ast.Node, depth int) (*value, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	v := &value{line: lineOf(n), kind: scalar}
	switch n := n.(type) {
	case *ast.NullNode:
		v.kind = null
	case *ast.StringNode:
		v.text = n.Value
	case *ast.LiteralNode:
		v.text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		v.text = n.GetToken().Value
	case *ast.SequenceNode:
		v.kind = list
		for _, item := range n.Values {
			child, err := fromYAML(item, depth+1)
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, child)
		}
	case *ast.MappingNode:
		v.kind = object
		for _, pair := range n.Values {
			if err := v.addYAML(pair, depth); err != nil {
				return nil, err
			}
		}
	case *ast.MappingValueNode:
		v.kind = object
		if err := v.addYAML(n, depth); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("line %d has a %v, which a DERP map cannot have", v.line, n.Type())
	}
	return v, nil
}

func (v *value) addYAML(pair *ast.MappingValueNode, depth int) error {
	name, err := fromYAML(pair.Key, depth+1)
	if err != nil {
		return err
	}
	if name.kind != scalar {
		return fmt.Errorf("line %d has a key that is not a word", name.line)
	}
	child, err := fromYAML(pair.Value, depth+1)
	if err != nil {
		return err
	}
	v.fields = append(v.fields, field{name.text, name.line, child})
	return nil
}
