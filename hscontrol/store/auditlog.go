package store

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// record is what an operation tells the audit log. Where it changes something that is there, was and became are of the
// same shape, and only what differs is kept.
type record struct {
	tailnet     tailnet.ID // zero: no one tailnet
	action      string     // noun.verb
	kind        string     // of the target
	id          uint64     // zero: none
	name        string
	was, became any // nil: it was, or is, not there

	tell map[string]string // what webhooks are told beside; nil: nothing
}

// The kinds of targets in the audit log that the change log does not have.
const (
	kindAPIKey  = "apikey"
	kindClient  = "oauthclient"
	kindAuthKey = "authkey"
)

// maxFact bounds the name of an actor and of a target in the log, in bytes.
const maxFact = 256

// audit writes a change that the running operation makes into the log, at the end of the transaction. Nothing is
// written where was and became turn out to be the same.
func (t *tx) audit(r record) error {
	e := tailnet.AuditEntry{
		TailnetID: r.tailnet, Actor: tailnet.ActorOf(t.caller), Action: r.action, Kind: r.kind, TargetName: fact(r.name),
	}
	if e.Actor.Via == "" {
		e.Actor.Via = tailnet.ViaServer
	}
	if e.Actor.Via == tailnet.ViaControl && e.Actor.Who == "" && r.kind == kindNode {
		e.Actor.Who = "node:" + strconv.FormatUint(r.id, 10) // what a client does by itself it does as its node
	}
	e.Actor = tailnet.Actor{Via: fact(e.Actor.Via), Who: fact(e.Actor.Who), From: fact(e.Actor.From)}
	if r.id != 0 {
		e.TargetID = strconv.FormatUint(r.id, 10)
	}
	var err error
	if e.Before, e.After, err = differing(r.was, r.became); err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	if r.was != nil && r.became != nil && e.Before == nil && e.After == nil {
		return nil
	}
	t.entries = append(t.entries, e)
	t.touchBy(r)
	if event := hookOf[r.action]; event != "" {
		t.happened(news{tailnet: r.tailnet, event: event, kind: r.kind, id: r.id, name: r.name, actor: e.Actor, more: r.tell})
	}
	return nil
}

// fact is a text as both engines and the chain can keep it.
func fact(text string) string {
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "?")
	if len(text) > maxFact {
		text = strings.ToValidUTF8(text[:maxFact], "")
	}
	return text
}

// differing is two values as JSON; of two that are there, the members that differ.
func differing(was, became any) (before, after json.RawMessage, err error) {
	if was != nil {
		if before, err = json.Marshal(was); err != nil {
			return nil, nil, err
		}
	}
	if became != nil {
		if after, err = json.Marshal(became); err != nil {
			return nil, nil, err
		}
	}
	if was == nil || became == nil {
		return before, after, nil
	}
	var a, b map[string]json.RawMessage
	if err := json.Unmarshal(before, &a); err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(after, &b); err != nil {
		return nil, nil, err
	}
	for name, v := range a {
		if string(b[name]) == string(v) {
			delete(a, name)
			delete(b, name)
		}
	}
	if len(a)+len(b) == 0 {
		return nil, nil, nil
	}
	if before, err = json.Marshal(a); err != nil {
		return nil, nil, err
	}
	after, err = json.Marshal(b)
	return before, after, err
}

// auditRows says how many of n rows go into one statement: PostgreSQL prepares each number of them once.
func auditRows(n int) int {
	for _, rows := range []int{64, 16, 4} {
		if n >= rows {
			return rows
		}
	}
	return 1
}

const auditColumns = "id, at, tailnet_id, via, who, came_from, action, kind, target_id, target_name, was, became, hash"

// writeAudit appends the group's rows to the chain. There is one chain in a database: its head stays locked until the
// commit, so that of several servers one appends after the other, and none misses what another wrote.
func (t *tx) writeAudit() error {
	if len(t.entries) == 0 {
		return nil
	}
	last, hash, err := t.auditHead()
	if err != nil {
		return err
	}
	for left := t.entries; len(left) > 0; {
		rows := left[:auditRows(len(left))]
		left = left[len(rows):]
		args := make([]any, 0, 13*len(rows))
		for i := range rows {
			e := &rows[i]
			last++
			e.ID, e.At = last, t.now
			e.Hash = e.Sum(hash)
			hash = e.Hash
			args = append(args, int64(e.ID), e.At, ref(&e.TailnetID), e.Actor.Via, e.Actor.Who, e.Actor.From,
				e.Action, e.Kind, e.TargetID, e.TargetName, jsonText(e.Before), jsonText(e.After), e.Hash[:])
		}
		values := strings.TrimSuffix(strings.Repeat("("+marks(13)+"), ", len(rows)), ", ")
		if _, err := t.exec("INSERT INTO audit ("+auditColumns+") VALUES "+values, args...); err != nil {
			return err
		}
	}
	_, err = t.exec("UPDATE audit_head SET last = ?, hash = ? WHERE id = 1", int64(last), hash[:])
	return err
}

// auditHead reads which row is the last, and locks it.
func (t *tx) auditHead() (last uint64, hash tailnet.AuditHash, err error) {
	var sum []byte
	if err := t.queryRow("SELECT last, hash FROM audit_head WHERE id = 1"+t.s.engine.forUpdate()).Scan(number(&last), &sum); err != nil {
		return 0, hash, fmt.Errorf("reading its head: %w", err)
	}
	copy(hash[:], sum)
	return last, hash, nil
}

// jsonText is a document as the columns have it.
func jsonText(doc json.RawMessage) any {
	if doc == nil {
		return nil
	}
	return string(doc)
}

// The facts of each noun that the log keeps: what administrators decide, and by what to know it again; no secrets.
type (
	nodeFacts struct {
		Name       string         `json:"name"`
		User       tailnet.UserID `json:"user,omitempty"`
		Tags       []string       `json:"tags,omitempty"`
		Addresses  []string       `json:"addresses,omitempty"`
		Routes     []string       `json:"approvedRoutes,omitempty"`
		Expiry     *time.Time     `json:"expiry,omitempty"`
		NodeKey    string         `json:"nodeKey,omitempty"`
		MachineKey string         `json:"machineKey,omitempty"`
		Ephemeral  bool           `json:"ephemeral,omitempty"`
		AuthKey    tailnet.KeyID  `json:"authKey,omitempty"`
		Waiting    bool           `json:"waitsForApproval,omitempty"`
	}
	userFacts struct {
		Name        string `json:"name"`
		DisplayName string `json:"displayName,omitempty"`
		Email       string `json:"email,omitempty"`
		Provider    string `json:"provider,omitempty"`
		Identity    string `json:"identity,omitempty"`
		Role        string `json:"role,omitempty"`
		Status      string `json:"status,omitempty"`
	}
	keyFacts struct {
		Prefix      string         `json:"prefix"`
		Description string         `json:"description,omitempty"`
		User        tailnet.UserID `json:"user,omitempty"`
		Reusable    bool           `json:"reusable,omitempty"`
		Ephemeral   bool           `json:"ephemeral,omitempty"`
		Approves    bool           `json:"preauthorized,omitempty"`
		Tags        []string       `json:"tags,omitempty"`
		Expires     *time.Time     `json:"expires,omitempty"`
	}
	policyFacts struct {
		Version uint64 `json:"version"`
		SHA256  string `json:"sha256"`
		Source  string `json:"source,omitempty"`
		Origin  string `json:"origin,omitempty"`
		Note    string `json:"note,omitempty"`
	}
	relayFacts struct {
		Name       string           `json:"name"`
		Region     tailnet.RegionID `json:"region,omitempty"`
		MachineKey string           `json:"machineKey,omitempty"`
		Draining   bool             `json:"draining,omitempty"`
		Key        tailnet.KeyID    `json:"key,omitempty"`
	}
)

func factsOfNode(n *tailnet.Node) nodeFacts {
	f := nodeFacts{Name: n.GivenName, User: n.UserID, Tags: n.Tags, Expiry: n.Expiry, Ephemeral: n.Ephemeral, AuthKey: n.AuthKeyID, Waiting: n.Unauthorized,
		NodeKey: n.NodeKey.String(), MachineKey: n.MachineKey.String()}
	for _, a := range n.Addrs() {
		f.Addresses = append(f.Addresses, a.String())
	}
	for _, r := range n.ApprovedRoutes {
		f.Routes = append(f.Routes, r.String())
	}
	return f
}

func factsOfUser(u *tailnet.User) userFacts {
	return userFacts{Name: u.Name, DisplayName: u.DisplayName, Email: u.Email, Provider: u.Provider, Identity: u.ProviderIdentifier, Role: u.Role, Status: u.Status}
}

func factsOfKey(k *tailnet.PreAuthKey) keyFacts {
	return keyFacts{Prefix: k.Prefix, Description: k.Description, User: k.UserID, Reusable: k.Reusable, Ephemeral: k.Ephemeral, Approves: k.Preauthorized, Tags: k.Tags, Expires: k.Expiration}
}

func factsOfRelay(r *tailnet.Relay) relayFacts {
	return relayFacts{Name: r.Name, Region: r.RegionID, MachineKey: r.MachineKey.String(), Draining: r.Draining, Key: r.KeyID}
}

// changed begins the record of what was, what became, or both, and gives the newer; facts says what is kept of it.
func changed[T, F any](action, kind string, was, became *T, facts func(*T) F) (r record, newest *T) {
	r = record{action: action, kind: kind}
	if was != nil {
		r.was, newest = facts(was), was
	}
	if became != nil {
		r.became, newest = facts(became), became
	}
	return r, newest
}

// auditNode tells of a node. A nil was is a new node, a nil became one that is gone.
func (t *tx) auditNode(action string, was, became *tailnet.Node) error {
	r, n := changed(action, kindNode, was, became, factsOfNode)
	r.tailnet, r.id, r.name = n.TailnetID, uint64(n.ID), n.GivenName
	if was == nil && n.Unauthorized {
		t.waits(tailnet.EventNodeNeedsApproval, r)
	}
	return t.audit(r)
}

// waits tells webhooks that what r is about waits for an administrator.
func (t *tx) waits(event string, r record) {
	t.happened(news{tailnet: r.tailnet, event: event, kind: r.kind, id: r.id, name: r.name, actor: tailnet.ActorOf(t.caller)})
}

// auditUser is auditNode for users.
func (t *tx) auditUser(action string, was, became *tailnet.User) error {
	r, u := changed(action, kindUser, was, became, factsOfUser)
	r.tailnet, r.id, r.name = u.TailnetID, uint64(u.ID), u.LoginName()
	if was == nil && u.Status == tailnet.UserNeedsApproval {
		t.waits(tailnet.EventUserNeedsApproval, r)
	}
	return t.audit(r)
}

// auditRelay is auditNode for relays.
func (t *tx) auditRelay(action string, was, became *tailnet.Relay) error {
	r, x := changed(action, kindRelay, was, became, factsOfRelay)
	r.tailnet, r.id, r.name = x.TailnetID, uint64(x.ID), x.Name
	return t.audit(r)
}
