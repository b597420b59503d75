package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// decoder writes trees of values into a Config. Later trees win over earlier ones.
type decoder struct {
	cfg    *Config
	report *report
	paths  paths
	// set has where each key was last set, by its path. What is null or an empty text for something that
	// is no text counts as not set.
	set map[string]Position
	// bad has the keys whose value could not be read.
	bad map[string]bool
}

// section decodes everything below one section. Keys that are not known are problems.
func (d *decoder) section(prefix string, v *value) {
	for _, e := range v.entries {
		path := join(prefix, e.key)
		k, leaf := known.byPath[path]
		switch {
		case strings.Contains(e.key, "."), !leaf && !known.isSection(path):
			d.report.problem(e.pos, "unknown key %q%s", path, known.didYouMean(path))
		case leaf:
			d.leaf(k, e)
		case e.value.kind == section:
			d.section(path, e.value)
		case e.value.kind != null:
			d.report.problem(e.value.pos, "%q is a section with keys below it (%s), not %s",
				path, strings.Join(known.children[path], ", "), describe(e.value, false))
		}
	}
}

func (d *decoder) leaf(k *key, e entry) {
	field := reflect.New(k.typ).Elem()
	before := len(d.report.problems)
	if d.into(k, e.value, field) {
		k.in(d.cfg).Set(field)
		d.set[k.path] = e.pos
	}
	if len(d.report.problems) > before {
		d.set[k.path], d.bad[k.path] = e.pos, true
	}
}

// into gives field the value, and says whether there was one.
func (d *decoder) into(k *key, v *value, field reflect.Value) bool {
	if v.kind == null {
		return false
	}
	switch target := field.Addr().Interface().(type) {
	case *[]string:
		items, ok := d.list(k, v)
		for _, item := range items {
			if text, good := d.text(k, item); good {
				*target = append(*target, text)
			}
		}
		return ok
	case *[]netip.Prefix:
		items, ok := d.list(k, v)
		for _, item := range items {
			var prefix netip.Prefix
			if d.scalar(k, item, reflect.ValueOf(&prefix).Elem()) {
				*target = append(*target, prefix)
			}
		}
		return ok
	case *[]ExtraRecord:
		items, ok := d.list(k, v)
		for _, item := range items {
			*target = append(*target, d.record(k, item))
		}
		return ok
	case *map[string]string:
		*target = map[string]string{}
		return d.each(k, v, func(name string, v *value) {
			(*target)[name], _ = d.text(k, v)
		})
	case *map[string][]string:
		*target = map[string][]string{}
		return d.each(k, v, func(name string, v *value) {
			(*target)[name] = []string{}
			items, _ := d.list(k, v)
			for _, item := range items {
				if text, ok := d.text(k, item); ok {
					(*target)[name] = append((*target)[name], text)
				}
			}
		})
	case *map[string]Bound:
		*target = map[string]Bound{}
		return d.each(k, v, func(name string, v *value) {
			var bound Bound
			if d.scalar(k, v, reflect.ValueOf(&bound).Elem()) {
				(*target)[name] = bound
			}
		})
	default:
		return d.scalar(k, v, field)
	}
}

// list wants a list, or nothing where a list may stand.
func (d *decoder) list(k *key, v *value) ([]*value, bool) {
	switch v.kind {
	case list:
		return v.items, true
	case null:
		return nil, true
	}
	d.mismatch(k, v, `a list, as in ["one", "two"] or one line each behind a dash`)
	return nil, false
}

func (d *decoder) each(k *key, v *value, visit func(name string, v *value)) bool {
	if v.kind != section {
		d.mismatch(k, v, "names with their values below it, as in name: value")
		return false
	}
	for _, e := range v.entries {
		visit(e.key, e.value)
	}
	return true
}

func (d *decoder) text(k *key, v *value) (string, bool) {
	var s string
	ok := d.scalar(k, v, reflect.ValueOf(&s).Elem())
	return s, ok
}

// record decodes one entry of dns.extra_records.
func (d *decoder) record(k *key, v *value) ExtraRecord {
	var rec ExtraRecord
	if v.kind != section {
		d.mismatch(k, v, "a record with name, type and value")
		return rec
	}
	for _, e := range v.entries {
		field := map[string]reflect.Value{
			"name":  reflect.ValueOf(&rec.Name).Elem(),
			"type":  reflect.ValueOf(&rec.Type).Elem(),
			"value": reflect.ValueOf(&rec.Value).Elem(),
		}[e.key]
		if !field.IsValid() {
			hint := ""
			if near := nearest(e.key, []string{"name", "type", "value"}); near != "" {
				hint = "; did you mean " + quote(near) + "?"
			}
			d.report.problem(e.pos, "unknown key %q in a record of %s%s", e.key, k.path, hint)
			continue
		}
		d.scalar(k, e.value, field)
	}
	return rec
}

// scalar decodes a single value of any type that one can have.
func (d *decoder) scalar(k *key, v *value, field reflect.Value) bool {
	if v.kind != scalar {
		d.mismatch(k, v, wants(k, field.Interface()))
		return false
	}
	text := strings.TrimSpace(v.text)
	if target, ok := field.Addr().Interface().(*string); ok {
		return d.string(k, v, target)
	}
	if text == "" {
		_, empty := field.Interface().(netip.Prefix)
		return empty // prefixes.v4: "" says that there shall be none
	}
	parsed, err := parse(k, text, field.Interface())
	if err != nil {
		d.mismatch(k, v, wants(k, field.Interface())+hint(err))
		return false
	}
	field.Set(reflect.ValueOf(parsed))
	return true
}

func (d *decoder) string(k *key, v *value, target *string) bool {
	*target = v.text
	if on, err := strconv.ParseBool(v.text); k.sslmode && err == nil {
		*target = map[bool]string{true: "require", false: "disable"}[on]
	}
	if !k.file {
		return true
	}
	resolved, err := d.paths.resolve(v.text)
	if err != nil {
		d.report.problem(v.pos, "%s: %v", k.path, err)
		return false
	}
	*target = resolved
	return true
}

// hinted is an error that says what to write instead.
type hinted struct{ text string }

func (h hinted) Error() string { return h.text }

var errNegative = hinted{"a duration cannot be negative"}

func hint(err error) string {
	if h := (hinted{}); errors.As(err, &h) {
		return "; " + h.text
	}
	return ""
}

// parse reads text as the type of like.
func parse(k *key, text string, like any) (any, error) {
	switch like.(type) {
	case bool:
		return strconv.ParseBool(text)
	case int:
		return strconv.Atoi(text)
	case time.Duration:
		return parseDuration(text, k.unit)
	case netip.Addr:
		return netip.ParseAddr(text)
	case netip.Prefix:
		return parsePrefix(text)
	case Size:
		return parseSize(text)
	case Bound:
		return parseBound(text)
	case fs.FileMode:
		bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 9)
		return fs.FileMode(bits), err
	}
	return nil, fmt.Errorf("no way to read %T", like)
}

// wants says what a key of the type of like is written like.
func wants(k *key, like any) string {
	switch like.(type) {
	case bool:
		return "true or false"
	case int:
		return "a whole number"
	case time.Duration:
		return "a duration like 30m, 24h, 90d or 1y"
	case netip.Addr:
		return "an IP address"
	case netip.Prefix:
		return "an address range like 100.64.0.0/10"
	case Size:
		return "a size like 500MB or 1TiB"
	case Bound, map[string]Bound:
		return "bytes per second like 2MB, or 2MB burst 8MB"
	case fs.FileMode:
		return `an octal mode like "0770"`
	}
	if k.file {
		return "a path"
	}
	return "one text"
}

func (d *decoder) mismatch(k *key, v *value, want string) {
	d.report.problem(v.pos, "%s: expected %s, got %s", k.path, want, describe(v, k.secret))
}

// describe says what a value is, for people, and keeps secrets to itself.
func describe(v *value, secret bool) string {
	switch v.kind {
	case null:
		return "nothing"
	case list:
		return "a list"
	case section:
		return "keys with values"
	}
	if secret {
		return "something else (not shown)"
	}
	text := []rune(v.text)
	if len(text) > 60 {
		text = append(text[:60], '…')
	}
	return strconv.Quote(string(text))
}

// parseDuration takes 1y2w3d4h5m6s7ms as Prometheus does, and what Go writes itself (1h30m0.5s).
// A bare number counts units; without a unit only 0 may stand bare.
func parseDuration(text string, unit time.Duration) (time.Duration, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n != 0 {
		switch {
		case unit == 0:
			return 0, hinted{"say the unit, " + text + "h or " + text + "s"}
		case n < 0:
			return 0, errNegative
		case n > math.MaxInt64/int64(unit):
			return 0, hinted{"that is too much"}
		}
		return time.Duration(n) * unit, nil
	}
	if d, err := model.ParseDuration(text); err == nil {
		return time.Duration(d), nil
	}
	d, err := time.ParseDuration(text)
	if err == nil && d < 0 {
		return 0, errNegative
	}
	return d, err
}

// parsePrefix takes a range, or one address alone.
func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}
