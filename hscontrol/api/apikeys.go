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

// CreateApiKey makes a key, and shows it for the only time.
func (s *Server) CreateApiKey(ctx context.Context, req *headscalev1.CreateApiKeyRequest) (*headscalev1.CreateApiKeyResponse, error) {
	expiration, err := s.expiration(req.GetExpiration(), req.GetNeverExpires(), apiKeyLife)
	if err != nil {
		return nil, err
	}
	bound := access.Of(ctx).Tailnet
	if name := req.GetTailnet(); name != "" {
		t, err := s.tailnetNamed(ctx, name)
		if err != nil {
			return nil, err
		}
		bound = t.ID
	}
	_, secret, err := s.cfg.Store.CreateAPIKey(ctx, tailnet.APIKey{TailnetID: bound, Scopes: []string{tailnet.ScopeAll}, Expiration: expiration})
	if err != nil {
		return nil, err
	}
	return &headscalev1.CreateApiKeyResponse{ApiKey: secret.Reveal()}, nil
}

// ExpireApiKey opens nothing with the key from now on.
func (s *Server) ExpireApiKey(ctx context.Context, req *headscalev1.ExpireApiKeyRequest) (*headscalev1.ExpireApiKeyResponse, error) {
	id, err := s.apiKey(ctx, req.GetId(), req.GetPrefix())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Store.ExpireAPIKey(ctx, id); err != nil {
		return nil, err
	}
	return &headscalev1.ExpireApiKeyResponse{}, nil
}

// DeleteApiKey forgets the key.
func (s *Server) DeleteApiKey(ctx context.Context, req *headscalev1.DeleteApiKeyRequest) (*headscalev1.DeleteApiKeyResponse, error) {
	id, err := s.apiKey(ctx, req.GetId(), req.GetPrefix())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Store.DeleteAPIKey(ctx, id); err != nil {
		return nil, err
	}
	return &headscalev1.DeleteApiKeyResponse{}, nil
}

// apiKey finds a key that the caller may see.
func (s *Server) apiKey(ctx context.Context, id uint64, prefix string) (tailnet.KeyID, error) {
	if (id == 0) == (prefix == "") {
		return 0, invalid("say which API key: by its ID or by its prefix, one of the two")
	}
	k, err := s.cfg.Store.FindAPIKey(ctx, tailnet.KeyID(id), apiKeyPrefix(prefix))
	if err != nil {
		return 0, err
	}
	if !mayReach(ctx, k.TailnetID) {
		return 0, fmt.Errorf("%w: API key %d", tailnet.ErrNotFound, k.ID)
	}
	return k.ID, nil
}

// apiKeyPrefix takes the prefix out of a whole key too, so that the rest of it goes nowhere.
func apiKeyPrefix(text string) string {
	rest, ok := strings.CutPrefix(text, string(tailnet.APIKeySecret)+"-")
	if !ok {
		return text
	}
	prefix, _, _ := strings.Cut(rest, "-")
	return prefix
}

// ListApiKeys lists the keys that the caller may see, without their secrets.
func (s *Server) ListApiKeys(ctx context.Context, req *headscalev1.ListApiKeysRequest) (*headscalev1.ListApiKeysResponse, error) {
	keys, err := s.cfg.Store.ListAPIKeys(ctx)
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(k *tailnet.APIKey) bool { return !mayReach(ctx, k.TailnetID) })
	keys, next, err := page(req, keys, func(k *tailnet.APIKey) place { return place{number: uint64(k.ID)} })
	resp := &headscalev1.ListApiKeysResponse{NextPageToken: next}
	for _, k := range keys {
		resp.ApiKeys = append(resp.ApiKeys, n.apiKey(k))
	}
	return resp, err
}
