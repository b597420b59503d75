package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	registrationLifetime = 15 * time.Minute
	maxRegistrations     = 10_000 // that wait at one time
)

// ApproveOptions say how a waiting client is let in.
type ApproveOptions struct {
	Tags   []string               // the node becomes a tagged one; whether the user may use them was checked before
	Expiry *time.Time             // of a user's node; nil: never
	Method tailnet.RegisterMethod // empty: by command line
}

// BeginRegistration notes a client that waits to be let in, for 15 minutes if r.ExpiresAt is zero. One that waits
// already with the same keys keeps its ID and gets the new lifetime; a new one gets an ID unless r has one. ErrTooMany when 10,000 wait.
func (s *Store) BeginRegistration(ctx context.Context, r tailnet.Registration) (*tailnet.Registration, error) {
	row, err := s.beginRegistration(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("beginning registration: %w", err)
	}
	return row, nil
}

func (s *Store) beginRegistration(ctx context.Context, r tailnet.Registration) (*tailnet.Registration, error) {
	if r.MachineKey.IsZero() || r.NodeKey.IsZero() {
		return nil, fmt.Errorf("%w: the machine key or the node key is missing", tailnet.ErrInvalid)
	}
	if err := checkHostinfo(r.Hostinfo); err != nil {
		return nil, err
	}
	if r.ID == "" {
		var err error
		if r.ID, err = tailnet.NewRegistrationID(s.cfg.Rand); err != nil {
			return nil, err
		}
	}
	if r.ExpiresAt.IsZero() {
		r.ExpiresAt = s.now().Add(registrationLifetime)
	}
	r.ExpiresAt, r.NodeID, r.Rejected = storable(r.ExpiresAt), 0, false
	var row *tailnet.Registration
	err := s.write(ctx, func(t *tx) error {
		fresh := r
		row = &fresh
		return t.beginRegistration(row)
	})
	return row, err
}

func (t *tx) beginRegistration(row *tailnet.Registration) error {
	row.CreatedAt = t.now
	if _, err := t.exec("DELETE FROM registrations WHERE expires_at <= ?", t.now); err != nil {
		return err
	}
	var former []*tailnet.Registration
	if err := t.look().Where("node_key = ?", row.NodeKey.String()).Limit(1).Find(&former).Error; err != nil {
		return err
	}
	for _, f := range former {
		switch {
		case f.MachineKey != row.MachineKey:
			return fmt.Errorf("%w: log out and in again to get a new one", tailnet.ErrNodeKeyTaken)
		case f.NodeID == 0 && !f.Rejected:
			row.ID, row.CreatedAt = f.ID, f.CreatedAt
			return t.edit().Save(row).Error
		}
		if _, err := t.exec("DELETE FROM registrations WHERE id = ?", f.ID); err != nil {
			return err
		}
	}
	var waiting int
	if err := t.queryRow("SELECT COUNT(*) FROM registrations").Scan(&waiting); err != nil {
		return err
	}
	if waiting >= maxRegistrations {
		return fmt.Errorf("%w clients wait to be let in: try again in %s", tailnet.ErrTooMany, registrationLifetime)
	}
	err := t.edit().Create(row).Error
	if t.s.engine.fault(err).unique != "" {
		return fmt.Errorf("%w: %w", tailnet.ErrNodeKeyTaken, err)
	}
	return err
}

// FindRegistration finds a registration by its ID, its machine key or its node key. ErrNotFound also for one past its
// lifetime.
func (s *Store) FindRegistration(ctx context.Context, ref tailnet.RegistrationRef) (*tailnet.Registration, error) {
	r, err := findRegistration(s.orm.WithContext(ctx), ref, s.now())
	if err != nil {
		return nil, fmt.Errorf("finding registration: %w", s.engine.explain(err))
	}
	return r, nil
}

func findRegistration(db *gorm.DB, ref tailnet.RegistrationRef, now time.Time) (*tailnet.Registration, error) {
	name, q := ref.ID, db.Where("id = ?", ref.ID)
	if ref.Digits != "" {
		name = ref.Digits
		q = db.Where("machine_key = ? OR node_key = ?", "mkey:"+ref.Digits, "nodekey:"+ref.Digits)
	}
	var r tailnet.Registration
	err := q.Where("expires_at > ?", now).Order("created_at DESC").Take(&r).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, fmt.Errorf("%w: registration %s is unknown or older than %d minutes: run tailscale up again and use the new URL",
			tailnet.ErrNotFound, name, int(registrationLifetime.Minutes()))
	}
	return &r, err
}

// Approve lets a waiting client in as a node of that user. For one that was let in already as a node of the same user
// it returns that node.
func (s *Store) Approve(ctx context.Context, id string, user tailnet.UserID, opts ApproveOptions) (*tailnet.Node, error) {
	var err error
	if opts.Tags, err = checkTags(opts.Tags); err != nil {
		return nil, fmt.Errorf("approving registration %s: %w", id, err)
	}
	if opts.Method == "" {
		opts.Method = tailnet.RegisterByCLI
	}
	var n *tailnet.Node
	err = s.write(ctx, func(t *tx) (err error) {
		n, err = t.approve(id, user, opts)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("approving registration %s: %w", id, err)
	}
	return n, nil
}

func (t *tx) approve(id string, user tailnet.UserID, opts ApproveOptions) (*tailnet.Node, error) {
	u, err := t.user(user)
	if err != nil {
		return nil, err
	}
	r, err := findRegistration(t.look(), tailnet.RegistrationRef{ID: id}, t.now)
	if err != nil {
		return nil, err
	}
	g := grant{tailnet: u.TailnetID, user: user, tags: opts.Tags, asked: true, open: true}
	if len(g.tags) > 0 {
		g.user = 0
	}
	switch {
	case r.Rejected:
		return nil, fmt.Errorf("%w: it was refused before: run tailscale up again and use the new URL", tailnet.ErrConflict)
	case r.NodeID != 0:
		return t.approved(r, g)
	}
	j := Join{
		MachineKey: r.MachineKey, NodeKey: r.NodeKey, OldNodeKey: r.OldNodeKey, NLKey: r.NLKey,
		Hostinfo: r.Hostinfo, CapVersion: r.CapVersion, Ephemeral: r.Ephemeral, Expiry: opts.Expiry, Method: opts.Method,
	}
	m, err := t.machine(j)
	if err != nil {
		return nil, err
	}
	n, err := t.join(g, j, m)
	if err != nil {
		return nil, err
	}
	won, err := t.exec("UPDATE registrations SET node_id = ? WHERE id = ? AND node_id IS NULL AND NOT rejected", int64(n.ID), r.ID)
	if err == nil && won == 0 {
		err = fmt.Errorf("%w: somebody else has just decided about it", tailnet.ErrConflict)
	}
	return n, err
}

// approved is the node that a registration became, if it is of the same owner.
func (t *tx) approved(r *tailnet.Registration, g grant) (*tailnet.Node, error) {
	n, err := t.node(r.NodeID)
	if errors.Is(err, tailnet.ErrNotFound) || err == nil && (n.TailnetID != g.tailnet || n.UserID != g.user) {
		return nil, fmt.Errorf("%w: it was approved before, as node %d", tailnet.ErrConflict, r.NodeID)
	}
	return n, err
}

// Reject refuses a waiting client. ErrConflict if it was let in.
func (s *Store) Reject(ctx context.Context, id string) error {
	err := s.write(ctx, func(t *tx) error {
		r, err := findRegistration(t.look(), tailnet.RegistrationRef{ID: id}, t.now)
		if err != nil {
			return err
		}
		if r.NodeID != 0 {
			return fmt.Errorf("%w: it was approved before, as node %d: delete that node", tailnet.ErrConflict, r.NodeID)
		}
		if _, err = t.exec("UPDATE registrations SET rejected = ? WHERE id = ?", true, id); err != nil || r.Rejected {
			return err
		}
		return t.audit(record{action: "registration.reject", kind: "registration", name: hostnameOf(r), was: struct {
			MachineKey string `json:"machineKey"`
			NodeKey    string `json:"nodeKey"`
		}{r.MachineKey.String(), r.NodeKey.String()}})
	})
	if err != nil {
		return fmt.Errorf("rejecting registration %s: %w", id, err)
	}
	return nil
}

func hostnameOf(r *tailnet.Registration) string {
	if r.Hostinfo == nil {
		return ""
	}
	return r.Hostinfo.Hostname
}
