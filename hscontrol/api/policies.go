package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// GetPolicy shows the policy in force, as it was written.
func (s *Server) GetPolicy(ctx context.Context, req *headscalev1.GetPolicyRequest) (*headscalev1.GetPolicyResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	p, err := s.cfg.Store.GetPolicy(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, fmt.Errorf("%w: tailnet %s has no policy, so everyone in it may reach everyone", tailnet.ErrNotFound, t.Name)
	}
	return &headscalev1.GetPolicyResponse{Policy: p.Text, UpdatedAt: timestamp(&p.CreatedAt), Source: p.Source}, nil
}

// SetPolicy puts a policy in force, if it can be one.
func (s *Server) SetPolicy(ctx context.Context, req *headscalev1.SetPolicyRequest) (*headscalev1.SetPolicyResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	if s.cfg.PolicyMode == "file" {
		return nil, status.Error(codes.FailedPrecondition, s.fileMode())
	}
	warnings, err := s.checkPolicy(ctx, t.ID, req.GetPolicy())
	if err != nil {
		return nil, err
	}
	p, err := s.cfg.Store.PutPolicy(ctx, t.ID, req.GetPolicy(), callerOf(ctx).via)
	if err != nil {
		return nil, err
	}
	return &headscalev1.SetPolicyResponse{Policy: p.Text, UpdatedAt: timestamp(&p.CreatedAt), Warnings: warnings}, nil
}

// fileMode says what to do instead.
func (s *Server) fileMode() string {
	if s.cfg.PolicyPath == "" {
		return "the configuration says policy.mode: file; set it to database, or name a file in policy.path"
	}
	return fmt.Sprintf("the policy is the file %s (policy.mode: file): edit it and run headscale reload, or set policy.mode to database", s.cfg.PolicyPath)
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
