package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// relayKeyLife is the lifetime of an enrolment key where the request says none.
const relayKeyLife = 24 * time.Hour

// CreateRelayKey makes a key that lets relays enrol, and shows it whole for the only time.
func (s *Server) CreateRelayKey(ctx context.Context, req *headscalev1.CreateRelayKeyRequest) (*headscalev1.CreateRelayKeyResponse, error) {
	if s.cfg.ServerKey.IsZero() {
		return nil, unwired("enrolment of relays")
	}
	expiration, err := s.expiration(req.GetExpiration(), req.GetNeverExpires(), relayKeyLife)
	if err != nil {
		return nil, err
	}
	k := tailnet.RelayKey{TailnetID: access.Of(ctx).Tailnet, Reusable: req.GetReusable(), Description: req.GetDescription(), ExpiresAt: expiration}
	if name := req.GetTailnet(); name != "" {
		t, err := s.tailnetNamed(ctx, name)
		if err != nil {
			return nil, err
		}
		k.TailnetID = t.ID
	}
	made, secret, err := s.cfg.Store.CreateRelayKey(ctx, k)
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	return &headscalev1.CreateRelayKeyResponse{
		RelayKey:   n.relayKey(made, tailnet.RelayKeyText(secret, s.cfg.ServerKey)),
		ControlUrl: s.cfg.ControlURL,
	}, nil
}

// ListRelayKeys lists the enrolment keys that the caller may see, without their secrets.
func (s *Server) ListRelayKeys(ctx context.Context, req *headscalev1.ListRelayKeysRequest) (*headscalev1.ListRelayKeysResponse, error) {
	keys, err := s.cfg.Store.ListRelayKeys(ctx)
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(k *tailnet.RelayKey) bool { return !mayReach(ctx, k.TailnetID) })
	keys, next, err := page(req, keys, func(k *tailnet.RelayKey) place { return place{number: uint64(k.ID)} })
	resp := &headscalev1.ListRelayKeysResponse{NextPageToken: next}
	for _, k := range keys {
		resp.RelayKeys = append(resp.RelayKeys, n.relayKey(k, maskedKey(tailnet.RelayKeySecret, k.Prefix)))
	}
	return resp, err
}

// DeleteRelayKey forgets an enrolment key. Relays that it let in stay.
func (s *Server) DeleteRelayKey(ctx context.Context, req *headscalev1.DeleteRelayKeyRequest) (*headscalev1.DeleteRelayKeyResponse, error) {
	if (req.GetId() == 0) == (req.GetKey() == "") {
		return nil, invalid("say which key: by its ID, or the key itself")
	}
	k, err := s.cfg.Store.FindRelayKey(ctx, tailnet.KeyID(req.GetId()), req.GetKey())
	if err != nil {
		return nil, err
	}
	if !mayReach(ctx, k.TailnetID) {
		return nil, fmt.Errorf("%w: enrolment key %d", tailnet.ErrNotFound, k.ID)
	}
	if err := s.cfg.Store.DeleteRelayKey(ctx, k.ID); err != nil {
		return nil, err
	}
	return &headscalev1.DeleteRelayKeyResponse{}, nil
}

// relayKey shows key in place of the secret: the whole text once, later what is known of it.
func (n *names) relayKey(k *tailnet.RelayKey, key string) *headscalev1.RelayKey {
	return &headscalev1.RelayKey{
		Id:          uint64(k.ID),
		Key:         key,
		Tailnet:     n.tailnets[k.TailnetID],
		Reusable:    k.Reusable,
		Description: k.Description,
		Expiration:  timestamp(k.ExpiresAt),
		UsedAt:      timestamp(k.UsedAt),
		CreatedAt:   timestamp(&k.CreatedAt),
	}
}
