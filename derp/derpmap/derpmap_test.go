package derpmap_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/derp/derpmap"
)

// home is what every spelling in TestParseSpellings means.
func home() *tailcfg.DERPMap {
	return &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{901: {
		RegionID: 901, RegionCode: "home", RegionName: "At home",
		Nodes: []*tailcfg.DERPNode{{
			Name: "901a", RegionID: 901, HostName: "derp.example.org",
			DERPPort: 12345, STUNPort: -1, IPv4: "192.0.2.7", InsecureForTests: true,
		}},
	}}}
}

func TestParseSpellings(t *testing.T) {
	for name, text := range map[string]string{
		"JSON as Tailscale writes it": `{"Regions": {"901": {"RegionID": 901, "RegionCode": "home", "RegionName": "At home",
			"Nodes": [{"Name": "901a", "RegionID": 901, "HostName": "derp.example.org", "DERPPort": 12345, "STUNPort": -1,
			"IPv4": "192.0.2.7", "InsecureForTests": true}]}}}`,
		"JSON with tabs, in lower case": "{\n\t\"regions\": {\n\t\t\"901\": {\"regionid\": 901, \"regioncode\": \"home\", \"regionname\": \"At home\",\n\t\t\t\"nodes\": [{\"name\": \"901a\", \"hostname\": \"derp.example.org\", \"derpport\": 12345, \"stunport\": -1, \"ipv4\": \"192.0.2.7\", \"insecurefortests\": true}]\n\t\t}\n\t}\n}",
		"numbers as text": `{"Regions": {"901": {"RegionID": "901", "RegionCode": "home", "RegionName": "At home",
			"Nodes": [{"Name": "901a", "RegionID": "901", "HostName": "derp.example.org", "DERPPort": "12345", "STUNPort": "-1",
			"IPv4": "192.0.2.7", "InsecureForTests": "true"}]}}}`,
		"YAML in lower case": `
regions:
  901:
    regionid: 901
    regioncode: home
    regionname: At home
    nodes:
      - name: 901a
        regionid: 901
        hostname: derp.example.org
        derpport: 12345
        stunport: -1
        ipv4: 192.0.2.7
        insecurefortests: true
`,
		"YAML in the letters of the JSON": `
# a comment
Regions:
  "901":
    RegionID: "901"
    RegionCode: 'home'
    RegionName: "At home"
    Nodes:
    - Name: "901a"
      HostName: derp.example.org
      DERPPort: '12345'
      STUNPort: -1
      IPv4: "192.0.2.7"
      InsecureForTests: yes
`,
		"YAML with a document mark and little said": `---
regions:
  901: {regioncode: home, regionname: At home, nodes: [{hostname: derp.example.org, derpport: 12345, stunport: -1, ipv4: 192.0.2.7, insecureForTests: true}]}
`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := derpmap.Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(home(), got); diff != "" {
				t.Errorf("map (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	node := func(fields string) string {
		return `{"Regions":{"901":{"RegionCode":"home","Nodes":[{"HostName":"h.example"` + fields + `}]}}}`
	}
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "  \n", "is empty"},
		{"an array", "[]", "want an object"},
		{"a word", "hello", "want an object"},
		{"half a map", `{"Regions": {`, "unexpected EOF"},
		{"two maps", `{"Regions":{}} {"Regions":{}}`, "something follows"},
		{"two documents", "regions: {}\n---\nregions: {}\n", "more than one document"},
		{"bad YAML", "regions:\n\t- x: [", "reading YAML"},
		{"an unknown key", "regions:\n  901:\n    region_id: 901\n    nodes: [{hostname: h}]\n", `line 3: Regions[901] has an unknown key "region_id" (did you mean "RegionID"?)`},
		{"an unknown key in a node", node(`,"DerpPorts":1`), `(did you mean "DERPPort"?)`},
		{"a key twice", node(`,"derpport":1,"DERPPort":2`), "twice"},
		{"a region twice", `{"Regions":{"1":null,"01":null}}`, "has 1 twice"},
		{"a region by name", `{"Regions":{"home":null}}`, "want the number of a region"},
		{"region 0", `{"Regions":{"0":{"Nodes":[{"HostName":"h"}]}}}`, "must be at least 1"},
		{"another region ID", `{"Regions":{"901":{"RegionID":902,"Nodes":[{"HostName":"h"}]}}}`, "region 901 says that its RegionID is 902"},
		{"another region ID in a node", node(`,"RegionID":5`), "says that its RegionID is 5"},
		{"no nodes", `{"Regions":{"901":{"RegionCode":"home"}}}`, "region 901 (home) has no nodes"},
		{"an empty node", `{"Regions":{"901":{"Nodes":[null]}}}`, "Nodes[0] is empty"},
		{"no host", `{"Regions":{"901":{"Nodes":[{"Name":"a"}]}}}`, `its HostName "" is empty`},
		{"a URL for a host", `{"Regions":{"901":{"Nodes":[{"HostName":"https://h"}]}}}`, "is a URL, want only the host"},
		{"a port in the host", `{"Regions":{"901":{"Nodes":[{"HostName":"h:443"}]}}}`, "neither a host name nor an IP address"},
		{"a node twice", `{"Regions":{"901":{"Nodes":[{"Name":"a","HostName":"h"},{"Name":"a","HostName":"i"}]}}}`, "two nodes"},
		{"a code with a space", `{"Regions":{"901":{"RegionCode":"my home","Nodes":[{"HostName":"h"}]}}}`, "has a space"},
		{"a port too high", node(`,"DERPPort":65536`), "DERPPort 65536 is not a port"},
		{"a negative STUN port", node(`,"STUNPort":-2`), "STUNPort -2 is not a port"},
		{"a port in words", node(`,"DERPPort":"https"`), `Nodes[0].DERPPort is "https", want a whole number`},
		{"half a port", node(`,"DERPPort":1.5`), "want a whole number"},
		{"IPv6 as IPv4", node(`,"IPv4":"2001:db8::1"`), "neither an IPv4 address"},
		{"no address family", node(`,"IPv4":"none","IPv6":"none"`), "both IPv4 and IPv6"},
		{"a short pin", node(`,"CertName":"sha256-raw:abcd"`), "64 lower-case hex digits"},
		{"a truth that is none", node(`,"STUNOnly":"perhaps"`), "want true or false"},
		{"a list for a word", node(`,"CertName":["a"]`), "is a list, want a single value"},
		{"a score of nothing", `{"HomeParams":{"RegionScore":{"1":0}}}`, "want more than 0"},
		{"an alias", "a: &x {}\nregions: *x\n", "cannot have"},
		{"deep JSON", strings.Repeat(`{"Regions":`, 100) + strings.Repeat("}", 100), "nested deeper"},
		{"deep YAML", "a: " + strings.Repeat("[", 100_000), ""},
		{"many values", "[" + strings.Repeat("0,", 400_000) + "0]", "more than"},
		{"too large", strings.Repeat(" ", derpmap.MaxSize) + "{}", "is larger than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := derpmap.Parse([]byte(tt.text))
			if err == nil {
				t.Fatal("got no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want something with %q", err, tt.want)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("the error is %d bytes long", len(err.Error()))
			}
		})
	}
}

func region(id int, nodes ...string) *tailcfg.DERPRegion {
	r := &tailcfg.DERPRegion{RegionID: id, RegionCode: "r", RegionName: "r"}
	for _, n := range nodes {
		r.Nodes = append(r.Nodes, &tailcfg.DERPNode{Name: n, RegionID: id, HostName: "h"})
	}
	return r
}

func regions(rs ...*tailcfg.DERPRegion) *tailcfg.DERPMap {
	m := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	for _, r := range rs {
		m.Regions[r.RegionID] = r
	}
	return m
}

func TestMerge(t *testing.T) {
	removes1 := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: nil}}
	scores := func(s map[int]float64) *tailcfg.DERPMap {
		return &tailcfg.DERPMap{HomeParams: &tailcfg.DERPHomeParams{RegionScore: s}}
	}
	for _, tt := range []struct {
		name  string
		parts []*tailcfg.DERPMap
		want  *tailcfg.DERPMap
	}{
		{"nothing", nil, regions()},
		{"the last wins", []*tailcfg.DERPMap{regions(region(1, "1a"), region(2, "2a")), regions(region(1, "1z"))}, regions(region(1, "1z"), region(2, "2a"))},
		{"null removes", []*tailcfg.DERPMap{regions(region(1, "1a"), region(2, "2a")), removes1}, regions(region(2, "2a"))},
		{"removed and given again", []*tailcfg.DERPMap{regions(region(1, "1a")), removes1, regions(region(1, "1b"))}, regions(region(1, "1b"))},
		{"a source without a copy", []*tailcfg.DERPMap{nil, regions(region(1, "1a"))}, regions(region(1, "1a"))},
		{"one name in two regions", []*tailcfg.DERPMap{regions(region(1, "a"), region(2, "a", "b"))}, regions(region(1, "a"), region(2, "2-a", "b"))},
		{"scores", []*tailcfg.DERPMap{scores(map[int]float64{1: 0.5, 2: 2}), scores(map[int]float64{2: 3})},
			&tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}, HomeParams: &tailcfg.DERPHomeParams{RegionScore: map[int]float64{1: 0.5, 2: 3}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, derpmap.Merge(tt.parts...)); diff != "" {
				t.Errorf("map (-want +got):\n%s", diff)
			}
		})
	}
	part := regions(region(1, "a"), region(2, "a"))
	derpmap.Merge(part)
	if got := part.Regions[2].Nodes[0].Name; got != "a" {
		t.Errorf("Merge changed its part: node is now %q", got)
	}
}

func TestEmbeddedAndEntry(t *testing.T) {
	pin := "sha256-raw:" + strings.Repeat("ab", 32)
	for _, tt := range []struct {
		name  string
		relay derpmap.Relay
		want  tailcfg.DERPNode
	}{
		{"a name on the usual ports", derpmap.Relay{RegionID: 900, HostName: "derp.example.org", DERPPort: 443, STUNPort: 3478},
			tailcfg.DERPNode{Name: "900a", RegionID: 900, HostName: "derp.example.org"}},
		{"an address with a pin", derpmap.Relay{RegionID: 900, HostName: "192.0.2.1", CertName: pin, DERPPort: 12345, STUNPort: 5},
			tailcfg.DERPNode{Name: "900a", RegionID: 900, HostName: "192.0.2.1", IPv4: "192.0.2.1", CertName: pin, DERPPort: 12345, STUNPort: 5}},
		{"an IPv6 address, no STUN", derpmap.Relay{RegionID: 900, HostName: "[2001:db8::1]", IPv4: "none", STUNPort: -7},
			tailcfg.DERPNode{Name: "900a", RegionID: 900, HostName: "2001:db8::1", IPv4: "none", IPv6: "2001:db8::1", STUNPort: -1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			region, err := derpmap.Embedded(tt.relay)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]*tailcfg.DERPNode{&tt.want}, region.Nodes); diff != "" {
				t.Errorf("nodes (-want +got):\n%s", diff)
			}
			again, err := derpmap.Parse([]byte(derpmap.Entry(region)))
			if err != nil {
				t.Fatalf("parsing the entry: %v", err)
			}
			if diff := cmp.Diff(regions(region), again); diff != "" {
				t.Errorf("map of the entry (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := derpmap.Embedded(derpmap.Relay{HostName: "h"}); err == nil {
		t.Error("a relay without a region was described")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"Regions":{"901":{"RegionCode":"home","Nodes":[{"HostName":"h.example","DERPPort":"12345"}]}}}`,
		"regions:\n  901:\n    regioncode: home\n    nodes:\n      - hostname: h\n        stunport: -1\n  1: null\n",
		"regions: {901: {nodes: [{hostname: 192.0.2.1}]}}\nhomeparams: {regionscore: {1: 0.5}}\n",
		`{"omitDefaultRegions":true,"Regions":{"1":null}}`,
		"- [", "a: &a [*a]", "? {}\n: x", "!!binary x",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := derpmap.Parse(text)
		if err != nil {
			return
		}
		// What was understood can be written and understood again.
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("writing: %v", err)
		}
		again, err := derpmap.Parse(raw)
		if err != nil {
			t.Fatalf("parsing again: %v\n%s", err, raw)
		}
		if diff := cmp.Diff(m, again); diff != "" {
			t.Errorf("map (-first +second):\n%s", diff)
		}
		derpmap.Merge(m, again)
	})
}
