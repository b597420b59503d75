package config

import (
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strings"
)

// older is a key of releases 0.15 to 0.29 that is written differently today, or does nothing here.
type older struct {
	key string
	// now is today's key; empty when nothing took its place.
	now string
	// gone says what became of a key without a successor.
	gone string
	// whole takes a section away with all that is in it.
	whole bool
	// migrate replaces the plain move to now.
	migrate func(m *migration, o older, e entry)
}

const noEffect = "has no effect here; remove it"

// olderKeys is in the order of the warnings.
var olderKeys = []older{
	{key: "ip_prefixes", migrate: (*migration).prefixes},
	{key: "ip_prefix", migrate: (*migration).prefixes},
	{key: "private_key_path", migrate: (*migration).privateKey},

	{key: "db_type", now: "database.type"},
	{key: "db_path", now: "database.sqlite.path"},
	{key: "db_host", now: "database.postgres.host"},
	{key: "db_port", now: "database.postgres.port"},
	{key: "db_name", now: "database.postgres.name"},
	{key: "db_user", now: "database.postgres.user"},
	{key: "db_pass", now: "database.postgres.pass"},
	{key: "db_ssl", now: "database.postgres.ssl"},

	{key: "acl_policy_path", now: "policy.path"},
	{key: "log_level", now: "log.level"},
	{key: "auto_update_enabled", now: "derp.auto_update_enabled"},
	{key: "update_frequency", now: "derp.update_frequency"},

	{key: "ephemeral_node_inactivity_timeout", now: "node.ephemeral.inactivity_timeout"},
	{key: "node_update_check_interval", gone: "has no effect here, changes are sent when they happen; remove it"},
	{key: "tls_client_auth_mode", migrate: (*migration).clientAuth},

	{key: "dns_config.override_local_dns", now: "dns.override_local_dns"},
	{key: "dns_config.nameservers", now: "dns.nameservers.global"},
	{key: "dns_config.restricted_nameservers", now: "dns.nameservers.split"},
	{key: "dns_config.domains", now: "dns.search_domains"},
	{key: "dns_config.magic_dns", now: "dns.magic_dns"},
	{key: "dns_config.base_domain", now: "dns.base_domain"},
	{key: "dns_config.extra_records", now: "dns.extra_records"},
	{key: "dns_config.use_username_in_magic_dns", gone: userNames},
	{key: "dns.use_username_in_magic_dns", gone: userNames},

	{key: "oidc.expiry", now: "node.expiry"},
	{key: "oidc.strip_email_domain", gone: "has no effect here, users keep their whole address; remove it"},
	{key: "oidc.map_legacy_users", gone: noEffect},
	{key: "oidc.domain_map", gone: "has no effect here, users are not made from domains; remove it"},

	{key: "preauth_keys", gone: noEffect, whole: true},
	{key: "tuning", gone: noEffect, whole: true},
	{key: "database.debug", gone: noEffect},
	{key: "database.gorm", gone: noEffect, whole: true},
	{key: "disable_check_updates", gone: "has no effect here, this server never looks for updates; remove it"},
}

const userNames = "has no effect here, names of nodes never hold their user's name; remove it"

// migration rewrites one tree to today's keys.
type migration struct {
	root   *value
	report *report
	paths  paths
}

// run leaves no older key in the tree.
func (m *migration) run() {
	for _, o := range olderKeys {
		e, ok := m.root.take(o.key)
		if !ok {
			continue
		}
		switch {
		case o.migrate != nil:
			o.migrate(m, o, e)
		case o.now == "":
			m.report.warn(e.pos, o.key, "%q %s", o.key, o.gone)
		default:
			m.move(o, e, o.now, e.value)
		}
	}
	m.leftovers("dns_config")
}

// move sets today's key to what the older one said. Both may stand beside each other only while they agree.
func (m *migration) move(o older, e entry, now string, v *value) {
	k := known.byPath[now]
	if there, ok := m.root.at(now); ok && there.value.kind != null {
		if !m.agree(k, v, there.value) {
			m.report.problem(e.pos, "%q says something else than %q (%s), which took its place; keep %q only",
				o.key, now, there.pos, now)
			return
		}
	} else {
		m.root.put(now, v, e.pos)
	}
	m.renamed(o, e, map[string]*value{now: v})
}

// renamed warns once about an older key and shows all that it is written like today.
func (m *migration) renamed(o older, e entry, now map[string]*value) *Warning {
	var names, vars []string
	tree := &value{kind: section}
	for _, k := range known.keys {
		v, ok := now[k.path]
		if !ok {
			continue
		}
		if k.secret {
			v = &value{kind: scalar, text: "(as it is)"}
		}
		names, vars = append(names, quote(k.path)), append(vars, k.env()+"=...")
		tree.put(k.path, v, e.pos)
	}
	spelling := tree.render()
	if e.pos.Env != "" {
		spelling = strings.Join(vars, "\n")
	}
	m.report.warnings = append(m.report.warnings, Warning{
		Pos:  e.pos,
		Key:  o.key,
		Text: quote(o.key) + " is the older spelling of " + strings.Join(names, " and ") + "; it works, but write",
		YAML: spelling,
	})
	return &m.report.warnings[len(m.report.warnings)-1]
}

// agree tells whether two values mean the same to a key. What cannot be read is left to the decoder to report.
func (m *migration) agree(k *key, a, b *value) bool {
	var read [2]any
	for i, v := range []*value{a, b} {
		d := &decoder{report: &report{}, paths: m.paths}
		field := reflect.New(k.typ).Elem()
		d.into(k, v, field)
		read[i] = field.Interface()
	}
	return reflect.DeepEqual(read[0], read[1])
}

// prefixes sorts the one list of older releases into a range of each family.
func (m *migration) prefixes(o older, e entry) {
	items := e.value.items
	if e.value.kind == scalar {
		items = []*value{e.value}
	}
	now := map[string]*value{}
	for _, item := range items {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(item.text))
		if item.kind != scalar || err != nil {
			m.report.problem(item.pos, "%s: expected an address range like 100.64.0.0/10, got %s", o.key, describe(item, false))
			return
		}
		target := "prefixes.v6"
		if prefix.Addr().Is4() {
			target = "prefixes.v4"
		}
		if first, twice := now[target]; twice && first.text != item.text {
			m.report.problem(item.pos, "%s: %s and %s are of one family, and nodes get one address of each; keep one",
				o.key, first.text, item.text)
			return
		}
		now[target] = item
	}
	if len(now) == 0 {
		m.report.problem(e.pos, "%s: expected a list with an address range, as in [100.64.0.0/10], got %s",
			o.key, describe(e.value, false))
		return
	}
	for _, target := range []string{"prefixes.v4", "prefixes.v6"} {
		v, ok := now[target]
		if !ok {
			continue
		}
		if there, both := m.root.at(target); both && there.value.kind != null {
			if !m.agree(known.byPath[target], v, there.value) {
				m.report.problem(e.pos, "%q says something else than %q (%s), which took its place; keep %q only",
					o.key, target, there.pos, target)
				return
			}
			continue
		}
		m.root.put(target, v, e.pos)
	}
	m.renamed(o, e, now)
}

// privateKey puts the Noise key next to the key of the protocol before Noise, unless it has a place already.
func (m *migration) privateKey(o older, e entry) {
	const now = "noise.private_key_path"
	if there, ok := m.root.at(now); ok && there.value.kind != null {
		m.report.warn(e.pos, o.key, "%q held the key of a protocol that is gone; %q is in use, remove the older key", o.key, now)
		return
	}
	if e.value.kind != scalar || e.value.text == "" {
		m.report.warn(e.pos, o.key, "%q held the key of a protocol that is gone; remove it", o.key)
		return
	}
	v := &value{pos: e.value.pos, kind: scalar, text: path.Join(path.Dir(e.value.text), noiseKeyFile)}
	m.root.put(now, v, e.pos)
	w := m.renamed(o, e, map[string]*value{now: v})
	w.Text = quote(o.key) + " held the key of a protocol that is gone; the key of today's lies next to it, write"
}

// clientAuth refuses to drop a demand for client certificates: that would open a door without a word.
func (m *migration) clientAuth(o older, e entry) {
	switch e.value.text {
	case "enforced", "require-and-verify":
		m.report.problem(e.pos, "%q: certificates of clients are not asked for here; have a proxy before the server ask for them, and remove the key", o.key)
	default:
		m.report.warn(e.pos, o.key, "%q %s", o.key, noEffect)
	}
}

// leftovers reports what stands in a section of older releases and never belonged there.
func (m *migration) leftovers(name string) {
	e, ok := m.root.take(name)
	if !ok {
		return
	}
	var siblings []string
	for _, o := range olderKeys {
		if parent, child := split(o.key); parent == name {
			siblings = append(siblings, child)
		}
	}
	for _, left := range e.value.entries {
		hint := ""
		if near := nearest(left.key, siblings); near != "" {
			i := slices.IndexFunc(olderKeys, func(o older) bool { return o.key == join(name, near) })
			hint = "; did you mean " + quote(join(name, near)) + ", today " + quote(olderKeys[i].now) + "?"
		}
		m.report.problem(left.pos, "unknown key %q%s", join(name, left.key), hint)
	}
}
