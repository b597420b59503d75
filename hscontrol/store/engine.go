package store

import (
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"gorm.io/gorm"
)

// engine is where SQLite and PostgreSQL differ.
type engine interface {
	// connect opens the writer's pool of one connection and the pool for reading.
	connect(Config) (writes, reads *sql.DB, err error)
	// release gives back what connect took besides the pools.
	release() error
	dialector(*sql.DB) gorm.Dialector

	// ddl writes the types of this engine into a statement of a migration; see migrate.go.
	ddl(statement string) string
	// migrationLock is a statement that keeps other processes from migrating at the same time; empty if begin does.
	migrationLock() string
	// hasTable is a query with one argument that answers a row if that table exists.
	hasTable() string

	// begin starts the writer's transaction, beginRead one in which all reads see the same moment.
	begin() string
	beginRead() string
	// rebind turns the ? of a query into what the engine calls its arguments.
	rebind(query string) string
	// forUpdate ends a query that locks the rows that it reads.
	forUpdate() string
	// returning reports whether an INSERT tells the new ID by RETURNING, not by itself.
	returning() bool
	// notify is a statement that tells other processes of a commit; empty if there are none.
	notify() string

	// shared reports whether other server processes use the database too.
	shared() bool

	fault(error) fault
	// explain adds to an error of the engine what it means for people, and the fact that borders look for.
	explain(error) error
}

// fault is what an engine's error means for the transaction.
type fault struct {
	unique string // the index or columns of a broken unique constraint
	broken bool   // the transaction is lost: nothing more can be done in it
	stuck  bool   // only going back to a savepoint frees the transaction
	again  bool   // the transaction was the victim of another: it may be tried again
}

func newEngine(cfg Config) (engine, error) {
	switch cfg.Type {
	case "sqlite":
		return &sqliteEngine{path: cfg.SQLite.Path}, nil
	case "postgres":
		return postgresEngine{}, nil
	}
	return nil, fmt.Errorf("database type %q is not known: write sqlite or postgres", cfg.Type)
}

// numbered turns each ? into $1, $2 and so on. The queries of this package hold no ? in a string.
func numbered(query string) string {
	if !strings.Contains(query, "?") {
		return query
	}
	var b strings.Builder
	b.Grow(len(query) + 32)
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}
