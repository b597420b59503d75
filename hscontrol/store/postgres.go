package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// PostgresConfig says where the server is.
type PostgresConfig struct {
	Host string // names or addresses with commas between them, or the directory of a unix socket; empty: localhost
	Port int    // 0: 5432. One that stands in Host, as in db1.example.com:5433, wins.
	Name string // of the database
	User string
	Pass string
	DSN  string // a URL or the keywords of libpq, in place of the five above and of SSL; empty: those count
	SSL  string // a mode of libpq ("disable", "require", "verify-full", ...); "true" is require, "false" or empty disable

	// AnswerTime is how long the database may say nothing while an answer is waited for. 0: 30 s.
	AnswerTime time.Duration

	MaxOpenConns    int           // 0: 10; one of them is the writer's
	MaxIdleConns    int           // 0: as MaxOpenConns; negative: none but the writer's
	ConnMaxIdleTime time.Duration // 0: an hour; negative: they are kept for as long as any
}

type postgresEngine struct{}

// channel is what commits are notified on.
const channel = "keelscale_moved"

func (e postgresEngine) connect(cfg Config) (writes, reads *sql.DB, err error) {
	pc, err := cfg.Postgres.parse()
	if err != nil {
		return nil, nil, err
	}
	answer := cfg.Postgres.AnswerTime
	if answer <= 0 {
		answer = answerTime
	}
	pc.DialFunc = dialImpatiently(answer) // of the pools: who listens waits for long
	open, idle, idleTime := cfg.Postgres.MaxOpenConns, cfg.Postgres.MaxIdleConns, cfg.Postgres.ConnMaxIdleTime
	if open <= 0 {
		open = 10
	}
	if idle == 0 {
		idle = open
	}
	if idle > 0 {
		idle = max(1, idle-1) // beside the writer's
	}
	if idleTime == 0 {
		idleTime = time.Hour
	}
	if pooled, err := behindPooler(pc); err == nil && pooled { // an error is told by the first use
		// What is prepared on one connection of a pooler is not there on the next.
		pc.DefaultQueryExecMode = pgx.QueryExecModeExec
		cfg.Log.Info("a connection pooler stands before PostgreSQL: statements are not prepared")
	}
	writes, reads = stdlib.OpenDB(*pc), stdlib.OpenDB(*pc)
	writes.SetMaxOpenConns(1)
	for _, db := range []*sql.DB{writes, reads} {
		db.SetConnMaxLifetime(connLife)
	}
	reads.SetMaxOpenConns(max(1, open-1))
	reads.SetMaxIdleConns(idle)
	reads.SetConnMaxIdleTime(idleTime)
	return writes, reads, nil
}

// connLife is when a connection is made anew: after a failover those that are left lead to the wrong server.
const connLife = 10 * time.Minute

// behindPooler reports whether something like pgbouncer stands in between: it tells its clients other process IDs than
// those of the servers' processes.
func behindPooler(pc *pgx.ConnConfig) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, pc.Copy())
	if err != nil {
		return false, err
	}
	defer conn.Close(ctx)
	var pid uint32
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&pid); err != nil {
		return false, err
	}
	return pid != conn.PgConn().PID(), nil
}

func (c PostgresConfig) parse() (*pgx.ConnConfig, error) {
	if c.DSN != "" {
		return c.parseDSN()
	}
	if c.Name == "" {
		return nil, fmt.Errorf("%w: the name of the PostgreSQL database is empty: set database.postgres.name", tailnet.ErrInvalid)
	}
	mode := c.SSL
	switch mode {
	case "", "false":
		mode = "disable"
	case "true":
		mode = "require"
	}
	q := url.Values{"sslmode": {mode}, "connect_timeout": {"10"}, "application_name": {"keelscale"}, "timezone": {"UTC"}}
	host, port := c.Host, 5432
	if host == "" {
		host = "localhost"
	}
	if c.Port != 0 {
		port = c.Port
	}
	u := url.URL{Scheme: "postgres", Path: "/" + c.Name, User: url.User(c.User)}
	if c.Pass != "" {
		u.User = url.UserPassword(c.User, c.Pass)
	}
	if strings.HasPrefix(host, "/") {
		q.Set("host", host)
		q.Set("port", strconv.Itoa(port))
	} else {
		var places []string
		for one := range strings.SplitSeq(host, ",") {
			places = append(places, addressOf(strings.TrimSpace(one), port))
		}
		if u.Host = strings.Join(places, ","); len(places) > 1 {
			q.Set("target_session_attrs", "read-write") // the primary among them
		}
	}
	u.RawQuery = q.Encode()
	pc, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, fmt.Errorf("reading database.postgres: %w", &hiddenError{err, c.Pass})
	}
	pc.DialFunc = dial
	return pc, nil
}

// addressOf is a host with a port: its own, or the usual one.
func addressOf(host string, usual int) string {
	if name, port, err := net.SplitHostPort(host); err == nil {
		return net.JoinHostPort(name, port)
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(usual))
}

func (c PostgresConfig) parseDSN() (*pgx.ConnConfig, error) {
	pc, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		return nil, fmt.Errorf("reading the address of the database: %w", &hiddenError{err, c.Pass})
	}
	pc.RuntimeParams["timezone"], pc.RuntimeParams["application_name"] = "UTC", "keelscale"
	pc.DialFunc = dial
	return pc, nil
}

// hiddenError keeps a password out of an error's text.
type hiddenError struct {
	err    error
	secret string
}

func (e *hiddenError) Error() string {
	if e.secret == "" {
		return e.err.Error()
	}
	text := strings.ReplaceAll(e.err.Error(), url.QueryEscape(e.secret), "***")
	return strings.ReplaceAll(text, e.secret, "***")
}

func (postgresEngine) release() error { return nil }

func (postgresEngine) dialector(db *sql.DB) gorm.Dialector {
	return postgres.New(postgres.Config{Conn: db})
}

func (postgresEngine) ddl(statement string) string {
	return strings.NewReplacer(
		"{id}", "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
		"{int}", "bigint", "{time}", "timestamptz", "{bytes}", "bytea", "{norowid}", "",
	).Replace(statement)
}

func (postgresEngine) migrationLock() string { return "SELECT pg_advisory_xact_lock(7107011099)" }
func (postgresEngine) hasTable() string {
	return "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = ?"
}
func (postgresEngine) begin() string { return "BEGIN ISOLATION LEVEL READ COMMITTED" }
func (postgresEngine) beginRead() string {
	return "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
}
func (postgresEngine) rebind(query string) string { return numbered(query) }
func (postgresEngine) forUpdate() string          { return " FOR UPDATE" }
func (postgresEngine) returning() bool            { return true }
func (postgresEngine) notify() string             { return "NOTIFY " + channel }
func (postgresEngine) shared() bool               { return true }

// fault reads the SQLSTATE (PostgreSQL, appendix A); its first two characters are the class.
func (postgresEngine) fault(err error) fault {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return fault{broken: isConnectionError(err)}
	}
	switch {
	case e.Code == "23505":
		return fault{unique: e.ConstraintName, stuck: true}
	case strings.HasPrefix(e.Code, "40"): // serialization failure, deadlock
		return fault{broken: true, again: true}
	}
	switch e.Code[:2] {
	case "08", "25", "53", "57", "58", "XX":
		return fault{broken: true}
	}
	return fault{stuck: true}
}

func isConnectionError(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.Is(err, sql.ErrConnDone) || errors.Is(err, errBadConn) || errors.As(err, &connect) ||
		errors.As(err, &network) || pgconn.SafeToRetry(err)
}

func (e postgresEngine) explain(err error) error {
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Code == "22021" && !errors.Is(err, tailnet.ErrInvalid) {
		return fmt.Errorf("%w: a text is not plain UTF-8: %w", tailnet.ErrInvalid, err)
	}
	if err == nil || errors.Is(err, tailnet.ErrReadOnly) || !e.fault(err).broken {
		return err
	}
	return fmt.Errorf("%w: %w: see that PostgreSQL runs, may be reached and has room on its disk", tailnet.ErrReadOnly, err)
}
