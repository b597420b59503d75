package main

import (
	"encoding"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// dump is a configuration as a file that says all of it, secrets left out.
func dump(cfg *config.Config) ([]byte, error) {
	tree := section(nil, "", reflect.ValueOf(cfg).Elem())
	text, err := yaml.MarshalWithOptions(tree, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return text, nil
}

// section adds the keys of a struct, which its fields carry in the tag "key", to the tree.
func section(tree yaml.MapSlice, prefix string, v reflect.Value) yaml.MapSlice {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		tag, ok := field.Tag.Lookup("key")
		if !ok {
			continue
		}
		path := strings.Trim(prefix+"."+tag, ".")
		value := v.Field(i)
		_, isText := value.Interface().(encoding.TextMarshaler)
		switch {
		case value.Kind() == reflect.Struct && !isText:
			tree = section(tree, path, value)
		case field.Tag.Get("secret") != "" && !value.IsZero():
			tree = put(tree, strings.Split(path, "."), "***")
		default:
			tree = put(tree, strings.Split(path, "."), plain(value))
		}
	}
	return tree
}

// put sets a value below its path, making the sections on the way.
func put(tree yaml.MapSlice, path []string, value any) yaml.MapSlice {
	i := slices.IndexFunc(tree, func(item yaml.MapItem) bool { return item.Key == path[0] })
	if i < 0 {
		tree = append(tree, yaml.MapItem{Key: path[0]})
		i = len(tree) - 1
	}
	if len(path) == 1 {
		tree[i].Value = value
		return tree
	}
	below, _ := tree[i].Value.(yaml.MapSlice) // nil for a new section
	tree[i].Value = put(below, path[1:], value)
	return tree
}

// plain is a value in the spelling that the file takes.
func plain(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case fs.FileMode:
		return fmt.Sprintf("%#o", x.Perm())
	case encoding.TextMarshaler:
		if v.IsZero() {
			return ""
		}
		return fmt.Sprint(x)
	}
	switch v.Kind() {
	case reflect.Struct:
		return section(nil, "", v)
	case reflect.Slice:
		items := make([]any, v.Len())
		for i := range items {
			items[i] = plain(v.Index(i))
		}
		return items
	}
	return v.Interface()
}
