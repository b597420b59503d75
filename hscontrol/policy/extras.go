package policy

import (
	"net/netip"
	"regexp"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"
)

// DERPMap is the policy's derpMap as JSON, in the form of tailcfg.DERPMap and without our rules, with its line; empty for
// none. What stands in
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

// readDERPMap takes the rules out of derpMap; the rest stays as it was written.
func readDERPMap(d *document, v value, w *draft, p *Policy) *Refusal {
	rest, ruled := &hujson.Object{}, false
	r := d.members(v, func(name string, line int, m value) *Refusal {
		if !strings.EqualFold(name, "rules") {
			rest.Members = append(rest.Members, hujson.ObjectMember{Name: hujson.Value{Value: hujson.String(name)}, Value: *m.Value})
			return nil
		}
		if ruled {
			return refuse(line, "keep one", "%q is given twice", "rules").at(v.place)
		}
		if ruled = true; isNull(m) {
			return nil
		}
		m.place = join(v.place, "rules")
		return readRegionRules(d, m, w)
	})
	if r != nil || len(rest.Members) == 0 {
		return r
	}
	p.derpMap = word{d.raw(value{Value: &hujson.Value{Value: rest}}), d.line(v)}
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
