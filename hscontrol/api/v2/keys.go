package v2

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// The kinds of keys, and the scope that each needs.
const (
	kindAuth      = "auth" // pre-auth keys
	kindAPI       = "api"  // API keys
	kindClient    = tailnet.ClientBySecret
	kindFederated = tailnet.ClientByFederated
)

// scopeOfKind never changes.
var scopeOfKind = map[string]string{kindAuth: "auth_keys", kindAPI: "api_access_tokens", kindClient: "oauth_keys", kindFederated: "federated_keys"}

// keyCapabilities are what a pre-auth key makes of devices.
type keyCapabilities struct {
	Devices struct {
		Create struct {
			Reusable      bool     `json:"reusable"`
			Ephemeral     bool     `json:"ephemeral"`
			Preauthorized bool     `json:"preauthorized"`
			Tags          []string `json:"tags,omitempty"`
		} `json:"create"`
	} `json:"devices"`
}

// keyAnswer is a key of any kind as Tailscale's API writes it. Its ID is the part of the secret that is no secret.
type keyAnswer struct {
	ID               string            `json:"id"`
	KeyType          string            `json:"keyType"`
	Key              string            `json:"key,omitempty"` // only where it was made just now
	Description      string            `json:"description,omitempty"`
	ExpirySeconds    *int64            `json:"expirySeconds,omitempty"`
	Created          time.Time         `json:"created"`
	Updated          *time.Time        `json:"updated,omitempty"`
	Expires          *time.Time        `json:"expires,omitempty"`
	Revoked          *time.Time        `json:"revoked,omitempty"`
	Invalid          bool              `json:"invalid,omitempty"`
	Capabilities     *keyCapabilities  `json:"capabilities,omitempty"`
	Scopes           []string          `json:"scopes,omitempty"`
	Tags             []string          `json:"tags,omitempty"`
	UserID           string            `json:"userId,omitempty"`
	Audience         string            `json:"audience,omitempty"`
	Issuer           string            `json:"issuer,omitempty"`
	Subject          string            `json:"subject,omitempty"`
	CustomClaimRules map[string]string `json:"customClaimRules,omitzero"`
}

// keyRequest is one to make or change a key; which members it may have depends on its type.
type keyRequest struct {
	KeyType          string            `json:"keyType"`
	Capabilities     *keyCapabilities  `json:"capabilities"`
	ExpirySeconds    *int64            `json:"expirySeconds"`
	Description      string            `json:"description"`
	Scopes           []string          `json:"scopes"`
	Tags             []string          `json:"tags"`
	Audience         string            `json:"audience"`
	Issuer           string            `json:"issuer"`
	Subject          string            `json:"subject"`
	CustomClaimRules map[string]string `json:"customClaimRules"`
}

// Lives of pre-auth keys.
const (
	usualKeyLife = 90 * 24 * time.Hour
	maxKeyLife   = 10 * 365 * 24 * time.Hour
)

func (c *call) authKeyAnswer(k *tailnet.PreAuthKey) *keyAnswer {
	a := &keyAnswer{ID: k.Prefix, KeyType: kindAuth, Description: k.Description, Created: k.CreatedAt.UTC(), Capabilities: &keyCapabilities{}, Tags: k.Tags}
	create := &a.Capabilities.Devices.Create
	create.Reusable, create.Ephemeral, create.Preauthorized, create.Tags = k.Reusable, k.Ephemeral, k.Preauthorized, k.Tags
	a.expires(k.Expiration)
	a.Invalid = k.Usable(c.cfg.Now()) != nil
	a.user(k.UserID)
	return a
}

// expires says until when a key is good. Clients read the seconds of each auth key: none stand for ever. They are those
// that were asked for, and the times fit them to the second.
func (a *keyAnswer) expires(at *time.Time) {
	if at == nil {
		if a.KeyType == kindAuth {
			a.ExpirySeconds = new(int64)
		}
		return
	}
	utc := at.UTC()
	seconds := int64(at.Sub(a.Created).Round(time.Second) / time.Second)
	a.Expires, a.ExpirySeconds = &utc, &seconds
	if a.KeyType == kindAuth && !a.Created.IsZero() {
		a.Created = utc.Add(-time.Duration(seconds) * time.Second)
	}
}

func (a *keyAnswer) user(id tailnet.UserID) {
	if id != 0 {
		a.UserID = idText(id)
	}
}

func (c *call) apiKeyAnswer(k *tailnet.APIKey) *keyAnswer {
	a := &keyAnswer{ID: k.Prefix, KeyType: kindAPI, Description: k.Description, Created: k.CreatedAt.UTC(), Scopes: k.Scopes, Tags: k.Tags}
	a.expires(k.Expiration)
	a.Invalid = k.Expiration != nil && !k.Expiration.After(c.cfg.Now())
	a.user(k.UserID)
	return a
}

func clientAnswer(k *tailnet.OAuthClient) *keyAnswer {
	updated := k.UpdatedAt.UTC()
	a := &keyAnswer{
		ID: k.Prefix, KeyType: k.Kind, Description: k.Description, Created: k.CreatedAt.UTC(), Updated: &updated, Scopes: k.Scopes, Tags: k.Tags,
		Issuer: k.Issuer, Subject: k.Subject,
	}
	if k.Kind == kindFederated {
		a.Audience, a.CustomClaimRules = cmp.Or(k.Audience, k.Prefix), k.Claims
		if a.CustomClaimRules == nil {
			a.CustomClaimRules = map[string]string{}
		}
	}
	a.user(k.UserID)
	return a
}

// anyKey is a key of one of the kinds.
type anyKey struct {
	auth   *tailnet.PreAuthKey
	api    *tailnet.APIKey
	client *tailnet.OAuthClient
}

func (k anyKey) kind() string {
	switch {
	case k.auth != nil:
		return kindAuth
	case k.api != nil:
		return kindAPI
	}
	return k.client.Kind
}

func (c *call) keyAnswer(k anyKey) *keyAnswer {
	switch {
	case k.auth != nil:
		return c.authKeyAnswer(k.auth)
	case k.api != nil:
		return c.apiKeyAnswer(k.api)
	}
	return clientAnswer(k.client)
}

// keys are those of the tailnet that the caller may read.
func (c *call) keys() (list []anyKey, err error) {
	may := func(kind string) bool { return c.caller.May(scopeOfKind[kind] + ":read") }
	if !may(kindAuth) && !may(kindAPI) && !may(kindClient) && !may(kindFederated) {
		return nil, c.caller.Check("auth_keys:read")
	}
	ours := func(id tailnet.ID, user tailnet.UserID) bool {
		// A key for all tailnets is there for those who may see all.
		return (id == c.tailnet.ID || id == 0 && c.caller.Tailnet == 0) && c.caller.SeesKey(id, user)
	}
	if may(kindAuth) {
		all, err := c.cfg.Store.ListPreAuthKeys(c.ctx, store.KeyFilter{TailnetID: c.tailnet.ID})
		if err != nil {
			return nil, err
		}
		for _, k := range all {
			if c.caller.Owns(k.UserID) {
				list = append(list, anyKey{auth: k})
			}
		}
	}
	if may(kindAPI) {
		all, err := c.cfg.Store.ListAPIKeys(c.ctx)
		if err != nil {
			return nil, err
		}
		for _, k := range all {
			if ours(k.TailnetID, k.UserID) {
				list = append(list, anyKey{api: k})
			}
		}
	}
	if !may(kindClient) && !may(kindFederated) {
		return list, nil
	}
	all, err := c.cfg.Store.ListOAuthClients(c.ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		if may(k.Kind) && ours(k.TailnetID, k.UserID) {
			list = append(list, anyKey{client: k})
		}
	}
	return list, nil
}

func listKeys(c *call) (any, error) {
	keys, err := c.keys()
	if err != nil {
		return nil, err
	}
	all := c.r.URL.Query().Get("all") == "true"
	list := []*keyAnswer{}
	for _, k := range keys {
		a := c.keyAnswer(k)
		if c.caller.User == 0 || all || a.UserID == idText(c.caller.User) {
			list = append(list, a)
		}
	}
	return map[string]any{"keys": list}, nil
}

// key is the one that the path names, if the caller may read it.
func (c *call) key() (anyKey, error) {
	id := c.r.PathValue("key")
	keys, err := c.keys()
	if err != nil {
		return anyKey{}, err
	}
	for _, k := range keys {
		if c.keyAnswer(k).ID == id {
			return k, nil
		}
	}
	return anyKey{}, noKey(id)
}

func getKey(c *call) (any, error) {
	k, err := c.key()
	var none *refusal
	if errors.As(err, &none) && none.status == http.StatusNotFound {
		if gone, failed := c.goneKey(c.r.PathValue("key")); failed != nil || gone != nil {
			return gone, failed
		}
	}
	if err != nil {
		return nil, err
	}
	return c.keyAnswer(k), nil
}

func deleteKey(c *call) (any, error) {
	k, err := c.key()
	if err != nil {
		return nil, err
	}
	if err := c.caller.Check(scopeOfKind[k.kind()]); err != nil {
		return nil, err
	}
	switch {
	case k.auth != nil:
		return nil, c.cfg.Store.DeletePreAuthKey(c.ctx, k.auth.ID)
	case k.api != nil:
		return nil, c.cfg.Store.DeleteAPIKey(c.ctx, k.api.ID)
	}
	return nil, c.cfg.Store.DeleteOAuthClient(c.ctx, k.client.ID)
}

func createKey(c *call) (any, error) {
	var req keyRequest
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if req.KeyType == "" {
		req.KeyType = kindAuth
	}
	scope, known := scopeOfKind[req.KeyType]
	if !known || req.KeyType == kindAPI {
		return nil, invalid("keyType %q cannot be made here: auth, client or federated", req.KeyType)
	}
	if err := c.caller.Check(scope); err != nil {
		return nil, err
	}
	if req.KeyType == kindAuth {
		return c.createAuthKey(&req)
	}
	row, err := c.clientOf(&req)
	if err != nil {
		return nil, err
	}
	made, secret, err := c.cfg.Store.CreateOAuthClient(c.ctx, row)
	if err != nil {
		return nil, err
	}
	a := clientAnswer(made)
	if made.Kind == kindClient {
		a.Key = secret.Reveal()
	}
	return a, nil
}

func (c *call) createAuthKey(req *keyRequest) (any, error) {
	if req.Capabilities == nil {
		return nil, invalid("say capabilities.devices.create: what the key makes of devices")
	}
	life := usualKeyLife
	if s := req.ExpirySeconds; s != nil && *s != 0 {
		if *s < 0 || *s > int64(maxKeyLife/time.Second) {
			return nil, invalid("expirySeconds has to be from 1 to %d", int64(maxKeyLife/time.Second))
		}
		life = time.Duration(*s) * time.Second
	}
	create := req.Capabilities.Devices.Create
	tags := create.Tags
	if len(tags) == 0 {
		tags = req.Tags
	}
	if err := c.mayTag(c.tailnet.ID, tags); err != nil {
		return nil, err
	}
	owner, err := c.ownerOf(tags)
	if err != nil {
		return nil, err
	}
	now := c.cfg.Now()
	at := now.Add(life).UTC()
	k, secret, err := c.cfg.Store.CreatePreAuthKey(c.ctx, tailnet.PreAuthKey{
		TailnetID: c.tailnet.ID, UserID: owner, Description: req.Description, Tags: tags, Expiration: &at, CreatedAt: now,
		Reusable: create.Reusable, Ephemeral: create.Ephemeral, Preauthorized: create.Preauthorized,
	})
	if err != nil {
		return nil, err
	}
	a := c.authKeyAnswer(k)
	a.Key = secret.Reveal()
	return a, nil
}

// ownerOf is whose devices a key makes: the caller's, or nobody's with tags. A key that belongs to no user makes devices
// of the tailnet's owner, if there is just one.
func (c *call) ownerOf(tags []string) (tailnet.UserID, error) {
	if c.caller.User != 0 || len(tags) > 0 {
		return c.caller.User, nil
	}
	if c.caller.Tags != nil {
		return 0, invalid("a key that this client makes needs tags: capabilities.devices.create.tags")
	}
	users, err := c.cfg.Store.ListUsers(c.ctx, store.UserFilter{TailnetID: c.tailnet.ID})
	if err != nil {
		return 0, err
	}
	owners := slices.DeleteFunc(slices.Clone(users), func(u *tailnet.User) bool { return u.Role != "owner" })
	if len(owners) == 0 && len(users) == 1 {
		owners = users
	}
	if len(owners) != 1 {
		return 0, invalid("the API key that asks belongs to no user, so the key to make needs tags: capabilities.devices.create.tags")
	}
	return owners[0].ID, nil
}

// clientOf is an OAuth client as a request wants it. It gets no scope that the caller does not have.
func (c *call) clientOf(req *keyRequest) (tailnet.OAuthClient, error) {
	row := tailnet.OAuthClient{
		TailnetID: c.tailnet.ID, UserID: c.caller.User, Kind: req.KeyType, Description: req.Description,
		Issuer: req.Issuer, Subject: req.Subject, Audience: req.Audience, Claims: req.CustomClaimRules,
	}
	if req.Capabilities != nil || req.ExpirySeconds != nil {
		return row, invalid("capabilities and expirySeconds are for keys of type auth only")
	}
	scopes, err := tailnet.ValidateScopes(req.Scopes)
	if err != nil {
		return row, err
	}
	if row.Scopes, row.Tags, err = c.caller.Grant(scopes, req.Tags); err != nil {
		return row, err
	}
	return row, c.mayTag(c.tailnet.ID, row.Tags)
}

// setKey changes an OAuth client.
func setKey(c *call) (any, error) {
	k, err := c.key()
	if err != nil {
		return nil, err
	}
	if err := c.caller.Check(scopeOfKind[k.kind()]); err != nil {
		return nil, err
	}
	var req keyRequest
	if err := c.read(&req); err != nil {
		return nil, err
	}
	switch {
	case k.client == nil:
		return nil, invalid("a key of type %s cannot be changed: delete it and make another", k.kind())
	case req.KeyType != "" && req.KeyType != k.client.Kind:
		return nil, invalid("keyType cannot be changed from %s to %s", k.client.Kind, req.KeyType)
	}
	req.KeyType = k.client.Kind
	row, err := c.clientOf(&req)
	if err != nil {
		return nil, err
	}
	row.ID = k.client.ID
	changed, err := c.cfg.Store.ChangeOAuthClient(c.ctx, row)
	if errors.Is(err, tailnet.ErrNotFound) {
		return nil, noKey(k.client.Prefix)
	}
	if err != nil {
		return nil, err
	}
	return clientAnswer(changed), nil
}
