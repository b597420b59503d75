package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// A database without a server: as one who copies opens it, and its rows in one form, whichever engine they are from.

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
