package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// tx is the transaction of one group. Operations run in it one after the other and see what those before them wrote. A
// careful transaction gives each a savepoint to go back to.
type tx struct {
	s    *Store
	ctx  context.Context
	conn *sql.Conn
	now  time.Time

	tailnets map[tailnet.ID]*tailnet.Tailnet  // those read and locked so far
	keys     map[string]*tailnet.PreAuthKey   // those read so far, by prefix: a herd often joins with one
	dropped  map[tailnet.ID]bool              // those deleted
	ahead    map[tailnet.NodeID]*tailnet.Node // rows that were read and not changed since
	revised  map[tailnet.ID]tailnet.Revision  // where those that changed or were made are now
	touched  [topics]bool
	undone   bool            // an operation failed that had written: dropped and revised may tell of what was taken back
	caller   context.Context // of the running operation
	changes  []change
	entries  []tailnet.AuditEntry // for the audit log
	news     []news               // for webhooks
	elect    map[tailnet.ID]bool  // primary routes to be elected at the end
	careful  bool
	wrote    bool  // the running operation wrote or locked something, after its savepoint if it has one
	guess    bool  // names and addresses are taken to be free without a look
	broken   error // why the whole transaction is lost
}

func (s *Store) newTx(ctx context.Context, conn *sql.Conn, careful bool) *tx {
	return &tx{
		s: s, ctx: ctx, caller: ctx, conn: conn, now: s.now(), careful: careful,
		tailnets: map[tailnet.ID]*tailnet.Tailnet{},
		keys:     map[string]*tailnet.PreAuthKey{},
		dropped:  map[tailnet.ID]bool{},
		ahead:    map[tailnet.NodeID]*tailnet.Node{},
		revised:  map[tailnet.ID]tailnet.Revision{},
		elect:    map[tailnet.ID]bool{},
	}
}

// run runs one operation. If it fails, what it did is undone, in the database and here, or the transaction is broken.
func (t *tx) run(operation func(*tx) error) error {
	before, changes, entries, told := t.copyTailnets(), len(t.changes), len(t.entries), len(t.news)
	t.wrote = false
	err := operation(t)
	if err == nil {
		if t.wrote && t.careful {
			t.broken = t.command("RELEASE SAVEPOINT operation")
		}
		return t.broken
	}
	t.tailnets, t.changes, t.entries, t.news = before, t.changes[:changes], t.entries[:entries], t.news[:told]
	clear(t.keys)
	t.undone = t.undone || t.wrote
	t.broken = t.undo(err)
	return err
}

// errCareful is that an operation failed and left something behind in a transaction without savepoints.
var errCareful = errors.New("the group has to be run with savepoints")

// undo takes back what an operation wrote before it failed with err. Its error is why that cannot be done.
func (t *tx) undo(err error) error {
	fault := t.s.engine.fault(err)
	switch {
	case fault.broken:
		return err
	case !t.careful && (t.wrote || fault.stuck):
		return errCareful
	case !t.careful || !t.wrote:
		return nil
	}
	if undone := errors.Join(t.command("ROLLBACK TO SAVEPOINT operation"), t.command("RELEASE SAVEPOINT operation")); undone != nil {
		return errors.Join(err, undone)
	}
	return nil
}

func (t *tx) command(statement string) error {
	_, err := t.conn.ExecContext(t.ctx, statement)
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

// save makes the savepoint of the running operation, if it shall have one, before its first write or lock.
func (t *tx) save() error {
	if t.wrote {
		return nil
	}
	t.wrote = true
	if !t.careful {
		return nil
	}
	return t.command("SAVEPOINT operation")
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

// insert runs an INSERT into a table with an ID and says which the new row has; 0 if there is none because of
// orNothing.
func (t *tx) insert(query string, args ...any) (id int64, err error) {
	if err := t.save(); err != nil {
		return 0, err
	}
	if t.s.engine.returning() {
		err := t.queryRow(query+" RETURNING id", args...).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return 0, nil
		}
		return id, err
	}
	res, err := t.conn.ExecContext(t.ctx, t.s.engine.rebind(query), args...)
	if err != nil {
		return 0, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return 0, err
	}
	return res.LastInsertId()
}

// orNothing ends an INSERT that does nothing where it would break a unique constraint.
const orNothing = " ON CONFLICT DO NOTHING"

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
	row := &tailnet.Tailnet{}
	err := t.queryRow(selectTailnet+t.s.engine.forUpdate(), int64(id)).Scan(number(&row.ID), word(&row.Name), number(&row.Revision),
		text(&row.PrefixV4), text(&row.PrefixV6), text(&row.NextV4), text(&row.NextV6), instant(&row.CreatedAt))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("tailnet %d: %w", id, tailnet.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("table tailnets, row %d: %w", id, err)
	}
	t.tailnets[id] = row
	return row, nil
}

const selectTailnet = "SELECT id, name, revision, prefix_v4, prefix_v6, next_v4, next_v6, created_at FROM tailnets WHERE id = ?"
