package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// write puts text into a file of its own.
func write(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// leaf is a key and the field that holds it, written as Type.Field.
type leaf struct{ key, field string }

// leaves reads the keys off the tags of Config, in the order of its fields.
func leaves() []leaf {
	var found []leaf
	var walk func(t reflect.Type, prefix string)
	walk = func(t reflect.Type, prefix string) {
		for i := range t.NumField() {
			f := t.Field(i)
			tag, tagged := f.Tag.Lookup("key")
			if !tagged {
				continue
			}
			path := strings.Trim(prefix+"."+tag, ".")
			if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == t.PkgPath() && f.Type != reflect.TypeFor[config.Bound]() {
				walk(f.Type, path)
				continue
			}
			found = append(found, leaf{path, t.Name() + "." + f.Name})
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
	return found
}

func allKeys() []string {
	var keys []string
	for _, l := range leaves() {
		keys = append(keys, l.key)
	}
	return keys
}
