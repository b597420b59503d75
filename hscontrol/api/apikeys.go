package api

import (
	"context"
	"fmt"
	"slices"

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
	c := access.Of(ctx)
	wish := tailnet.APIKey{TailnetID: c.Tailnet, Description: req.GetDescription(), Expiration: expiration, Short: req.GetShort()}
	if name := req.GetTailnet(); name != "" {
		t, err := s.tailnetNamed(ctx, name)
		if err != nil {
			return nil, err
		}
		wish.TailnetID = t.ID
	}
	if wish.Scopes, wish.Tags, err = c.Grant(req.GetScopes(), req.GetTags()); err != nil {
		return nil, err
	}
	if req.GetReadOnly() {
		wish.Scopes = tailnet.ReadOnly(wish.Scopes)
	}
	if wish.UserID, err = s.holder(ctx, wish.TailnetID, req.GetUserRef()); err != nil {
		return nil, err
	}
	made, secret, err := s.cfg.Store.CreateAPIKey(ctx, wish)
	if err != nil {
		return nil, err
	}
	n, err := s.namesIn(ctx, made.TailnetID)
	if err != nil {
		return nil, err
	}
	return &headscalev1.CreateApiKeyResponse{ApiKey: secret.Reveal(), Key: n.apiKey(made)}, nil
}

// holder is the user on whose behalf a new key is: the one that is named in a tailnet or, for zero, in all; else the
// caller's own. Who acts for a user makes no keys for others.
func (s *Server) holder(ctx context.Context, id tailnet.ID, ref string) (tailnet.UserID, error) {
	c := access.Of(ctx)
	if ref == "" {
		return c.User, nil
	}
	u, err := s.cfg.Store.FindUser(ctx, id, ref)
	if err != nil {
		return 0, err
	}
	if c.User != 0 && c.User != u.ID {
		return 0, access.Forbid("a key of a user makes keys for that user only")
	}
	return u.ID, nil
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
	k, err := s.cfg.Store.FindAPIKey(ctx, tailnet.KeyID(id), prefix)
	if err != nil {
		return 0, err
	}
	if !access.Of(ctx).SeesKey(k.TailnetID, k.UserID) {
		return 0, fmt.Errorf("%w: API key %d", tailnet.ErrNotFound, k.ID)
	}
	return k.ID, nil
}

// ListApiKeys lists the keys that the caller may see, without their secrets.
func (s *Server) ListApiKeys(ctx context.Context, req *headscalev1.ListApiKeysRequest) (*headscalev1.ListApiKeysResponse, error) {
	keys, err := s.cfg.Store.ListAPIKeys(ctx)
	if err != nil {
		return nil, err
	}
	c := access.Of(ctx)
	n, err := s.namesIn(ctx, c.Tailnet)
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(k *tailnet.APIKey) bool { return !c.SeesKey(k.TailnetID, k.UserID) })
	keys, next, err := page(req, keys, func(k *tailnet.APIKey) place { return place{number: uint64(k.ID)} })
	resp := &headscalev1.ListApiKeysResponse{NextPageToken: next}
	for _, k := range keys {
		resp.ApiKeys = append(resp.ApiKeys, n.apiKey(k))
	}
	return resp, err
}
