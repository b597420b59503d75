package v2

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// goneTime is how long a key that was deleted is told of still. Terraform asks what became of keys that others deleted,
// and takes a key that never was for a mistake.
const goneTime = 7 * 24 * time.Hour

// kindOfDeletion is what was deleted, by the action in the audit log. It never changes.
var kindOfDeletion = map[string]string{"authkey.delete": kindAuth, "apikey.delete": kindAPI, "oauthclient.delete": kindClient}

// keyFacts are what the audit log keeps of a key of any kind.
type keyFacts struct {
	Description   string            `json:"description"`
	User          tailnet.UserID    `json:"user"`
	Reusable      bool              `json:"reusable"`
	Ephemeral     bool              `json:"ephemeral"`
	Preauthorized bool              `json:"preauthorized"`
	Tags          []string          `json:"tags"`
	Expires       *time.Time        `json:"expires"`
	UserID        tailnet.UserID    `json:"userId"`
	Scopes        []string          `json:"scopes"`
	Expiration    *time.Time        `json:"expiration"`
	Kind          string            `json:"kind"`
	Issuer        string            `json:"issuer"`
	Subject       string            `json:"subject"`
	Audience      string            `json:"audience"`
	Claims        map[string]string `json:"claims"`
}

// goneKey is a key that was deleted not long ago, if the caller could have read it; nil for none.
func (c *call) goneKey(id string) (*keyAnswer, error) {
	if len(id) > 64 {
		return nil, nil
	}
	now := c.cfg.Now()
	f := store.AuditFilter{TailnetID: c.tailnet.ID, Target: id, Since: now.Add(-goneTime), Until: now.Add(time.Minute), Newest: true, Limit: 100}
	if c.caller.Tailnet == 0 {
		f.TailnetID = 0 // keys for all tailnets are there for those who may see all
	}
	rows, err := c.cfg.Store.ListAudit(c.ctx, f)
	if err != nil {
		return nil, err
	}
	var last *tailnet.AuditEntry
	var created time.Time
	for i := range rows {
		e := &rows[i]
		if e.TargetName != id || e.TailnetID != c.tailnet.ID && e.TailnetID != 0 {
			continue
		}
		if kindOfDeletion[e.Action] != "" {
			last = e
		}
		if e.Before == nil {
			created = e.At.UTC()
		}
	}
	if last == nil {
		return nil, nil
	}
	return c.goneAnswer(last, created)
}

func (c *call) goneAnswer(e *tailnet.AuditEntry, created time.Time) (*keyAnswer, error) {
	var was keyFacts
	if err := json.Unmarshal(e.Before, &was); err != nil {
		return nil, err
	}
	revoked := e.At.UTC()
	a := &keyAnswer{ID: e.TargetName, KeyType: kindOfDeletion[e.Action], Description: was.Description, Created: created, Revoked: &revoked, Invalid: true, Tags: was.Tags}
	user, expires := was.UserID, was.Expiration
	switch a.KeyType {
	case kindAuth:
		user, expires = was.User, was.Expires
		a.Capabilities = &keyCapabilities{}
		create := &a.Capabilities.Devices.Create
		create.Reusable, create.Ephemeral, create.Preauthorized, create.Tags = was.Reusable, was.Ephemeral, was.Preauthorized, was.Tags
	case kindClient:
		a.KeyType, a.Audience, a.Issuer, a.Subject, a.CustomClaimRules = was.Kind, was.Audience, was.Issuer, was.Subject, was.Claims
		a.Updated = &revoked
		fallthrough
	default:
		a.Scopes = was.Scopes
	}
	seen := c.caller.Owns(user)
	if a.KeyType != kindAuth {
		seen = c.caller.SeesKey(e.TailnetID, user)
	}
	if !seen || !c.caller.May(scopeOfKind[a.KeyType]+":read") {
		return nil, nil
	}
	a.expires(expires)
	a.user(user)
	return a, nil
}

// noKey is that no key has the ID.
func noKey(id string) error { return absent("key " + strconv.Quote(id)) }
