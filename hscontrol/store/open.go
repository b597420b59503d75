// Package store keeps the tailnets in SQL and tells followers when they moved.
//
// A change flows through the files in this order:
//
//	users.go, join.go, nodes.go, relays.go, ...  one method a use case: check the input, hand an operation to
//	write.go    the writer: takes all waiting operations into one transaction, a savepoint each
//	tx.go       what an operation may do there: lock a tailnet, read, write, log what it changed
//	routes.go   primary routes are elected in the same transaction
//	log.go      at its end each changed tailnet's revision is raised once and the change log written; commit
//	follow.go   Moved wakes the followers, which read Revisions and Since
//
// Rows of the plain nouns are gorm's. Those of nodes are read and written thousands of times a second, so noderow.go
// maps them by one list of columns and no reflection.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/logger"
	"gorm.io/gorm/schema"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Config says where the tables are and how addresses are given out.
type Config struct {
	Type     string // "sqlite" or "postgres"
	SQLite   SQLiteConfig
	Postgres PostgresConfig

	// Replica names this server process among those that share a database. Empty: a random name.
	Replica string
	// DeadAfter is how long a server process may say nothing before the others end its sessions. 0: 12 s.
	DeadAfter time.Duration

	// PrefixV4 and PrefixV6 are the ranges of tailnets that have none of their own. The zero prefix turns a family off.
	PrefixV4, PrefixV6 netip.Prefix
	// RandomAddresses takes addresses at random places of the range instead of one after the other.
	RandomAddresses bool

	Now  func() time.Time // nil: time.Now
	Rand io.Reader        // nil: crypto/rand
	Log  *slog.Logger     // nil: slog.Default
}

// Store is an open database. Its methods may be called by any number of goroutines.
type Store struct {
	cfg       Config
	engine    engine
	reads     *sql.DB
	writes    *sql.DB  // one connection, the writer's
	orm       *gorm.DB // over reads
	defaultID tailnet.ID

	writer   writer
	marks    tableMarks
	tailnets shelf[everyRow, []*tailnet.Tailnet]
	keys     shelf[tailnet.KeyID, *tailnet.PreAuthKey]
	follower follower

	closing sync.Once
	closed  error
}

// Open opens the database, creates or migrates its tables, makes sure that the tailnet "default" is there, and ends
// the sessions that a former life of this server process left behind. A database of a newer program is ErrTooNew.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	eng, err := newEngine(cfg)
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	s := &Store{cfg: cfg, engine: eng}
	if err := s.open(ctx); err != nil {
		s.closePools()
		return nil, fmt.Errorf("opening store: %w", err)
	}
	return s, nil
}

func (cfg *Config) complete() error {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	} else {
		cfg.Rand = &lockedReader{r: cfg.Rand}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.DeadAfter == 0 {
		cfg.DeadAfter = deadAfter
	}
	if cfg.PrefixV4.IsValid() && !cfg.PrefixV4.Addr().Is4() || cfg.PrefixV6.IsValid() && !cfg.PrefixV6.Addr().Is6() {
		return fmt.Errorf("%w: prefixes %s and %s are not one of IPv4 and one of IPv6", tailnet.ErrInvalid, cfg.PrefixV4, cfg.PrefixV6)
	}
	cfg.PrefixV4, cfg.PrefixV6 = cfg.PrefixV4.Masked(), cfg.PrefixV6.Masked()
	if cfg.Replica == "" {
		var b [8]byte
		if _, err := io.ReadFull(cfg.Rand, b[:]); err != nil {
			return fmt.Errorf("naming this replica: %w", err)
		}
		cfg.Replica = hex.EncodeToString(b[:])
	}
	return nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if s.writes, s.reads, err = s.engine.connect(s.cfg); err != nil {
		return err
	}
	schema.RegisterSerializer("text", textSerializer{})
	schema.RegisterSerializer("ref", refSerializer{})
	schema.RegisterSerializer("doc", docSerializer{})
	schema.RegisterSerializer("words", wordsSerializer{})
	s.orm, err = gorm.Open(s.engine.dialector(s.reads), &gorm.Config{
		SkipDefaultTransaction: true,
		DisableAutomaticPing:   true,
		Logger:                 logger.Discard,
		NowFunc:                s.now,
	})
	if err != nil {
		return s.engine.explain(err)
	}
	if err := s.migrate(ctx); err != nil {
		return s.engine.explain(err)
	}
	s.startWriter()
	if err := s.begin(ctx); err != nil {
		s.stopWriter()
		return err
	}
	s.startFollower()
	return nil
}

// begin brings the rows into the state that a server process starts from.
func (s *Store) begin(ctx context.Context) error {
	if err := s.write(ctx, s.ensureDefault); err != nil {
		return err
	}
	def, err := s.FindTailnet(ctx, tailnet.DefaultName)
	if err != nil {
		return err
	}
	s.defaultID = def.ID
	if s.engine.shared() {
		if err := s.sayAlive(ctx); err != nil {
			return err
		}
	}
	return s.write(ctx, s.endFormerSessions)
}

// Close waits for the writer and all goroutines and closes the database. Operations that come later fail. To close
// again does nothing.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.stopFollower()
		s.stopWriter()
		if s.engine.shared() {
			s.sayGone()
		}
		s.closed = s.closePools()
	})
	return s.closed
}

func (s *Store) closePools() error {
	var errs []error
	for _, db := range []*sql.DB{s.reads, s.writes} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if err := errors.Join(append(errs, s.engine.release())...); err != nil {
		return fmt.Errorf("closing store: %w", err)
	}
	return nil
}

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	if err := s.reads.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("asking the database: %w", s.engine.explain(err))
	}
	return nil
}

// now is the time as both engines can store it: UTC, whole microseconds.
func (s *Store) now() time.Time { return storable(s.cfg.Now()) }

func storable(at time.Time) time.Time { return at.UTC().Truncate(time.Microsecond) }

// storableTime is storable for times that may be missing; the zero time is missing too.
func storableTime(at *time.Time) *time.Time {
	if at == nil || at.IsZero() {
		return nil
	}
	t := storable(*at)
	return &t
}

// lockedReader lets any number of goroutines read from r.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}

// workers are goroutines that are told to stop together and waited for.
type workers struct {
	wg   sync.WaitGroup
	stop context.CancelFunc
}
