// Package tailnet holds the nouns of a tailnet and their pure rules: what a user, a node, a key and a route are,
// and what an immutable snapshot of them says.
//
// Nothing here reads a clock, touches a disk or writes a log; time and randomness come in as arguments. A noun has this
// one shape inside the program: the row in the database and the value in memory are the same struct. The struct tags
// are read by the store.
package tailnet

import (
	"net/netip"
	"time"
)

type (
	// ID names a tailnet. Zero is no tailnet.
	ID uint64
	// UserID names a user, over all tailnets. Zero is no user: the owner of a tagged node.
	UserID uint64
	// NodeID names a node, over all tailnets; it is also tailcfg.Node.ID.
	NodeID uint64
	// KeyID names a pre-auth key, an API key or an enrolment key.
	KeyID uint64
	// RelayID names an enrolled relay, over all tailnets. Zero is none.
	RelayID uint64
	// RegionID names a region of enrolled relays; it is also tailcfg.DERPRegion.RegionID.
	RegionID uint64
	// Revision counts the committed changes of one tailnet, from 1.
	Revision uint64
)

// DefaultName is the name of the tailnet that exists from the start.
const DefaultName = "default"

// Tailnet is the unit of everything: its users, nodes, policy and addresses are its own.
type Tailnet struct {
	ID   ID     `gorm:"primaryKey"`
	Name string `gorm:"not null;uniqueIndex"`

	// Revision is the locked counter row: every transaction that changes the tailnet raises it by one.
	Revision Revision `gorm:"not null;default:1"`

	// PrefixV4 and PrefixV6 are the ranges that addresses are taken from. The zero prefix means the server's default,
	// unless the other one is set: then the tailnet has no addresses of that family.
	PrefixV4 netip.Prefix `gorm:"serializer:text"`
	PrefixV6 netip.Prefix `gorm:"serializer:text"`

	// NextV4 and NextV6 are where sequential allocation looks first. Zero means the start of the range.
	NextV4 netip.Addr `gorm:"serializer:text"`
	NextV6 netip.Addr `gorm:"serializer:text"`

	CreatedAt time.Time
}

// PolicyVersion is one version of a tailnet's policy text. The newest one is in force.
type PolicyVersion struct {
	ID        uint64 `gorm:"primaryKey"`
	TailnetID ID     `gorm:"not null;index"`
	Text      string `gorm:"not null"` // HuJSON
	Source    string `gorm:"not null"` // by which door it came: "cli", "grpc", "file /etc/headscale/acl.hujson"
	Author    string `gorm:"not null"` // who set it: a user of the machine, an API key by its prefix; empty: not known
	Origin    string `gorm:"not null"` // from where: an address, "unix socket"; empty: not known
	Note      string `gorm:"not null"` // the author's own words
	CreatedAt time.Time
}
