package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/policy"
)

// TestRefusals has one line for each way to be refused; the goldens have those of the hosted service.
func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		text string
		line int
		says string
	}{
		{"", 0, "the policy is empty: write {}"},
		{"{\n\"acl\": []}", 2, `unknown field "acl": did you mean "acls"?`},
		{"{\n\n\"ACLs\": [{\"action\": \"accept\", \"sorce\": []}]}", 3, `acls[0]: unknown field "sorce": did you mean "src"?`},
		{`{"acls": [], "ACLS": []}`, 1, `"acls" is given twice`},
		{`{"acls": {}}`, 1, "acls: this must be a list"},
		{`{"acls": [{"action": "accept", "src": "*", "dst": []}]}`, 1, "acls[0].src: this must be a list"},
		{`{"acls": [{"action": "accept", "src": [1], "dst": []}]}`, 1, "acls[0].src[0]: this must be a text"},
		{`{"randomizeClientPort": "yes"}`, 1, "this must be true or false"},
		{"{\n\"groups\": {\"dev\": []}}", 2, `groups["dev"]: group names must start with 'group:'`},
		{`{"groups": {"group:dev": ["tag:a"]}, "tagOwners": {"tag:a": []}}`, 1, `groups["group:dev"]: "tag:a" is not a user`},
		{`{"tagOwners": {"tag:1a": []}}`, 1, `tagOwners["tag:1a"]: tag names must start with a letter, after 'tag:'`},
		{`{"tagOwners": {"tag:a_b": []}}`, 1, "tag names can only contain numbers, letters, or dashes"},
		{`{"tagOwners": {"tag:a": ["autogroup:self"]}}`, 1, `"autogroup:self" cannot be used here`},
		{`{"hosts": {"a b": "1.2.3.4"}}`, 1, "invalid host name"},
		{`{"hosts": {"a": "1.2.3"}}`, 1, `hosts["a"]: "1.2.3": invalid address`},
		{`{"ipsets": {"ipset:a": ["plus 1.2.3.4"]}}`, 1, `write "add X" or "remove X"`},
		{`{"ipsets": {"ipset:a": ["add ipset:a"]}}`, 1, `ipset not found: "ipset:a"`},
		{`{"acls": [{"action": "accept", "src": ["autogroup:members1"], "dst": []}]}`, 1, `did you mean "autogroup:member"?`},
		{`{"acls": [{"action": "accept", "src": ["group:x"], "dst": []}], "groups": {"group:y": []}}`, 1, `src=group not found: "group:x": add it to groups, or did you mean "group:y"?`},
		{`{"acls": [{"action": "accept", "proto": "tcpp", "src": ["*"], "dst": ["*:*"]}]}`, 1, `proto="tcpp" is not supported`},
		{`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*"]}]}`, 1, `dst="*": missing port`},
		{`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:443-80"]}]}`, 1, "first port must be <= last port"},
		{`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:1-99999"]}]}`, 1, "invalid last integer"},
		{`{"grants": [{"src": ["*"], "dst": ["svc:web"], "ip": ["*"]}]}`, 1, "services are not offered by this server yet"},
		{`{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["foo:1"]}]}`, 1, `unknown protocol "foo"`},
		{`{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "srcPosture": ["posture:a"]}]}`, 1, "knows no posture of its nodes yet"},
		{`{"postures": {"posture:a": ["node:os = 'linux'"]}}`, 1, "is not a condition"},
		{`{"autoApprovers": {"routes": {"10.0.0.0": []}}}`, 1, `"10.0.0.0": invalid prefix`},
		{`{"autoApprovers": {"services": {"svc:a": ["a@"]}}}`, 1, "services are not offered"},
		{`{"derpMap": []}`, 1, "derpMap: this must be an object"},
		{`{"extraDNSRecords": [{"Name": "a"}]}`, 1, `extraDNSRecords[0]: "a" is not a DNS name`},
		{`{"extraDNSRecords": [{"Name": "a.b", "Value": "here"}]}`, 1, `Value "here": invalid address`},
		{`{"extraDNSRecords": [{"Name": "a.b", "Type": "A", "Value": "::1"}]}`, 1, `Type "A" does not fit ::1`},
		{`{"extraDNSRecords": [{"Name": "a.b", "TTL": 3}]}`, 1, `unknown field "TTL"`},
		{`{"OneCGNATRoute": "always"}`, 1, `"always" is not a valid OneCGNATRoute`},
		{`{"nodeAttrs": [{"target": ["*"], "app": {"x": []}}]}`, 1, "capability name must have the form {domain}/{path}"},
		{`{"nodeAttrs": [{"target": ["*"], "ipPool": ["100.81.0.1/16"]}]}`, 1, "IPPool(100.81.0.1/16): invalid prefix"},
		{`{"ssh": [{"action": "accept", "src": ["*"], "dst": [], "users": ["a"]}]}`, 1, `invalid src "*"`},
		{`{"ssh": [{"action": "accept", "src": ["tag:a"], "dst": ["autogroup:self"], "users": ["a"]}], "tagOwners": {"tag:a": []}}`, 1, "autogroup:self can only be used"},
		{`{"ssh": [{"action": "accept", "enforceRecorder": true, "src": [], "dst": [], "users": ["a"]}]}`, 1, "enforceRecorder without recorder"},
		{`{"ssh": [{"action": "accept", "src": ["tag:nope"], "dst": [], "users": ["a"]}]}`, 1, `tag not found: "tag:nope"`},
		{strings.Repeat("[", 60) + strings.Repeat("]", 60), 1, "brackets are nested deeper than"},
		{"{\"acls\": [\n}", 2, "line 2: column 1: invalid character '}'"},
		{"{\n\"acls\": [{\"action\": \"accept\", \"src\": [], \"dst\": [\"*:0\"]}]}", 2, "first port must be >0"},
		{`{"ssh": [{"action": "accept", "src": [], "dst": [], "users": ["a"], "acceptEnv": [""]}]}`, 1, "acceptEnv values cannot be empty"},
		{`{"ssh": [{"action": "check", "src": [], "dst": [], "users": ["a"], "checkPeriod": "169h"}]}`, 1, "above the max (168h): write"},
		{`{"ssh": [{"action": "check", "src": [], "dst": [], "users": ["a"], "checkPeriod": "-1h"}]}`, 1, "must be a positive duration"},
		{`{"nodeAttrs": [{"target": ["*"], "attr": [""]}]}`, 1, "attr values cannot be empty"},
	} {
		_, err := policy.Parse(test.text)
		var refusal *policy.Refusal
		if !errors.As(err, &refusal) {
			t.Errorf("%s: got error %v, want a refusal", test.text, err)
			continue
		}
		if refusal.Line != test.line || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s:\ngot  %q (line %d)\nwant %q in line %d", test.text, err, refusal.Line, test.says, test.line)
		}
		if refusal.What == "" || refusal.Remedy == "" {
			t.Errorf("%s: got %+v, want the thing and the remedy", test.text, refusal)
		}
	}
}

// TestAccepted are spellings that look odd and are right.
func TestAccepted(t *testing.T) {
	for _, text := range []string{
		"{}", "// all\n{ /* nothing */ }", `{"acls": null, "grants": null}`,
		`{"ACLS": [{"Action": "accept", "SRC": ["*"], "Dst": ["*:*"], "#ha-meta": {"name": "x"}}]}`,
		`{"acls": [{"action": "accept", "src": ["fd7a:115c:a1e0::1"], "dst": ["[fd7a:115c:a1e0::2]:22", "fd7a:115c:a1e0::3:22", "10.0.0.1-10.0.0.9:22,80-90"]}]}`,
		`{"postures": {"posture:a": ["node:os IN ['linux', 'macos']", "node:tsVersion >= '1.60'", "custom:tier IS SET"]}}`,
		`{"tagOwners": {"tag:a": ["tag:b"], "tag:b": ["tag:a", "autogroup:admin"]}}`,
		`{"ipsets": {"ipset:b": ["host"], "ipset:c": ["ipset:b", "remove 10.0.0.1"]}, "hosts": {"host": "10.0.0.0/24"}}`,
		`{"derpMap": {}, "extraDNSRecords": [], "OneCGNATRoute": ""}`,
		`{"derpMap": {"OmitDefaultRegions": true, "Regions": {"900": {"RegionID": 900}, "1": null}}, "extraDNSRecords": [{"name": "a.example.com.", "value": "fd7a::1"}]}`,
	} {
		if _, err := policy.Parse(text); err != nil {
			t.Errorf("%s: got %v, want it accepted", text, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	s := madeTailnet(4)
	c := compiled(t, `{
		"groups": {"group:a": ["ghost@example.com", "user1@example.com"]},
		"acls": [{"action": "accept", "users": ["group:a"], "ports": ["*:*"]}],
	}`, s)
	got := strings.Join(c.Warnings(), "\n")
	for _, want := range []string{`line 3: acls[0].users is the old name of "src"`, `line 2: user "ghost@example.com" does not exist yet`} {
		if !strings.Contains(got, want) {
			t.Errorf("warnings: got %q, want %q among them", got, want)
		}
	}
	if err := c.Test(s); err != nil {
		t.Errorf("test: got %v, want warnings only", err)
	}
}

// TestDoubts are refusals that depend on the tailnet: the policy compiles, but should not be set today.
func TestDoubts(t *testing.T) {
	s := madeTailnet(8)
	s.Users[1].Role = "owner"
	s.Prefixes = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}
	for _, test := range []struct{ text, says string }{
		{`{"acls": [{"action": "accept", "src": ["typo"], "dst": ["*:*"]}]}`, `"typo": invalid address`},
		{`{"acls": [{"action": "accept", "src": ["user:*@example.org"], "dst": ["*:*"]}]}`, "example.org is not associated with this Tailnet"},
		{`{"nodeAttrs": [{"target": ["*"], "ipPool": ["100.81.0.0/16", "10.0.0.0/16"]}]}`, "line 1: ipPool: 10.0.0.0/16 does not lie in a range of the tailnet"},
		{`{"ssh": [{"action": "accept", "src": ["user:*@example.org"], "dst": [], "users": ["a"]}]}`, "[ssh] example.org is not associated with this Tailnet"},
	} {
		c := compiled(t, test.text, s)
		if err := c.Test(s); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %q", test.text, err, test.says)
		}
	}
	c := compiled(t, `{"acls": [{"action": "accept", "src": ["user1"], "dst": ["*:*"]}]}`, s)
	if err := c.Test(s); err != nil {
		t.Errorf("a user's bare name: got %v, want it accepted", err)
	}
}

// TestBounds gives texts that are made to cost much, and looks at the clock.
func TestBounds(t *testing.T) {
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i%250)
		}
		return b.String()
	}
	s := madeTailnet(2000)
	for name, text := range map[string]string{
		"long list":    `{"acls": [{"action": "accept", "src": [` + many(100_000, `"u%d@x.y",`) + `], "dst": ["*:*"]}]}`,
		"many words":   `{"acls": [` + many(9_000, `{"action": "accept", "src": ["10.%d.0.0/8","a@","b@","c@","d@"], "dst": ["0.0.0.0/0:*", "::/0:*"]},`) + `]}`,
		"wide product": `{"grants": [{"src": ["*"], "dst": [` + many(15_000, `"10.0.%d.0/24",`) + `], "ip": [` + many(5_000, `"1%d",`) + `]}]}`,
		"deep":         strings.Repeat(`{"a":`, 100_000),
		"huge":         `{"hosts": {` + many(400_000, `"h%d": "10.0.0.1",`) + `}}`,
		"groups": `{"groups": {"group:a": [` + many(19_000, `"u%d@x.y",`) + `]}, "acls": [` +
			strings.Repeat(`{"action": "accept", "src": ["group:a"], "dst": ["group:a:*", "autogroup:self:*"]},`, 2_000) + `]}`,
		"prefixes": `{"acls": [{"action": "accept", "src": ["*"], "dst": [` + many(250, `"10.%d.0.0/9:*", "0.0.0.0/1:*", "128.0.0.0/1:*",`) + `]}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			p, err := policy.Parse(text)
			if err != nil {
				var refusal *policy.Refusal
				if !errors.As(err, &refusal) {
					t.Errorf("got %v, want a refusal", err)
				}
			} else {
				c, err := policy.Compile(p, s)
				if err != nil {
					t.Fatal(err)
				}
				c.Filter(1)
				c.Filter(40)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v", took)
			} else {
				t.Logf("took %v, refusal %.100v", took, err)
			}
		})
	}
}

func TestFormatKeepsComments(t *testing.T) {
	got, err := policy.Format("{// why\n\"acls\":[],}")
	if err != nil || !strings.Contains(got, "// why") || !strings.Contains(got, `"acls": []`) {
		t.Errorf("got %q, %v", got, err)
	}
}
