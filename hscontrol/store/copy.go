package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
// has of its own, replicas and replica_relays, the servers that are alive, probe_answers, which nobody waits for long,
// database_timelines, see timeline.go, and secrets, see CopyOptions.
var copied = []string{
	"tailnets", "changes", "users", "pre_auth_keys", "api_keys", "oauth_clients", "access_tokens", "policy_versions", "nodes", "sessions", "registrations", "ssh_checks",
	"relay_keys", "relay_regions", "relays", "relay_removals", "relay_sessions", "relay_loads", "relay_traffic",
	"tailnet_settings", "node_attributes", "services", "user_invites",
	"audit", "audit_head", "audit_streams", "webhooks", "webhook_deliveries", "webhook_marks",
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
