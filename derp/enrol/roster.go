package enrol

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go4.org/mem"
	"tailscale.com/types/key"

	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

const (
	keyLen   = 32      // bytes of a node key
	maxNodes = 1 << 20 // that a relay keeps a list of
)

// errProtocol is what a server does that no server should. The session ends, and the next begins with a whole list.
var errProtocol = errors.New("the control server said what makes no sense")

// roster is whom to serve: what admissions have said, and since when nothing came any more.
type roster struct {
	mu sync.Mutex

	nodes   map[key.NodePublic]uint32 // to their class; not nil once a list was complete
	number  uint64                    // of the newest admission
	at      time.Time                 // when it came
	pending *pending                  // admission of which not all parts have come

	trying  bool // the first session of this process is on its way
	open    bool // there is a session, whose list may still be missing
	up      bool // the session's list is complete
	contact time.Time
	outage  time.Duration
	over    bool // the outage was too long, and said so

	changed chan struct{} // closed with each admission
	unsaved bool
}

// pending gathers the parts of an admission.
type pending struct {
	number uint64
	whole  bool
	nodes  map[key.NodePublic]uint32
	gone   map[key.NodePublic]bool
}

// change is what an admission did.
type change struct {
	complete bool
	gone     []key.NodePublic // to be sent away
	classes  bool             // a node that stays has another class
}

// restore takes what the file kept.
func (r *roster) restore(s *state, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed, r.trying = make(chan struct{}), true
	if s.Enrolment == nil || s.List == nil {
		return
	}
	r.contact = s.Contact
	if r.contact.After(now) { // the clock was ahead: nobody is served for longer because of that
		r.contact = now
	}
	r.number, r.at = s.List.Number, s.List.At
	r.nodes = make(map[key.NodePublic]uint32)
	for _, c := range s.List.Classes {
		for raw := range slices.Chunk(c.Keys, keyLen) {
			r.nodes[key.NodePublicFromRaw32(mem.B(raw))] = c.Class
		}
	}
}

// stored is what the file keeps. It counts as saved.
func (r *roster) stored() (*nodeList, time.Time) {
	type entry struct {
		key   key.NodePublic
		class uint32
	}
	r.mu.Lock()
	r.unsaved = false
	if r.nodes == nil {
		defer r.mu.Unlock()
		return nil, r.contact
	}
	list, contact := &nodeList{Number: r.number, At: r.at, Classes: []nodeClass{}}, r.contact
	entries := make([]entry, 0, len(r.nodes))
	for k, class := range r.nodes {
		entries = append(entries, entry{k, class})
	}
	r.mu.Unlock() // nobody waits for what follows
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.class, b.class), a.key.Compare(b.key))
	})
	for i, e := range entries {
		if i == 0 || e.class != entries[i-1].class {
			list.Classes = append(list.Classes, nodeClass{Class: e.class})
		}
		c := &list.Classes[len(list.Classes)-1]
		c.Keys = e.key.AppendTo(c.Keys)
	}
	return list, contact
}

// touch says that there is something to save.
func (r *roster) touch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsaved = true
}

func (r *roster) dirty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unsaved
}

// take takes a part of an admission. Nothing changes until its last part has come.
func (r *roster) take(m *relayv1.Admission, now time.Time) (change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending
	switch {
	case p != nil && p.number != m.GetNumber():
		return change{}, fmt.Errorf("%w: admission %d came before the end of %d", errProtocol, m.GetNumber(), p.number)
	case p != nil:
	case !m.GetWhole() && !r.up:
		return change{}, fmt.Errorf("%w: it began with a part of its list", errProtocol)
	case !m.GetWhole() && m.GetNumber() <= r.number:
		return change{}, fmt.Errorf("%w: admission %d came after %d", errProtocol, m.GetNumber(), r.number)
	default:
		p = &pending{number: m.GetNumber(), whole: m.GetWhole(), nodes: map[key.NodePublic]uint32{}, gone: map[key.NodePublic]bool{}}
		r.pending = p
	}
	if err := p.add(m); err != nil {
		return change{}, err
	}
	if m.GetPartial() {
		return change{}, nil
	}
	r.pending = nil
	if !p.whole && len(r.nodes)+len(p.nodes) > maxNodes {
		return change{}, errTooMany
	}
	c := r.apply(p)
	r.number, r.at, r.contact = p.number, now, now
	r.up, r.trying, r.over, r.unsaved = true, false, false, true
	close(r.changed)
	r.changed = make(chan struct{})
	return c, nil
}

var errTooMany = fmt.Errorf("the control server's list has more than %d nodes, which is more than a relay keeps", maxNodes)

func (p *pending) add(m *relayv1.Admission) error {
	if len(p.nodes)+len(m.GetNodes()) > maxNodes || len(p.gone)+len(m.GetGone()) > maxNodes {
		return errTooMany
	}
	for _, n := range m.GetNodes() {
		k, err := nodeKey(n.GetKey())
		if err != nil {
			return err
		}
		p.nodes[k] = n.GetClass()
		delete(p.gone, k)
	}
	for _, raw := range m.GetGone() {
		k, err := nodeKey(raw)
		if err != nil {
			return err
		}
		p.gone[k] = true
		delete(p.nodes, k)
	}
	return nil
}

func nodeKey(raw []byte) (key.NodePublic, error) {
	if len(raw) != keyLen || bytes.Count(raw, []byte{0}) == keyLen {
		return key.NodePublic{}, fmt.Errorf("%w: a node key of %d bytes", errProtocol, len(raw))
	}
	return key.NodePublicFromRaw32(mem.B(raw)), nil
}

// apply makes a complete admission the list, or a part of it.
func (r *roster) apply(p *pending) (c change) {
	c.complete = true
	if p.whole {
		for k, class := range r.nodes {
			now, stays := p.nodes[k]
			if !stays {
				c.gone = append(c.gone, k)
			} else if now != class {
				c.classes = true
			}
		}
		r.nodes = p.nodes
		return c
	}
	for k, class := range p.nodes {
		if was, known := r.nodes[k]; known && was != class {
			c.classes = true
		}
		r.nodes[k] = class
	}
	for k := range p.gone {
		delete(r.nodes, k)
		c.gone = append(c.gone, k)
	}
	return c
}

// opened says that a session is open.
func (r *roster) opened() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open, r.pending = true, nil
}

// heard says that the server gave a sign of life.
func (r *roster) heard(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.up {
		r.contact = now
	}
}

// down says that the session has ended, or the attempt to have one.
func (r *roster) down() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open, r.up, r.trying, r.pending = false, false, false, nil
	close(r.changed) // those who wait for a list wait in vain
	r.changed = make(chan struct{})
}

// forget leaves nobody on the list.
func (r *roster) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes, r.number, r.at, r.contact, r.up = nil, 0, time.Time{}, time.Time{}, false
	r.pending, r.unsaved = nil, true
}

func (r *roster) setOutage(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outage = d
}

// newest is the number of the admission that is kept.
func (r *roster) newest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.number
}

// class is that of a node, 0 for one without a rule.
func (r *roster) class(k key.NodePublic) uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[k]
}

// size is how many nodes are on the list, and whether it is that of a session.
func (r *roster) size() (n int, up bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.nodes), r.up
}
