package state

import (
	"slices"

	"tailscale.com/types/dnstype"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// putSettings puts what was set for the tailnet over the server's settings; prev's where nothing of it moved.
func (v *View) putSettings(prev *View) {
	if prev != nil && prev.general == v.general && prev.Snapshot.Settings == v.Snapshot.Settings {
		v.Settings = prev.Settings
		return
	}
	v.Settings = v.general.With(v.Snapshot.Settings)
}

// With are the settings with what was set for one tailnet over them; the same ones where nothing was.
func (s *Settings) With(set *tailnet.Settings) *Settings {
	if set == nil || set.AutoUpdates == nil && set.DNS == (tailnet.DNSSettings{}) {
		return s
	}
	own := *s
	if set.AutoUpdates != nil {
		own.AutoUpdate = *set.AutoUpdates
	}
	d := &set.DNS
	if d.MagicDNS != nil {
		own.MagicDNS = *d.MagicDNS
	}
	if d.OverrideLocalDNS != nil {
		own.OverrideLocalDNS = *d.OverrideLocalDNS
	}
	if d.SearchPaths != nil {
		own.SearchDomains = *d.SearchPaths
	}
	own.set = d
	return &own
}

// DNSResolvers are the nameservers in force, for all names and for those below each domain.
func (s *Settings) DNSResolvers() (global []tailnet.Resolver, split map[string][]tailnet.Resolver) {
	plain := func(addrs []string) []tailnet.Resolver {
		out := make([]tailnet.Resolver, len(addrs))
		for i, a := range addrs {
			out[i].Address = a
		}
		return out
	}
	global, split = plain(s.Nameservers), map[string][]tailnet.Resolver{}
	for domain, addrs := range s.SplitDNS {
		split[domain] = plain(addrs)
	}
	if s.set != nil && s.set.Nameservers != nil {
		global = *s.set.Nameservers
	}
	if s.set != nil && s.set.Split != nil {
		split = *s.set.Split
	}
	return global, split
}

func (s *Settings) globalResolvers() []*dnstype.Resolver {
	if s.set == nil || s.set.Nameservers == nil {
		return resolvers(s.Nameservers)
	}
	return setResolvers(*s.set.Nameservers)
}

func (s *Settings) splitResolvers() map[string][]*dnstype.Resolver {
	routes := map[string][]*dnstype.Resolver{}
	if s.set == nil || s.set.Split == nil {
		for suffix, servers := range s.SplitDNS {
			routes[suffix] = resolvers(servers)
		}
		return routes
	}
	for suffix, servers := range *s.set.Split {
		routes[suffix] = setResolvers(servers)
	}
	return routes
}

func setResolvers(list []tailnet.Resolver) []*dnstype.Resolver {
	out := make([]*dnstype.Resolver, 0, len(list))
	for _, r := range list {
		out = append(out, &dnstype.Resolver{Addr: r.Address, UseWithExitNode: r.ViaExitNode})
	}
	return out
}

// bar says of each node that delta brings whether it is cut off, and adds copies of those for which a change of their
// owner makes that different.
func bar(snapshot *tailnet.Snapshot, delta tailnet.Delta) []*tailnet.Node {
	users := map[tailnet.UserID]*tailnet.User{}
	for _, u := range delta.Users {
		users[u.ID] = u
	}
	owner := func(n *tailnet.Node) *tailnet.User {
		if u := users[n.UserID]; u != nil || snapshot == nil || delta.Full {
			return u
		}
		return snapshot.Users[n.UserID]
	}
	nodes := delta.Nodes
	for _, n := range nodes {
		n.Barred = tailnet.Excludes(n, owner(n))
	}
	if snapshot == nil || delta.Full || len(users) == 0 {
		return nodes
	}
	for _, n := range snapshot.Nodes {
		if users[n.UserID] == nil || n.Barred == tailnet.Excludes(n, owner(n)) ||
			slices.Contains(delta.NodesGone, n.ID) || slices.ContainsFunc(delta.Nodes, func(m *tailnet.Node) bool { return m.ID == n.ID }) {
			continue
		}
		c := *n
		c.Barred = !n.Barred
		nodes = append(nodes, &c)
	}
	return nodes
}
