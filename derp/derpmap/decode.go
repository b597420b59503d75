package derpmap

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/derp/nearest"
)

// decode gives a tree the types of tailcfg.DERPMap, by whose fields it is led, so that it
// knows what the library knows. Keys match in any letter case.
func decode(v *value) (m *tailcfg.DERPMap, unknown []string, err error) {
	m = &tailcfg.DERPMap{}
	d := &decoder{}
	if err := d.into(v, reflect.ValueOf(m).Elem(), "the map"); err != nil {
		return nil, nil, err
	}
	return m, d.unknown, nil
}

type decoder struct {
	unknown []string // a sentence for each unknown key, a few at most
}

// maxUnknown bounds how many unknown keys are reported.
const maxUnknown = 10

func (d *decoder) into(v *value, dst reflect.Value, path string) error {
	wrong := func(want string) error {
		got := string(v.kind)
		if v.kind == scalar {
			got = strconv.Quote(shorten(v.text))
		}
		return fmt.Errorf("line %d: %s is %s, want %s", v.line, path, got, want)
	}
	switch dst.Kind() {
	case reflect.Pointer:
		if v.kind == null {
			return nil
		}
		dst.Set(reflect.New(dst.Type().Elem()))
		return d.into(v, dst.Elem(), path)
	case reflect.Struct:
		if v.kind != object {
			return wrong("an object")
		}
		return d.intoStruct(v, dst, path)
	case reflect.Map:
		if v.kind == null {
			return nil
		}
		if v.kind != object {
			return wrong("an object with numbers for keys")
		}
		return d.intoMap(v, dst, path)
	case reflect.Slice:
		if v.kind == null {
			return nil
		}
		if v.kind != list {
			return wrong("a list")
		}
		return d.intoSlice(v, dst, path)
	}
	if v.kind == null {
		return nil // as if it were not there
	}
	if v.kind != scalar {
		return wrong("a single value")
	}
	switch dst.Kind() {
	case reflect.String:
		dst.SetString(v.text)
	case reflect.Bool:
		b, ok := parseBool(v.text)
		if !ok {
			return wrong("true or false")
		}
		dst.SetBool(b)
	case reflect.Int:
		n, err := strconv.ParseInt(v.text, 10, 32)
		if err != nil {
			return wrong("a whole number")
		}
		dst.SetInt(n)
	case reflect.Float64:
		f, err := strconv.ParseFloat(v.text, 64)
		if err != nil || f != f || f > 1e9 || f < -1e9 {
			return wrong("a number")
		}
		dst.SetFloat(f)
	default:
		return fmt.Errorf("line %d: %s cannot be set here", v.line, path)
	}
	return nil
}

func (d *decoder) intoStruct(v *value, dst reflect.Value, path string) error {
	names := fieldNames(dst.Type())
	seen := map[string]bool{}
	for _, f := range v.fields {
		low := strings.ToLower(f.name)
		if seen[low] {
			return fmt.Errorf("line %d: %s has %q twice", f.line, path, shorten(f.name))
		}
		seen[low] = true
		i, ok := indexFold(names, low)
		if !ok {
			if len(d.unknown) < maxUnknown {
				d.unknown = append(d.unknown, fmt.Sprintf("line %d: %s has an unknown key %q%s",
					f.line, path, shorten(f.name), nearest.Hint(f.name, names)))
			}
			continue
		}
		at := names[i]
		if path != "the map" {
			at = path + "." + at
		}
		if err := d.into(f.value, dst.Field(i), at); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) intoMap(v *value, dst reflect.Value, path string) error {
	dst.Set(reflect.MakeMap(dst.Type()))
	for _, f := range v.fields {
		id, err := strconv.ParseInt(f.name, 10, 32)
		if err != nil {
			return fmt.Errorf("line %d: %s has the key %q, want the number of a region", f.line, path, shorten(f.name))
		}
		key := reflect.ValueOf(int(id))
		if dst.MapIndex(key).IsValid() {
			return fmt.Errorf("line %d: %s has %d twice", f.line, path, id)
		}
		elem := reflect.New(dst.Type().Elem()).Elem()
		if err := d.into(f.value, elem, fmt.Sprintf("%s[%d]", path, id)); err != nil {
			return err
		}
		dst.SetMapIndex(key, elem)
	}
	return nil
}

func (d *decoder) intoSlice(v *value, dst reflect.Value, path string) error {
	dst.Set(reflect.MakeSlice(dst.Type(), len(v.items), len(v.items)))
	for i, item := range v.items {
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.kind == null {
			return fmt.Errorf("line %d: %s is empty", item.line, at)
		}
		if err := d.into(item, dst.Index(i), at); err != nil {
			return err
		}
	}
	return nil
}

// fieldNames are the names of t's fields in JSON, by their index.
func fieldNames(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		names[i] = name
	}
	return names
}

func indexFold(names []string, low string) (int, bool) {
	for i, name := range names {
		if strings.ToLower(name) == low {
			return i, true
		}
	}
	return 0, false
}

func parseBool(s string) (v, ok bool) {
	switch strings.ToLower(s) {
	case "true", "yes", "on", "1":
		return true, true
	case "false", "no", "off", "0":
		return false, true
	}
	return false, false
}

// shorten keeps a stranger's text from filling our sentence.
func shorten(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "..."
	}
	return s
}
