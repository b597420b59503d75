package config

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// key is one leaf of Config, as its field's tags describe it.
type key struct {
	// path is the full key in the file, with dots between its sections.
	path  string
	index []int
	typ   reflect.Type
	// file marks paths of files and directories, which are made absolute.
	file   bool
	secret bool
	live   bool
	// unit is what a bare number of a duration counts; zero refuses bare numbers.
	unit time.Duration
	// sslmode marks the one string that may also be written as a bool.
	sslmode bool
}

// schema is every key that there is, in the order of Config's fields.
type schema struct {
	keys   []*key
	byPath map[string]*key
	// children has the names that may stand in each section; "" is the top of the file.
	children map[string][]string
}

// known is read from Config's tags once and never written again.
var known = newSchema(reflect.TypeFor[Config]())

func newSchema(t reflect.Type) *schema {
	s := &schema{byPath: map[string]*key{}, children: map[string][]string{}}
	s.walk(t, "", nil)
	return s
}

func (s *schema) walk(t reflect.Type, prefix string, index []int) {
	for f := range fieldsOf(t) {
		tag, tagged := f.Tag.Lookup("key")
		if !tagged {
			continue
		}
		at, path := append(slices.Clone(index), f.Index...), join(prefix, tag)
		if isSection(f.Type) {
			s.walk(f.Type, path, at)
			continue
		}
		s.add(&key{
			path:    path,
			index:   at,
			typ:     f.Type,
			file:    f.Tag.Get("path") != "",
			secret:  f.Tag.Get("secret") != "",
			live:    f.Tag.Get("reload") == "live",
			unit:    map[string]time.Duration{"s": time.Second}[f.Tag.Get("unit")],
			sslmode: f.Tag.Get("kind") == "sslmode",
		})
	}
}

func (s *schema) add(k *key) {
	s.keys = append(s.keys, k)
	s.byPath[k.path] = k
	for path := k.path; path != ""; {
		parent, name := split(path)
		if !slices.Contains(s.children[parent], name) {
			s.children[parent] = append(s.children[parent], name)
		}
		path = parent
	}
}

func (s *schema) isSection(path string) bool {
	_, ok := s.children[path]
	return ok
}

// isSection tells the structs that group keys from those that are values.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.PkgPath() == reflect.TypeFor[Config]().PkgPath() && t != reflect.TypeFor[Bound]()
}

func fieldsOf(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// in is the field of cfg that holds this key.
func (k *key) in(cfg *Config) reflect.Value {
	return reflect.ValueOf(cfg).Elem().FieldByIndex(k.index)
}

// env is the variable that sets this key.
func (k *key) env() string { return envName(k.path) }

func join(prefix, name string) string {
	if prefix == "" || name == "" {
		return prefix + name
	}
	return prefix + "." + name
}

// split cuts the last name off a path.
func split(path string) (parent, name string) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}
