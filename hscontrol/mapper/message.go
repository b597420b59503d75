package mapper

import (
	"encoding/binary"
	"strconv"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/opt"
	"tailscale.com/util/zstdframe"
)

// Message is one map response before it is encoded: the viewer's own part, and the part about its peers.
type Message struct {
	head  *head
	whole bool     // peers are all there are
	peers [][]byte // encoded records: Peers if whole, else PeersChanged
	spans []span   // of a whole map: how its peers fall into blocks; the last span has at least one peer, or is alone

	removed  []tailcfg.NodeID
	patches  []*tailcfg.PeerChange
	profiles []tailcfg.UserProfile
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
	head, tail := m.envelope()
	return append(joined(head, m.peers, false), tail...)
}

// envelope is what stands before and after the records of the peers.
func (m *Message) envelope() (head, tail []byte) {
	b := []byte("{}")
	if m.head != nil {
		b = mustJSON(m.head)
	}
	b = b[:len(b)-1]
	if m.whole || len(m.peers) > 0 {
		name := "PeersChanged"
		if m.whole {
			name = "Peers"
		}
		head = append(member(b, name), '[')
		b = []byte{']'}
	}
	if len(m.removed) > 0 {
		b = member(b, "PeersRemoved")
		for i, id := range m.removed {
			b = append(b, "[,"[min(i, 1)])
			b = strconv.AppendInt(b, int64(id), 10)
		}
		b = append(b, ']')
	}
	if len(m.patches) > 0 {
		b = append(member(b, "PeersChangedPatch"), mustJSON(m.patches)...)
	}
	if len(m.profiles) > 0 {
		b = append(member(b, "UserProfiles"), mustJSON(m.profiles)...)
	}
	return head, append(b, '}')
}

// member begins a member of the JSON object that b holds the open beginning of.
func member(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// Frame is a message as it goes over the wire: its length in four little-endian bytes, then the JSON, compressed with
// zstd if the client asked for it (MapRequest.Compress).
func Frame(json []byte, compress bool) []byte {
	b := make([]byte, 4, 4+len(json)/2+64)
	if compress {
		b = zstdframe.AppendEncode(b, json, zstdframe.FastestCompression)
	} else {
		b = append(b, json...)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// KeepAlive is the message that keeps a quiet stream open. Clients recognise it by its bytes, so it never varies.
func KeepAlive() []byte { return []byte(`{"KeepAlive":true}`) }

// Unknown is the map of a client whose node does not exist any more: it steers the client to a new login.
func Unknown(k key.NodePublic, at time.Time) *Message {
	return &Message{head: &head{MapResponse: tailcfg.MapResponse{Node: unknown(k, at)}}, whole: true}
}
