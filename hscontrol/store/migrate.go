package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// migrations are applied in this order, each once; the number of those applied is the version of the schema. One that
// was released is never edited: a change is a new one at the end. {id}, {int}, {time}, {bytes} and {norowid} stand for
// what each engine calls them.
//
// While several servers are upgraded one after the other, programs of two releases use one database. So a migration
// only adds: tables, indexes that are not unique, and columns that may be NULL or have a default. One that does more
// needs oldestProgram raised to it, and with it an upgrade for which all servers are stopped.
var migrations = [][]string{
	first,
	sshChecks,
	relays,
	secrets,
	grants,
	ledger,
	settings,
	probeAnswers,
	timelines,
}

// oldestProgram is the least version of the schema that a program must know to use a database that this program
// migrated. The schema_version table tells it to older programs. One that knows no scopes would open everything to every
// key.
const oldestProgram = 5

var first = []string{
	`CREATE TABLE tailnets (
		id {id}, name text NOT NULL, revision {int} NOT NULL DEFAULT 1,
		prefix_v4 text, prefix_v6 text, next_v4 text, next_v6 text,
		created_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX tailnet_name ON tailnets (name)`,

	// The change log. A revision that is here has all its rows.
	`CREATE TABLE changes (
		tailnet_id {int} NOT NULL REFERENCES tailnets (id) ON DELETE CASCADE,
		revision {int} NOT NULL, kind text NOT NULL, object_id {int} NOT NULL,
		PRIMARY KEY (tailnet_id, revision, kind, object_id)) {norowid}`,

	`CREATE TABLE users (
		id {id}, tailnet_id {int} NOT NULL REFERENCES tailnets (id),
		name text NOT NULL, display_name text NOT NULL, email text NOT NULL,
		provider text NOT NULL, provider_identifier text NOT NULL, profile_pic_url text NOT NULL, role text NOT NULL,
		created_at {time} NOT NULL, updated_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX user_name ON users (tailnet_id, name)`,
	`CREATE UNIQUE INDEX user_identity ON users (tailnet_id, provider_identifier) WHERE provider_identifier <> ''`,

	`CREATE TABLE pre_auth_keys (
		id {id}, tailnet_id {int} NOT NULL REFERENCES tailnets (id), user_id {int} REFERENCES users (id),
		prefix text NOT NULL, hash {bytes} NOT NULL, description text NOT NULL,
		reusable boolean NOT NULL, ephemeral boolean NOT NULL, used boolean NOT NULL,
		tags text, expiration {time}, created_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX pre_auth_key_prefix ON pre_auth_keys (prefix)`,
	`CREATE INDEX pre_auth_key_tailnet ON pre_auth_keys (tailnet_id)`,
	`CREATE INDEX pre_auth_key_user ON pre_auth_keys (user_id)`,

	`CREATE TABLE api_keys (
		id {id}, tailnet_id {int} REFERENCES tailnets (id), prefix text NOT NULL, hash {bytes} NOT NULL,
		expiration {time}, last_seen {time}, created_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX api_key_prefix ON api_keys (prefix)`,

	`CREATE TABLE policy_versions (
		id {id}, tailnet_id {int} NOT NULL REFERENCES tailnets (id),
		text text NOT NULL, source text NOT NULL, created_at {time} NOT NULL)`,
	`CREATE INDEX policy_version_tailnet ON policy_versions (tailnet_id, id)`,

	// auth_key_id keeps the ID of a key that was deleted; IDs are never used again.
	`CREATE TABLE nodes (
		id {id}, tailnet_id {int} NOT NULL REFERENCES tailnets (id),
		machine_key text NOT NULL, node_key text NOT NULL, disco_key text, nl_key text,
		user_id {int} REFERENCES users (id), tags text,
		hostname text NOT NULL, given_name text NOT NULL, name_pinned boolean NOT NULL,
		ipv4 text, ipv6 text,
		hostinfo text, endpoints text, endpoint_types text, home_derp {int} NOT NULL, cap_version {int} NOT NULL,
		approved_routes text, primary_routes text,
		register_method text NOT NULL, auth_key_id {int}, ephemeral boolean NOT NULL,
		expiry {time}, last_seen {time}, heard_at {time}, created_at {time} NOT NULL, updated_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX node_key ON nodes (node_key)`,
	`CREATE INDEX node_machine ON nodes (machine_key)`,
	`CREATE UNIQUE INDEX node_name ON nodes (tailnet_id, given_name)`,
	`CREATE UNIQUE INDEX node_ipv4 ON nodes (tailnet_id, ipv4)`,
	`CREATE UNIQUE INDEX node_ipv6 ON nodes (tailnet_id, ipv6)`,
	// Few nodes are routers, and few ephemeral: elections and the reaper read only those.
	`CREATE INDEX node_router ON nodes (tailnet_id) WHERE approved_routes IS NOT NULL`,
	`CREATE INDEX node_ephemeral ON nodes (id) WHERE ephemeral`,

	`CREATE TABLE sessions (
		node_id {int} PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
		id text NOT NULL, replica text NOT NULL, since {time} NOT NULL)`,
	`CREATE INDEX session_replica ON sessions (replica)`,

	// The servers that share the database; see replica.go.
	`CREATE TABLE replicas (name text PRIMARY KEY, seen_at {time} NOT NULL)`,

	`CREATE TABLE registrations (
		id text PRIMARY KEY, machine_key text NOT NULL, node_key text NOT NULL, old_node_key text, nl_key text,
		hostinfo text, cap_version {int} NOT NULL, ephemeral boolean NOT NULL, node_id {int}, rejected boolean NOT NULL,
		created_at {time} NOT NULL, expires_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX registration_node_key ON registrations (node_key)`,
	`CREATE INDEX registration_machine ON registrations (machine_key)`,
	`CREATE INDEX registration_expiry ON registrations (expires_at)`,
}

// sshChecks also has versions of policies say who set them.
var sshChecks = []string{
	`CREATE TABLE ssh_checks (
		id text PRIMARY KEY, tailnet_id {int} NOT NULL REFERENCES tailnets (id) ON DELETE CASCADE,
		src_id {int} NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
		dst_id {int} NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
		owner text NOT NULL, login text NOT NULL, verdict text NOT NULL, decided_by text NOT NULL, decided_at {time},
		created_at {time} NOT NULL, expires_at {time} NOT NULL)`,
	`CREATE INDEX ssh_check_login ON ssh_checks (dst_id, src_id, login)`,
	`CREATE INDEX ssh_check_src ON ssh_checks (src_id)`,
	`CREATE INDEX ssh_check_tailnet ON ssh_checks (tailnet_id)`,
	`CREATE INDEX ssh_check_expiry ON ssh_checks (expires_at)`,

	`ALTER TABLE policy_versions ADD COLUMN author text NOT NULL DEFAULT ''`,
	`ALTER TABLE policy_versions ADD COLUMN origin text NOT NULL DEFAULT ''`,
	`ALTER TABLE policy_versions ADD COLUMN note text NOT NULL DEFAULT ''`,
}

var relays = []string{
	`CREATE TABLE relay_keys (
		id {id}, tailnet_id {int} REFERENCES tailnets (id), prefix text NOT NULL, hash {bytes} NOT NULL,
		description text NOT NULL, reusable boolean NOT NULL, expires_at {time}, used_at {time}, created_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX relay_key_prefix ON relay_keys (prefix)`,

	// A region keeps its ID for good, so that it is the same one when a relay comes back to it.
	`CREATE TABLE relay_regions (
		id {int} PRIMARY KEY, tailnet_id {int} REFERENCES tailnets (id), code text NOT NULL, name text NOT NULL, mesh_key text NOT NULL)`,
	`CREATE UNIQUE INDEX relay_region_code ON relay_regions (COALESCE(tailnet_id, 0), code)`,

	`CREATE TABLE relays (
		id {id}, tailnet_id {int} REFERENCES tailnets (id), region_id {int} NOT NULL REFERENCES relay_regions (id),
		name text NOT NULL, machine_key text NOT NULL, key_id {int},
		version text NOT NULL, derp_key text, hostname text NOT NULL, addresses text, seen_from text, published text,
		derp_port {int} NOT NULL, stun_port {int} NOT NULL, port80 boolean NOT NULL, certificates text,
		draining boolean NOT NULL, healthy boolean NOT NULL, out_because text NOT NULL, created_at {time} NOT NULL)`,
	`CREATE UNIQUE INDEX relay_name ON relays (name)`,
	`CREATE UNIQUE INDEX relay_machine ON relays (machine_key)`,
	`CREATE INDEX relay_tailnet ON relays (tailnet_id)`,
	`CREATE INDEX relay_region ON relays (region_id)`,

	// A relay that was removed comes back only with a key that is younger than this.
	`CREATE TABLE relay_removals (machine_key text PRIMARY KEY, removed_at {time} NOT NULL)`,

	`CREATE TABLE relay_sessions (
		relay_id {int} PRIMARY KEY REFERENCES relays (id) ON DELETE CASCADE,
		id text NOT NULL, replica text NOT NULL, since {time} NOT NULL)`,
	`CREATE INDEX relay_session_replica ON relay_sessions (replica)`,

	// What changes all the time and is in no snapshot. A day is written as 20260301.
	`CREATE TABLE relay_loads (
		relay_id {int} PRIMARY KEY REFERENCES relays (id) ON DELETE CASCADE,
		clients {int} NOT NULL, cpu double precision NOT NULL, troubles text, seen_at {time} NOT NULL,
		started {time}, sent_bytes {int} NOT NULL, received_bytes {int} NOT NULL)`,
	`CREATE TABLE relay_traffic (
		relay_id {int} NOT NULL REFERENCES relays (id) ON DELETE CASCADE, day {int} NOT NULL,
		sent {int} NOT NULL, received {int} NOT NULL, PRIMARY KEY (relay_id, day)) {norowid}`,
}

// secrets are what the servers of one database share and the database's readers shall not see: sealed by a key that
// only the servers have.
var secrets = []string{
	`CREATE TABLE secrets (name text PRIMARY KEY, sealed {bytes} NOT NULL, created_at {time} NOT NULL)`,

	// The relays inside them; see replicarelay.go. A row outlives its replica, so that a server that starts again has
	// the same place.
	`CREATE TABLE replica_relays (
		derp_key text PRIMARY KEY, place {int} NOT NULL, replica text NOT NULL,
		about text NOT NULL, load text NOT NULL, seen_at {time} NOT NULL)`,
}

// oldest is missing before version 4.
const (
	versionTable = `CREATE TABLE schema_version (id {int} PRIMARY KEY, version {int} NOT NULL, oldest {int} NOT NULL DEFAULT 0)`
	addOldest    = `ALTER TABLE schema_version ADD COLUMN oldest {int} NOT NULL DEFAULT 0`
)

// migrate brings the schema to the newest version, all in one transaction.
func (s *Store) migrate(ctx context.Context) error {
	conn, err := s.writes.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer conn.Close()
	have, err := s.schemaVersion(ctx, conn)
	if err != nil || have >= len(migrations) {
		return err
	}
	if _, err := conn.ExecContext(ctx, s.engine.begin()); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	if err := s.applyMigrations(ctx, conn); err != nil {
		_, rollback := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		return errors.Join(err, rollback)
	}
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	return nil
}

func (s *Store) applyMigrations(ctx context.Context, conn *sql.Conn) error {
	exec := func(statement string, args ...any) error {
		_, err := conn.ExecContext(ctx, s.engine.rebind(s.engine.ddl(statement)), args...)
		return err
	}
	if lock := s.engine.migrationLock(); lock != "" {
		if err := exec(lock); err != nil {
			return fmt.Errorf("locking the schema: %w", err)
		}
	}
	have, err := s.schemaVersion(ctx, conn) // again: another process may have come first
	if err != nil {
		return err
	}
	if have >= len(migrations) {
		return nil
	}
	for version, statements := range migrations[have:] {
		for _, statement := range statements {
			if err := exec(statement); err != nil {
				return fmt.Errorf("migrating the schema to version %d: %w", have+version+1, err)
			}
		}
	}
	if have == 0 {
		if err := exec(versionTable); err != nil {
			return fmt.Errorf("noting the schema version: %w", err)
		}
		return exec("INSERT INTO schema_version (id, version, oldest) VALUES (1, ?, ?)", len(migrations), oldestProgram)
	}
	if have < 4 {
		if err := exec(addOldest); err != nil {
			return fmt.Errorf("noting the schema version: %w", err)
		}
	}
	return exec("UPDATE schema_version SET version = ?, oldest = ? WHERE id = 1", len(migrations), oldestProgram)
}

// schemaVersion is 0 for an empty database. A newer one than this program knows, and one that another program made,
// are errors.
func (s *Store) schemaVersion(ctx context.Context, conn *sql.Conn) (int, error) {
	has := func(table string) (bool, error) {
		var one int
		err := conn.QueryRowContext(ctx, s.engine.rebind(s.engine.hasTable()), table).Scan(&one)
		if errors.Is(err, sql.ErrNoRows) {
			return false, nil
		}
		return err == nil, err
	}
	if ours, err := has("schema_version"); err != nil || !ours {
		if err != nil {
			return 0, fmt.Errorf("reading the schema version: %w", err)
		}
		for _, table := range []string{"users", "nodes", "machines", "namespaces"} {
			if foreign, err := has(table); err != nil || foreign {
				return 0, errors.Join(err, fmt.Errorf("%w: the database has a table %q but was not made by this program: point database to an empty one",
					tailnet.ErrInvalid, table))
			}
		}
		return 0, nil
	}
	var version int
	if err := conn.QueryRowContext(ctx, "SELECT version FROM schema_version WHERE id = 1").Scan(&version); err != nil {
		return 0, fmt.Errorf("reading the schema version: %w", err)
	}
	if version <= len(migrations) {
		return version, nil
	}
	oldest := version
	if err := conn.QueryRowContext(ctx, "SELECT oldest FROM schema_version WHERE id = 1").Scan(&oldest); err != nil {
		return 0, fmt.Errorf("reading the schema version: %w", err)
	}
	if oldest > len(migrations) {
		return 0, fmt.Errorf("%w: its schema is version %d and needs a program that knows %d, this one knows %d: run the newer program, or restore a backup of before the upgrade",
			tailnet.ErrTooNew, version, oldest, len(migrations))
	}
	return version, nil // a newer program has added what this one need not know
}
