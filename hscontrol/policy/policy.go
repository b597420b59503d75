// Package policy says what a policy means for a snapshot: who sees whom, which packets pass, who may log in by SSH,
// which capabilities nodes have, and which routes are approved. It is pure.
//
// The flow, in the order of the files: document.go and parse.go read HuJSON into a Policy, selector.go and check.go
// find what can be wrong without knowing a tailnet; extras.go has what a policy says beside rules. index.go numbers the nodes of a snapshot, resolve.go says which of
// them a selector means, compile.go makes flows of the rules. From the flows, visible.go answers who sees whom with
// which routes, filter.go writes packet filters, ssh.go SSH policies, attrs.go capabilities, approve.go approvals,
// regions.go relays.
// verify.go runs the tests that a policy holds about itself, explain.go says which rule decides about a packet or a
// login, diff.go what another policy changes for whom; eval.go is the dry run over an inventory.
package policy

import (
	"net/netip"
	"time"

	"go4.org/netipx"
	"tailscale.com/tailcfg"
)

// Policy is a policy as it was written: read and checked, but not yet held against any tailnet. It is immutable.
type Policy struct {
	text string

	groups map[string][]selector
	hosts  map[string][]netipx.IPRange
	ipsets map[string]*netipx.IPSet
	tags   map[string][]selector // tagOwners

	hasRules bool   // acls or grants are given, be they empty
	rules    []rule // grants first, then acls

	hasSSH bool
	ssh    []sshRule

	approveRoutes []routeApprover
	approveExit   []selector

	attrs    []attrRule
	tests    []test
	sshTests []sshTest

	oneCGNAT string // "", "mac-always" or "mac-never"
	derpMap  word   // as JSON, less its rules; empty: none
	regions  []regionRule
	records  []tailcfg.DNSRecord
	warnings []string
}

// Text is the HuJSON that the policy was read from.
func (p *Policy) Text() string { return p.text }

// rule is one entry of grants or acls.
type rule struct {
	section string // "grants" or "acls"
	index   int
	line    int
	src     []selector
	dst     []target
	flows   []protoPorts
	caps    tailcfg.PeerCapMap // nil: none
	via     []string           // tags
}

// target is a destination, in acls with its ports.
type target struct {
	selector
	ports []tailcfg.PortRange // acls only
}

// protoPorts is a protocol with the ports that it is allowed at. No protocols stand for TCP, UDP, ICMP and ICMPv6.
// Ports are given for grants only; in acls each target has its own.
type protoPorts struct {
	protos []int
	ports  []tailcfg.PortRange
}

// sshRule is one entry of ssh.
type sshRule struct {
	index, line int
	check       bool
	period      time.Duration // of a check; 0 means at every login
	src, dst    []selector
	users       []string // login names, localpart entries excluded
	localparts  []string // domains of localpart:*@domain
	acceptEnv   []string
	recorders   []selector
	mustRecord  bool
}

// routeApprover approves the routes inside of prefix that certain nodes announce.
type routeApprover struct {
	prefix netip.Prefix
	by     []selector
}

// attrRule is one entry of nodeAttrs.
type attrRule struct {
	line   int
	target []selector
	caps   tailcfg.NodeCapMap
	pools  []netip.Prefix
}

// test is one entry of tests.
type test struct {
	line         int
	src          word
	proto        word
	accept, deny []word
}

// sshTest is one entry of sshTests.
type sshTest struct {
	line                int
	src                 word
	dst                 []word
	accept, deny, check []word
}
