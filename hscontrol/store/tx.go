package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// tx is the transaction of one group. Operations run in it one after the other, each from a savepoint on, and see what
// those before them wrote.
type tx struct {
	s    *Store
	ctx  context.Context
	conn *sql.Conn
	now  time.Time

	tailnets map[tailnet.ID]*tailnet.Tailnet // those read and locked so far
	dropped  map[tailnet.ID]bool             // those deleted
	changes  []change
	elect    map[tailnet.ID]bool // primary routes to be elected at the end
	saved    bool                // the running operation has its savepoint
	broken   error               // why the whole transaction is lost
}

func (s *Store) newTx(ctx context.Context, conn *sql.Conn) *tx {
	return &tx{
		s: s, ctx: ctx, conn: conn, now: s.now(),
		tailnets: map[tailnet.ID]*tailnet.Tailnet{},
		dropped:  map[tailnet.ID]bool{},
		elect:    map[tailnet.ID]bool{},
	}
}

// run runs one operation. If it fails, what it did is undone, in the database and here.
func (t *tx) run(operation func(*tx) error) error {
	before, changes := t.copyTailnets(), len(t.changes)
	t.saved = false
	err := operation(t)
	if err == nil {
		if t.saved {
			_, err = t.conn.ExecContext(t.ctx, "RELEASE SAVEPOINT operation")
			t.broken = err
		}
		return err
	}
	t.tailnets, t.changes = before, t.changes[:changes]
	if t.s.engine.fault(err).broken {
		t.broken = err
		return err
	}
	if t.saved {
		if _, rollback := t.conn.ExecContext(t.ctx, "ROLLBACK TO SAVEPOINT operation"); rollback != nil {
			t.broken = errors.Join(err, rollback)
		} else if _, release := t.conn.ExecContext(t.ctx, "RELEASE SAVEPOINT operation"); release != nil {
			t.broken = errors.Join(err, release)
		}
	}
	return err
}

func (t *tx) copyTailnets() map[tailnet.ID]*tailnet.Tailnet {
	c := make(map[tailnet.ID]*tailnet.Tailnet, len(t.tailnets))
	for id, row := range t.tailnets {
		clone := *row
		c[id] = &clone
	}
	return c
}

// save makes the savepoint of the running operation, before its first write or lock.
func (t *tx) save() error {
	if t.saved {
		return nil
	}
	if _, err := t.conn.ExecContext(t.ctx, "SAVEPOINT operation"); err != nil {
		return err
	}
	t.saved = true
	return nil
}

// exec runs a statement and says how many rows it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	if err := t.save(); err != nil {
		return 0, err
	}
	res, err := t.conn.ExecContext(t.ctx, t.s.engine.rebind(query), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (t *tx) query(query string, args ...any) (*sql.Rows, error) {
	return t.conn.QueryContext(t.ctx, t.s.engine.rebind(query), args...)
}

func (t *tx) queryRow(query string, args ...any) *sql.Row {
	return t.conn.QueryRowContext(t.ctx, t.s.engine.rebind(query), args...)
}

// exists reports whether a query answers a row.
func (t *tx) exists(query string, args ...any) (bool, error) {
	var one int
	err := t.queryRow(query, args...).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// look is gorm in this transaction, for reading; edit is for writing.
func (t *tx) look() *gorm.DB {
	g := t.s.orm.Session(&gorm.Session{NewDB: true, Context: t.ctx})
	g.Statement.ConnPool = t.conn
	return g
}

func (t *tx) edit() *gorm.DB {
	g := t.look()
	if err := t.save(); err != nil {
		_ = g.AddError(err)
	}
	return g
}

// tailnet reads a tailnet and locks its row until the end of the transaction, so that of all processes only this one
// changes anything of it. What is read before must be read again.
func (t *tx) tailnet(id tailnet.ID) (*tailnet.Tailnet, error) {
	if row := t.tailnets[id]; row != nil {
		return row, nil
	}
	if t.s.engine.shared() {
		if err := t.save(); err != nil {
			return nil, err
		}
	}
	var row tailnet.Tailnet
	err := t.look().Clauses(clause.Locking{Strength: "UPDATE"}).Take(&row, id).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, fmt.Errorf("tailnet %d: %w", id, tailnet.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading tailnet %d: %w", id, err)
	}
	t.tailnets[id] = &row
	return &row, nil
}
