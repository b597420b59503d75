package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// follower wakes those who wait for commits.
type follower struct {
	workers

	timeline  atomic.Pointer[string] // of the database, as seen last; see timeline.go
	listening atomic.Bool            // notifications come
	deaf      atomic.Pointer[error]

	moved struct {
		sync.Mutex
		ch chan struct{}
	}
}

// Moved returns a channel that is closed at the next commit of this process, or of another one that uses the same
// PostgreSQL database. Take the channel first, then read; take a new one after it was closed.
func (s *Store) Moved() <-chan struct{} {
	m := &s.follower.moved
	m.Lock()
	defer m.Unlock()
	if m.ch == nil {
		m.ch = make(chan struct{})
	}
	return m.ch
}

func (s *Store) wake() {
	m := &s.follower.moved
	m.Lock()
	defer m.Unlock()
	if m.ch != nil {
		close(m.ch)
		m.ch = nil
	}
}

// startFollower starts to listen to the commits of other processes, if there may be any.
func (s *Store) startFollower() {
	ctx, cancel := context.WithCancel(context.Background())
	s.follower.stop = cancel
	if !s.engine.shared() {
		return
	}
	s.follower.wg.Go(func() { s.listenLoop(ctx) })
	s.follower.wg.Go(func() { s.pollLoop(ctx) })
	s.follower.wg.Go(func() { s.aliveLoop(ctx) })
}

func (s *Store) stopFollower() {
	s.follower.stop()
	s.follower.wg.Wait()
}

// Revisions says at which revision each tailnet is. The map is shared.
func (s *Store) Revisions(ctx context.Context) (map[tailnet.ID]tailnet.Revision, error) {
	if known := s.marks.revisions.Load(); known != nil {
		return *known, nil
	}
	return s.readRevisions(ctx)
}

func (s *Store) readRevisions(ctx context.Context) (map[tailnet.ID]tailnet.Revision, error) {
	rows, err := s.reads.QueryContext(ctx, "SELECT id, revision FROM tailnets")
	if err != nil {
		return nil, fmt.Errorf("reading revisions: %w", s.engine.explain(err))
	}
	defer rows.Close()
	revs := map[tailnet.ID]tailnet.Revision{}
	for rows.Next() {
		var id, rev int64
		if err := rows.Scan(&id, &rev); err != nil {
			return nil, fmt.Errorf("reading revisions: %w", err)
		}
		revs[tailnet.ID(id)] = tailnet.Revision(rev)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading revisions: %w", s.engine.explain(err))
	}
	return revs, nil
}

// Since says what changed in a tailnet after the revision from. For zero, and for a revision that is older than the
// log that is kept, the delta is Full; for a tailnet that is not there, Gone. The Tailnet in a delta has no Revision,
// NextV4 and NextV6: those are the store's own notes and move without a change of the tailnet.
func (s *Store) Since(ctx context.Context, id tailnet.ID, from tailnet.Revision) (tailnet.Delta, error) {
	var d tailnet.Delta
	err := s.view(ctx, func(v *view) (err error) {
		d, err = v.since(id, from)
		return err
	})
	if err != nil {
		return tailnet.Delta{}, fmt.Errorf("reading what changed in tailnet %d: %w", id, err)
	}
	return d, nil
}

// view is a transaction in which all reads see the same moment.
type view struct {
	s    *Store
	ctx  context.Context
	conn *sql.Conn
}

func (s *Store) view(ctx context.Context, read func(*view) error) error {
	conn, err := s.reads.Conn(ctx)
	if err != nil {
		return s.engine.explain(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, s.engine.beginRead()); err != nil {
		abandon(conn)
		return s.engine.explain(err)
	}
	defer abandon(conn)
	return s.engine.explain(read(&view{s: s, ctx: ctx, conn: conn}))
}

func (v *view) query(query string, args ...any) (*sql.Rows, error) {
	return v.conn.QueryContext(v.ctx, v.s.engine.rebind(query), args...)
}

func (v *view) look() *gorm.DB {
	g := v.s.orm.Session(&gorm.Session{NewDB: true, Context: v.ctx})
	g.Statement.ConnPool = v.conn
	return g
}

func (v *view) since(id tailnet.ID, from tailnet.Revision) (tailnet.Delta, error) {
	changed, newest, err := v.changes(id, from)
	if err != nil {
		return tailnet.Delta{}, err
	}
	d := tailnet.Delta{Rev: newest}
	if newest != 0 && len(changed[kindTailnet]) == 0 { // nearly always: the row itself need not be read
		return d, v.pick(&d, id, changed)
	}
	row, err := v.tailnet(id)
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return tailnet.Delta{Gone: true}, nil
	}
	if err != nil {
		return tailnet.Delta{}, err
	}
	d.Rev = row.Revision
	if from == d.Rev {
		return d, nil
	}
	row.Revision, row.NextV4, row.NextV6 = 0, netip.Addr{}, netip.Addr{}
	d.Tailnet = row
	if newest == 0 {
		d.Full = true
		return d, v.fill(&d, id)
	}
	return d, v.pick(&d, id, changed)
}

func (v *view) tailnet(id tailnet.ID) (*tailnet.Tailnet, error) {
	var row tailnet.Tailnet
	if err := v.look().Take(&row, "id = ?", int64(id)).Error; err != nil {
		return nil, err
	}
	return &row, nil
}

// changes reads the log after a revision, as object IDs by kind, and says which revision is the newest; 0 if the log has
// not, or no longer, the revision that came next.
func (v *view) changes(id tailnet.ID, from tailnet.Revision) (_ map[string][]uint64, newest tailnet.Revision, _ error) {
	if from == 0 {
		return nil, 0, nil
	}
	rows, err := v.query("SELECT kind, object_id, MIN(revision), MAX(revision) FROM changes WHERE tailnet_id = ? AND revision > ? GROUP BY kind, object_id",
		int64(id), int64(from))
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	byKind := map[string][]uint64{}
	whole := false
	for rows.Next() {
		var kind string
		var object, first, last int64
		if err := rows.Scan(&kind, &object, &first, &last); err != nil {
			return nil, 0, err
		}
		byKind[kind] = append(byKind[kind], uint64(object))
		whole = whole || tailnet.Revision(first) == from+1
		newest = max(newest, tailnet.Revision(last))
	}
	if !whole {
		newest = 0
	}
	return byKind, newest, rows.Err()
}

// fill reads everything of a tailnet.
func (v *view) fill(d *tailnet.Delta, id tailnet.ID) (err error) {
	if d.Nodes, err = v.nodes("n.tailnet_id = ?", int64(id)); err != nil {
		return err
	}
	if err = v.look().Where("tailnet_id = ?", int64(id)).Order("id").Find(&d.Users).Error; err != nil {
		return fmt.Errorf("reading users: %w", err)
	}
	if d.Relays, err = readRelays(v.relays(id).Order("id"), v.look()); err != nil {
		return fmt.Errorf("reading relays: %w", err)
	}
	if d.Regions, err = v.regions(id); err != nil {
		return err
	}
	if d.Settings, err = readSettings(v, id); err != nil {
		return err
	}
	d.Policy, err = newestPolicy(v.look(), id)
	return err
}

// relays begins a query for the relays that serve a tailnet.
func (v *view) relays(id tailnet.ID) *gorm.DB {
	return v.look().Where("(tailnet_id IS NULL OR tailnet_id = ?)", int64(id))
}

// regions reads those in which a relay serves the tailnet.
func (v *view) regions(id tailnet.ID) ([]*tailnet.RelayRegion, error) {
	regions := []*tailnet.RelayRegion{}
	err := v.look().Where("id IN (SELECT region_id FROM relays WHERE tailnet_id IS NULL OR tailnet_id = ?)", int64(id)).
		Order("id").Find(&regions).Error
	if err != nil {
		return nil, fmt.Errorf("reading regions: %w", err)
	}
	return regions, nil
}

// idsPerQuery keeps the number of arguments below what both engines allow.
const idsPerQuery = 500

// pick reads those objects that changed. Those that are not there any more are told as gone.
func (v *view) pick(d *tailnet.Delta, id tailnet.ID, changed map[string][]uint64) (err error) {
	for ids := range slices.Chunk(changed[kindNode], idsPerQuery) {
		nodes, err := v.nodes("n.id IN ("+marks(len(ids))+")", signed(ids)...)
		if err != nil {
			return err
		}
		d.Nodes = append(d.Nodes, nodes...)
		d.NodesGone = append(d.NodesGone, missing(ids, nodes, func(n *tailnet.Node) tailnet.NodeID { return n.ID })...)
	}
	for ids := range slices.Chunk(changed[kindUser], idsPerQuery) {
		var users []*tailnet.User
		if err := v.look().Where("id IN ?", signed(ids)).Find(&users).Error; err != nil {
			return fmt.Errorf("reading users: %w", err)
		}
		d.Users = append(d.Users, users...)
		d.UsersGone = append(d.UsersGone, missing(ids, users, func(u *tailnet.User) tailnet.UserID { return u.ID })...)
	}
	for ids := range slices.Chunk(changed[kindRelay], idsPerQuery) {
		relays, err := readRelays(v.relays(id).Where("id IN ?", signed(ids)), v.look())
		if err != nil {
			return fmt.Errorf("reading relays: %w", err)
		}
		d.Relays = append(d.Relays, relays...)
		d.RelaysGone = append(d.RelaysGone, missing(ids, relays, func(r *tailnet.Relay) tailnet.RelayID { return r.ID })...)
	}
	if len(changed[kindRelay])+len(changed[kindRegion]) > 0 {
		if d.Regions, err = v.regions(id); err != nil {
			return err
		}
	}
	if len(changed[kindSettings]) > 0 {
		if d.Settings, err = readSettings(v, id); err != nil {
			return err
		}
	}
	if len(changed[kindPolicy]) > 0 {
		d.Policy, err = newestPolicy(v.look(), id)
	}
	return err
}

func (v *view) nodes(where string, args ...any) ([]*tailnet.Node, error) {
	rows, err := v.query(selectNodes+" WHERE "+where+" ORDER BY n.id", args...)
	if err != nil {
		return nil, fmt.Errorf("reading nodes: %w", err)
	}
	return scanNodes(rows)
}

// missing are those of ids that found has not.
func missing[ID ~uint64, T any](ids []uint64, found []T, idOf func(T) ID) []ID {
	if len(found) == len(ids) {
		return nil
	}
	there := make(map[ID]bool, len(found))
	for _, f := range found {
		there[idOf(f)] = true
	}
	var gone []ID
	for _, id := range ids {
		if !there[ID(id)] {
			gone = append(gone, ID(id))
		}
	}
	return gone
}

// marks is n question marks with commas between them.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

func signed[ID ~uint64](ids []ID) []any {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = int64(id)
	}
	return args
}
