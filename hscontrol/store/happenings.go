package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// hookOf is the event that webhooks are told of when the audit log has an action. It never changes.
var hookOf = map[string]string{
	"node.create": "nodeCreated", "node.approve": "nodeApproved", "node.delete": "nodeDeleted", "policy.set": "policyUpdate",
	"user.create": "userCreated", "user.delete": "userDeleted", "user.role": "userRoleUpdated", "user.suspend": "userSuspended",
	"user.restore": "userRestored", "user.approve": "userApproved", "webhook.update": "webhookUpdated",
}

// news is something that webhooks may want to be told.
type news struct {
	tailnet tailnet.ID // zero: all of them
	event   string
	kind    string
	id      uint64
	name    string // empty: of a node, to be looked up
	actor   tailnet.Actor
	more    map[string]string
}

// happened notes an event. Those who subscribed to it are told after the commit.
func (t *tx) happened(n news) { t.news = append(t.news, n) }

// writeNews makes a delivery of each event for each endpoint that wants it. Nearly always nobody does: that is told by
// one query.
func (t *tx) writeNews() error {
	if len(t.news) == 0 {
		return nil
	}
	var hooks []*tailnet.Webhook
	if there, err := t.exists("SELECT 1 FROM webhooks LIMIT 1"); err != nil || !there {
		return err
	}
	if err := t.look().Order("id").Find(&hooks).Error; err != nil {
		return fmt.Errorf("reading webhooks: %w", err)
	}
	for _, n := range t.news {
		for _, h := range hooks {
			aboutIt := n.kind == kindWebhook && n.id != h.ID
			if n.tailnet != 0 && n.tailnet != h.TailnetID || !h.Wants(n.event) || aboutIt {
				continue
			}
			if err := t.deliver(h, n); err != nil {
				return fmt.Errorf("telling webhook %d: %w", h.ID, err)
			}
		}
	}
	return nil
}

// deliver makes the delivery of an event to an endpoint.
func (t *tx) deliver(h *tailnet.Webhook, n news) error {
	e, err := t.event(h.TailnetID, n)
	if err != nil {
		return err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	due, subject := t.now, ""
	switch n.event {
	case tailnet.EventNodeOffline:
		due, subject = due.Add(offlineAfter), fmt.Sprint("offline:", n.id)
	case tailnet.EventNodeOnline:
		back, err := t.exec("DELETE FROM webhook_deliveries WHERE webhook_id = ? AND subject = ? AND state = 'waiting' AND attempts = 0",
			int64(h.ID), fmt.Sprint("offline:", n.id))
		if err != nil || back > 0 {
			return err
		}
	}
	_, err = t.exec(`INSERT INTO webhook_deliveries (webhook_id, subject, event, state, attempts, status, trouble, due_at, holder, created_at)
		VALUES (?, ?, ?, ?, 0, 0, '', ?, '', ?)`, int64(h.ID), subject, string(text), string(tailnet.DeliveryWaiting), due, t.now)
	return err
}

// offlineAfter is for how long a node has to be gone before anybody is told: a client that only connects anew, and a
// server that only starts again, are no news.
const offlineAfter = 15 * time.Second

// event is the news as it is told in a tailnet.
func (t *tx) event(in tailnet.ID, n news) (*tailnet.Event, error) {
	var place string
	if err := t.queryRow("SELECT name FROM tailnets WHERE id = ?", int64(in)).Scan(&place); err != nil {
		return nil, err
	}
	e := &tailnet.Event{Timestamp: t.now, Version: 1, Type: n.event, Tailnet: place, Data: map[string]string{}}
	if n.actor.Who != "" {
		e.Data["actor"] = n.actor.Who
	}
	maps.Copy(e.Data, n.more)
	if n.kind == kindNode {
		if err := t.tellNode(e, &n); err != nil {
			return nil, err
		}
	} else if n.id != 0 {
		e.Data[n.kind+"ID"] = strconv.FormatUint(n.id, 10)
	}
	if n.kind == kindUser {
		e.Data["user"] = n.name
	} else if n.kind == kindRelay {
		e.Data["relay"] = n.name
	}
	e.Message = sentenceOf(n)
	return e, nil
}

// tellNode adds what is known of the node that the event is about, if it is still there.
func (t *tx) tellNode(e *tailnet.Event, n *news) error {
	e.Data["nodeID"] = strconv.FormatUint(n.id, 10)
	nodes, err := t.nodesWhere("n.id = ?", int64(n.id))
	if err != nil {
		return err
	}
	for _, node := range nodes {
		n.name = node.GivenName
		e.Data["managedBy"] = "tagged-devices"
		if node.IsTagged() {
			e.Data["tags"] = fmt.Sprint(node.Tags)
		} else if u, err := t.user(node.UserID); err == nil {
			e.Data["managedBy"] = u.LoginName()
		}
		if addrs := node.Addrs(); len(addrs) > 0 {
			e.Data["address"] = addrs[0].String()
		}
		if node.Expiry != nil {
			e.Data["expiration"] = node.Expiry.Format(time.RFC3339)
		}
	}
	e.Data["deviceName"] = n.name
	return nil
}

// sentences say each event to people, with the name of what it is about. They never change.
var sentences = map[string]string{
	"nodeCreated": "Node %s created", "nodeApproved": "Node %s approved", "nodeDeleted": "Node %s deleted",
	tailnet.EventNodeOnline: "Node %s is online", tailnet.EventNodeOffline: "Node %s is offline",
	tailnet.EventNodeKeyExpiring: "The key of node %s expires within a day", tailnet.EventNodeKeyExpired: "The key of node %s has expired",
	tailnet.EventNodeNeedsApproval: "Node %s needs approval", tailnet.EventUserNeedsApproval: "User %s needs approval",
	"userCreated": "User %s created", "userDeleted": "User %s deleted", "userRoleUpdated": "The role of user %s was changed",
	"userSuspended": "User %s suspended", "userRestored": "User %s restored", "userApproved": "User %s approved",
	tailnet.EventRelayUp: "Relay %s is back in the DERP map", tailnet.EventRelayDown: "Relay %s is out of the DERP map",
	"policyUpdate": "The policy was changed", tailnet.EventTest: "This is a test event",
	tailnet.EventWebhookUpdated: "The webhook %s was changed", tailnet.EventWebhookDeleted: "The webhook %s was deleted",
}

func sentenceOf(n news) string {
	text := sentences[n.event]
	if n.event == "policyUpdate" || n.event == tailnet.EventTest || text == "" {
		return text
	}
	return fmt.Sprintf(text, n.name)
}

// tellExpiries tells of nodes whose key expires within a day, or has expired, each of them once. It asks nothing of the
// nodes while no endpoint wants to know.
func (t *tx) tellExpiries() error {
	var hooks []*tailnet.Webhook
	if err := t.look().Find(&hooks).Error; err != nil {
		return err
	}
	for _, c := range []struct {
		event    string
		from, to time.Time
	}{
		{tailnet.EventNodeKeyExpiring, t.now, t.now.Add(24 * time.Hour)},
		{tailnet.EventNodeKeyExpired, t.now.Add(-24 * time.Hour), t.now},
	} {
		wanted := slices.ContainsFunc(hooks, func(h *tailnet.Webhook) bool { return h.Wants(c.event) })
		if !wanted {
			continue
		}
		nodes, err := t.nodesWhere(`n.expiry > ? AND n.expiry <= ? AND NOT EXISTS (
			SELECT 1 FROM webhook_marks m WHERE m.node_id = n.id AND m.event = ? AND m.expiry = n.expiry)`, c.from, c.to, c.event)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if _, err := t.exec(`INSERT INTO webhook_marks (node_id, event, expiry) VALUES (?, ?, ?)
				ON CONFLICT (node_id, event) DO UPDATE SET expiry = excluded.expiry`, int64(n.ID), c.event, *n.Expiry); err != nil {
				return err
			}
			t.happened(news{tailnet: n.TailnetID, event: c.event, kind: kindNode, id: uint64(n.ID), name: n.GivenName})
		}
	}
	return nil
}
