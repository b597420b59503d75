package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// CreateOAuthClient makes a client, and shows its secret for the only time.
func (s *Server) CreateOAuthClient(ctx context.Context, req *headscalev1.CreateOAuthClientRequest) (*headscalev1.CreateOAuthClientResponse, error) {
	c := access.Of(ctx)
	wish := tailnet.OAuthClient{
		TailnetID: c.Tailnet, UserID: c.User, Kind: tailnet.ClientBySecret, Description: req.GetDescription(),
		Issuer: req.GetIssuer(), Subject: req.GetSubject(), Audience: req.GetAudience(),
	}
	if name := req.GetTailnet(); name != "" {
		t, err := s.tailnetNamed(ctx, name)
		if err != nil {
			return nil, err
		}
		wish.TailnetID = t.ID
	}
	if len(req.GetScopes()) == 0 {
		return nil, invalid("say which scopes the client shall have")
	}
	var err error
	if wish.Scopes, wish.Tags, err = c.Grant(req.GetScopes(), req.GetTags()); err != nil {
		return nil, err
	}
	if wish.Issuer != "" {
		wish.Kind = tailnet.ClientByFederated
		if err := c.Check("federated_keys"); err != nil {
			return nil, err
		}
	}
	if wish.Claims, err = parseClaims(req.GetClaims()); err != nil {
		return nil, err
	}
	made, secret, err := s.cfg.Store.CreateOAuthClient(ctx, wish)
	if err != nil {
		return nil, err
	}
	n, err := s.namesIn(ctx, made.TailnetID)
	if err != nil {
		return nil, err
	}
	resp := &headscalev1.CreateOAuthClientResponse{Client: n.oauthClient(made)}
	if made.Kind == tailnet.ClientBySecret {
		resp.Secret = secret.Reveal()
	}
	return resp, nil
}

func parseClaims(list []string) (map[string]string, error) {
	claims := map[string]string{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" || value == "" {
			return nil, invalid("%q is no claim: write NAME=VALUE", text)
		}
		claims[name] = value
	}
	return claims, nil
}

// ListOAuthClients lists the clients that the caller may see, without their secrets.
func (s *Server) ListOAuthClients(ctx context.Context, req *headscalev1.ListOAuthClientsRequest) (*headscalev1.ListOAuthClientsResponse, error) {
	c := access.Of(ctx)
	clients, err := s.cfg.Store.ListOAuthClients(ctx)
	if err != nil {
		return nil, err
	}
	n, err := s.namesIn(ctx, c.Tailnet)
	if err != nil {
		return nil, err
	}
	clients = slices.DeleteFunc(clients, func(o *tailnet.OAuthClient) bool { return !c.SeesKey(o.TailnetID, o.UserID) })
	clients, next, err := page(req, clients, func(o *tailnet.OAuthClient) place { return place{number: uint64(o.ID)} })
	resp := &headscalev1.ListOAuthClientsResponse{NextPageToken: next}
	for _, o := range clients {
		resp.Clients = append(resp.Clients, n.oauthClient(o))
	}
	return resp, err
}

// DeleteOAuthClient forgets a client. Its access tokens open nothing from now on.
func (s *Server) DeleteOAuthClient(ctx context.Context, req *headscalev1.DeleteOAuthClientRequest) (*headscalev1.DeleteOAuthClientResponse, error) {
	if req.GetClientId() == "" {
		return nil, invalid("say which OAuth client: its client ID is missing")
	}
	o, err := s.cfg.Store.FindOAuthClient(ctx, 0, req.GetClientId())
	if err != nil {
		return nil, err
	}
	if !access.Of(ctx).SeesKey(o.TailnetID, o.UserID) {
		return nil, fmt.Errorf("%w: OAuth client %s", tailnet.ErrNotFound, o.Prefix)
	}
	if err := s.cfg.Store.DeleteOAuthClient(ctx, o.ID); err != nil {
		return nil, err
	}
	return &headscalev1.DeleteOAuthClientResponse{}, nil
}
