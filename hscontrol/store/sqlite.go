package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	gosqlite "github.com/glebarez/go-sqlite"
	"github.com/glebarez/sqlite"
	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// SQLiteConfig says where the file is.
type SQLiteConfig struct {
	Path string // the file; it and its directory are made if missing
	WAL  bool   // write-ahead log: readers and the writer do not wait for each other
	// WALAutocheckpoint is after how many pages the log is written back into the file. 0: SQLite's 1000.
	WALAutocheckpoint int
}

type sqliteEngine struct {
	path string
	lock *os.File
}

const sqliteReaders = 4

func (e *sqliteEngine) connect(cfg Config) (writes, reads *sql.DB, err error) {
	if e.path == "" {
		return nil, nil, fmt.Errorf("%w: the path of the SQLite file is empty: set database.sqlite.path", tailnet.ErrInvalid)
	}
	if err := createFile(e.path); err != nil {
		return nil, nil, err
	}
	if e.lock, err = lockDatabase(e.path); err != nil {
		return nil, nil, err
	}
	journal := "journal_mode(DELETE)"
	if cfg.SQLite.WAL {
		journal = "journal_mode(WAL)"
	}
	pragmas := []string{"busy_timeout(10000)", journal, "synchronous(FULL)", "foreign_keys(ON)", "cache_size(-16384)"}
	if n := cfg.SQLite.WALAutocheckpoint; n > 0 {
		pragmas = append(pragmas, "wal_autocheckpoint("+strconv.Itoa(n)+")")
	}
	if writes, err = sql.Open(sqlite.DriverName, e.dsn(pragmas)); err != nil {
		return nil, nil, err
	}
	writes.SetMaxOpenConns(1)
	if reads, err = sql.Open(sqlite.DriverName, e.dsn(append(pragmas, "query_only(ON)"))); err != nil {
		return writes, nil, err
	}
	reads.SetMaxOpenConns(sqliteReaders)
	reads.SetMaxIdleConns(sqliteReaders)
	return writes, reads, e.tryOut(writes)
}

func (e *sqliteEngine) release() error {
	if e.lock == nil {
		return nil
	}
	return e.lock.Close()
}

// tryOut makes the first connection, which creates the log, before any reader comes.
func (e *sqliteEngine) tryOut(writes *sql.DB) error {
	var version string
	if err := writes.QueryRow("SELECT sqlite_version()").Scan(&version); err != nil {
		return e.explain(err)
	}
	return nil
}

func (e *sqliteEngine) dsn(pragmas []string) string {
	q := url.Values{"_pragma": pragmas}
	return "file:" + (&url.URL{Path: e.path}).EscapedPath() + "?" + q.Encode()
}

// createFile makes the directory (0700) and the file (0600) if they are missing, and finds out early, with a clear
// error, if the file cannot be written.
func createFile(path string) error {
	if err := makeDirs(filepath.Dir(path)); err != nil {
		return fmt.Errorf("making the directory of the database: %w", err)
	}
	f, err := openOrNew(path)
	if err != nil {
		return fmt.Errorf("%w: %w: give the server's user the right to write the file and its directory", tailnet.ErrReadOnly, err)
	}
	return f.Close()
}

func (*sqliteEngine) dialector(db *sql.DB) gorm.Dialector { return &sqlite.Dialector{Conn: db} }

func (*sqliteEngine) ddl(statement string) string {
	return strings.NewReplacer(
		"{id}", "integer PRIMARY KEY AUTOINCREMENT", // never hands out the ID of a deleted row again
		"{int}", "integer", "{time}", "datetime", "{bytes}", "blob", "{norowid}", "WITHOUT ROWID",
	).Replace(statement)
}

func (*sqliteEngine) migrationLock() string { return "" }
func (*sqliteEngine) hasTable() string {
	return "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
}
func (*sqliteEngine) begin() string              { return "BEGIN IMMEDIATE" }
func (*sqliteEngine) beginRead() string          { return "BEGIN" }
func (*sqliteEngine) rebind(query string) string { return query }
func (*sqliteEngine) forUpdate() string          { return "" }
func (*sqliteEngine) returning() bool            { return false } // costs more to compile than all the rest of the INSERT
func (*sqliteEngine) notify() string             { return "" }
func (*sqliteEngine) shared() bool               { return false }

// Result codes of SQLite (sqlite.org/rescode.html); the lower eight bits are the primary code.
const (
	sqliteBusy       = 5
	sqliteLocked     = 6
	sqliteReadOnly   = 8
	sqliteIOErr      = 10
	sqliteCorrupt    = 11
	sqliteFull       = 13
	sqliteCantOpen   = 14
	sqliteConstraint = 19
	sqliteNotADB     = 26

	sqliteUnique     = sqliteConstraint | 8<<8
	sqlitePrimaryKey = sqliteConstraint | 6<<8
	sqliteForeignKey = sqliteConstraint | 3<<8
)

func (*sqliteEngine) fault(err error) fault {
	var e *gosqlite.Error
	if !errors.As(err, &e) {
		return fault{}
	}
	switch e.Code() {
	case sqliteUnique, sqlitePrimaryKey:
		_, columns, _ := strings.Cut(e.Error(), "UNIQUE constraint failed: ")
		return fault{unique: columns}
	case sqliteForeignKey:
		return fault{}
	}
	switch e.Code() & 0xff {
	case sqliteConstraint, 1: // a broken rule or a wrong statement: only this statement is undone
		return fault{}
	}
	return fault{broken: true} // the others may have rolled everything back
}

func (e *sqliteEngine) explain(err error) error {
	var se *gosqlite.Error
	if err == nil || !errors.As(err, &se) || errors.Is(err, tailnet.ErrReadOnly) {
		return err
	}
	switch se.Code() & 0xff {
	case sqliteFull:
		return fmt.Errorf("%w: %w: free some space on the disk of %s", tailnet.ErrReadOnly, err, e.path)
	case sqliteReadOnly, sqliteCantOpen:
		return fmt.Errorf("%w: %w: give the server's user the right to write %s and its directory", tailnet.ErrReadOnly, err, e.path)
	case sqliteIOErr:
		return fmt.Errorf("%w: %w: look at the disk of %s", tailnet.ErrReadOnly, err, e.path)
	case sqliteBusy, sqliteLocked:
		return fmt.Errorf("%w: %w: another process holds %s; stop it", tailnet.ErrReadOnly, err, e.path)
	case sqliteCorrupt, sqliteNotADB:
		return fmt.Errorf("%w: %s is damaged or no SQLite database: restore it from a backup", err, e.path)
	}
	return err
}
