package api

import (
	"context"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// view is the tailnet as it is now.
func (s *Server) view(t *tailnet.Tailnet) (*state.View, error) {
	if s.cfg.View == nil {
		return nil, unwired("view of its tailnets")
	}
	v := s.cfg.View(t.ID)
	if v == nil {
		return nil, tailnet.ErrNotFound // deleted a moment ago
	}
	return v, nil
}

// proposed is a text that is not in force, compiled for the view; the policy in force for an empty text.
func proposed(text string, v *state.View) (*policy.Compiled, error) {
	if text == "" {
		return v.Policy, nil
	}
	p, err := policy.Parse(text)
	if err != nil {
		return nil, invalid("%w", err)
	}
	return policy.Compile(p, v.Snapshot)
}

// TestPolicy runs the tests and sshTests of a policy, and changes nothing.
func (s *Server) TestPolicy(ctx context.Context, req *headscalev1.TestPolicyRequest) (*headscalev1.TestPolicyResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	v, err := s.view(t)
	if err != nil {
		return nil, err
	}
	c, err := proposed(req.GetPolicy(), v)
	if err != nil {
		return nil, err
	}
	return TestsMessage(c, v.Snapshot), nil
}

// DiffPolicy says what another policy would change for whom, and changes nothing.
func (s *Server) DiffPolicy(ctx context.Context, req *headscalev1.DiffPolicyRequest) (*headscalev1.DiffPolicyResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	v, err := s.view(t)
	if err != nil {
		return nil, err
	}
	text := req.GetPolicy()
	switch id := req.GetVersion(); {
	case (id == 0) == (text == ""):
		return nil, invalid("say what to compare the policy in force with: a text or a version, one of the two")
	case id != 0:
		old, err := s.cfg.Store.GetPolicyVersion(ctx, t.ID, id)
		if err != nil {
			return nil, err
		}
		text = old.Text
	}
	next, err := proposed(text, v)
	if err != nil {
		return nil, err
	}
	return ChangesMessage(v.Policy.Policy(), next, v.Snapshot)
}

// ExplainPolicy says whether a packet or a login passes, and why.
func (s *Server) ExplainPolicy(ctx context.Context, req *headscalev1.ExplainPolicyRequest) (*headscalev1.ExplainPolicyResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	q, err := policy.ParseQuestion(req.GetFrom(), req.GetTo(), req.GetProto(), req.GetSsh())
	if err != nil {
		return nil, invalid("%w", err)
	}
	v, err := s.view(t)
	if err != nil {
		return nil, err
	}
	c, err := proposed(req.GetPolicy(), v)
	if err != nil {
		return nil, err
	}
	answer, err := c.Explain(v.Snapshot, q)
	if err != nil {
		return nil, invalid("%w", err)
	}
	return AnswerMessage(answer), nil
}
