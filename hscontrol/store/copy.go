package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// CopyOptions say what Copy does beside copying rows.
type CopyOptions struct {
	// Progress is told of each table, again and again while it is long; nil: nobody is.
	Progress func(table string, done, all int)
	// Secrets gives what the target's secrets are, from those of the source: the servers of the target may seal them
	// otherwise, or have no use for them. Nil: none.
	Secrets func(source map[string][]byte) (map[string][]byte, error)
}

// copied are the tables in an order that no reference points forward. Not among them: schema_version, which the target
// has of its own, replicas, the servers that are alive, and secrets, see CopyOptions.
var copied = []string{
	"tailnets", "changes", "users", "pre_auth_keys", "api_keys", "policy_versions", "nodes", "sessions", "registrations", "ssh_checks",
	"relay_keys", "relay_regions", "relays", "relay_removals", "relay_sessions", "relay_loads", "relay_traffic",
}

// copyRows is how many rows are written at once, as far as maxArgs allows.
const (
	copyRows = 200
	maxArgs  = 30_000
)

// Copy copies a whole database into another that is empty, which may be of the other engine: all rows with their IDs,
// the revisions and the log, and which ID comes next. What was written is read again and compared, before it is
// committed. No server may use the source meanwhile, nor the target.
func Copy(ctx context.Context, from, to Config, opts CopyOptions) (rows int, err error) {
	source, err := openBare(ctx, from, true)
	if err != nil {
		return 0, fmt.Errorf("opening the database to copy from: %w", err)
	}
	defer func() { err = errors.Join(err, source.closePools()) }()
	target, err := openBare(ctx, to, false)
	if err != nil {
		return 0, fmt.Errorf("opening the database to copy to: %w", err)
	}
	defer func() { err = errors.Join(err, target.closePools()) }()
	src, err := source.transaction(ctx, source.reads, source.engine.beginRead())
	if err != nil {
		return 0, fmt.Errorf("reading the database to copy from: %w", err)
	}
	defer src.end()
	dst, err := target.transaction(ctx, target.writes, target.engine.begin())
	if err != nil {
		return 0, fmt.Errorf("writing the database to copy to: %w", err)
	}
	defer dst.end()
	if err := errors.Join(src.quiet(), dst.quiet(), dst.empty()); err != nil {
		return 0, err
	}
	if opts.Progress == nil {
		opts.Progress = func(string, int, int) {}
	}
	for _, table := range copied {
		n, err := copyTable(src, dst, table, opts.Progress)
		if err != nil {
			return 0, fmt.Errorf("copying table %s: %w", table, target.engine.explain(source.engine.explain(err)))
		}
		rows += n
	}
	if err := errors.Join(copySequences(src, dst), copySecrets(src, dst, opts.Secrets)); err != nil {
		return 0, err
	}
	if err := dst.exec("COMMIT"); err != nil {
		return 0, fmt.Errorf("writing the database to copy to: %w", target.engine.explain(err))
	}
	return rows, nil
}

// openBare opens a database without the writer, the follower and the rows that a server makes. One to copy from has to
// be there, and of this program's version; one to copy to gets its tables.
func openBare(ctx context.Context, cfg Config, there bool) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if there && cfg.Type == "sqlite" {
		if _, err := os.Stat(cfg.SQLite.Path); err != nil {
			return nil, err
		}
	}
	eng, err := newEngine(cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, engine: eng}
	if err := s.connectBare(ctx, there); err != nil {
		return nil, errors.Join(eng.explain(err), s.closePools())
	}
	return s, nil
}

func (s *Store) connectBare(ctx context.Context, there bool) (err error) {
	if s.writes, s.reads, err = s.engine.connect(s.cfg); err != nil {
		return err
	}
	if !there {
		return s.migrate(ctx)
	}
	conn, err := s.writes.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	version, err := s.schemaVersion(ctx, conn)
	if err == nil && version != len(migrations) {
		err = fmt.Errorf("%w: its schema is version %d, and version %d is copied: have a server of this program use it once, then stop it", tailnet.ErrInvalid, version, len(migrations))
	}
	return err
}

// bare is a transaction of one who copies.
type bare struct {
	s    *Store
	ctx  context.Context
	conn *sql.Conn
}

func (s *Store) transaction(ctx context.Context, pool *sql.DB, begin string) (*bare, error) {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, s.engine.explain(err)
	}
	b := &bare{s, ctx, conn}
	if err := b.exec(begin); err != nil {
		return nil, errors.Join(s.engine.explain(err), conn.Close())
	}
	return b, nil
}

// end undoes what was not committed.
func (b *bare) end() {
	abandon(b.conn)
	b.conn.Close()
}

func (b *bare) exec(query string, args ...any) error {
	_, err := b.conn.ExecContext(b.ctx, b.s.engine.rebind(query), args...)
	return err
}

func (b *bare) count(table string) (n int, err error) {
	err = b.conn.QueryRowContext(b.ctx, "SELECT count(*) FROM "+table).Scan(&n)
	return n, err
}

// quiet is an error if a server uses the database. With SQLite the lock of the file has told that already.
func (b *bare) quiet() error {
	if !b.s.engine.shared() {
		return nil
	}
	var alive int
	err := b.conn.QueryRowContext(b.ctx, "SELECT count(*) FROM replicas WHERE seen_at > now() - interval '1 millisecond' * $1",
		b.s.cfg.DeadAfter.Milliseconds()).Scan(&alive)
	if err != nil {
		return b.s.engine.explain(err)
	}
	if alive > 0 {
		return fmt.Errorf("%w: %d servers use the database %q: stop them, and wait %v after the last was killed",
			tailnet.ErrConflict, alive, b.s.cfg.Postgres.Name, b.s.cfg.DeadAfter)
	}
	return nil
}

func (b *bare) empty() error {
	for _, table := range append(slices.Clone(copied), "secrets") {
		n, err := b.count(table)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%w: the database to copy to is not empty, table %s has %d rows: give an empty one", tailnet.ErrConflict, table, n)
		}
	}
	return nil
}

// column is one of a table, and what its values are: int, text, bool, time, bytes or float.
type column struct{ name, kind string }

// columns are those of a table, in the order of their names.
func (b *bare) columns(table string) (columns []column, err error) {
	query := "SELECT name, lower(type) FROM pragma_table_info(?) ORDER BY name"
	if b.s.engine.shared() {
		query = "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1 ORDER BY column_name"
	}
	rows, err := b.conn.QueryContext(b.ctx, query, table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	kinds := map[string]string{
		"integer": "int", "bigint": "int", "text": "text", "boolean": "bool", "datetime": "time",
		"timestamp with time zone": "time", "blob": "bytes", "bytea": "bytes", "double precision": "float",
	}
	for rows.Next() {
		var c column
		var typ string
		if err := rows.Scan(&c.name, &typ); err != nil {
			return nil, err
		}
		if c.kind = kinds[typ]; c.kind == "" {
			return nil, fmt.Errorf("column %s.%s has type %s, which is not known", table, c.name, typ)
		}
		columns = append(columns, c)
	}
	return columns, rows.Err()
}

func names(columns []column) string {
	var all []string
	for _, c := range columns {
		all = append(all, c.name)
	}
	return strings.Join(all, ", ")
}

// each reads all rows of a table, in one form whichever engine they are from.
func (b *bare) each(table string, columns []column, do func([]any) error) error {
	rows, err := b.conn.QueryContext(b.ctx, "SELECT "+names(columns)+" FROM "+table)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for i, c := range columns {
			if values[i], err = plainValue(c.kind, values[i]); err != nil {
				return fmt.Errorf("column %s: %w", c.name, err)
			}
		}
		if err := do(values); err != nil {
			return err
		}
	}
	return rows.Err()
}

// plainValue is a value as both engines take it.
func plainValue(kind string, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	switch kind {
	case "int":
		if n, ok := v.(int64); ok {
			return n, nil
		}
	case "text":
		b, err := bytesOf(v)
		return string(b), err
	case "bytes":
		b, err := bytesOf(v)
		return slices.Clone(b), err
	case "bool":
		switch v := v.(type) {
		case bool:
			return v, nil
		case int64:
			return v != 0, nil
		}
	case "time":
		if at, ok := v.(time.Time); ok {
			return storable(at), nil
		}
	case "float":
		switch v := v.(type) {
		case float64:
			return v, nil
		case int64:
			return float64(v), nil
		}
	}
	return nil, fmt.Errorf("%T is no %s", v, kind)
}

// copyTable copies one table, reads it again, and compares the rows.
func copyTable(src, dst *bare, table string, progress func(string, int, int)) (int, error) {
	columns, err := src.columns(table)
	if err != nil {
		return 0, err
	}
	theirs, err := dst.columns(table)
	if err != nil {
		return 0, err
	}
	if !slices.Equal(columns, theirs) {
		return 0, fmt.Errorf("the columns are %v there and %v here", columns, theirs)
	}
	all, err := src.count(table)
	if err != nil {
		return 0, err
	}
	done, read := 0, new(digest)
	progress(table, 0, all)
	var batch []any
	write := func() error {
		n := len(batch) / len(columns)
		if n == 0 {
			return nil
		}
		row := "(" + marks(len(columns)) + ")"
		query := "INSERT INTO " + table + " (" + names(columns) + ") VALUES " + strings.TrimSuffix(strings.Repeat(row+", ", n), ", ")
		if err := dst.exec(query, batch...); err != nil {
			return err
		}
		done += n
		progress(table, done, all)
		batch = batch[:0]
		return nil
	}
	most := min(copyRows, maxArgs/len(columns))
	err = src.each(table, columns, func(row []any) error {
		read.add(row)
		if batch = append(batch, row...); len(batch) == most*len(columns) {
			return write()
		}
		return nil
	})
	if err == nil {
		err = write()
	}
	if err != nil {
		return 0, err
	}
	return done, verify(dst, table, columns, all, read)
}

// verify reads what was written.
func verify(dst *bare, table string, columns []column, all int, want *digest) error {
	got := new(digest)
	if err := dst.each(table, columns, func(row []any) error { got.add(row); return nil }); err != nil {
		return fmt.Errorf("reading it again: %w", err)
	}
	if got.rows != all || want.rows != all || got.sum.Cmp(&want.sum) != 0 {
		return fmt.Errorf("the copy is not the same: %d rows were there, %d were read, %d are in the copy, or some differ; nothing was kept", all, want.rows, got.rows)
	}
	return nil
}

// digest is the sum of the SHA-256 of rows, the same in whatever order they come.
type digest struct {
	rows int
	sum  big.Int
}

func (d *digest) add(row []any) {
	h := sha256.New()
	part := func(kind byte, b []byte) {
		var head [9]byte
		head[0] = kind
		binary.BigEndian.PutUint64(head[1:], uint64(len(b)))
		h.Write(head[:])
		h.Write(b)
	}
	for _, v := range row {
		switch v := v.(type) {
		case nil:
			part('-', nil)
		case int64:
			part('i', binary.BigEndian.AppendUint64(nil, uint64(v)))
		case string:
			part('s', []byte(v))
		case []byte:
			part('b', v)
		case bool:
			part('t', []byte{map[bool]byte{true: 1}[v]})
		case float64:
			part('f', binary.BigEndian.AppendUint64(nil, math.Float64bits(v)))
		case time.Time:
			part('m', binary.BigEndian.AppendUint64(nil, uint64(v.UnixMicro())))
		}
	}
	d.rows++
	d.sum.Add(&d.sum, new(big.Int).SetBytes(h.Sum(nil)))
}

// counted are the tables that give out IDs.
func counted() (tables []string) {
	for _, statements := range migrations {
		for _, statement := range statements {
			if name, rest, ok := strings.Cut(strings.TrimPrefix(statement, "CREATE TABLE "), " "); ok && strings.Contains(rest, "id {id}") {
				tables = append(tables, name)
			}
		}
	}
	return tables
}

// copySequences has the target go on with the IDs where the source stopped: the ID of a deleted row is not used again.
func copySequences(src, dst *bare) error {
	for _, table := range counted() {
		last, err := src.lastID(table)
		if err == nil && last > 0 {
			err = dst.setLastID(table, last)
		}
		if err != nil {
			return fmt.Errorf("copying the last ID of table %s: %w", table, err)
		}
	}
	return nil
}

func (b *bare) lastID(table string) (last int64, err error) {
	query := "SELECT seq FROM sqlite_sequence WHERE name = '" + table + "'"
	if b.s.engine.shared() {
		var sequence string
		if err := b.conn.QueryRowContext(b.ctx, "SELECT pg_get_serial_sequence($1, 'id')", table).Scan(&sequence); err != nil {
			return 0, err
		}
		query = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM " + sequence
	}
	err = b.conn.QueryRowContext(b.ctx, query).Scan(&last)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return last, err
}

func (b *bare) setLastID(table string, last int64) error {
	if b.s.engine.shared() {
		return b.exec("SELECT setval(pg_get_serial_sequence(?, 'id'), ?)", table, last)
	}
	if err := b.exec("DELETE FROM sqlite_sequence WHERE name = ?", table); err != nil {
		return err
	}
	return b.exec("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", table, last)
}

func copySecrets(src, dst *bare, change func(map[string][]byte) (map[string][]byte, error)) error {
	if change == nil {
		return nil
	}
	had := map[string][]byte{}
	err := src.each("secrets", []column{{"name", "text"}, {"sealed", "bytes"}}, func(row []any) error {
		had[row[0].(string)] = row[1].([]byte)
		return nil
	})
	if err != nil {
		return fmt.Errorf("copying secrets: %w", err)
	}
	secrets, err := change(had)
	if err != nil {
		return err
	}
	for name, sealed := range secrets {
		if err := dst.exec("INSERT INTO secrets (name, sealed, created_at) VALUES (?, ?, ?)", name, sealed, dst.s.now()); err != nil {
			return fmt.Errorf("copying secret %s: %w", name, err)
		}
	}
	return nil
}
