package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	"go4.org/mem"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// RegisterNode lets in the client that waits under a registration key.
func (s *Server) RegisterNode(ctx context.Context, req *headscalev1.RegisterNodeRequest) (*headscalev1.RegisterNodeResponse, error) {
	m, err := s.approve(ctx, req.GetKey(), req.GetUser(), req.GetTailnet())
	return &headscalev1.RegisterNodeResponse{Node: m}, err
}

// AuthRegister is RegisterNode by its newer name.
func (s *Server) AuthRegister(ctx context.Context, req *headscalev1.AuthRegisterRequest) (*headscalev1.AuthRegisterResponse, error) {
	m, err := s.approve(ctx, req.GetAuthId(), req.GetUser(), req.GetTailnet())
	return &headscalev1.AuthRegisterResponse{Node: m}, err
}

func (s *Server) approve(ctx context.Context, ref, userRef, tailnetName string) (*headscalev1.Node, error) {
	if _, err := tailnet.ParseRegistrationRef(ref); err != nil {
		return nil, invalid("%w", err)
	}
	if userRef == "" {
		return nil, invalid("say which user the node will belong to")
	}
	t, err := s.tailnetNamed(ctx, tailnetName)
	if err != nil {
		return nil, err
	}
	n, err := s.cfg.Approve(ctx, ref, userRef, t.Name)
	if err != nil {
		return nil, err
	}
	return s.nodeMessage(ctx, n)
}

// AuthApprove confirms a login that waits for a person. A client that wants to join needs AuthRegister, which says
// whose it will be.
func (s *Server) AuthApprove(ctx context.Context, req *headscalev1.AuthApproveRequest) (*headscalev1.AuthApproveResponse, error) {
	resp := &headscalev1.AuthApproveResponse{}
	reg, err := s.waiting(ctx, req.GetAuthId(), true)
	if err != nil || reg == nil {
		return resp, err
	}
	return nil, fmt.Errorf("%w: this is a client that wants to join, say as which user: headscale auth register --user USER --auth-id %s", tailnet.ErrConflict, reg.ID)
}

// AuthReject refuses a client that wants to join, or a login that waits for a person.
func (s *Server) AuthReject(ctx context.Context, req *headscalev1.AuthRejectRequest) (*headscalev1.AuthRejectResponse, error) {
	resp := &headscalev1.AuthRejectResponse{}
	reg, err := s.waiting(ctx, req.GetAuthId(), false)
	if err != nil || reg == nil {
		return resp, err
	}
	return resp, s.cfg.Store.Reject(ctx, reg.ID)
}

// waiting decides on the login of that ID, if there is one; else it finds the registration.
func (s *Server) waiting(ctx context.Context, id string, approve bool) (*tailnet.Registration, error) {
	ref, err := tailnet.ParseRegistrationRef(id)
	if err != nil {
		return nil, invalid("%w", err)
	}
	if ref.ID != "" {
		by := access.Of(ctx)
		_, err := s.cfg.Store.DecideSSHCheck(ctx, store.SSHDecision{ID: ref.ID, Approve: approve, By: by.Who, Within: by.Tailnet})
		if !errors.Is(err, tailnet.ErrNotFound) {
			return nil, err
		}
	}
	return s.cfg.Store.FindRegistration(ctx, ref)
}

// DebugCreateNode makes a registration like a client's, without a client.
func (s *Server) DebugCreateNode(ctx context.Context, req *headscalev1.DebugCreateNodeRequest) (*headscalev1.DebugCreateNodeResponse, error) {
	if _, err := s.userNamed(ctx, req.GetTailnet(), req.GetUser()); err != nil {
		return nil, err
	}
	wish, err := debugRegistration(req)
	if err != nil {
		return nil, err
	}
	reg, err := s.cfg.Store.BeginRegistration(ctx, wish)
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	return &headscalev1.DebugCreateNodeResponse{Node: n.node(&tailnet.Node{
		MachineKey: reg.MachineKey,
		NodeKey:    reg.NodeKey,
		Hostname:   reg.Hostinfo.Hostname,
		GivenName:  tailnet.BaseName(reg.Hostinfo.Hostname),
		Hostinfo:   reg.Hostinfo,
		CreatedAt:  reg.CreatedAt,
	})}, nil
}

func debugRegistration(req *headscalev1.DebugCreateNodeRequest) (reg tailnet.Registration, err error) {
	ref, err := tailnet.ParseRegistrationRef(req.GetKey())
	if err != nil {
		return reg, invalid("%w", err)
	}
	reg = tailnet.Registration{
		ID:         ref.ID,
		MachineKey: key.NewMachine().Public(),
		NodeKey:    key.NewNode().Public(),
		CapVersion: tailcfg.CurrentCapabilityVersion,
		Hostinfo:   &tailcfg.Hostinfo{Hostname: req.GetName(), OS: "linux"},
	}
	if ref.Digits != "" {
		raw, err := hex.DecodeString(ref.Digits)
		if err != nil {
			return reg, invalid("reading the key: %w", err)
		}
		reg.MachineKey = key.MachinePublicFromRaw32(mem.B(raw))
	}
	for _, text := range req.GetRoutes() {
		var p netip.Prefix
		if p, err = tailnet.ParseRoute(text); err != nil {
			return reg, invalid("%w", err)
		}
		reg.Hostinfo.RoutableIPs = append(reg.Hostinfo.RoutableIPs, p)
	}
	return reg, nil
}
