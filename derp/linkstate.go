package derp

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tailscale.com/types/key"
)

// linkState is how a link does.
type linkState struct {
	up    bool
	since time.Time // it is so
	err   error     // of the last try
}

// note says how the link does now.
func (l *link) note(up bool, err error) {
	next := &linkState{up: up, since: time.Now(), err: err}
	if was := l.state.Load(); was != nil && was.up == up {
		next.since = was.since
	}
	l.state.Store(next)
}

// MeshLink is how the link to another relay of the region does.
type MeshLink struct {
	Key   key.NodePublic // of the other relay; zero for one of Mesh.With
	At    string         // its name in Mesh.With, or its address, host:port
	Up    bool
	Since time.Time // that it is so
	Err   error     // why it is not up; nil before the first try has ended
}

// MeshLinks are the links to other relays, up or not, by where they lead. Those that turned out to lead to the relay
// itself are left out.
func (r *Relay) MeshLinks() []MeshLink {
	m := r.mesh
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []MeshLink
	add := func(k key.NodePublic, at string, l *meshLink) {
		s := l.state.Load()
		if !errors.Is(s.err, errSelf) {
			list = append(list, MeshLink{Key: k, At: at, Up: s.up, Since: s.since, Err: s.err})
		}
	}
	for name, l := range m.named {
		add(key.NodePublic{}, name, l)
	}
	for k, l := range m.peers {
		add(k, l.target.Load().addrs[0], l)
	}
	slices.SortFunc(list, func(a, b MeshLink) int { return cmp.Or(cmp.Compare(a.At, b.At), a.Key.Compare(b.Key)) })
	return list
}

// brokenAfter is how long a link may be down before the operator hears of it: a relay that is started again comes back
// sooner.
const brokenAfter = 20 * time.Second

// brokenLinks are sentences about links that do not come up.
func (r *Relay) brokenLinks(now time.Time) (texts []string) {
	for _, l := range r.MeshLinks() {
		if l.Up || l.Err == nil || now.Sub(l.Since) < brokenAfter {
			continue
		}
		texts = append(texts, fmt.Sprintf("no mesh link to the relay at %s since %s: %s", l.At, l.Since.UTC().Format("2006-01-02 15:04:05 UTC"),
			strings.ReplaceAll(l.Err.Error(), "\n", "; ")))
	}
	return texts
}
