package policy

import (
	"net/netip"
	"regexp"
	"strings"

	"tailscale.com/tailcfg"
)

// DERPMap is the policy's derpMap as JSON, in the form of tailcfg.DERPMap, with its line; empty for none. What stands in
// it is checked by whoever puts it over the server's own.
func (p *Policy) DERPMap() (text string, line int) {
	if p == nil {
		return "", 0
	}
	return p.derpMap.text, p.derpMap.line
}

// ExtraRecords are the names that every node's resolver knows beside the nodes (extraDNSRecords). Do not change them.
func (p *Policy) ExtraRecords() []tailcfg.DNSRecord {
	if p == nil {
		return nil
	}
	return p.records
}

func readDERPMap(d *document, v value, p *Policy) *Refusal {
	empty := true
	if r := d.members(v, func(string, int, value) *Refusal { empty = false; return nil }); r != nil || empty {
		return r
	}
	p.derpMap = word{d.raw(v), d.line(v)}
	return nil
}

// dnsName is a name as resolvers look it up (RFC 1035, 2.3.4), with at least two labels.
var dnsName = regexp.MustCompile(`^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)+[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.?$`)

// maxName bounds a name, in bytes.
const maxName = 254

func readRecord(d *document, v value, p *Policy) *Refusal {
	var name, kind, address word
	if r := d.fields(v, map[string]func(value) *Refusal{
		"Name": d.wordInto(&name), "Type": d.wordInto(&kind), "Value": d.wordInto(&address),
	}); r != nil {
		return r
	}
	line := d.line(v)
	if !dnsName.MatchString(name.text) || len(name.text) > maxName {
		return refuse(max(line, name.line), "write a full one, such as grafana.example.com", "%q is not a DNS name", name.text).at(v.place)
	}
	addr, err := netip.ParseAddr(address.text)
	if err != nil || addr.Zone() != "" {
		return refuse(max(line, address.line), "write an IPv4 or IPv6 address", "Value %q: invalid address", address.text).at(v.place)
	}
	want := "A"
	if addr.Is6() {
		want = "AAAA"
	}
	if kind.text != "" && kind.text != want {
		return refuse(max(line, kind.line), "A takes IPv4, AAAA takes IPv6, and clients answer no other", "Type %q does not fit %s", kind.text, addr).at(v.place)
	}
	p.records = append(p.records, tailcfg.DNSRecord{Name: strings.TrimSuffix(name.text, "."), Type: kind.text, Value: addr.String()})
	return nil
}
