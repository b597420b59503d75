package store

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// nodeColumn is a column of nodes and the field that it holds.
type nodeColumn struct {
	name string
	cell func(*tailnet.Node) cell
}

// nodeColumns returns all columns of nodes; the ID comes first.
func nodeColumns() []nodeColumn {
	return []nodeColumn{
		{"id", func(n *tailnet.Node) cell { return number(&n.ID) }},
		{"tailnet_id", func(n *tailnet.Node) cell { return number(&n.TailnetID) }},
		{"machine_key", func(n *tailnet.Node) cell { return text(&n.MachineKey) }},
		{"node_key", func(n *tailnet.Node) cell { return text(&n.NodeKey) }},
		{"disco_key", func(n *tailnet.Node) cell { return text(&n.DiscoKey) }},
		{"nl_key", func(n *tailnet.Node) cell { return text(&n.NLKey) }},
		{"user_id", func(n *tailnet.Node) cell { return ref(&n.UserID) }},
		{"tags", func(n *tailnet.Node) cell { return list(&n.Tags) }},
		{"hostname", func(n *tailnet.Node) cell { return word(&n.Hostname) }},
		{"given_name", func(n *tailnet.Node) cell { return word(&n.GivenName) }},
		{"name_pinned", func(n *tailnet.Node) cell { return flag(&n.NamePinned) }},
		{"ipv4", func(n *tailnet.Node) cell { return text(&n.IPv4) }},
		{"ipv6", func(n *tailnet.Node) cell { return text(&n.IPv6) }},
		{"hostinfo", func(n *tailnet.Node) cell { return document(&n.Hostinfo) }},
		{"endpoints", func(n *tailnet.Node) cell { return list(&n.Endpoints) }},
		{"endpoint_types", func(n *tailnet.Node) cell { return list(&n.EndpointTypes) }},
		{"home_derp", func(n *tailnet.Node) cell { return number(&n.HomeDERP) }},
		{"cap_version", func(n *tailnet.Node) cell { return number(&n.CapVersion) }},
		{"approved_routes", func(n *tailnet.Node) cell { return list(&n.ApprovedRoutes) }},
		{"primary_routes", func(n *tailnet.Node) cell { return list(&n.PrimaryRoutes) }},
		{"register_method", func(n *tailnet.Node) cell { return word(&n.RegisterMethod) }},
		{"auth_key_id", func(n *tailnet.Node) cell { return ref(&n.AuthKeyID) }},
		{"ephemeral", func(n *tailnet.Node) cell { return flag(&n.Ephemeral) }},
		{"unauthorized", func(n *tailnet.Node) cell { return flag(&n.Unauthorized) }},
		{"expiry", func(n *tailnet.Node) cell { return maybe(&n.Expiry) }},
		{"last_seen", func(n *tailnet.Node) cell { return maybe(&n.LastSeen) }},
		{"heard_at", func(n *tailnet.Node) cell { return maybe(&n.HeardAt) }},
		{"created_at", func(n *tailnet.Node) cell { return instant(&n.CreatedAt) }},
		{"updated_at", func(n *tailnet.Node) cell { return instant(&n.UpdatedAt) }},
	}
}

// The columns and the statements made of them never change.
var (
	columnsOfNode = nodeColumns()
	selectNodes   = "SELECT n." + strings.Join(nodeNames(), ", n.") +
		", EXISTS (SELECT 1 FROM sessions s WHERE s.node_id = n.id) FROM nodes n"
	insertNode = "INSERT INTO nodes (" + strings.Join(nodeNames()[1:], ", ") + ") VALUES (" + marks(len(columnsOfNode)-1) + ")"
)

func nodeNames() []string {
	var names []string
	for _, c := range nodeColumns() {
		names = append(names, c.name)
	}
	return names
}

// nodeArgs are all fields but the ID, in the order of the columns.
func nodeArgs(n *tailnet.Node) []any {
	args := make([]any, 0, len(columnsOfNode))
	for _, c := range columnsOfNode[1:] {
		args = append(args, c.cell(n))
	}
	return args
}

// scanNode reads a row of selectNodes.
func scanNode(scan func(...any) error) (*tailnet.Node, error) {
	n := &tailnet.Node{}
	cells := make([]any, 0, len(columnsOfNode)+1)
	for _, c := range columnsOfNode {
		cells = append(cells, c.cell(n))
	}
	if err := scan(append(cells, flag(&n.Online))...); err != nil {
		if n.ID != 0 {
			return nil, fmt.Errorf("table nodes, row %d: %w", n.ID, err)
		}
		return nil, err
	}
	if n.Hostinfo == nil {
		n.Hostinfo = &tailcfg.Hostinfo{}
	}
	return n, nil
}

func scanNodes(rows *sql.Rows) ([]*tailnet.Node, error) {
	defer rows.Close()
	var nodes []*tailnet.Node
	for rows.Next() {
		n, err := scanNode(rows.Scan)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, rows.Err()
}

// nodesWhere reads nodes in the transaction.
func (t *tx) nodesWhere(where string, args ...any) ([]*tailnet.Node, error) {
	rows, err := t.query(selectNodes+" WHERE "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("reading nodes: %w", err)
	}
	return scanNodes(rows)
}

// node reads a node whose tailnet is locked.
func (t *tx) node(id tailnet.NodeID) (*tailnet.Node, error) {
	n, err := t.readNode(id)
	if err != nil || t.tailnets[n.TailnetID] != nil {
		return n, err
	}
	if _, err := t.tailnet(n.TailnetID); err != nil {
		return nil, err
	}
	if !t.s.engine.shared() {
		return n, nil
	}
	return t.readNode(id) // it may have changed before the lock was ours
}

// readAhead reads the rows that the operations of a group begin with; those that cannot be read are the operations'
// own fault. Where other processes write too a row counts only once its tailnet is locked: there each reads its own.
func (t *tx) readAhead(group []*operation) {
	var ids []tailnet.NodeID
	for _, op := range group {
		if op.of != 0 {
			ids = append(ids, op.of)
		}
	}
	if len(ids) < 2 || t.s.engine.shared() {
		return
	}
	for ids := range slices.Chunk(ids, idsPerQuery) {
		nodes, err := t.nodesWhere("n.id IN ("+marks(len(ids))+")", signed(ids)...)
		if err != nil {
			return
		}
		for _, n := range nodes {
			t.ahead[n.ID] = n
		}
	}
}

func (t *tx) readNode(id tailnet.NodeID) (*tailnet.Node, error) {
	if n := t.ahead[id]; n != nil {
		delete(t.ahead, id) // whoever has it may change it
		return n, nil
	}
	n, err := scanNode(t.queryRow(selectNodes+" WHERE n.id = ?", int64(id)).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("node %d: %w", id, tailnet.ErrNotFound)
	}
	return n, err
}

// insertNode writes a new row and gives the node its ID. After an orNothing that ID is 0 if a unique constraint of the
// row would have been broken.
func (t *tx) insertNode(n *tailnet.Node, onConflict string) error {
	n.CreatedAt, n.UpdatedAt = t.now, t.now
	id, err := t.insert(insertNode+onConflict, nodeArgs(n)...)
	if err != nil {
		return t.nodeFault(n, err)
	}
	if n.ID = tailnet.NodeID(id); id != 0 {
		t.nodeChanged(n)
	}
	return nil
}

// updateNode writes what differs between the row and the node, if anything does: many columns have an index, which a
// whole row would write anew. HeardAt goes with a change but is none.
func (t *tx) updateNode(row, n *tailnet.Node) (changed bool, err error) {
	set, args, err := differences(row, n)
	if err != nil || len(set) == 0 {
		return false, err
	}
	n.UpdatedAt = t.now
	query := "UPDATE nodes SET " + strings.Join(set, " = ?, ") + " = ?, heard_at = ?, updated_at = ? WHERE id = ?"
	if _, err := t.exec(query, append(args, maybe(&n.HeardAt), t.now, int64(n.ID))...); err != nil {
		return false, t.nodeFault(n, err)
	}
	t.nodeChanged(n)
	return true, nil
}

// differences are the columns in which two nodes differ, and what they are in the second.
func differences(a, b *tailnet.Node) (columns []string, values []any, err error) {
	for _, c := range columnsOfNode {
		if c.name == "updated_at" || c.name == "heard_at" || c.name == "hostinfo" && a.Hostinfo == b.Hostinfo {
			continue
		}
		was, err := c.cell(a).Value()
		if err != nil {
			return nil, nil, fmt.Errorf("column %s: %w", c.name, err)
		}
		is, err := c.cell(b).Value()
		if err != nil {
			return nil, nil, fmt.Errorf("column %s: %w", c.name, err)
		}
		if !same(was, is) {
			columns, values = append(columns, c.name), append(values, is)
		}
	}
	return columns, values, nil
}

func same(a, b driver.Value) bool {
	if a, ok := a.(time.Time); ok {
		b, ok := b.(time.Time)
		return ok && a.Equal(b)
	}
	return a == b
}

func (t *tx) deleteNode(n *tailnet.Node) error {
	if _, err := t.exec("DELETE FROM nodes WHERE id = ?", int64(n.ID)); err != nil {
		return fmt.Errorf("deleting node %d: %w", n.ID, err)
	}
	t.nodeChanged(n)
	return nil
}

// nodeFault says which fact a broken unique constraint of nodes stands for.
func (t *tx) nodeFault(n *tailnet.Node, err error) error {
	unique := t.s.engine.fault(err).unique
	switch {
	case strings.Contains(unique, "node_key"):
		return fmt.Errorf("%w: log out and in again to get a new one", tailnet.ErrNodeKeyTaken)
	case strings.Contains(unique, "given_name"), unique == "node_name":
		return fmt.Errorf("node name %q: %w: %w", n.GivenName, tailnet.ErrExists, err)
	case strings.Contains(unique, "ipv4"), strings.Contains(unique, "ipv6"):
		return fmt.Errorf("address %v: %w: %w", n.Addrs(), tailnet.ErrExists, err)
	}
	return fmt.Errorf("writing node %d: %w", n.ID, err)
}
