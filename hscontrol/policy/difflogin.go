package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const otherLogin = "any other name"

// logins compares the outcome of every login name that some rule names, and of the others.
func (d *differ) logins() []LoginChange {
	found := map[string]*LoginChange{}
	for k := range d.names {
		for _, login := range d.loginNames(k) {
			was, is := d.was.loginSets(k, login), d.is.loginSets(k, login)
			for _, from := range outcomes {
				for _, to := range outcomes {
					if from == to {
						continue
					}
					set := slices.Clone(was[from])
					set.keep(is[to])
					set.clear(k)
					if set.empty() {
						continue
					}
					key := fmt.Sprint(from, to, login, " ", string(set.appendKey(nil)))
					if found[key] == nil {
						found[key] = &LoginChange{From: d.senderNames(set), Login: login, Was: from, Is: to}
					}
					found[key].To = append(found[key].To, d.names[k])
				}
			}
		}
	}
	var list []LoginChange
	for _, key := range sortedIDs(found) {
		list = append(list, *found[key])
	}
	return list
}

var outcomes = []string{"accept", "check", "deny"}

// loginNames are the names that some rule of either policy has for node k.
func (d *differ) loginNames(k int) []string {
	names := map[string]bool{}
	for _, c := range []*Compiled{d.was, d.is} {
		for n := range c.ssh {
			f := &c.ssh[n]
			if !f.to.has(k) && !f.self[c.x.users[k]] {
				continue
			}
			names["root"], names[otherLogin] = true, true
			for _, u := range f.rule.users {
				if u != "autogroup:nonroot" {
					names[u] = true
				}
			}
			for _, id := range c.people.ids {
				if local, domain, _ := strings.Cut(c.people.mail[id], "@"); local != "" && slices.Contains(f.rule.localparts, domain) {
					names[local] = true
				}
			}
		}
	}
	return sortedIDs(names)
}

// loginSets are the nodes whose login at node k comes out in each way.
func (c *Compiled) loginSets(k int, login string) map[string]bitset {
	n := len(c.x.ids)
	sets := map[string]bitset{"accept": newBitset(n), "check": newBitset(n), "deny": slices.Clone(c.x.all)}
	for m := range c.ssh {
		f := &c.ssh[m]
		from := newBitset(n)
		if f.to.has(k) {
			from.add(f.src)
		}
		if u := c.x.users[k]; c.x.member.has(k) && f.self[u] {
			from.add(c.x.byUser[u])
		}
		from.keep(sets["deny"])
		for i := range from.all() {
			if !c.allowsLogin(f.rule, i, login) {
				from.clear(i)
			}
		}
		outcome := "accept"
		if f.rule.check {
			outcome = "check"
		}
		sets[outcome].add(from)
		sets["deny"] = without(sets["deny"], from)
	}
	return sets
}

// routes compares the routes that each node gets of each router.
func (d *differ) routes() []RouteChange {
	var list []RouteChange
	x := d.was.x
	for p := range x.ids {
		if !x.routers.has(p) && !x.exits.has(p) {
			continue
		}
		changed := map[netip.Prefix]*[2]RouteChange{}
		for v := range x.ids {
			was, is := d.was.Routes(x.ids[v], x.ids[p]), d.is.Routes(x.ids[v], x.ids[p])
			for _, r := range was {
				if !slices.Contains(is, r) {
					d.noteRoute(changed, p, v, r, 0)
				}
			}
			for _, r := range is {
				if !slices.Contains(was, r) {
					d.noteRoute(changed, p, v, r, 1)
				}
			}
		}
		for _, r := range slices.Concat(x.routes[p], x.exit[p]) {
			if pair := changed[r]; pair != nil {
				list = append(list, slices.DeleteFunc(pair[:], func(c RouteChange) bool { return len(c.From) == 0 })...)
			}
		}
	}
	return list
}

func (d *differ) noteRoute(changed map[netip.Prefix]*[2]RouteChange, p, v int, r netip.Prefix, gained int) {
	if changed[r] == nil {
		changed[r] = &[2]RouteChange{{Lost: true, Router: d.names[p], Route: r}, {Router: d.names[p], Route: r}}
	}
	changed[r][gained].From = append(changed[r][gained].From, d.names[v])
}

// caps compares the capabilities that nodes have of themselves.
func (d *differ) caps() []CapChange {
	found := map[string]*CapChange{}
	for i, id := range d.was.x.ids {
		was, is := capTexts(d.was, id), capTexts(d.is, id)
		for _, side := range []struct {
			lost       bool
			have, lack []string
		}{{true, was, is}, {false, is, was}} {
			for _, text := range side.have {
				if slices.Contains(side.lack, text) {
					continue
				}
				key := fmt.Sprint(!side.lost, text)
				if found[key] == nil {
					found[key] = &CapChange{Lost: side.lost, Cap: text}
				}
				found[key].Nodes = append(found[key].Nodes, d.names[i])
			}
		}
	}
	var list []CapChange
	for _, key := range sortedIDs(found) {
		list = append(list, *found[key])
	}
	return list
}

// capTexts are a node's own capabilities, and those that it grants to others, with their values.
func capTexts(c *Compiled, id tailnet.NodeID) []string {
	var texts []string
	for name, values := range c.Caps(id) {
		texts = append(texts, strings.TrimSpace(fmt.Sprint(name, " ", strings.Trim(fmt.Sprint(values), "[]"))))
	}
	for _, r := range c.Filter(id) {
		for _, g := range r.CapGrant {
			for name, values := range g.CapMap {
				texts = append(texts, strings.TrimSpace(fmt.Sprintf("%s %s to %s", name, values, strings.Join(r.SrcIPs, " "))))
			}
		}
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

// approvals compares which announced routes are approved by themselves.
func (d *differ) approvals() []RouteChange {
	var list []RouteChange
	for _, n := range d.s.Nodes {
		for _, r := range n.AnnouncedRoutes() {
			was, is := d.was.AutoApproves(n, d.s, r), d.is.AutoApproves(n, d.s, r)
			if was != is {
				list = append(list, RouteChange{Lost: was, Router: n.GivenName, Route: r})
			}
		}
	}
	return list
}
