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
	sshCheckLifetime = 15 * time.Minute
	maxSSHChecks     = 100 // that wait at one destination
)

// BeginSSHCheck notes a login that waits for a person, for 15 minutes if c.ExpiresAt is zero. With shared, a login that
// waits already from the same node to the same node under the same name is that one. ErrTooMany when 100 wait at the
// destination.
func (s *Store) BeginSSHCheck(ctx context.Context, c tailnet.SSHCheck, shared bool) (*tailnet.SSHCheck, error) {
	err := checkText(c.Login, longText)
	if err == nil {
		c.ID, err = tailnet.NewRegistrationID(s.cfg.Rand)
	}
	if err != nil {
		return nil, fmt.Errorf("beginning SSH check: %w", err)
	}
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = s.now().Add(sshCheckLifetime)
	}
	c.ExpiresAt, c.Verdict, c.DecidedAt, c.DecidedBy = storable(c.ExpiresAt), tailnet.SSHWaiting, nil, ""
	var row *tailnet.SSHCheck
	err = s.write(ctx, func(t *tx) (err error) {
		row, err = t.beginSSHCheck(c, shared)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("beginning SSH check: %w", err)
	}
	return row, nil
}

func (t *tx) beginSSHCheck(c tailnet.SSHCheck, shared bool) (*tailnet.SSHCheck, error) {
	for _, id := range []tailnet.NodeID{c.SrcID, c.DstID} {
		n, err := t.node(id)
		if err != nil {
			return nil, err
		}
		c.TailnetID = n.TailnetID
	}
	if _, err := t.exec("DELETE FROM ssh_checks WHERE expires_at <= ?", t.now); err != nil {
		return nil, err
	}
	var waiting []*tailnet.SSHCheck
	if err := t.look().Where("dst_id = ? AND verdict = ?", int64(c.DstID), string(tailnet.SSHWaiting)).Find(&waiting).Error; err != nil {
		return nil, err
	}
	for _, w := range waiting {
		if shared && w.SrcID == c.SrcID && w.Login == c.Login && w.Owner == c.Owner {
			_, err := t.exec("UPDATE ssh_checks SET expires_at = ? WHERE id = ?", c.ExpiresAt, w.ID)
			w.ExpiresAt = c.ExpiresAt
			return w, err
		}
	}
	if len(waiting) >= maxSSHChecks {
		return nil, fmt.Errorf("%w logins at node %d wait for an approval: try again in %s", tailnet.ErrTooMany, c.DstID, sshCheckLifetime)
	}
	c.CreatedAt = t.now
	return &c, t.edit().Create(&c).Error
}

// FindSSHCheck finds a login by its ID. ErrNotFound also for one past its lifetime.
func (s *Store) FindSSHCheck(ctx context.Context, id string) (*tailnet.SSHCheck, error) {
	c, err := findSSHCheck(s.orm.WithContext(ctx), id, s.now())
	if err != nil {
		return nil, fmt.Errorf("finding SSH check: %w", s.engine.explain(err))
	}
	return c, nil
}

func findSSHCheck(db *gorm.DB, id string, now time.Time) (*tailnet.SSHCheck, error) {
	var c tailnet.SSHCheck
	err := db.Where("id = ? AND expires_at > ?", id, now).Take(&c).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, fmt.Errorf("%w: login %s is unknown or older than %d minutes", tailnet.ErrNotFound, id, int(sshCheckLifetime.Minutes()))
	}
	return &c, err
}

// FindSSHApproval finds the newest approval since a time of a login like c, that is with the same SrcID, DstID, Owner
// and Login. ErrNotFound if there is none.
func (s *Store) FindSSHApproval(ctx context.Context, c tailnet.SSHCheck, since time.Time) (*tailnet.SSHCheck, error) {
	var found tailnet.SSHCheck
	err := s.orm.WithContext(ctx).
		Where("dst_id = ? AND src_id = ? AND login = ? AND owner = ?", int64(c.DstID), int64(c.SrcID), c.Login, c.Owner).
		Where("verdict = ? AND decided_at > ?", string(tailnet.SSHApproved), storable(since)).
		Order("decided_at DESC").Take(&found).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, tailnet.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("finding SSH approval: %w", s.engine.explain(err))
	}
	return &found, nil
}

// SSHDecision is what a person says of a login.
type SSHDecision struct {
	ID      string
	Approve bool
	By      string     // who says it, for the log
	Within  tailnet.ID // the only tailnet that they may decide in; zero: all
}

// DecideSSHCheck writes down what a person says of a login. An approval can be taken back by rejecting it; ErrConflict
// if a rejected login is approved. ErrNotFound if there is no such login.
func (s *Store) DecideSSHCheck(ctx context.Context, d SSHDecision) (*tailnet.SSHCheck, error) {
	var c *tailnet.SSHCheck
	err := checkText(d.By, longText)
	if err == nil {
		err = s.write(ctx, func(t *tx) (err error) {
			c, err = t.decideSSHCheck(d)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("deciding about SSH login %s: %w", d.ID, err)
	}
	return c, nil
}

func (t *tx) decideSSHCheck(d SSHDecision) (*tailnet.SSHCheck, error) {
	c, err := findSSHCheck(t.look(), d.ID, t.now)
	if err != nil {
		return nil, err
	}
	if d.Within != 0 && d.Within != c.TailnetID {
		return nil, fmt.Errorf("%w: login %s is of another tailnet", tailnet.ErrNotFound, d.ID)
	}
	verdict, keep := tailnet.SSHRejected, sshCheckLifetime
	if d.Approve {
		verdict, keep = tailnet.SSHApproved, tailnet.SSHApprovalMost
	}
	switch {
	case c.Verdict == verdict:
		return c, nil
	case c.Verdict == tailnet.SSHRejected:
		return nil, fmt.Errorf("%w: it was rejected before: log in again to get a new ID", tailnet.ErrConflict)
	}
	at := t.now
	won, err := t.exec("UPDATE ssh_checks SET verdict = ?, decided_by = ?, decided_at = ?, expires_at = ? WHERE id = ? AND verdict = ?",
		string(verdict), d.By, at, at.Add(keep), c.ID, string(c.Verdict))
	if err == nil && won == 0 {
		err = fmt.Errorf("%w: somebody else has just decided about it", tailnet.ErrConflict)
	}
	if err != nil {
		return nil, err
	}
	c.Verdict, c.DecidedBy, c.DecidedAt, c.ExpiresAt = verdict, d.By, &at, at.Add(keep)
	return c, t.auditLogin(c)
}

// loginFacts are what the audit log keeps of an SSH login.
type loginFacts struct {
	From  tailnet.NodeID `json:"from"`
	To    tailnet.NodeID `json:"to"`
	Owner string         `json:"owner"`
	Login string         `json:"login"`
}

func (t *tx) auditLogin(c *tailnet.SSHCheck) error {
	action := "ssh.reject"
	if c.Verdict == tailnet.SSHApproved {
		action = "ssh.approve"
	}
	return t.audit(record{tailnet: c.TailnetID, action: action, kind: "ssh", name: c.ID, became: loginFacts{c.SrcID, c.DstID, c.Owner, c.Login}})
}
