package config

import (
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

const envPrefix = "HEADSCALE_"

// envName is the variable for a key: HEADSCALE_DNS_BASE_DOMAIN for dns.base_domain.
func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// Kubernetes and docker's links describe a service named headscale, or headscale-something, to every container in
// variables of these forms.
var (
	serviceName = regexp.MustCompile(`_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PORT|ADDR|PROTO))?$`)
	serviceLink = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

// parseEnv makes a section of the variables with our prefix. An empty variable counts as not set.
func parseEnv(env []string, r *report) *value {
	root := &value{kind: section}
	types := envTypes()
	env = slices.Clone(env)
	slices.SortStableFunc(env, func(a, b string) int {
		nameA, _, _ := strings.Cut(a, "=")
		nameB, _, _ := strings.Cut(b, "=")
		return strings.Compare(nameA, nameB)
	})
	for _, pair := range env {
		name, text, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || strings.TrimSpace(text) == "" {
			continue
		}
		pos := Position{Env: name}
		if t, ok := types[name]; ok {
			root.put(t.path, envValue(t.typ, text, pos, r), pos)
			continue
		}
		foreignEnv(name, text, types, r)
	}
	return root
}

// foreignEnv answers to a variable with our prefix that sets no key.
func foreignEnv(name, text string, types map[string]envType, r *report) {
	pos := Position{Env: name}
	switch {
	case name == "HEADSCALE_CONFIG": // names the file, see Search
	case serviceName.MatchString(name), strings.HasSuffix(name, "_PORT") && serviceLink.MatchString(text):
	case strings.HasPrefix(name, "HEADSCALE_DEBUG_"), name == "HEADSCALE_POLICY_V1", inGoneSection(name):
		r.warn(pos, name, noEffect)
	default:
		names := make([]string, 0, len(types))
		for n := range types {
			names = append(names, n)
		}
		slices.Sort(names)
		bare := make([]string, len(names))
		for i, n := range names {
			bare[i] = strings.TrimPrefix(n, envPrefix)
		}
		hint := ""
		if near := nearest(strings.TrimPrefix(name, envPrefix), bare); near != "" {
			hint = "; did you mean " + envPrefix + near + "?"
		}
		r.problem(pos, "no key of the configuration has this name%s", hint)
	}
}

// inGoneSection tells whether a variable sets something in a section that went away whole.
func inGoneSection(name string) bool {
	return slices.ContainsFunc(olderKeys, func(o older) bool {
		return o.whole && strings.HasPrefix(name, envName(o.key)+"_")
	})
}

// envType is what a variable sets, today's key or an older one.
type envType struct {
	path string
	typ  reflect.Type
}

func envTypes() map[string]envType {
	types := map[string]envType{}
	for _, o := range olderKeys {
		if o.whole {
			continue
		}
		t := reflect.TypeFor[string]()
		if k, ok := known.byPath[o.now]; ok {
			t = k.typ
		} else if o.key == "ip_prefixes" {
			t = reflect.TypeFor[[]string]()
		}
		types[envName(o.key)] = envType{o.key, t}
	}
	for _, k := range known.keys {
		types[k.env()] = envType{k.path, k.typ}
	}
	return types
}

// envValue reads a variable's text: lists are split at commas and white space, or written as YAML in brackets;
// maps and records are YAML in braces or brackets.
func envValue(t reflect.Type, text string, pos Position, r *report) *value {
	switch reflect.New(t).Interface().(type) {
	case *[]string, *[]netip.Prefix:
		if strings.HasPrefix(strings.TrimSpace(text), "[") {
			return envYAML(text, pos, r)
		}
		v := &value{kind: list, pos: pos}
		for _, item := range strings.FieldsFunc(text, func(c rune) bool {
			return c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r'
		}) {
			v.items = append(v.items, &value{kind: scalar, pos: pos, text: item})
		}
		return v
	case *map[string]string, *map[string][]string, *map[string]Bound, *[]ExtraRecord:
		return envYAML(text, pos, r)
	default:
		return &value{kind: scalar, pos: pos, text: text}
	}
}

func envYAML(text string, pos Position, r *report) *value {
	var scratch report
	v := &value{}
	if len(text) > maxFile {
		scratch.problem(pos, "too long")
	} else if root := parseYAML("", []byte("value: "+text), &scratch); root != nil {
		e, _ := root.entry("value")
		v = e.value
	}
	for _, p := range scratch.problems {
		r.problem(pos, "%s", p.Text)
	}
	v.move(pos)
	return v
}

// move says that a value and all below it were set at pos.
func (v *value) move(pos Position) {
	v.pos = pos
	for _, item := range v.items {
		item.move(pos)
	}
	for i := range v.entries {
		v.entries[i].pos = pos
		v.entries[i].value.move(pos)
	}
}
