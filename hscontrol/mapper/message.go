package mapper

import (
	"strconv"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/opt"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Message is one map response before it is encoded: the viewer's own part, and the part about its peers.
type Message struct {
	head  *head
	whole bool     // peers are all there are
	peers []*block // records: Peers if whole, else PeersChanged

	removed  []tailnet.NodeID
	patches  []*block
	profiles []profile
}

// head is a tailcfg.MapResponse without peers. Its own members stand in for those of the same name whose omitempty
// would hide the difference between "nothing" and "unchanged".
type head struct {
	tailcfg.MapResponse

	PacketFilter    *[]tailcfg.FilterRule           `json:",omitempty"`
	PacketFilters   map[string][]tailcfg.FilterRule `json:",omitempty"`
	CollectServices opt.Bool                        `json:",omitempty"`
}

// Empty reports whether there is nothing to send.
func (m *Message) Empty() bool {
	return m == nil || m.head == nil && !m.whole && len(m.peers)+len(m.removed)+len(m.patches)+len(m.profiles) == 0
}

// JSON is the message as a client parses it.
func (m *Message) JSON() []byte {
	var p pieces
	m.write(&p)
	return p.private
}

// write puts the members of the message one after the other.
func (m *Message) write(p *pieces) {
	p.text("{}")
	if m.head != nil {
		p.private = append(p.private[:0], mustJSON(m.head)...)
	}
	p.private = p.private[:len(p.private)-1]
	if m.whole || len(m.peers) > 0 {
		name := "PeersChanged"
		if m.whole {
			name = "Peers"
		}
		p.member(name)
		p.list(m.peers)
	}
	if len(m.removed) > 0 {
		p.member("PeersRemoved")
		for i, id := range m.removed {
			p.private = append(p.private, "[,"[min(i, 1)])
			p.private = strconv.AppendInt(p.private, int64(id), 10)
		}
		p.text("]")
	}
	if len(m.patches) > 0 {
		p.member("PeersChangedPatch")
		p.list(m.patches)
	}
	if len(m.profiles) > 0 {
		p.member("UserProfiles")
		for i, u := range m.profiles {
			p.private = append(p.private, "[,"[min(i, 1)])
			p.private = append(p.private, u.json...)
		}
		p.text("]")
	}
	p.text("}")
}

// profile is that of a user, encoded.
type profile struct {
	id   tailnet.UserID
	json []byte
}

// owners gathers profiles, each once. The zero value is ready.
type owners struct {
	profiles []profile
	has      map[tailnet.UserID]bool
}

// add gathers the profile of n's owner.
func (o *owners) add(v *state.View, n *tailnet.Node) {
	id := n.UserID
	if n.IsTagged() {
		id = tailnet.TaggedDevices
	}
	if o.has[id] {
		return
	}
	known := tailnet.TaggedDevicesProfile()
	if !n.IsTagged() {
		u := v.Users[id]
		if u == nil {
			return
		}
		known = u.Profile()
	}
	if o.has == nil {
		o.has = map[tailnet.UserID]bool{}
	}
	o.has[id] = true
	o.profiles = append(o.profiles, profile{id, mustJSON(known)})
}

// KeepAlive is the message that keeps a quiet stream open. Clients recognise it by its bytes, so it never varies.
func KeepAlive() []byte { return []byte(`{"KeepAlive":true}`) }

// Unknown is the map of a client whose node does not exist any more: it steers the client to a new login.
func Unknown(k key.NodePublic, at time.Time) *Message {
	return &Message{head: &head{MapResponse: tailcfg.MapResponse{Node: unknown(k, at)}}, whole: true}
}
