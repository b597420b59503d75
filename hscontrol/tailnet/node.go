package tailnet

import (
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// RegisterMethod says how a node was let in.
type RegisterMethod string

const (
	RegisterByAuthKey RegisterMethod = "authkey"
	RegisterByCLI     RegisterMethod = "cli"
	RegisterByOIDC    RegisterMethod = "oidc"
)

// Node is one registered client. A *Node that is part of a Snapshot is immutable and may be shared by all goroutines.
type Node struct {
	ID        NodeID `gorm:"primaryKey"`
	TailnetID ID     `gorm:"not null;uniqueIndex:node_name,priority:1;uniqueIndex:node_ipv4,priority:1;uniqueIndex:node_ipv6,priority:1"`

	// NodeKey identifies a node among all; one machine (MachineKey) may hold several nodes, a profile each.
	MachineKey key.MachinePublic `gorm:"serializer:text;not null;index"`
	NodeKey    key.NodePublic    `gorm:"serializer:text;not null;uniqueIndex"`
	DiscoKey   key.DiscoPublic   `gorm:"serializer:text"`
	NLKey      key.NLPublic      `gorm:"serializer:text"` // tailnet lock; opaque here

	// UserID is the owner; zero (NULL in the table) for a tagged node, which nobody owns.
	UserID UserID   `gorm:"serializer:ref;index"`
	Tags   []string `gorm:"serializer:doc"` // sorted; "tag:" included

	Hostname   string // as the client says
	GivenName  string `gorm:"not null;uniqueIndex:node_name,priority:2"` // the DNS label, unique in the tailnet
	NamePinned bool   // an administrator set GivenName: a new hostname does not change it

	IPv4 netip.Addr `gorm:"column:ipv4;serializer:text;uniqueIndex:node_ipv4,priority:2"`
	IPv6 netip.Addr `gorm:"column:ipv6;serializer:text;uniqueIndex:node_ipv6,priority:2"`

	// Hostinfo is what the client last said of itself, NetInfo included. Never nil in a snapshot.
	Hostinfo      *tailcfg.Hostinfo      `gorm:"serializer:doc"`
	Endpoints     []netip.AddrPort       `gorm:"serializer:doc"`
	EndpointTypes []tailcfg.EndpointType `gorm:"serializer:doc"`
	HomeDERP      int                    // DERP region, 0 while unknown
	CapVersion    tailcfg.CapabilityVersion

	// ApprovedRoutes are those that an administrator or autoApprovers allowed, announced or not. PrimaryRoutes are the
	// approved and announced subnet routes for which this node was elected: of the online nodes the one created first.
	ApprovedRoutes []netip.Prefix `gorm:"serializer:doc"`
	PrimaryRoutes  []netip.Prefix `gorm:"serializer:doc"`

	RegisterMethod RegisterMethod
	AuthKeyID      KeyID `gorm:"serializer:ref"` // pre-auth key that let it in; zero for none
	Ephemeral      bool
	Unauthorized   bool // an administrator has still to let it in; see Settings.DevicesApproval

	Expiry   *time.Time // nil: the key never expires
	LastSeen *time.Time // when it was last connected; nil before the first time
	// HeardAt is when the newest map request that wrote to this row arrived: an older one that comes late writes nothing.
	HeardAt *time.Time

	CreatedAt time.Time
	UpdatedAt time.Time

	// Online is whether a session row exists for the node, Lapsed whether its key had expired when the snapshot was
	// made, Barred whether it was cut off then; see Excludes. None is a column.
	Online bool `gorm:"-"`
	Lapsed bool `gorm:"-"`
	Barred bool `gorm:"-"`
}

// Session is the fact that a node is connected: it has an open map stream at a replica.
type Session struct {
	NodeID  NodeID `gorm:"primaryKey"`
	ID      string `gorm:"not null"` // random; a reconnect changes it, so that a late disconnect deletes nothing
	Replica string `gorm:"not null;index"`
	Since   time.Time
}

// IsTagged reports whether tags, not a user, are the node's identity.
func (n *Node) IsTagged() bool { return len(n.Tags) > 0 }

// HasTag reports whether the node carries tag.
func (n *Node) HasTag(tag string) bool { return slices.Contains(n.Tags, tag) }

// Expired reports whether the node's key has expired at the given time. Tagged nodes expire only when an
// administrator sets an expiry.
func (n *Node) Expired(at time.Time) bool { return n.Expiry != nil && !n.Expiry.After(at) }

// Addrs are the node's own addresses, IPv4 first.
func (n *Node) Addrs() []netip.Addr {
	addrs := make([]netip.Addr, 0, 2)
	if n.IPv4.IsValid() {
		addrs = append(addrs, n.IPv4)
	}
	if n.IPv6.IsValid() {
		addrs = append(addrs, n.IPv6)
	}
	return addrs
}

// Prefixes are the node's own addresses as /32 and /128.
func (n *Node) Prefixes() []netip.Prefix {
	addrs := n.Addrs()
	prefixes := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		prefixes[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return prefixes
}

// FQDN is the node's name in the domain, with the trailing dot; without a domain just the label and a dot.
func (n *Node) FQDN(domain string) string {
	if domain == "" {
		return n.GivenName + "."
	}
	return n.GivenName + "." + domain + "."
}

// SameIdentity reports whether a policy cannot tell a from b: same owner, tags, addresses, operating system and served
// routes, and for a router whether it is online. While it holds for every node of a tailnet, a compiled policy stays
// valid.
func SameIdentity(a, b *Node) bool {
	return a.ID == b.ID && a.UserID == b.UserID && a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 &&
		a.os() == b.os() && a.Barred == b.Barred &&
		slices.Equal(a.Tags, b.Tags) &&
		slices.Equal(a.PrimaryRoutes, b.PrimaryRoutes) &&
		sameService(a, b)
}

// sameService compares what two states of a node serve to others.
func sameService(a, b *Node) bool {
	routes := a.ServedRoutes()
	return slices.Equal(routes, b.ServedRoutes()) && (len(routes) == 0 || a.Online == b.Online)
}

func (n *Node) os() string {
	if n.Hostinfo == nil {
		return ""
	}
	return n.Hostinfo.OS
}
