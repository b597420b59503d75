package api

import (
	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// TestsMessage runs the tests of a policy over a snapshot, as TestPolicy answers.
func TestsMessage(c *policy.Compiled, s *tailnet.Snapshot) *headscalev1.TestPolicyResponse {
	resp := &headscalev1.TestPolicyResponse{Warnings: c.Warnings()}
	for _, r := range c.Results(s) {
		m := &headscalev1.PolicyTest{
			Section: r.Section, Index: uint32(r.Index), Line: uint32(r.Line), Src: r.Src,
			Passed: len(r.Failures) == 0, Failures: r.Failures,
		}
		if m.Passed {
			resp.Passed++
		} else {
			resp.Failed++
		}
		resp.Tests = append(resp.Tests, m)
	}
	return resp
}

// ChangesMessage compares two policies over a snapshot, as DiffPolicy answers. Before may be nil: no policy.
func ChangesMessage(before *policy.Policy, after *policy.Compiled, s *tailnet.Snapshot) (*headscalev1.DiffPolicyResponse, error) {
	changes, err := policy.Diff(before, after.Policy(), s)
	if err != nil {
		return nil, err
	}
	resp := &headscalev1.DiffPolicyResponse{
		Changed: !changes.IsEmpty(), Loss: changes.HasLoss(),
		Routes: routeChanges(changes.Routes), Approvals: routeChanges(changes.Approvals),
		Warnings: after.Warnings(),
	}
	for _, c := range changes.Packets {
		resp.Packets = append(resp.Packets, &headscalev1.PacketChange{Lost: c.Lost, From: c.From, To: c.To, Protocols: c.Protos, Ports: c.Ports})
	}
	for _, c := range changes.Logins {
		resp.Logins = append(resp.Logins, &headscalev1.LoginChange{From: c.From, To: c.To, Login: c.Login, Was: c.Was, Is: c.Is})
	}
	for _, c := range changes.Caps {
		resp.Caps = append(resp.Caps, &headscalev1.CapChange{Lost: c.Lost, Nodes: c.Nodes, Cap: c.Cap})
	}
	for _, c := range changes.Regions {
		resp.Regions = append(resp.Regions, &headscalev1.RegionChange{Lost: c.Lost, Nodes: c.Nodes, Region: c.Region})
	}
	if err := after.Test(s); err != nil {
		resp.Refusal = err.Error()
	}
	return resp, nil
}

func routeChanges(list []policy.RouteChange) (out []*headscalev1.RouteChange) {
	for _, c := range list {
		out = append(out, &headscalev1.RouteChange{Lost: c.Lost, From: c.From, Router: c.Router, Route: c.Route.String()})
	}
	return out
}

// AnswerMessage is an answer of policy.Explain, as ExplainPolicy answers.
func AnswerMessage(a *policy.Answer) *headscalev1.ExplainPolicyResponse {
	resp := &headscalev1.ExplainPolicyResponse{Allowed: a.Allowed, Outcome: a.Outcome, Steps: a.Steps, Lacks: a.Lacks}
	if a.Rule != nil {
		resp.Rule = &headscalev1.PolicyRule{Section: a.Rule.Section, Index: uint32(a.Rule.Index), Line: uint32(a.Rule.Line), Text: a.Rule.Text}
	}
	return resp
}
