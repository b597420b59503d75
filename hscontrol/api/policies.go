package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// GetPolicy shows the policy in force, or another version, as it was written.
func (s *Server) GetPolicy(ctx context.Context, req *headscalev1.GetPolicyRequest) (*headscalev1.GetPolicyResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	var p *tailnet.PolicyVersion
	if req.GetVersion() != 0 {
		p, err = s.cfg.Store.GetPolicyVersion(ctx, t.ID, req.GetVersion())
	} else {
		p, err = s.inForce(ctx, t)
	}
	if err != nil {
		return nil, err
	}
	resp := &headscalev1.GetPolicyResponse{
		Policy: p.Text, Source: p.Source,
		Version: p.ID, Author: p.Author, Origin: p.Origin, Note: p.Note,
	}
	if _, filed := s.policyFile(t); !filed { // a file has no time: that is how programs know that it cannot be set
		resp.UpdatedAt = timestamp(&p.CreatedAt)
	}
	return resp, nil
}

// inForce is the version that is in force: the newest one that can be used.
func (s *Server) inForce(ctx context.Context, t *tailnet.Tailnet) (*tailnet.PolicyVersion, error) {
	p, err := s.newestPolicy(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, fmt.Errorf("%w: tailnet %s has no policy, so everyone in it may reach everyone", tailnet.ErrNotFound, t.Name)
	}
	switch id := s.inForceOf(t.ID, p.ID); id {
	case p.ID:
		return p, nil
	case 0:
		return nil, fmt.Errorf("%w: no version of the policy of tailnet %s can be used, so everything is denied: see headscale policy history", tailnet.ErrNotFound, t.Name)
	default:
		return s.cfg.Store.GetPolicyVersion(ctx, t.ID, id)
	}
}

// inForceOf is the version in force where the newest is the given one; 0 for none.
func (s *Server) inForceOf(id tailnet.ID, newest uint64) uint64 {
	if s.cfg.Problems == nil {
		return newest
	}
	for _, p := range s.cfg.Problems() {
		if p.TailnetID == id && p.Stored == newest {
			return p.InForce
		}
	}
	return newest
}

// SetPolicy puts a policy in force, if it can be one. An empty text is the one that holds where nobody has set any, as in
// headscale: programs take back with it what they have set.
func (s *Server) SetPolicy(ctx context.Context, req *headscalev1.SetPolicyRequest) (*headscalev1.SetPolicyResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	text := req.GetPolicy()
	if text == "" {
		text = policy.Unset
	}
	done, err := s.putPolicy(ctx, t, tailnet.PolicyVersion{Text: text, Note: req.GetNote()}, req.GetUnapprove())
	if err != nil {
		return nil, err
	}
	return &headscalev1.SetPolicyResponse{
		Policy: done.version.Text, UpdatedAt: timestamp(&done.version.CreatedAt), Warnings: done.warnings,
		Version: done.version.ID, Unapproved: done.unapproved,
	}, nil
}

// RollbackPolicy puts the text of an older version in force again, as a new version, if it can still be one.
func (s *Server) RollbackPolicy(ctx context.Context, req *headscalev1.RollbackPolicyRequest) (*headscalev1.RollbackPolicyResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	if req.GetVersion() == 0 {
		return nil, invalid("say which version: headscale policy history shows them")
	}
	old, err := s.cfg.Store.GetPolicyVersion(ctx, t.ID, req.GetVersion())
	if err != nil {
		return nil, err
	}
	note := req.GetNote()
	if note == "" {
		note = fmt.Sprintf("rollback to version %d", old.ID)
	}
	done, err := s.putPolicy(ctx, t, tailnet.PolicyVersion{Text: old.Text, Note: note}, req.GetUnapprove())
	if err != nil {
		return nil, err
	}
	return &headscalev1.RollbackPolicyResponse{
		Version: done.version.ID, UpdatedAt: timestamp(&done.version.CreatedAt), Warnings: done.warnings, Unapproved: done.unapproved,
	}, nil
}

// put is what came of putting a policy in force.
type put struct {
	version    *tailnet.PolicyVersion
	warnings   []string
	unapproved []*headscalev1.UnapprovedRoute
}

// settleTime is how long a caller waits for a policy that is stored to be in force here.
const settleTime = 3 * time.Second

// putPolicy checks a text, stores it, and waits until it is in force.
func (s *Server) putPolicy(ctx context.Context, t *tailnet.Tailnet, v tailnet.PolicyVersion, unapprove bool) (done put, err error) {
	if path, filed := s.policyFile(t); filed {
		return done, status.Error(codes.FailedPrecondition, fileMode(path))
	}
	if done.warnings, err = s.checkPolicy(ctx, t.ID, v.Text); err != nil {
		return done, err
	}
	var before *state.View
	if unapprove {
		if before, err = s.view(t); err != nil {
			return done, err
		}
	}
	who := access.Of(ctx)
	v.TailnetID, v.Source, v.Author, v.Origin = t.ID, who.Via, who.Who, who.From
	if done.version, err = s.cfg.Store.PutPolicyVersion(ctx, v); err != nil {
		return done, err
	}
	if s.cfg.AwaitPolicy != nil {
		wait, cancel := context.WithTimeout(ctx, settleTime)
		defer cancel()
		err = s.cfg.AwaitPolicy(wait, t.ID, done.version.ID)
	}
	switch {
	case err != nil && unapprove:
		return done, fmt.Errorf("version %d is stored, but no route was un-approved: %w", done.version.ID, err)
	case unapprove:
		done.unapproved, err = s.unapprove(ctx, t, before.Policy)
	default:
		err = nil // it is stored, and comes into force in a moment
	}
	return done, err
}

// unapprove takes back the approval of the routes that the policy before approved by itself, and the one in force does
// not.
func (s *Server) unapprove(ctx context.Context, t *tailnet.Tailnet, before *policy.Compiled) ([]*headscalev1.UnapprovedRoute, error) {
	v, err := s.view(t)
	if err != nil {
		return nil, err
	}
	var list []*headscalev1.UnapprovedRoute
	for _, n := range v.Nodes {
		keep := slices.Clone(n.ApprovedRoutes)
		for _, r := range n.ApprovedRoutes {
			if before.AutoApproves(n, v.Snapshot, r) && !v.Policy.AutoApproves(n, v.Snapshot, r) {
				keep = slices.DeleteFunc(keep, func(k netip.Prefix) bool { return k == r })
				list = append(list, &headscalev1.UnapprovedRoute{NodeId: uint64(n.ID), Node: n.GivenName, Route: r.String()})
			}
		}
		if len(keep) == len(n.ApprovedRoutes) {
			continue
		}
		if _, err := s.cfg.Store.ApproveRoutes(ctx, n.ID, keep); err != nil {
			return nil, fmt.Errorf("un-approving routes of node %d: %w", n.ID, err)
		}
	}
	return list, nil
}

// policyFile is the file that governs the tailnet, if one does.
func (s *Server) policyFile(t *tailnet.Tailnet) (path string, governs bool) {
	if s.cfg.PolicyFile == nil {
		return "", false
	}
	return s.cfg.PolicyFile(t)
}

// fileMode says what to do instead.
func fileMode(path string) string {
	if path == "" {
		return "the configuration says policy.mode: file; set it to database, or name a file in policy.path"
	}
	return fmt.Sprintf("the policy is the file %s (policy.mode: file): edit it and run headscale reload, or set policy.mode to database", path)
}

// maxHistory bounds a list of versions, usualHistory is how many are told where nobody says a number.
const (
	maxHistory   = 10_000
	usualHistory = 100
)

// ListPolicyVersions tells who set which version of the policy, and when.
func (s *Server) ListPolicyVersions(ctx context.Context, req *headscalev1.ListPolicyVersionsRequest) (*headscalev1.ListPolicyVersionsResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	limit := usualHistory
	if n := req.GetLimit(); n != 0 {
		limit = int(min(n, maxHistory))
	} else if req.GetPageSize() != 0 || req.GetPageToken() != "" {
		limit = maxHistory
	}
	versions, err := s.cfg.Store.PolicyHistory(ctx, t.ID, limit)
	if err != nil {
		return nil, err
	}
	var newest uint64
	if len(versions) > 0 {
		newest = versions[0].ID
	}
	versions, next, err := page(req, versions, func(v *tailnet.PolicyVersion) place { return place{number: math.MaxUint64 - v.ID} })
	resp := &headscalev1.ListPolicyVersionsResponse{NextPageToken: next}
	for _, v := range versions {
		resp.Versions = append(resp.Versions, &headscalev1.PolicyVersion{
			Version: v.ID, CreatedAt: timestamp(&v.CreatedAt), Source: v.Source, Author: v.Author, Origin: v.Origin, Note: v.Note,
			InForce: v.ID == s.inForceOf(t.ID, newest),
		})
	}
	return resp, err
}

// CheckPolicy says whether a text could be the policy, and changes nothing.
func (s *Server) CheckPolicy(ctx context.Context, req *headscalev1.CheckPolicyRequest) (*headscalev1.CheckPolicyResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	warnings, err := s.checkPolicy(ctx, t.ID, req.GetPolicy())
	return &headscalev1.CheckPolicyResponse{Warnings: warnings}, err
}

// checkPolicy counts every complaint about the text as a fault of the text, unless the call itself was given up.
func (s *Server) checkPolicy(ctx context.Context, id tailnet.ID, text string) ([]string, error) {
	warnings, err := s.cfg.CheckPolicy(ctx, id, text)
	if err == nil {
		return warnings, nil
	}
	if ctx.Err() != nil || errors.Is(err, tailnet.ErrReadOnly) || errors.Is(err, tailnet.ErrInvalid) {
		return nil, err
	}
	return nil, invalid("%w", err)
}
