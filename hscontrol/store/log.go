package store

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// The kinds of objects in the change log.
const (
	kindTailnet = "tailnet"
	kindPolicy  = "policy"
	kindUser    = "user"
	kindNode    = "node"
	kindRelay   = "relay"
	kindRegion  = "region"

	kindSettings = "settings" // of the tailnet itself
)

// change is a row of the change log, but for the revision.
type change struct {
	tailnet tailnet.ID
	kind    string
	object  uint64
}

// changed notes that the object was made, changed or deleted. Every write of something that is in snapshots needs it.
func (t *tx) changed(id tailnet.ID, kind string, object uint64) {
	switch {
	case kind == kindNode:
		delete(t.ahead, tailnet.NodeID(object))
	case kind == kindTailnet, kind == kindUser:
		clear(t.ahead) // their nodes may have gone with them
	}
	t.changes = append(t.changes, change{tailnet: id, kind: kind, object: object})
}

func (t *tx) nodeChanged(n *tailnet.Node) { t.changed(n.TailnetID, kindNode, uint64(n.ID)) }

// finish does what the group owes at its end: elections, one revision for each changed tailnet, the change log and the
// audit log, deliveries to webhooks, the wake-up of other processes.
func (t *tx) finish() error {
	t.wrote = true // no savepoint any more: an error from here on is one of the whole group
	for id := range t.elect {
		if err := t.electPrimaries(id); err != nil {
			return err
		}
	}
	if len(t.changes) > 0 {
		if err := t.writeLog(); err != nil {
			return fmt.Errorf("writing the change log: %w", err)
		}
	}
	if err := t.writeAudit(); err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	if err := t.writeNews(); err != nil {
		return err
	}
	if notify := t.s.engine.notify(); notify != "" {
		if _, err := t.exec(notify); err != nil {
			return fmt.Errorf("notifying other servers: %w", err)
		}
	}
	return nil
}

// logRows is how many rows of the log go into one statement.
const logRows = 64

func (t *tx) writeLog() error {
	seen := make(map[change]bool, len(t.changes))
	t.changes = slices.DeleteFunc(t.changes, func(c change) bool {
		again := seen[c]
		seen[c] = true
		return again || t.dropped[c.tailnet]
	})
	raised := map[tailnet.ID]bool{}
	for _, c := range t.changes {
		if raised[c.tailnet] {
			continue
		}
		raised[c.tailnet] = true
		row, err := t.tailnet(c.tailnet)
		if err != nil {
			return err
		}
		row.Revision++
		t.revised[c.tailnet] = row.Revision
		if _, err := t.exec("UPDATE tailnets SET revision = ?, next_v4 = ?, next_v6 = ? WHERE id = ?",
			int64(row.Revision), text(&row.NextV4), text(&row.NextV6), int64(row.ID)); err != nil {
			return err
		}
	}
	for rows := range slices.Chunk(t.changes, logRows) {
		args := make([]any, 0, 4*len(rows))
		for _, c := range rows {
			args = append(args, int64(c.tailnet), int64(t.revised[c.tailnet]), c.kind, int64(c.object))
		}
		values := strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?), ", len(rows)), ", ")
		if _, err := t.exec("INSERT INTO changes (tailnet_id, revision, kind, object_id) VALUES "+values, args...); err != nil {
			return err
		}
	}
	return nil
}
