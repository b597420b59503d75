package v2

import (
	"net/netip"

	"github.com/keelscale/keelscale/hscontrol/policy"
)

// ruleMatch is a rule of a policy that concerns whom was asked about.
type ruleMatch struct {
	Users    []string `json:"users"`
	Ports    []string `json:"ports"`
	Line     int      `json:"lineNumber"` // of the text that was sent; 0 for what holds without rules
	Via      []string `json:"via,omitempty"`
	Postures []string `json:"postures"` // no rule can ask for one here
}

type preview struct {
	Matches  []ruleMatch         `json:"matches"`
	Type     string              `json:"type"`
	For      string              `json:"previewFor"`
	Postures map[string][]string `json:"postures"`
}

// previewPolicy says which rules of a policy concern a user, or an address and port. Without a body it is the policy in
// force.
func previewPolicy(c *call) (any, error) {
	query := c.r.URL.Query()
	kind, whom := query.Get("type"), query.Get("previewFor")
	if kind != "user" && kind != "ipport" || whom == "" {
		return nil, invalid("say what to preview: type=user&previewFor=USER or type=ipport&previewFor=ADDRESS:PORT")
	}
	text, err := c.readText()
	if err == nil && text == "" {
		text, _, err = c.stored()
	}
	if err != nil {
		return nil, err
	}
	v, err := c.cfg.Fresh(c.ctx, c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, absent("tailnet")
	}
	p, err := policy.Parse(text)
	if err != nil {
		return nil, &complaint{plain(err), []string{plain(err)}}
	}
	compiled, err := policy.Compile(p, v.Snapshot)
	if err != nil {
		return nil, &complaint{plain(err), []string{plain(err)}}
	}
	var matches []policy.Match
	if kind == "user" {
		matches, err = compiled.PreviewSource(v.Snapshot, whom)
		if err != nil {
			return nil, invalid("previewFor: %v", err)
		}
	} else {
		at, err := netip.ParseAddrPort(whom)
		if err != nil {
			return nil, invalid("previewFor: %q is no address with a port, such as 100.64.0.1:443 or [fd7a::1]:443", whom)
		}
		matches = compiled.PreviewTarget(v.Snapshot, at)
	}
	answer := preview{Matches: []ruleMatch{}, Type: kind, For: whom, Postures: map[string][]string{}}
	for _, m := range matches {
		answer.Matches = append(answer.Matches, ruleMatch{m.Sources, m.Targets, m.Line, m.Via, []string{}})
	}
	return answer, nil
}
