// Package auth decides who may join a tailnet, and how: with a pre-auth key, by somebody's approval, and with which
// tags and routes.
package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Config says how clients are let in.
type Config struct {
	Store *store.Store
	State *state.State

	ServerURL  string        // what the URL of the register page begins with, without a slash at its end
	NodeExpiry time.Duration // how long the key of a user's node is good for; 0: for ever

	Now func() time.Time // nil: time.Now
	Log *slog.Logger
}

// Auth answers clients that want to join, and administrators that let them.
type Auth struct {
	Config
}

// New is an Auth; there is nothing to close.
func New(cfg Config) *Auth {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Auth{Config: cfg}
}

// refusal is an answer that the client shows to its user word for word (RegisterResponse.Error).
func refusal(format string, args ...any) *tailcfg.RegisterResponse {
	return &tailcfg.RegisterResponse{Error: fmt.Sprintf(format, args...)}
}

// Register answers a RegisterRequest that came over a Noise connection of the given machine. The errors are those of
// the server, which the client should try again; what is the client's fault is told in the answer.
func (a *Auth) Register(ctx context.Context, machine key.MachinePublic, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	if req.NodeKey.IsZero() {
		return refusal("the request has no node key"), nil
	}
	node, err := a.Store.FindNodeByKey(ctx, req.NodeKey)
	if err != nil && !errors.Is(err, tailnet.ErrNotFound) {
		return nil, err
	}
	if node != nil && node.MachineKey != machine {
		return refusal("this node key belongs to another machine; run 'tailscale logout', then log in again"), nil
	}
	now := a.Now()
	switch {
	case node != nil && !req.Expiry.IsZero() && !req.Expiry.After(now):
		return a.logout(ctx, node)
	case !req.Expiry.IsZero() && !req.Expiry.After(now):
		return &tailcfg.RegisterResponse{NodeKeyExpired: true}, nil // logged out of a node that is gone already
	case req.Auth != nil && req.Auth.AuthKey != "":
		return a.joinWithKey(ctx, machine, req)
	case req.Followup != "":
		return a.followup(ctx, machine, req)
	case node != nil && node.Expired(now):
		return &tailcfg.RegisterResponse{NodeKeyExpired: true}, nil
	case node != nil && !req.Expiry.IsZero():
		return a.expireSooner(ctx, node, req.Expiry)
	case node != nil:
		return a.welcome(ctx, node)
	}
	return a.ask(ctx, machine, req)
}

// logout is what the client means by an expiry in the past: an ephemeral node goes at once, another one's key expires.
func (a *Auth) logout(ctx context.Context, n *tailnet.Node) (*tailcfg.RegisterResponse, error) {
	var err error
	if n.Ephemeral {
		err = a.Store.DeleteNode(ctx, n.ID)
	} else {
		now := a.Now()
		_, err = a.Store.ExpireNode(ctx, n.ID, &now)
	}
	if err != nil && !errors.Is(err, tailnet.ErrNotFound) {
		return nil, fmt.Errorf("logging out node %d: %w", n.ID, err)
	}
	return &tailcfg.RegisterResponse{NodeKeyExpired: true}, nil
}

// expireSooner lets a client shorten the life of its own key, never lengthen it.
func (a *Auth) expireSooner(ctx context.Context, n *tailnet.Node, at time.Time) (*tailcfg.RegisterResponse, error) {
	if n.Expiry != nil && at.After(*n.Expiry) {
		return refusal("a node cannot extend its own key; log in again, or ask an administrator"), nil
	}
	n, err := a.Store.ExpireNode(ctx, n.ID, &at)
	if err != nil {
		return nil, fmt.Errorf("setting the expiry of a node: %w", err)
	}
	return a.welcome(ctx, n)
}

// joinWithKey lets a machine in by a pre-auth key.
func (a *Auth) joinWithKey(ctx context.Context, machine key.MachinePublic, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	preAuth, err := a.Store.FindPreAuthKey(ctx, req.Auth.AuthKey)
	if err != nil {
		if a.ours(err) {
			return nil, err
		}
		return refusal("%v: this server does not know it; ask for a new one", tailnet.ErrKeyRefused), nil
	}
	if wanted := requestTags(req.Hostinfo); len(wanted) > 0 {
		if strange := except(wanted, preAuth.Tags); len(strange) > 0 {
			return refusal("requested tags %v are invalid or not permitted: this pre-auth key gives %s; leave out --advertise-tags", strange, tagList(preAuth.Tags)), nil
		}
	}
	asked := a.Now()
	node, err := a.Store.JoinWithKey(ctx, req.Auth.AuthKey, a.join(preAuth.TailnetID, machine, req))
	if err == nil {
		node, err = a.addressByPolicy(ctx, node, asked)
	}
	if err != nil {
		if a.ours(err) {
			return nil, err
		}
		return refusal("%s", tailnet.Sentence(err)), nil
	}
	if node, err = a.ApproveByPolicy(ctx, node); err != nil {
		return nil, err
	}
	return a.welcome(ctx, node)
}

func (a *Auth) join(id tailnet.ID, machine key.MachinePublic, req *tailcfg.RegisterRequest) store.Join {
	return store.Join{
		MachineKey: machine, NodeKey: req.NodeKey, OldNodeKey: req.OldNodeKey, NLKey: req.NLKey,
		Hostinfo: req.Hostinfo, CapVersion: req.Version, Ephemeral: req.Ephemeral,
		Expiry: a.expiry(id), Method: tailnet.RegisterByAuthKey,
	}
}

// expiry is when the key of a user's node that joins a tailnet now expires; nil for never.
func (a *Auth) expiry(id tailnet.ID) *time.Time {
	lasts := a.NodeExpiry
	if v := a.State.View(id); v != nil && v.Snapshot.Settings != nil && v.Snapshot.Settings.KeyDays > 0 {
		lasts = time.Duration(v.Snapshot.Settings.KeyDays) * 24 * time.Hour
	}
	if lasts == 0 {
		return nil
	}
	at := a.Now().Add(lasts).UTC().Truncate(time.Second)
	return &at
}

// ours reports whether an error is the server's, to be logged and tried again, and not a refusal of the client.
func (a *Auth) ours(err error) bool {
	for _, theirs := range []error{tailnet.ErrNotFound, tailnet.ErrKeyRefused, tailnet.ErrNodeKeyTaken, tailnet.ErrTagRefused, tailnet.ErrInvalid, tailnet.ErrTooMany, tailnet.ErrExhausted, tailnet.ErrExists, tailnet.ErrConflict} {
		if errors.Is(err, theirs) {
			return false
		}
	}
	return true
}

// ask makes a registration and sends the client's user to its page.
func (a *Auth) ask(ctx context.Context, machine key.MachinePublic, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	r, err := a.Store.BeginRegistration(ctx, tailnet.Registration{
		MachineKey: machine, NodeKey: req.NodeKey, OldNodeKey: req.OldNodeKey, NLKey: req.NLKey,
		Hostinfo: req.Hostinfo, CapVersion: req.Version, Ephemeral: req.Ephemeral,
	})
	if err != nil {
		if a.ours(err) {
			return nil, err
		}
		return refusal("%s", tailnet.Sentence(err)), nil
	}
	return &tailcfg.RegisterResponse{AuthURL: a.ServerURL + "/register/" + r.ID}, nil
}

// followupCheck is how often a waiting client's registration is looked up: approval is seen at once by the node that
// it makes; this is for refusals and for the end of its life.
const followupCheck = 5 * time.Second

// followup holds the request until somebody approved or refused the registration, or its life ended.
func (a *Auth) followup(ctx context.Context, machine key.MachinePublic, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	ref, err := tailnet.ParseRegistrationRef(req.Followup[strings.LastIndex(req.Followup, "/")+1:])
	if err != nil {
		return a.ask(ctx, machine, req)
	}
	check := time.NewTicker(followupCheck)
	defer check.Stop()
	for first := true; ; first = false {
		done := a.State.Round()
		if _, n := a.State.Find(req.NodeKey); n != nil && n.MachineKey == machine && !n.Expired(a.Now()) {
			return a.welcome(ctx, n)
		}
		if first {
			if answer, err := a.lookup(ctx, ref, machine, req); answer != nil || err != nil {
				return answer, err
			}
		}
		select {
		case <-done:
		case <-check.C:
			if answer, err := a.lookup(ctx, ref, machine, req); answer != nil || err != nil {
				return answer, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lookup answers a waiting client whose registration was refused or is gone; nil while it waits.
func (a *Auth) lookup(ctx context.Context, ref tailnet.RegistrationRef, machine key.MachinePublic, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	r, err := a.Store.FindRegistration(ctx, ref)
	switch {
	case errors.Is(err, tailnet.ErrNotFound):
		return a.ask(ctx, machine, req)
	case err != nil:
		return nil, err
	case r.MachineKey != machine || r.NodeKey != req.NodeKey:
		return refusal("this login URL belongs to another machine; run 'tailscale up' again"), nil
	case r.Rejected:
		return refusal("an administrator refused this machine"), nil
	}
	return nil, nil
}

// welcome is the answer to a machine that is in.
func (a *Auth) welcome(ctx context.Context, n *tailnet.Node) (*tailcfg.RegisterResponse, error) {
	profile := tailnet.TaggedDevicesProfile()
	var owner *tailnet.User
	if !n.IsTagged() {
		var err error
		if owner, err = a.owner(ctx, n); err != nil {
			return nil, err
		}
		profile = owner.Profile()
	}
	return &tailcfg.RegisterResponse{
		MachineAuthorized: !tailnet.Excludes(n, owner),
		User:              tailcfg.User{ID: profile.ID, DisplayName: profile.DisplayName, ProfilePicURL: profile.ProfilePicURL, Created: n.CreatedAt.UTC()},
		Login:             tailcfg.Login{ID: tailcfg.LoginID(profile.ID), Provider: "keelscale", LoginName: profile.LoginName, DisplayName: profile.DisplayName, ProfilePicURL: profile.ProfilePicURL},
	}, nil
}

func (a *Auth) owner(ctx context.Context, n *tailnet.Node) (*tailnet.User, error) {
	if v := a.State.View(n.TailnetID); v != nil {
		if u := v.Users[n.UserID]; u != nil {
			return u, nil
		}
	}
	users, err := a.Store.ListUsers(ctx, store.UserFilter{ID: n.UserID})
	if err != nil {
		return nil, err
	}
	if len(users) == 0 {
		return nil, fmt.Errorf("%w: user %d, the owner of node %d", tailnet.ErrNotFound, n.UserID, n.ID)
	}
	return users[0], nil
}

// Approve lets the waiting machine in that ref names, in any form that tailnet.ParseRegistrationRef reads, as a node of
// a user of a tailnet (empty: the default one).
func (a *Auth) Approve(ctx context.Context, ref, userRef, tailnetName string) (*tailnet.Node, error) {
	r, t, err := a.waiting(ctx, ref, tailnetName)
	if err != nil {
		return nil, err
	}
	user, err := a.Store.FindUser(ctx, t.ID, userRef)
	if err != nil {
		return nil, err
	}
	tags := requestTags(r.Hostinfo)
	if err := a.mayTag(t, user, tags); err != nil {
		return nil, err
	}
	asked := a.Now()
	n, err := a.Store.Approve(ctx, r.ID, user.ID, store.ApproveOptions{Tags: tags, Expiry: a.expiry(t.ID), Method: tailnet.RegisterByCLI})
	if err == nil {
		n, err = a.addressByPolicy(ctx, n, asked)
	}
	if err != nil {
		return nil, err
	}
	return a.ApproveByPolicy(ctx, n)
}

// addressByPolicy gives a node that was made since the given time an address of the pools that the policy has for it
// (ipPool). Nobody has been told the first one yet. Where the pools are used up the node does not stay.
func (a *Auth) addressByPolicy(ctx context.Context, n *tailnet.Node, since time.Time) (*tailnet.Node, error) {
	v := a.State.View(n.TailnetID)
	if v == nil || n.CreatedAt.Before(since.Truncate(time.Microsecond)) {
		return n, nil
	}
	pools := v.Policy.AddressPools(n, v.Snapshot)
	if len(pools) == 0 {
		return n, nil
	}
	placed, err := a.Store.TakeFromPools(ctx, n.ID, pools)
	if errors.Is(err, tailnet.ErrExhausted) {
		return nil, errors.Join(err, a.Store.DeleteNode(ctx, n.ID))
	}
	return placed, err
}

// Reject refuses the waiting machine that ref names; its user is told so.
func (a *Auth) Reject(ctx context.Context, ref string) error {
	r, _, err := a.waiting(ctx, ref, "")
	if err != nil {
		return err
	}
	return a.Store.Reject(ctx, r.ID)
}

func (a *Auth) waiting(ctx context.Context, ref, tailnetName string) (*tailnet.Registration, *tailnet.Tailnet, error) {
	parsed, err := tailnet.ParseRegistrationRef(ref)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", tailnet.ErrInvalid, err)
	}
	t, err := a.Store.FindTailnet(ctx, tailnetName)
	if err != nil {
		return nil, nil, err
	}
	r, err := a.Store.FindRegistration(ctx, parsed)
	return r, t, err
}

// mayTag refuses all tags if the user does not own one of them.
func (a *Auth) mayTag(t *tailnet.Tailnet, user *tailnet.User, tags []string) error {
	if len(tags) == 0 {
		return nil
	}
	v := a.State.View(t.ID)
	var strange []string
	for _, tag := range tags {
		if v == nil || !v.Policy.MayTag(user, nil, tag) {
			strange = append(strange, tag)
		}
	}
	if len(strange) > 0 {
		return fmt.Errorf("%w: user %q does not own %s: add the user to tagOwners in the policy, or let the client run 'tailscale up --advertise-tags=' again", tailnet.ErrTagRefused, user.Name, strings.Join(strange, ", "))
	}
	return nil
}

// ApproveByPolicy approves the announced routes of n that autoApprovers name, and gives back the node as it is then.
func (a *Auth) ApproveByPolicy(ctx context.Context, n *tailnet.Node) (*tailnet.Node, error) {
	v := a.State.View(n.TailnetID)
	if v == nil {
		return n, nil
	}
	routes := autoApproved(v.Policy, v.Snapshot, n)
	if len(routes) == 0 {
		return n, nil
	}
	ctx = tailnet.WithActor(ctx, tailnet.Actor{Via: tailnet.ViaServer, Who: "policy"})
	n, err := a.Store.ApproveRoutes(ctx, n.ID, slices.Concat(n.ApprovedRoutes, routes))
	if err != nil {
		return nil, fmt.Errorf("approving routes by policy: %w", err)
	}
	return n, nil
}

// autoApproved are the announced routes of n that the policy approves and nobody has yet.
func autoApproved(p *policy.Compiled, s *tailnet.Snapshot, n *tailnet.Node) []netip.Prefix {
	var routes []netip.Prefix
	for _, route := range n.AnnouncedRoutes() {
		if !slices.Contains(n.ApprovedRoutes, route) && p.AutoApproves(n, s, route) {
			routes = append(routes, route)
		}
	}
	return routes
}

// ApproveAllByPolicy does so for every node of a tailnet: after a new policy.
func (a *Auth) ApproveAllByPolicy(ctx context.Context, id tailnet.ID) error {
	v := a.State.View(id)
	if v == nil {
		return nil
	}
	for _, n := range v.Nodes {
		if _, err := a.ApproveByPolicy(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func requestTags(h *tailcfg.Hostinfo) []string {
	if h == nil {
		return nil
	}
	tags := slices.Clone(h.RequestTags)
	slices.Sort(tags)
	return slices.Compact(tags)
}

// except are the items of list that are not in allowed.
func except(list, allowed []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(allowed, s) })
}

func tagList(tags []string) string {
	if len(tags) == 0 {
		return "no tags"
	}
	return strings.Join(tags, ", ")
}
