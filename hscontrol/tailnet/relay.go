package tailnet

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"tailscale.com/types/key"
)

// Relay is a derper that enrolled itself. A *Relay that is part of a Snapshot is immutable and may be shared by all
// goroutines.
type Relay struct {
	ID        RelayID  `gorm:"primaryKey"`
	TailnetID ID       `gorm:"serializer:ref"` // the only one whose nodes it serves; zero (NULL): all
	RegionID  RegionID `gorm:"not null"`
	Name      string   `gorm:"not null"` // a DNS label, unique among all relays

	MachineKey key.MachinePublic `gorm:"serializer:text;not null"` // by which it is known for good
	KeyID      KeyID             `gorm:"serializer:ref"`           // enrolment key that let it in last

	RelayDescription

	Draining bool // takes nobody new and sends the others away
	Healthy  bool // answered the last probes, so that it may stand in the DERP map
	// OutBecause is a sentence that says why the relay is not Healthy; empty while it is.
	OutBecause string

	CreatedAt time.Time

	// Online is whether the relay has a session with a control server. It is no column. A relay that is not Online may
	// well serve its clients.
	Online bool `gorm:"-"`
}

// Reasons of OutBecause by which servers know what to do next.
const (
	RelayNotProbed = "it has not answered a probe yet"
	RelayStopped   = "it was stopped"
	RelayReturns   = "it is back, and clients are about to be told"
)

// RelayDescription is what a relay says of itself, and where it stands in the DERP map because of that.
type RelayDescription struct {
	Version  string
	DERPKey  key.NodePublic `gorm:"serializer:text"` // as its clients see it
	Hostname string         // that its operator gave: a DNS name or an address; empty: none

	Addresses []netip.Addr `gorm:"serializer:doc"`  // of its machine
	SeenFrom  netip.Addr   `gorm:"serializer:text"` // where its session comes from
	Published []netip.Addr `gorm:"serializer:doc"`  // that clients are told, at most one a family; none where Hostname is a DNS name

	DERPPort uint16 // TCP
	STUNPort uint16 // UDP; 0: it answers no STUN
	Port80   bool   // answers captive portal checks there

	// Certificates are those that it serves, the one to publish first.
	Certificates []RelayCertificate `gorm:"serializer:doc"`
}

// RelayCertificate is one that a relay serves.
type RelayCertificate struct {
	Name    string    // that a client asks for to get it (tailcfg.DERPNode.HostName); empty: the hostname
	Pin     string    // tailcfg.DERPNode.CertName: sha256-raw:…; empty where an authority vouches for it
	Expires time.Time // zero: not known
}

// Equal reports whether two descriptions say the same.
func (d RelayDescription) Equal(o RelayDescription) bool {
	return d.Version == o.Version && d.DERPKey == o.DERPKey && d.Hostname == o.Hostname && d.SeenFrom == o.SeenFrom &&
		d.DERPPort == o.DERPPort && d.STUNPort == o.STUNPort && d.Port80 == o.Port80 &&
		slices.Equal(d.Addresses, o.Addresses) && slices.Equal(d.Published, o.Published) &&
		slices.EqualFunc(d.Certificates, o.Certificates, func(a, b RelayCertificate) bool {
			return a.Name == b.Name && a.Pin == b.Pin && a.Expires.Equal(b.Expires)
		})
}

// Serves reports whether the relay is for the nodes of the tailnet.
func (r *Relay) Serves(id ID) bool { return r.TailnetID == 0 || r.TailnetID == id }

// RelayRegion is where relays stand that are near each other and form a mesh.
type RelayRegion struct {
	ID RegionID `gorm:"primaryKey"`
	// TailnetID is that of all its relays. Relays of several owners are never in one region, because those in a mesh
	// trust each other.
	TailnetID ID      `gorm:"serializer:ref"`
	Code      string  `gorm:"not null"` // as ValidateRegionCode wants it
	Name      string  `gorm:"not null"` // for people
	MeshKey   MeshKey `gorm:"not null"` // changes when a relay leaves
}

// MeshKey is what the relays of a region show each other, 64 hexadecimal digits.
type MeshKey string

// Reveal is the key itself.
func (k MeshKey) Reveal() string { return string(k) }

// String hides the key, so that it may be logged.
func (k MeshKey) String() string { return "***" }

// GoString hides it too.
func (k MeshKey) GoString() string { return "***" }

// FirstRegionID is the lowest that enrolled relays get: 900 to 999 is what Tailscale leaves to those who run relays of
// their own.
const FirstRegionID RegionID = 901

var regionCode = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}[a-z0-9]$|^[a-z]$`)

// ValidateRegionCode reports why code cannot be a region's: it must be 1 to 32 lower-case letters, digits and dashes, a
// letter first.
func ValidateRegionCode(code string) error {
	if !regionCode.MatchString(code) {
		return fmt.Errorf("%w: region %q: use 1 to 32 lower-case letters, digits and dashes, a letter first, like home or fra-2", ErrInvalid, code)
	}
	return nil
}

// RelayKey lets relays enrol.
type RelayKey struct {
	ID          KeyID  `gorm:"primaryKey"`
	TailnetID   ID     `gorm:"serializer:ref"` // whose nodes its relays will serve; zero (NULL): all tailnets
	Prefix      string `gorm:"not null"`
	Hash        []byte `gorm:"not null"`
	Description string
	Reusable    bool
	ExpiresAt   *time.Time // nil: never
	UsedAt      *time.Time // last; nil: never
	CreatedAt   time.Time
}

// Usable says why the key lets no relay in at the given time, or nil. The text is shown at the relay.
func (k *RelayKey) Usable(at time.Time) error {
	switch {
	case k.ExpiresAt != nil && !k.ExpiresAt.After(at):
		return fmt.Errorf("%w: it expired at %s; make a new one with headscale derp enroll-keys create", ErrRelayRefused, k.ExpiresAt.UTC().Format(time.RFC3339))
	case k.UsedAt != nil && !k.Reusable:
		return fmt.Errorf("%w: it was for one use and has been used; make a new one with headscale derp enroll-keys create", ErrRelayRefused)
	}
	return nil
}

// RelayKeyText is an enrolment key as it is shown once: the secret and, as its last part, the server's public Noise key, so
// that the relay knows from the first byte on whom it speaks with, over plain http too.
func RelayKeyText(secret Secret, server key.MachinePublic) string {
	return secret.Reveal() + "-" + strings.TrimPrefix(server.String(), machineKeyPrefix)
}

const machineKeyPrefix = "mkey:"

// ParseRelayKey reads an enrolment key. The error never repeats the text. Without its last part the server is zero.
func ParseRelayKey(text string) (secret Secret, server key.MachinePublic, err error) {
	text = strings.TrimSpace(text)
	if cut := len(RelayKeySecret) + 1 + secretPrefixLen + 1 + secretBodyLen; len(text) > cut && text[cut] == '-' {
		if err := server.UnmarshalText([]byte(machineKeyPrefix + text[cut+1:])); err != nil {
			return Secret{}, key.MachinePublic{}, fmt.Errorf("this key of the form %s-… is cut short or too long: copy it whole", RelayKeySecret)
		}
		text = text[:cut]
	}
	secret, err = ParseSecret(RelayKeySecret, text)
	return secret, server, err
}

// RelayLoad is how a relay does. It is written every few seconds and raises no revision.
type RelayLoad struct {
	RelayID  RelayID `gorm:"primaryKey"`
	Clients  uint64
	CPU      float64   // cores in use
	Troubles []string  `gorm:"serializer:doc"` // sentences for the operator
	SeenAt   time.Time // when it said so

	// SentBytes and ReceivedBytes count since Started, the start of the relay's process. Zero: it does not count.
	Started                  *time.Time
	SentBytes, ReceivedBytes uint64
}

// Traffic counts bytes of packets.
type Traffic struct{ Sent, Received uint64 }

// RelayTraffic is what a relay moved.
type RelayTraffic struct {
	Today Traffic
	Month Traffic // the calendar month (UTC), today included
}

// Relay finds a relay by its ID, or nil.
func (s *Snapshot) Relay(id RelayID) *Relay {
	i, found := slices.BinarySearchFunc(s.Relays, id, func(r *Relay, id RelayID) int { return cmp.Compare(r.ID, id) })
	if !found {
		return nil
	}
	return s.Relays[i]
}

func mergeRelays(old, changed []*Relay, gone []RelayID) []*Relay {
	byID := make(map[RelayID]*Relay, len(old)+len(changed))
	for _, r := range old {
		byID[r.ID] = r
	}
	for _, r := range changed {
		byID[r.ID] = r
	}
	for _, id := range gone {
		delete(byID, id)
	}
	return slices.SortedFunc(maps.Values(byID), func(a, b *Relay) int { return cmp.Compare(a.ID, b.ID) })
}

// nextRegions keeps the pointers, and the map, of what is the same.
func nextRegions(old map[RegionID]*RelayRegion, regions []*RelayRegion) map[RegionID]*RelayRegion {
	next := make(map[RegionID]*RelayRegion, len(regions))
	for _, r := range regions {
		if was := old[r.ID]; was != nil && *was == *r {
			r = was
		}
		next[r.ID] = r
	}
	if maps.Equal(old, next) {
		return old
	}
	return next
}
