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

// allKeys reads the keys off the tags of Config, in the order of its fields.
func allKeys() []string {
	var keys []string
	var walk func(t reflect.Type, prefix string)
	walk = func(t reflect.Type, prefix string) {
		for i := range t.NumField() {
			f := t.Field(i)
			tag, tagged := f.Tag.Lookup("key")
			if !tagged {
				continue
			}
			path := strings.Trim(prefix+"."+tag, ".")
			if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == t.PkgPath() {
				walk(f.Type, path)
				continue
			}
			keys = append(keys, path)
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
	return keys
}
