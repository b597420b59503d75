package state

import (
	"strings"

	"tailscale.com/tailcfg"
)

// pinPrefix begins a certificate name that is a hash (tailcfg.DERPNode.CertName).
const pinPrefix = "sha256-raw:"

// withoutPins is m for clients before v1.84, which take a pin for a host name and refuse the relay: they are told not
// to look at its certificate. What they send through it is encrypted from end to end all the same. m itself is given
// back if it has no pins.
func withoutPins(m *tailcfg.DERPMap) *tailcfg.DERPMap {
	if m == nil || !hasPins(m) {
		return m
	}
	m = m.Clone()
	for _, region := range m.Regions {
		if region == nil {
			continue
		}
		for _, n := range region.Nodes {
			if strings.HasPrefix(n.CertName, pinPrefix) {
				n.CertName, n.InsecureForTests = "", true
			}
		}
	}
	return m
}

func hasPins(m *tailcfg.DERPMap) bool {
	for _, region := range m.Regions {
		if region == nil {
			continue
		}
		for _, n := range region.Nodes {
			if strings.HasPrefix(n.CertName, pinPrefix) {
				return true
			}
		}
	}
	return false
}
