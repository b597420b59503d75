package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Join is what a client says of itself when it registers, and what auth has settled about it.
type Join struct {
	MachineKey key.MachinePublic
	NodeKey    key.NodePublic
	OldNodeKey key.NodePublic // the key that NodeKey replaces; zero for none
	NLKey      key.NLPublic
	Hostinfo   *tailcfg.Hostinfo // nil: not told
	CapVersion tailcfg.CapabilityVersion
	Ephemeral  bool

	// Expiry is when the key of a user's node expires; nil: never. Tagged nodes do not expire.
	Expiry *time.Time
	Method tailnet.RegisterMethod // empty: by pre-auth key
	Tags   []string               // requested tags; whether the owner may use them was checked before
}

// grant is what a join gives: the place in a tailnet and the identity.
type grant struct {
	tailnet tailnet.ID
	user    tailnet.UserID // zero for a tagged node
	tags    []string
	asked   bool // the tags were asked for by the client, not given by the key
	open    bool // nobody has to approve the node where that is asked for
	key     tailnet.KeyID
}

// JoinWithKey lets a node in by the secret of a pre-auth key, in one transaction with the use of the key. ErrKeyRefused
// if the key opens nothing; ErrNodeKeyTaken if another machine has the node key; ErrExhausted if there is no address.
func (s *Store) JoinWithKey(ctx context.Context, secret string, j Join) (*tailnet.Node, error) {
	if err := j.check(); err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	parsed, err := tailnet.ParseSecret(tailnet.AuthKeySecret, secret)
	if err != nil {
		return nil, fmt.Errorf("joining: %w: %w", tailnet.ErrKeyRefused, err)
	}
	if j.Method == "" {
		j.Method = tailnet.RegisterByAuthKey
	}
	var n *tailnet.Node
	if by := tailnet.ActorOf(ctx); by.Who == "" {
		by.Who = "authkey:" + parsed.Prefix
		ctx = tailnet.WithActor(ctx, by)
	}
	err = s.write(ctx, func(t *tx) (err error) {
		n, err = t.joinWithKey(parsed, j)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	return n, nil
}

func (t *tx) joinWithKey(secret tailnet.Secret, j Join) (*tailnet.Node, error) {
	k, err := t.preAuthKey(secret.Prefix)
	if errors.Is(err, tailnet.ErrNotFound) || err == nil && !secret.Matches(k.Hash) {
		return nil, fmt.Errorf("%w: it is not known; ask for a new one", tailnet.ErrKeyRefused)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	g := grant{tailnet: k.TailnetID, user: k.UserID, tags: k.Tags, key: k.ID, open: k.Preauthorized}
	if len(g.tags) == 0 && len(j.Tags) > 0 {
		g.tags, g.asked = j.Tags, true
	}
	if len(g.tags) > 0 {
		g.user = 0
	}
	if _, err := t.tailnet(g.tailnet); err != nil {
		return nil, err
	}
	m, err := t.machine(j)
	if err != nil {
		return nil, err
	}
	if !m.mayReturn(g, t.now) {
		if err := k.Usable(t.now); err != nil {
			return nil, err
		}
		if !k.Reusable {
			if err := t.useKey(k); err != nil {
				return nil, err
			}
		}
	}
	j.Ephemeral = j.Ephemeral || k.Ephemeral
	return t.join(g, j, m)
}

func (t *tx) preAuthKey(prefix string) (*tailnet.PreAuthKey, error) {
	if k := t.keys[prefix]; k != nil {
		return k, nil
	}
	k, err := findPreAuthKey(t.look(), prefix)
	if err == nil {
		t.keys[prefix] = k
	}
	return k, err
}

// useKey takes the one use of a key. Of two that race, one finds it used.
func (t *tx) useKey(k *tailnet.PreAuthKey) error {
	clear(t.keys)
	t.touch(TopicKeys)
	won, err := t.exec("UPDATE pre_auth_keys SET used = ? WHERE id = ? AND NOT used", true, int64(k.ID))
	if err == nil && won == 0 {
		k.Used = true
		err = k.Usable(t.now)
	}
	return err
}

// machine is what the tables hold of the machine that joins.
type machine struct {
	same  *tailnet.Node   // the node with this very node key
	nodes []*tailnet.Node // all others of the machine
	join  Join
}

func (t *tx) machine(j Join) (machine, error) {
	m := machine{join: j}
	// Most machines are new: that is told by two short queries.
	there, err := t.exists("SELECT 1 FROM nodes WHERE machine_key = ? LIMIT 1", text(&j.MachineKey))
	if err == nil && !there {
		there, err = t.exists("SELECT 1 FROM nodes WHERE node_key = ?", text(&j.NodeKey))
	}
	if err != nil || !there {
		return m, err
	}
	nodes, err := t.nodesWhere("n.node_key = ? OR n.machine_key = ?", text(&j.NodeKey), text(&j.MachineKey))
	if err != nil {
		return m, err
	}
	for _, n := range nodes {
		switch {
		case n.NodeKey != j.NodeKey:
			m.nodes = append(m.nodes, n)
		case n.MachineKey != j.MachineKey:
			return m, fmt.Errorf("%w: log out and in again to get a new one", tailnet.ErrNodeKeyTaken)
		default:
			m.same = n
		}
	}
	return m, nil
}

// mayReturn reports whether the key neither has to be good nor is used up by this join, because the machine is in
// already: as the very node that registers again, which a client does with its old node key before it makes a new one,
// or as the node that this key let in, now with a new node key. Its own key must not have expired, and it must still be
// what the pre-auth key makes of it.
func (m machine) mayReturn(g grant, now time.Time) bool {
	still := func(n *tailnet.Node) bool {
		return n.TailnetID == g.tailnet && !n.Expired(now) && n.UserID == g.user && slices.Equal(n.Tags, g.tags)
	}
	return m.same != nil && still(m.same) ||
		m.same == nil && slices.ContainsFunc(m.nodes, func(n *tailnet.Node) bool { return n.AuthKeyID == g.key && still(n) })
}

// known is the row that this join continues: of the same node key, of the key that it replaces, or of the same machine
// and owner, logged out rows first. nil if the node is new.
func (m machine) known(g grant, now time.Time) *tailnet.Node {
	if m.same != nil {
		return m.same
	}
	var best *tailnet.Node
	for _, n := range m.nodes {
		if n.TailnetID != g.tailnet || n.UserID != g.user || n.IsTagged() != (len(g.tags) > 0) {
			continue
		}
		if n.NodeKey == m.join.OldNodeKey {
			return n
		}
		if best == nil || n.Expired(now) && !best.Expired(now) || n.Expired(now) == best.Expired(now) && n.ID > best.ID {
			best = n
		}
	}
	return best
}

// join makes the row of a new node or continues that of a known one.
func (t *tx) join(g grant, j Join, m machine) (*tailnet.Node, error) {
	n := m.known(g, t.now)
	if n != nil && n.TailnetID != g.tailnet {
		// The same node key, now let into another tailnet: nothing of the old row may go with it.
		if err := t.removeNode(n); err != nil {
			return nil, err
		}
		n = nil
	}
	if n == nil {
		return t.joinNew(g, j)
	}
	row, wasRouter := *n, len(n.ApprovedRoutes) > 0
	g.apply(n, j)
	if err := t.introduce(n, j); err != nil {
		return nil, err
	}
	if n.LastSeen != nil {
		n.LastSeen = &t.now // it is here: the reaper of ephemeral nodes starts to count anew
	}
	if err := t.assignAddrs(n); err != nil {
		return nil, err
	}
	if _, err := t.updateNode(&row, n); err != nil {
		return nil, err
	}
	if err := t.auditNode("node.login", &row, n); err != nil {
		return nil, err
	}
	return t.settle(n, wasRouter)
}

// joinNew makes a row. Most new nodes get the name and addresses that come first to mind, so it is tried without a look
// whether they are free: the indexes know.
func (t *tx) joinNew(g grant, j Join) (*tailnet.Node, error) {
	tn, err := t.tailnet(g.tailnet)
	if err != nil {
		return nil, err
	}
	before := *tn
	t.guess = true
	n, err := t.describe(g, j)
	t.guess = false
	if err != nil {
		return nil, err
	}
	if err := t.insertNode(n, orNothing); err != nil {
		return nil, err
	}
	if n.ID != 0 {
		return n, t.auditNode("node.create", nil, n)
	}
	*tn = before
	if n, err = t.describe(g, j); err != nil {
		return nil, err
	}
	if err := t.insertNode(n, ""); err != nil {
		return nil, err
	}
	return n, t.auditNode("node.create", nil, n)
}

// describe is the row of a new node.
func (t *tx) describe(g grant, j Join) (*tailnet.Node, error) {
	n := &tailnet.Node{TailnetID: g.tailnet, MachineKey: j.MachineKey, Hostinfo: &tailcfg.Hostinfo{}}
	if !g.open {
		set, err := t.settings(g.tailnet)
		if err != nil {
			return nil, err
		}
		n.Unauthorized = set.DevicesApproval
	}
	g.apply(n, j)
	if err := t.introduce(n, j); err != nil {
		return nil, err
	}
	if n.GivenName == "" {
		if err := t.nameAfter(n, ""); err != nil {
			return nil, err
		}
	}
	return n, t.assignAddrs(n)
}

// apply gives the node its identity. A tagged node keeps its tags, which an administrator may have changed, unless the
// client asked for some. Another owner's approvals do not go over.
func (g grant) apply(n *tailnet.Node, j Join) {
	tagged := len(g.tags) > 0
	if n.ID != 0 && (n.UserID != g.user || n.IsTagged() != tagged) {
		n.ApprovedRoutes, n.PrimaryRoutes = nil, nil
	}
	n.UserID, n.Expiry = g.user, storableTime(j.Expiry)
	switch {
	case !tagged:
		n.Tags = nil
	case !n.IsTagged() || g.asked:
		n.Tags, n.Expiry = g.tags, nil
	default:
		n.Expiry = nil
	}
	n.AuthKeyID = g.key
}

// introduce writes into the node what the client said of itself.
func (t *tx) introduce(n *tailnet.Node, j Join) error {
	n.NodeKey, n.NLKey, n.CapVersion = j.NodeKey, j.NLKey, j.CapVersion
	n.Ephemeral, n.RegisterMethod = j.Ephemeral, j.Method
	return t.hear(n, j.Hostinfo)
}

// settle elects anew if n is or was a router, and returns n as it is then.
func (t *tx) settle(n *tailnet.Node, wasRouter bool) (*tailnet.Node, error) {
	if !wasRouter && len(n.ApprovedRoutes) == 0 {
		return n, nil
	}
	if err := t.electPrimaries(n.TailnetID); err != nil {
		return nil, err
	}
	return t.readNode(n.ID)
}

func (j *Join) check() error {
	if j.MachineKey.IsZero() || j.NodeKey.IsZero() {
		return fmt.Errorf("%w: the machine key or the node key is missing", tailnet.ErrInvalid)
	}
	var err error
	if j.Tags, err = checkTags(j.Tags); err != nil {
		return err
	}
	return checkHostinfo(j.Hostinfo)
}
