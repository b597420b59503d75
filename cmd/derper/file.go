package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/keelscale/keelscale/derp/nearest"
)

// The configuration file says in YAML what flags say, in groups:
//
//	hostname: 203.0.113.7
//	listen:
//	  address: :443
//	limits:
//	  month: 1TiB

// group is a part of the file, and the flags that are its keys.
type group struct {
	name  string // "" for the top
	flags []string
}

// groups say where in the file each flag is. Those that are nowhere (-config, -version) only
// make sense on the command line.
var groups = []group{
	{"", []string{"hostname", "c", "dev"}},
	{"listen", []string{"a", "http-port", "stun-port", "debug-addr", "stun", "derp", "tcp-keepalive-time", "tcp-user-timeout", "tcp-write-timeout"}},
	{"certificate", []string{"certmode", "certdir", "cert-validity", "acme-email", "acme-directory", "acme-ip-certs"}},
	{"enrolment", []string{"control", "enroll-key", "region", "name", "enroll-state", "control-outage"}},
	{"admission", []string{"verify-clients", "verify-client-url", "verify-client-url-fail-open", "socket"}},
	{"limits", []string{"limit-node", "limit-node-burst", "limit-total", "limit-total-burst", "limit-month", "limit-state", "accept-connection-limit", "accept-connection-burst", "rate-config"}},
	{"mesh", []string{"mesh-psk-file", "mesh-with"}},
	{"pages", []string{"home", "bootstrap-dns-names", "unpublished-bootstrap-dns-names"}},
	{"map", []string{"region-id", "region-code", "region-name"}},
	{"log", []string{"log-format", "log-level"}},
}

// keyNames are the keys that are not simply the names of their flags.
var keyNames = map[string]string{
	"a": "address", "c": "key-file",
	"limit-node": "node", "limit-node-burst": "node-burst", "limit-total": "total", "limit-total-burst": "total-burst",
	"limit-month": "month", "limit-state": "month-file",
}

// fileKey is where in the file a flag is, such as "listen.http-port"; "" if nowhere.
func fileKey(flagName string) string {
	for _, g := range groups {
		if slices.Contains(g.flags, flagName) {
			return g.path(flagName)
		}
	}
	return ""
}

func (g group) path(flagName string) string {
	key := flagName
	if k, ok := keyNames[flagName]; ok {
		key = k
	}
	if g.name == "" {
		return key
	}
	return g.name + "." + key
}

// maxConfig bounds the configuration file. The time of the YAML parser grows with the square.
const maxConfig = 256 << 10

// applyFile sets the flags that were not given from the configuration file, and counts them
// as given. Empty keys are not set.
func applyFile(fs *flag.FlagSet, given map[string]bool, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the configuration (-config): %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxConfig)
	}
	if err != nil {
		return fmt.Errorf("reading the configuration (-config): %w", err)
	}
	entries, err := readConfig(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	byFile := map[string]bool{}
	for _, e := range entries {
		if given[e.flag] || e.value == "" {
			continue
		}
		if err := fs.Set(e.flag, e.value); err != nil {
			return fmt.Errorf("%s:%d: %s: %q: want %s", path, e.line, fileKey(e.flag), e.value, wanted(fs.Lookup(e.flag)))
		}
		byFile[e.flag] = true
	}
	for name := range byFile {
		given[name] = true
	}
	return nil
}

// setting is one line of the file.
type setting struct {
	flag, value string
	line        int
}

// readConfig reads a configuration. The parser itself refuses a key that is there twice.
func readConfig(text []byte) (settings []setting, err error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	if len(file.Docs) > 1 {
		return nil, errors.New("there is a second document after ---")
	}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		fields, err := fieldsOf(doc.Body, "the file")
		if err != nil {
			return nil, err
		}
		for _, f := range fields {
			found, err := readField(f)
			if err != nil {
				return nil, err
			}
			settings = append(settings, found...)
		}
	}
	return settings, nil
}

// readField reads a key at the top of the file, which may be a group.
func readField(f *ast.MappingValueNode) ([]setting, error) {
	name, line := keyOf(f)
	for _, g := range groups {
		if g.name != "" && g.name == name {
			fields, err := fieldsOf(f.Value, name)
			if err != nil {
				return nil, err
			}
			return g.read(fields)
		}
	}
	if groups[0].find(name) == "" {
		return nil, unknownKey(name, line)
	}
	return groups[0].read([]*ast.MappingValueNode{f})
}

// read reads the keys of a group.
func (g group) read(fields []*ast.MappingValueNode) (out []setting, err error) {
	for _, f := range fields {
		name, line := keyOf(f)
		path := name
		if g.name != "" {
			path = g.name + "." + name
		}
		flagName := g.find(path)
		if flagName == "" {
			return nil, unknownKey(path, line)
		}
		value, err := scalarOf(f.Value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", line, path, err)
		}
		out = append(out, setting{flagName, value, line})
	}
	return out, nil
}

// find is the flag of a path; "" if there is none in the group.
func (g group) find(path string) string {
	for _, flagName := range g.flags {
		if g.path(flagName) == path {
			return flagName
		}
	}
	return ""
}

// unknownKey says so, and what was meant: the nearest key, or one of that name in a group.
func unknownKey(path string, line int) error {
	var known []string
	_, last, _ := strings.Cut("."+path, ".")
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		last = path[i+1:]
	}
	for _, g := range groups {
		if g.name != "" {
			known = append(known, g.name)
		}
		for _, flagName := range g.flags {
			key := g.path(flagName)
			known = append(known, key)
			if last == flagName || strings.HasSuffix(key, "."+strings.ReplaceAll(last, "_", "-")) {
				return fmt.Errorf("line %d: unknown key %s (did you mean %q?)", line, path, key)
			}
		}
	}
	return fmt.Errorf("line %d: unknown key %s%s; the documentation lists all", line, path, nearest.Hint(path, known))
}

func keyOf(f *ast.MappingValueNode) (string, int) {
	t := f.Key.GetToken()
	return t.Value, t.Position.Line
}

func fieldsOf(n ast.Node, what string) ([]*ast.MappingValueNode, error) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, nil
	case *ast.NullNode, *ast.CommentGroupNode:
		return nil, nil
	}
	return nil, fmt.Errorf("line %d: %s must be keys with values", n.GetToken().Position.Line, what)
}

// scalarOf is a value as a flag takes it: lists are joined by commas.
func scalarOf(n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.NullNode:
		return "", nil
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode:
		return n.GetToken().Value, nil
	case *ast.LiteralNode:
		return strings.TrimSpace(n.Value.Value), nil
	case *ast.SequenceNode:
		var items []string
		for _, item := range n.Values {
			if _, nested := item.(*ast.SequenceNode); nested {
				return "", errors.New("want a list of words")
			}
			text, err := scalarOf(item)
			if err != nil {
				return "", err
			}
			items = append(items, text)
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("want a value or a list of values")
}
