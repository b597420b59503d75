package config

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// at finds the value of a full key.
func (v *value) at(path string) (entry, bool) {
	name, rest, deeper := strings.Cut(path, ".")
	e, ok := v.entry(name)
	if !ok || !deeper {
		return e, ok
	}
	return e.value.at(rest)
}

// take is at, and removes what it finds.
func (v *value) take(path string) (entry, bool) {
	name, rest, deeper := strings.Cut(path, ".")
	i := slices.IndexFunc(v.entries, func(e entry) bool { return e.key == name })
	if i < 0 {
		return entry{}, false
	}
	if deeper {
		return v.entries[i].value.take(rest)
	}
	e := v.entries[i]
	v.entries = slices.Delete(v.entries, i, i+1)
	return e, true
}

// put sets a full key, with its sections as needed. What is in the way of a section stays, for the decoder to refuse.
func (v *value) put(path string, set *value, pos Position) {
	name, rest, deeper := strings.Cut(path, ".")
	i := slices.IndexFunc(v.entries, func(e entry) bool { return e.key == name })
	switch {
	case !deeper && i < 0:
		v.entries = append(v.entries, entry{name, pos, set})
	case !deeper:
		v.entries[i] = entry{name, pos, set}
	case i < 0:
		below := &value{kind: section, pos: pos}
		below.put(rest, set, pos)
		v.entries = append(v.entries, entry{name, pos, below})
	default:
		below := v.entries[i].value
		if below.kind == null {
			below.kind = section
		}
		if below.kind == section {
			below.put(rest, set, pos)
		}
	}
}

// render writes a section as YAML.
func (v *value) render() string {
	var b strings.Builder
	for _, e := range v.entries {
		b.WriteString(plain(e.key) + ":")
		renderValue(&b, e.value, "  ")
	}
	return b.String()
}

// renderValue goes on behind a key or a dash; indent is where its own lines begin.
func renderValue(b *strings.Builder, v *value, indent string) {
	switch {
	case v.kind == scalar:
		b.WriteString(" " + plain(v.text) + "\n")
	case v.kind == list && len(v.items) == 0:
		b.WriteString(" []\n")
	case v.kind == list:
		b.WriteString("\n")
		for _, item := range v.items {
			b.WriteString(indent + "-")
			renderItem(b, item, indent+"  ")
		}
	case v.kind == section && len(v.entries) == 0:
		b.WriteString(" {}\n")
	case v.kind == section:
		b.WriteString("\n")
		for _, e := range v.entries {
			b.WriteString(indent + plain(e.key) + ":")
			renderValue(b, e.value, indent+"  ")
		}
	default:
		b.WriteString("\n")
	}
}

// renderItem writes one item of a list, whose dash is written already.
func renderItem(b *strings.Builder, v *value, indent string) {
	if v.kind != section || len(v.entries) == 0 {
		renderValue(b, v, indent)
		return
	}
	for i, e := range v.entries {
		if i == 0 {
			b.WriteString(" ")
		} else {
			b.WriteString(indent)
		}
		b.WriteString(plain(e.key) + ":")
		renderValue(b, e.value, indent+"  ")
	}
}

var plainText = regexp.MustCompile(`^[A-Za-z0-9_./~][A-Za-z0-9_./:@+~-]*$`)

// plain quotes a text where YAML would read something else.
func plain(s string) string {
	if plainText.MatchString(s) && !strings.HasSuffix(s, ":") && s != "~" {
		return s
	}
	return strconv.Quote(s)
}
