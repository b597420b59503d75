package config

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

const (
	// maxFile bounds a configuration file, in bytes: the parser's time grows with the square of its keys.
	maxFile = 256 << 10
	// maxValues bounds what aliases may blow a file up to.
	maxValues = 20_000
	maxDepth  = 64
)

// value is a piece of a configuration before it has a type. JSON and environment variables become values as well.
type value struct {
	pos  Position
	kind kind
	// text is a scalar as it was written, without quotes.
	text string
	// items are a list's.
	items []*value
	// entries are a section's, in order.
	entries []entry
}

type kind int

const (
	null kind = iota
	scalar
	list
	section
)

// entry is one key with its value.
type entry struct {
	key   string
	pos   Position
	value *value
}

// parseYAML reads data into a section. When it cannot, it says so to r and returns nil.
func parseYAML(file string, data []byte, r *report) *value {
	parsed, err := parser.ParseBytes(data, 0)
	if err != nil {
		r.syntax(file, err)
		return nil
	}
	c := &converter{file: file, report: r, anchors: map[string]*value{}}
	root := &value{kind: section, pos: Position{File: file}}
	bodies := 0
	for _, doc := range parsed.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.DirectiveType {
			continue
		}
		if bodies++; bodies > 1 {
			r.problem(c.pos(doc.Body), "a second document begins here; keep one, and no line of three dashes but at the top")
			return nil
		}
		if root = c.convert(doc.Body, 0); root.kind != section {
			r.problem(root.pos, "expected keys and values, as in server_url: https://head.example.com")
			return nil
		}
	}
	if c.failed {
		return nil
	}
	return root
}

// syntax reports what the parser said, without the excerpt that it likes to add: that may show a secret.
func (r *report) syntax(file string, err error) {
	var known yaml.Error
	if !errors.As(err, &known) {
		r.problem(Position{File: file}, "not YAML: %v", err)
		return
	}
	pos := Position{File: file}
	if t := known.GetToken(); t != nil && t.Position != nil {
		pos.Line, pos.Column = t.Position.Line, t.Position.Column
	}
	r.problem(pos, "not YAML: %s", known.GetMessage())
}

// converter turns the parser's tree into values, with aliases and merge keys resolved.
type converter struct {
	file    string
	report  *report
	anchors map[string]*value
	count   int
	failed  bool
}

// pos is where a node begins; the parser has the colon for a section's place.
func (c *converter) pos(n ast.Node) Position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	t := n.GetToken()
	if t == nil || t.Position == nil {
		return Position{File: c.file}
	}
	return Position{File: c.file, Line: t.Position.Line, Column: t.Position.Column}
}

func (c *converter) fail(pos Position, format string, args ...any) *value {
	if !c.failed {
		c.report.problem(pos, format, args...)
	}
	c.failed = true
	return &value{pos: pos}
}

func (c *converter) convert(n ast.Node, depth int) *value {
	if n == nil {
		return &value{pos: Position{File: c.file}}
	}
	pos := c.pos(n)
	if c.count++; c.count > maxValues || depth > maxDepth {
		return c.fail(pos, "too many values, or too deep: more than %d values or %d levels", maxValues, maxDepth)
	}
	switch n := n.(type) {
	case *ast.NullNode:
		return &value{pos: pos}
	case *ast.StringNode:
		return &value{pos: pos, kind: scalar, text: n.Value}
	case *ast.LiteralNode:
		return &value{pos: pos, kind: scalar, text: n.Value.Value}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return &value{pos: pos, kind: scalar, text: n.GetToken().Value}
	case *ast.TagNode:
		return c.convert(n.Value, depth+1)
	case *ast.AnchorNode:
		v := c.convert(n.Value, depth+1)
		c.anchors[n.Name.GetToken().Value] = v
		return v
	case *ast.AliasNode:
		return c.alias(n, depth)
	case *ast.SequenceNode:
		v := &value{pos: pos, kind: list}
		for _, item := range n.Values {
			v.items = append(v.items, c.convert(item, depth+1))
		}
		return v
	case *ast.MappingNode:
		return c.mapping(pos, n.Values, depth)
	case *ast.MappingValueNode:
		return c.mapping(pos, []*ast.MappingValueNode{n}, depth)
	default:
		return c.fail(pos, "%s is not understood here", n.Type())
	}
}

func (c *converter) alias(n *ast.AliasNode, depth int) *value {
	name := n.Value.GetToken().Value
	v, ok := c.anchors[name]
	if !ok {
		return c.fail(c.pos(n), "*%s refers to nothing: there is no &%s above it", name, name)
	}
	return c.copy(v, depth)
}

// copy keeps what aliases share apart, so that one place may be rewritten without the other.
func (c *converter) copy(v *value, depth int) *value {
	if c.count++; c.count > maxValues || depth > maxDepth {
		return c.fail(v.pos, "aliases make more than %d values", maxValues)
	}
	dup := *v
	dup.items, dup.entries = nil, nil
	for _, item := range v.items {
		dup.items = append(dup.items, c.copy(item, depth+1))
	}
	for _, e := range v.entries {
		dup.entries = append(dup.entries, entry{e.key, e.pos, c.copy(e.value, depth+1)})
	}
	return &dup
}

// mapping keeps the order of the file. What a merge key (<<) brings gives way to what is written beside it.
func (c *converter) mapping(pos Position, nodes []*ast.MappingValueNode, depth int) *value {
	v := &value{pos: pos, kind: section}
	var merged []entry
	for _, n := range nodes {
		child := c.convert(n.Value, depth+1)
		if n.Key.IsMergeKey() {
			merged = append(merged, c.merge(child)...)
			continue
		}
		name, at, err := c.key(n.Key)
		if err != nil {
			return c.fail(at, "%v", err)
		}
		if child.kind == null || child.kind == section {
			child.pos = at
		}
		if _, twice := v.entry(name); twice {
			return c.fail(at, "%q is written twice in this section", name)
		}
		v.entries = append(v.entries, entry{name, at, child})
	}
	for _, e := range merged {
		if _, own := v.entry(e.key); !own {
			v.entries = append(v.entries, e)
		}
	}
	return v
}

func (c *converter) merge(v *value) []entry {
	sources := []*value{v}
	if v.kind == list {
		sources = v.items
	}
	var all []entry
	for _, s := range sources {
		if s.kind != section {
			c.fail(s.pos, "<< merges sections only")
			return nil
		}
		all = append(all, s.entries...)
	}
	return all
}

func (c *converter) key(n ast.MapKeyNode) (string, Position, error) {
	var node ast.Node = n
	if wrapped, ok := node.(*ast.MappingKeyNode); ok {
		node = wrapped.Value
	}
	switch node := node.(type) {
	case *ast.StringNode:
		return node.Value, c.pos(node), nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return node.GetToken().Value, c.pos(node), nil
	default:
		return "", c.pos(n), fmt.Errorf("a key must be plain text")
	}
}

// entry finds a key of a section.
func (v *value) entry(name string) (entry, bool) {
	for _, e := range v.entries {
		if e.key == name {
			return e, true
		}
	}
	return entry{}, false
}
