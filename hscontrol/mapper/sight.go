package mapper

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// sight is what depends on who looks at a peer: all else of it is the same for everybody.
type sight struct {
	routes    []netip.Prefix
	caps      tailcfg.NodeCapMap
	hidesIPv4 bool
}

func see(v *state.View, viewer, peer tailnet.NodeID) sight {
	return sight{
		routes:    v.Policy.Routes(viewer, peer),
		caps:      v.Policy.PeerCaps(viewer, peer),
		hidesIPv4: v.Policy.HidesIPv4(viewer, peer),
	}
}

func (a sight) equal(b sight) bool {
	return a.hidesIPv4 == b.hidesIPv4 && slices.Equal(a.routes, b.routes) && sameCaps(a.caps, b.caps)
}

func sameCaps(a, b tailcfg.NodeCapMap) bool {
	return maps.EqualFunc(a, b, func(x, y []tailcfg.RawMessage) bool { return slices.Equal(x, y) })
}

// records keeps the JSON of peers: encoded once for a node and a sight, shared by every map that holds it, and dropped
// when the node has left every snapshot.
type records struct {
	byNode  sync.Map // weak.Pointer[tailnet.Node] -> *recorded
	numbers atomic.Uint64
}

// recorded is what was encoded of a node.
type recorded struct {
	mu       sync.Mutex
	variants []variant
	changes  []change
}

type variant struct {
	sight  sight
	domain string
	text   *text
}

// change is how a node became what it is, to those who see both alike.
type change struct {
	was   weak.Pointer[tailnet.Node]
	sight sight
	how   how
	text  *text
}

// maxChanges bounds how many former states of a node are told apart: sessions that lag had one of the last few.
const maxChanges = 16

// of is the JSON of n as seen.
func (r *records) of(v *state.View, n *tailnet.Node, s sight) *text {
	rec := r.about(n)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, have := range rec.variants {
		if have.domain == v.Domain && have.sight.equal(s) {
			return have.text
		}
	}
	t := r.encode(peer(v, n, s))
	rec.variants = append(rec.variants, variant{sight: s, domain: v.Domain, text: t})
	return t
}

// change is how to tell that was became is, which is seen in the same way: by a patch where one can say it.
func (r *records) change(from, to *state.View, was, is *tailnet.Node, s sight) (how, *text) {
	rec, before := r.about(is), weak.Make(was)
	rec.mu.Lock()
	for _, have := range rec.changes {
		if have.was == before && have.sight.equal(s) {
			rec.mu.Unlock()
			return have.how, have.text
		}
	}
	rec.mu.Unlock()
	c := change{was: before, sight: s, how: patched}
	switch p, same := patch(from, to, was, is, s); {
	case p == nil:
		c.how, c.text = record, r.of(to, is, s)
	case same:
		c.how = unsaid
	default:
		c.text = r.encode(p)
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if len(rec.changes) == maxChanges {
		rec.changes = rec.changes[1:]
	}
	rec.changes = append(rec.changes, c)
	return c.how, c.text
}

func (r *records) encode(v any) *text {
	return &text{number: r.numbers.Add(1), json: mustJSON(v)}
}

func (r *records) about(n *tailnet.Node) *recorded {
	at := weak.Make(n)
	if rec, ok := r.byNode.Load(at); ok {
		return rec.(*recorded)
	}
	rec, loaded := r.byNode.LoadOrStore(at, new(recorded))
	if !loaded {
		runtime.AddCleanup(n, func(at weak.Pointer[tailnet.Node]) { r.byNode.Delete(at) }, at)
	}
	return rec.(*recorded)
}

// mustJSON encodes values that are made of tailcfg types only, which always encode.
func mustJSON(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("encoding a map response: " + err.Error())
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// patch says how peer became what it is, if no more differs than what a patch can say: endpoints, home region, online
// and last seen, which clients take in without a rebuild, and disco key and capability version, which a node tells first
// after it has joined. same is true if it looks just as before.
func patch(from, to *state.View, was, is *tailnet.Node, s sight) (change *tailcfg.PeerChange, same bool) {
	a, b := peer(from, was, s), peer(to, is, s)
	change = &tailcfg.PeerChange{NodeID: b.ID}
	same = true
	if !slices.Equal(a.Endpoints, b.Endpoints) {
		if len(b.Endpoints) == 0 {
			return nil, false // an empty list cannot be said in a patch
		}
		change.Endpoints, same = b.Endpoints, false
	}
	if a.HomeDERP != b.HomeDERP {
		if b.HomeDERP == 0 {
			return nil, false
		}
		change.DERPRegion, same = b.HomeDERP, false
	}
	if *a.Online != *b.Online {
		change.Online, same = b.Online, false
	}
	if b.LastSeen != nil && (a.LastSeen == nil || !a.LastSeen.Equal(*b.LastSeen)) {
		change.LastSeen, same = b.LastSeen, false
	}
	if a.DiscoKey != b.DiscoKey {
		if b.DiscoKey.IsZero() {
			return nil, false
		}
		change.DiscoKey, same = &b.DiscoKey, false
	}
	if a.Cap != b.Cap {
		if b.Cap == 0 {
			return nil, false
		}
		change.Cap, same = b.Cap, false
	}
	// The copies were made here, so they may be made the same. The disco key that the patch points to stays.
	a.DiscoKey, a.Cap = b.DiscoKey, b.Cap
	for _, n := range []*tailcfg.Node{a, b} {
		n.Endpoints, n.HomeDERP, n.LegacyDERPString, n.Online, n.LastSeen = nil, 0, "", nil, nil
	}
	if !a.Equal(b) {
		return nil, false
	}
	return change, same
}
