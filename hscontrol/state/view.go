// Package state follows the store and publishes, for each tailnet, one immutable view of what is true now.
//
// The way of a change:
//
//	store commits -> Moved -> Since(rev) -> Snapshot.Next -> policy compiled again only if an identity moved
//	-> a new View behind an atomic pointer -> every poll session wakes and compares.
package state

import (
	"net/netip"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// View is all that a tailnet's nodes may be told at one moment: the snapshot of the store and what stands beside it.
// It is immutable, and shares with the view before it what did not change, so that pointers may be compared.
type View struct {
	*tailnet.Snapshot

	// Seq counts the views of this tailnet in this process, from 1. It moves where the revision does not: when the
	// DERP map, the DNS settings or the clock made the difference.
	Seq uint64

	Policy  *policy.Compiled
	DERPMap *tailcfg.DERPMap // with all regions: see DERPMapOf
	Pinless *tailcfg.DERPMap // DERPMap for clients that know no pins; see withoutPins
	base    *tailcfg.DERPMap // the server's own, without what the policy puts over it
	// served is base with the relays that enrolled, and servedPinless the same for clients that know no pins.
	served, servedPinless *tailcfg.DERPMap
	chosen                map[string]chosenMaps // what the policy keeps of DERPMap and Pinless, by its selections' keys

	Settings *Settings // general, with what was set for this tailnet over it
	general  *Settings // the server's own
	Domain   string    // MagicDNS domain of this tailnet, without dots at the ends
	DNS      *tailcfg.DNSConfig
}

// Settings is the part of the server's configuration that nodes are told. A pointer that is equal means settings that
// are equal.
type Settings struct {
	BaseDomain string // MagicDNS domain of the default tailnet; another one's is its name and this
	MagicDNS   bool
	// OverrideLocalDNS makes Nameservers replace the resolvers of the machine.
	OverrideLocalDNS bool
	Nameservers      []string
	SplitDNS         map[string][]string
	SearchDomains    []string
	ExtraRecords     []tailcfg.DNSRecord
	// set are the nameservers of a tailnet that were set for it; nil: those above.
	set *tailnet.DNSSettings

	// PrefixV4 and PrefixV6 are the ranges of tailnets that set none. Zero: none of that family.
	PrefixV4 netip.Prefix
	PrefixV6 netip.Prefix

	Taildrop            bool // nodes may send files
	Logtail             bool // nodes may send their logs to Tailscale
	AutoUpdate          bool // the default of clients that have not chosen
	RandomizeClientPort bool

	NoRelays bool // relays that enrolled stand in no map
}

// prefixes are the ranges that t takes addresses from.
func (s *Settings) prefixes(t *tailnet.Tailnet) []netip.Prefix {
	v4, v6 := t.PrefixV4, t.PrefixV6
	if !v4.IsValid() && !v6.IsValid() {
		v4, v6 = s.PrefixV4, s.PrefixV6
	}
	var out []netip.Prefix
	for _, p := range []netip.Prefix{v4, v6} {
		if p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// domain is the MagicDNS domain of t.
func (s *Settings) domain(t *tailnet.Tailnet) string {
	switch {
	case t.Name == tailnet.DefaultName:
		return s.BaseDomain
	case s.BaseDomain == "":
		return t.Name
	}
	return t.Name + "." + s.BaseDomain
}
