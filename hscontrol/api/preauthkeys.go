package api

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Lifetimes of keys where the request says none.
const (
	preAuthKeyLife = time.Hour
	apiKeyLife     = 90 * 24 * time.Hour
)

// CreatePreAuthKey makes a key, and shows it whole for the only time.
func (s *Server) CreatePreAuthKey(ctx context.Context, req *headscalev1.CreatePreAuthKeyRequest) (*headscalev1.CreatePreAuthKeyResponse, error) {
	expiration, err := s.expiration(req.GetExpiration(), req.GetNeverExpires(), preAuthKeyLife)
	if err != nil {
		return nil, err
	}
	k := tailnet.PreAuthKey{
		Description: req.GetDescription(),
		Reusable:    req.GetReusable(),
		Ephemeral:   req.GetEphemeral(),
		Tags:        req.GetAclTags(),
		Expiration:  expiration,

		Preauthorized: req.GetPreauthorized(),
	}
	owner, err := s.keyOwner(ctx, req)
	if err != nil {
		return nil, err
	}
	if owner != nil {
		k.UserID, k.TailnetID = owner.ID, owner.TailnetID
	} else {
		t, err := s.tailnetNamed(ctx, req.GetTailnet())
		if err != nil {
			return nil, err
		}
		k.TailnetID = t.ID
	}
	if err := s.mayTag(ctx, k.TailnetID, k.Tags, k.UserID); err != nil {
		return nil, err
	}
	made, secret, err := s.cfg.Store.CreatePreAuthKey(ctx, k)
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	if owner != nil {
		n.users[owner.ID] = owner
	}
	return &headscalev1.CreatePreAuthKeyResponse{PreAuthKey: n.preAuthKey(made, secret.Reveal())}, nil
}

// keyOwner is the user that the key is for, or nil for a key that has only tags.
func (s *Server) keyOwner(ctx context.Context, req *headscalev1.CreatePreAuthKeyRequest) (*tailnet.User, error) {
	switch {
	case req.GetUser() != 0 && req.GetUserRef() != "":
		return nil, invalid("say user or user_ref, not both")
	case req.GetUser() != 0:
		return s.user(ctx, req.GetUser())
	case req.GetUserRef() != "":
		return s.userNamed(ctx, req.GetTailnet(), req.GetUserRef())
	case len(req.GetAclTags()) == 0:
		return nil, invalid("say whose nodes the key is for: a user, or tags")
	}
	return nil, nil
}

// userNamed finds a user of a tailnet by name, e-mail or ID.
func (s *Server) userNamed(ctx context.Context, tailnetName, ref string) (*tailnet.User, error) {
	t, err := s.tailnetNamed(ctx, tailnetName)
	if err != nil {
		return nil, err
	}
	return s.cfg.Store.FindUser(ctx, t.ID, ref)
}

// expiration is when a new key expires; nil is never.
func (s *Server) expiration(at *timestamppb.Timestamp, never bool, life time.Duration) (*time.Time, error) {
	now := s.cfg.Now()
	switch {
	case at != nil && never:
		return nil, invalid("say expiration or never_expires, not both")
	case never:
		return nil, nil
	case at == nil:
		t := now.Add(life).UTC()
		return &t, nil
	}
	if err := at.CheckValid(); err != nil {
		return nil, invalid("the expiration is no time: %w", err)
	}
	t := at.AsTime()
	if !t.After(now) {
		return nil, invalid("the expiration %s has passed already", t.Format(time.RFC3339))
	}
	return &t, nil
}

// ExpirePreAuthKey lets nobody in with the key from now on.
func (s *Server) ExpirePreAuthKey(ctx context.Context, req *headscalev1.ExpirePreAuthKeyRequest) (*headscalev1.ExpirePreAuthKeyResponse, error) {
	id, text := req.GetId(), req.GetKey()
	if older := olderKey(req); older != "" {
		id, text = 0, older
	}
	k, err := s.preAuthKey(ctx, id, text)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Store.ExpirePreAuthKey(ctx, k); err != nil {
		return nil, err
	}
	return &headscalev1.ExpirePreAuthKeyResponse{}, nil
}

// olderKey is the key that a gRPC client of before 0.28 names: its second field. The first, now the key's ID, was its user.
func olderKey(req *headscalev1.ExpirePreAuthKeyRequest) string {
	for rest := req.ProtoReflect().GetUnknown(); len(rest) > 0; {
		number, kind, n := protowire.ConsumeField(rest)
		if n < 0 {
			return ""
		}
		if number == 2 && kind == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(rest)
			text, _ := protowire.ConsumeString(rest[tag:])
			return text
		}
		rest = rest[n:]
	}
	return ""
}

// DeletePreAuthKey forgets the key. Nodes that it let in stay.
func (s *Server) DeletePreAuthKey(ctx context.Context, req *headscalev1.DeletePreAuthKeyRequest) (*headscalev1.DeletePreAuthKeyResponse, error) {
	k, err := s.preAuthKey(ctx, req.GetId(), req.GetKey())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Store.DeletePreAuthKey(ctx, k); err != nil {
		return nil, err
	}
	return &headscalev1.DeletePreAuthKeyResponse{}, nil
}

// preAuthKey finds a key that the caller may see, by its ID, or by the key or what is shown of it.
func (s *Server) preAuthKey(ctx context.Context, id uint64, text string) (tailnet.KeyID, error) {
	switch {
	case (id == 0) == (text == ""):
		return 0, invalid("say which key: by its ID, or the key itself")
	case text != "":
		k, err := s.cfg.Store.FindPreAuthKey(ctx, bareKey(tailnet.AuthKeySecret, text))
		if err != nil {
			return 0, err
		}
		if !mayReach(ctx, k.TailnetID) {
			return 0, fmt.Errorf("%w: pre-auth key %s", tailnet.ErrNotFound, maskedKey(tailnet.AuthKeySecret, k.Prefix))
		}
		return k.ID, nil
	}
	if bound := access.Of(ctx).Tailnet; bound != 0 {
		keys, err := s.cfg.Store.ListPreAuthKeys(ctx, store.KeyFilter{TailnetID: bound})
		if err != nil {
			return 0, err
		}
		for _, k := range keys {
			if k.ID == tailnet.KeyID(id) {
				return k.ID, nil
			}
		}
		return 0, fmt.Errorf("%w: pre-auth key %d", tailnet.ErrNotFound, id)
	}
	return tailnet.KeyID(id), nil
}

// bareKey is the prefix alone where text is what lists show, "hskey-auth-0123456789ab-***"; else text as it is.
func bareKey(kind tailnet.SecretKind, text string) string {
	shown, masked := strings.CutSuffix(strings.TrimSpace(text), "-***")
	if !masked {
		return shown
	}
	return strings.TrimPrefix(shown, string(kind)+"-")
}

// ListPreAuthKeys lists keys, without their secrets.
func (s *Server) ListPreAuthKeys(ctx context.Context, req *headscalev1.ListPreAuthKeysRequest) (*headscalev1.ListPreAuthKeysResponse, error) {
	id, err := s.tailnetOrAll(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	owner, err := s.ownerFilter(ctx, id, req.GetUserRef())
	if err != nil {
		return nil, err
	}
	n, err := s.namesIn(ctx, id)
	if err != nil {
		return nil, err
	}
	sp, err := spanOf(req)
	if err != nil {
		return nil, err
	}
	keys, err := s.cfg.Store.ListPreAuthKeys(ctx, store.KeyFilter{
		TailnetID: id, UserID: owner, After: tailnet.KeyID(sp.after.number), Limit: sp.limit(),
	})
	if err != nil {
		return nil, err
	}
	keys, next := cut(sp, keys, func(k *tailnet.PreAuthKey) place { return place{number: uint64(k.ID)} })
	resp := &headscalev1.ListPreAuthKeysResponse{PreAuthKeys: make([]*headscalev1.PreAuthKey, len(keys)), NextPageToken: next}
	for i, k := range keys {
		resp.PreAuthKeys[i] = n.preAuthKey(k, maskedKey(tailnet.AuthKeySecret, k.Prefix))
	}
	return resp, nil
}
