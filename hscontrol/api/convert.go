package api

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// names is what messages show of the nouns that others refer to by ID.
type names struct {
	now      time.Time
	tailnets map[tailnet.ID]string
	users    map[tailnet.UserID]*tailnet.User // may be shared
	keys     map[tailnet.KeyID]*tailnet.PreAuthKey
	shown    *shown // nil: what is shown is not of the current snapshot, and not kept

	// What many messages of one answer show is made once: messages are not changed any more.
	userMessages map[*tailnet.User]*headscalev1.User
	keyMessages  map[*tailnet.PreAuthKey]*headscalev1.PreAuthKey
}

func (s *Server) newNames() *names {
	return &names{
		now:      s.cfg.Now(),
		tailnets: map[tailnet.ID]string{},
		users:    map[tailnet.UserID]*tailnet.User{},
		keys:     map[tailnet.KeyID]*tailnet.PreAuthKey{},

		userMessages: map[*tailnet.User]*headscalev1.User{},
		keyMessages:  map[*tailnet.PreAuthKey]*headscalev1.PreAuthKey{},
	}
}

// tailnetNames is enough for messages that show neither users nor keys of others.
func (s *Server) tailnetNames(ctx context.Context) (*names, error) {
	tailnets, err := s.cfg.Store.ListTailnets(ctx)
	if err != nil {
		return nil, err
	}
	n := s.newNames()
	for _, t := range tailnets {
		n.tailnets[t.ID] = t.Name
	}
	return n, nil
}

// namesIn gathers what the messages about a tailnet (zero: all) refer to, but for pre-auth keys: see withKeys.
func (s *Server) namesIn(ctx context.Context, id tailnet.ID) (*names, error) {
	now, err := s.current(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.namesAt(ctx, id, now)
}

// namesAt is namesIn with the tailnet as it is now; nil: it is read from the store.
func (s *Server) namesAt(ctx context.Context, id tailnet.ID, now *tailnet.Snapshot) (*names, error) {
	if now != nil {
		n := s.newNames()
		n.tailnets[id], n.users = now.Tailnet.Name, now.Users
		return n, nil
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	users, err := s.cfg.Store.ListUsers(ctx, store.UserFilter{TailnetID: id})
	for _, u := range users {
		n.users[u.ID] = u
	}
	return n, err
}

// withKeys adds the pre-auth keys that let the nodes in. There may be many more keys than that.
func (s *Server) withKeys(ctx context.Context, n *names, nodes ...*tailnet.Node) error {
	wanted := map[tailnet.KeyID]bool{}
	for _, node := range nodes {
		if node.AuthKeyID != 0 {
			wanted[node.AuthKeyID] = true
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	keys, err := s.cfg.Store.PreAuthKeys(ctx, slices.Collect(maps.Keys(wanted)))
	if err == nil {
		n.keys = keys
	}
	return err
}

func (n *names) user(u *tailnet.User) *headscalev1.User {
	if u == nil {
		return nil
	}
	if m := n.userMessages[u]; m != nil {
		return m
	}
	m := &headscalev1.User{
		Id:            uint64(u.ID),
		Name:          u.Name,
		CreatedAt:     timestamp(&u.CreatedAt),
		DisplayName:   u.DisplayName,
		Email:         u.Email,
		ProviderId:    u.ProviderIdentifier,
		Provider:      u.Provider,
		ProfilePicUrl: u.ProfilePicURL,
		Tailnet:       n.tailnets[u.TailnetID],
		Role:          u.Role,
	}
	n.userMessages[u] = m
	return m
}

func (n *names) usersOf(users []*tailnet.User) []*headscalev1.User {
	out := make([]*headscalev1.User, len(users))
	for i, u := range users {
		out[i] = n.user(u)
	}
	return out
}

// preAuthKey shows key in place of the secret: the whole of it once, later what is known of it.
func (n *names) preAuthKey(k *tailnet.PreAuthKey, key string) *headscalev1.PreAuthKey {
	return &headscalev1.PreAuthKey{
		User:        n.user(n.users[k.UserID]),
		Id:          uint64(k.ID),
		Key:         key,
		Reusable:    k.Reusable,
		Ephemeral:   k.Ephemeral,
		Used:        k.Used,
		Expiration:  timestamp(k.Expiration),
		CreatedAt:   timestamp(&k.CreatedAt),
		AclTags:     k.Tags,
		Tailnet:     n.tailnets[k.TailnetID],
		Description: k.Description,

		Preauthorized: k.Preauthorized,
	}
}

func (n *names) node(node *tailnet.Node) *headscalev1.Node {
	if n.shown == nil {
		return n.nodeAnew(node)
	}
	of := shownOf{
		node: node, user: n.users[node.UserID], key: n.keys[node.AuthKeyID], tailnet: n.tailnets[node.TailnetID],
		expired: node.Expired(n.now),
	}
	if seen := n.lastSeen(node); seen != nil {
		of.seen = *seen
	}
	m := n.shown.find(of)
	if m == nil {
		m = n.nodeAnew(node)
		n.shown.keep(of, m, n.now)
	}
	return m
}

func (n *names) nodeAnew(node *tailnet.Node) *headscalev1.Node {
	m := &headscalev1.Node{
		Id:                uint64(node.ID),
		MachineKey:        node.MachineKey.String(),
		NodeKey:           node.NodeKey.String(),
		IpAddresses:       texts(node.Addrs()),
		Name:              node.Hostname,
		User:              n.owner(node),
		LastSeen:          timestamp(n.lastSeen(node)),
		Expiry:            timestamp(node.Expiry),
		CreatedAt:         timestamp(&node.CreatedAt),
		RegisterMethod:    registerMethods[node.RegisterMethod],
		GivenName:         node.GivenName,
		Online:            node.Online,
		ApprovedRoutes:    texts(node.ApprovedRoutes),
		AvailableRoutes:   texts(node.AnnouncedRoutes()),
		SubnetRoutes:      texts(servedNow(node)),
		Tags:              node.Tags,
		Tailnet:           n.tailnets[node.TailnetID],
		Ephemeral:         node.Ephemeral,
		Expired:           node.Expired(n.now),
		CapabilityVersion: int32(node.CapVersion),
		HomeDerp:          int32(node.HomeDERP),
		Endpoints:         texts(node.Endpoints),
		NamePinned:        node.NamePinned,
		Unauthorized:      node.Unauthorized,
	}
	if !node.DiscoKey.IsZero() {
		m.DiscoKey = node.DiscoKey.String()
	}
	if k := n.keys[node.AuthKeyID]; k != nil {
		if n.keyMessages[k] == nil {
			n.keyMessages[k] = n.preAuthKey(k, maskedKey(tailnet.AuthKeySecret, k.Prefix))
		}
		m.PreAuthKey = n.keyMessages[k]
	}
	if h := node.Hostinfo; h != nil {
		m.Os, m.ClientVersion = h.OS, h.IPNVersion
	}
	return m
}

// lastSeen of a node that is here is now, as up to headscale 0.22: older interfaces tell by it who is, and exporters who
// has been gone for long. It is told to the minute, so that two lists in a row are the same.
func (n *names) lastSeen(node *tailnet.Node) *time.Time {
	if !node.Online {
		return node.LastSeen
	}
	at := n.now.Truncate(time.Minute)
	if at.Before(node.CreatedAt) {
		at = node.CreatedAt
	}
	if node.LastSeen != nil && at.Before(*node.LastSeen) {
		return node.LastSeen
	}
	return &at
}

// owner is the user of the node. Clients and older interfaces expect one of tagged nodes too.
func (n *names) owner(node *tailnet.Node) *headscalev1.User {
	if !node.IsTagged() {
		return n.user(n.users[node.UserID])
	}
	p := tailnet.TaggedDevicesProfile()
	return &headscalev1.User{Id: uint64(p.ID), Name: p.LoginName, DisplayName: p.DisplayName, Tailnet: n.tailnets[node.TailnetID]}
}

var registerMethods = map[tailnet.RegisterMethod]headscalev1.RegisterMethod{
	tailnet.RegisterByAuthKey: headscalev1.RegisterMethod_REGISTER_METHOD_AUTH_KEY,
	tailnet.RegisterByCLI:     headscalev1.RegisterMethod_REGISTER_METHOD_CLI,
	tailnet.RegisterByOIDC:    headscalev1.RegisterMethod_REGISTER_METHOD_OIDC,
}

// servedNow are the routes that others reach through this node: those it is primary for, and its exit routes.
func servedNow(n *tailnet.Node) []netip.Prefix {
	routes := slices.Clone(n.PrimaryRoutes)
	for _, p := range n.ServedRoutes() {
		if tailnet.IsExitRoute(p) {
			routes = append(routes, p)
		}
	}
	slices.SortFunc(routes, netipx.ComparePrefix)
	return routes
}

// maskedKey is what may be shown of a secret after it was made.
func maskedKey(kind tailnet.SecretKind, prefix string) string {
	return tailnet.Secret{Kind: kind, Prefix: prefix}.String()
}

func (n *names) apiKey(k *tailnet.APIKey) *headscalev1.ApiKey {
	return &headscalev1.ApiKey{
		Id:         uint64(k.ID),
		Prefix:     k.Prefix,
		Expiration: timestamp(k.Expiration),
		CreatedAt:  timestamp(&k.CreatedAt),
		LastSeen:   timestamp(k.LastSeen),
		Tailnet:    n.tailnets[k.TailnetID],

		Description: k.Description,
		Scopes:      k.Scopes,
		Tags:        k.Tags,
		User:        n.user(n.users[k.UserID]),
	}
}

func (n *names) oauthClient(c *tailnet.OAuthClient) *headscalev1.OAuthClient {
	m := &headscalev1.OAuthClient{
		Id:          uint64(c.ID),
		ClientId:    c.Prefix,
		Scopes:      c.Scopes,
		Tags:        c.Tags,
		Description: c.Description,
		CreatedAt:   timestamp(&c.CreatedAt),
		LastSeen:    timestamp(c.LastSeen),
		Tailnet:     n.tailnets[c.TailnetID],
		User:        n.user(n.users[c.UserID]),
		Kind:        c.Kind,
		Issuer:      c.Issuer,
		Subject:     c.Subject,
		Audience:    c.Audience,
	}
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		m.Claims = append(m.Claims, name+"="+c.Claims[name])
	}
	return m
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// timestamp is nil for no time.
func timestamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil || t.IsZero() {
		return nil
	}
	return timestamppb.New(*t)
}

func texts[T interface{ String() string }](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = v.String()
	}
	return out
}
