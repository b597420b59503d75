package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

var (
	errClosed  = errors.New("the store is closed")
	errBusy    = errors.New("too much waits to be written")
	errBadConn = driver.ErrBadConn
)

const (
	groupSize = 256 // operations in one transaction at most
	queueSize = 1024
	attempts  = 5 // of a group that lost against another process's transaction
)

// writer takes operations one after the other, as many as wait, into one transaction, the group: a commit that reaches the disk
// costs milliseconds, however much is in it. While one group is committed the next gathers.
type writer struct {
	queue chan *operation
	quit  chan struct{} // closed by Close
	ended chan struct{} // closed by the writer when it takes nothing more

	groups, operations atomic.Uint64
	took               atomic.Int64 // nanoseconds
}

// operation is one use case that waits for its group. run may be called again if the group has to be tried again.
type operation struct {
	ctx   context.Context
	run   func(*tx) error
	of    tailnet.NodeID // whose row it begins with; zero: it may be any
	taken atomic.Bool    // by the writer, which will answer, or by its caller, who went away
	err   error
	done  chan struct{} // closed by the answer
	after func(error)   // called with the answer; nil: nothing is
}

// Stats counts what the writer has done.
type Stats struct {
	Groups     uint64        // groups of operations, a transaction each
	Operations uint64        // operations run in them
	Waiting    int           // operations that wait for the next
	Took       time.Duration // to run and commit the groups, in all
}

// Stats says what the writer has done since Open, and what it still has to do.
func (s *Store) Stats() Stats {
	return Stats{Groups: s.writer.groups.Load(), Operations: s.writer.operations.Load(), Waiting: len(s.writer.queue), Took: time.Duration(s.writer.took.Load())}
}

func (s *Store) startWriter() {
	s.writer.queue = make(chan *operation, queueSize)
	s.writer.quit = make(chan struct{})
	s.writer.ended = make(chan struct{})
	go s.writeLoop()
}

func (s *Store) stopWriter() {
	close(s.writer.quit)
	<-s.writer.ended
}

// write runs an operation in the next group and returns when that is committed. If ctx is done before the operation
// runs, nothing is written; once it runs, its outcome is waited for.
func (s *Store) write(ctx context.Context, run func(*tx) error) error {
	return s.writeNode(ctx, 0, run)
}

// writeNode is write for an operation that begins with the row of a node: a group reads those in few statements.
func (s *Store) writeNode(ctx context.Context, id tailnet.NodeID, run func(*tx) error) error {
	op := &operation{ctx: ctx, run: run, of: id, done: make(chan struct{})}
	select {
	case <-s.writer.quit:
		return errClosed
	default:
	}
	select {
	case s.writer.queue <- op:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.writer.quit:
		return errClosed
	}
	select {
	case <-op.done:
		return op.err
	case <-ctx.Done():
		return op.leave(ctx.Err())
	case <-s.writer.ended:
		return op.leave(errClosed)
	}
}

// writeSoon has an operation run in one of the next groups and does not wait for it. after is told what came of it, by the
// writer, which it must not keep waiting.
func (s *Store) writeSoon(run func(*tx) error, after func(error)) {
	op := &operation{ctx: context.Background(), run: run, after: after, done: make(chan struct{})}
	select {
	case s.writer.queue <- op:
	default:
		after(errBusy)
	}
}

// leave goes away with the given reason, unless the writer has taken the operation: then its outcome counts.
func (op *operation) leave(reason error) error {
	if op.taken.CompareAndSwap(false, true) {
		return reason
	}
	<-op.done
	return op.err
}

func (s *Store) writeLoop() {
	defer close(s.writer.ended)
	for {
		select {
		case op := <-s.writer.queue:
			s.writeGroup(s.gather(op))
		case <-s.writer.quit:
			return
		}
	}
}

// gather takes what waits in the queue, less what nobody waits for any more.
func (s *Store) gather(op *operation) []*operation {
	var group []*operation
	for {
		if op.taken.CompareAndSwap(false, true) {
			if err := op.ctx.Err(); err != nil {
				op.answer(err)
			} else {
				group = append(group, op)
			}
		}
		if len(group) == groupSize {
			return group
		}
		select {
		case op = <-s.writer.queue:
		default:
			return group
		}
	}
}

func (op *operation) answer(err error) {
	op.err = err
	if op.after != nil {
		op.after(err)
	}
	close(op.done)
}

// writeGroup runs a group and answers everyone in it.
func (s *Store) writeGroup(group []*operation) {
	if len(group) == 0 {
		return
	}
	s.writer.groups.Add(1)
	s.writer.operations.Add(uint64(len(group)))
	begun := time.Now()
	defer func() { s.writer.took.Add(int64(time.Since(begun))) }()
	var err error
	careful := false
	for n := range attempts {
		if err = s.tryGroup(group, careful); err == nil || !s.mayTryAgain(err, n) {
			break
		}
		careful = careful || errors.Is(err, errCareful)
	}
	if err == nil {
		s.wake()
	} else {
		s.doubt()
	}
	for _, op := range group {
		if err != nil {
			op.err = err
		}
		op.answer(s.engine.explain(op.err))
	}
}

// mayTryAgain reports whether nothing speaks against running the group anew after its nth attempt: an operation failed
// after it had written, another process's transaction won, or the connection turned out to be dead before anything was
// done on it.
func (s *Store) mayTryAgain(err error, n int) bool {
	var begin *beginError
	return errors.Is(err, errCareful) || s.engine.fault(err).again || n == 0 && s.engine.shared() && errors.As(err, &begin)
}

// beginError is that a transaction could not even be begun.
type beginError struct{ err error }

func (e *beginError) Error() string { return "beginning a transaction: " + e.err.Error() }
func (e *beginError) Unwrap() error { return e.err }

// tryGroup runs a group in one transaction. Its error is one of the whole group; those of single operations are left
// in them. Operations that fail after they wrote are rare, savepoints cost: only a careful attempt makes them.
func (s *Store) tryGroup(group []*operation, careful bool) (err error) {
	ctx := context.Background() // a caller that goes away must not break the others' transaction
	conn, err := s.writes.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, s.engine.begin()); err != nil {
		abandon(conn)
		return &beginError{err}
	}
	defer func() {
		switch {
		case err == nil:
		case s.engine.shared() && s.engine.fault(err).broken:
			discard(conn) // it may lead to a server that is the primary no more
		default:
			abandon(conn)
		}
	}()
	t := s.newTx(ctx, conn, careful)
	t.readAhead(group)
	for _, op := range group {
		if op.err = op.ctx.Err(); op.err != nil {
			continue
		}
		t.caller = op.ctx
		op.err = t.run(op.run)
		if t.broken != nil {
			return t.broken
		}
	}
	if err := t.finish(); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	s.remember(t)
	return nil
}

// abandon ends whatever transaction the connection is in. If that cannot be done the connection is thrown away.
func abandon(conn *sql.Conn) {
	if _, err := conn.ExecContext(context.Background(), "ROLLBACK"); err != nil {
		discard(conn)
	}
}

// discard has the connection closed instead of used again.
func discard(conn *sql.Conn) { _ = conn.Raw(func(any) error { return driver.ErrBadConn }) }
