package hscontrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// DatabaseCopy says what CopyDatabase copies.
type DatabaseCopy struct {
	// From and To are "sqlite:PATH" or "postgres:DSN", where DSN is a URL or libpq's keywords. Empty: the database of
	// the configuration.
	From, To string
	// Progress is told of each table, again and again while it is long; nil: nobody is.
	Progress func(table string, done, all int)
	Log      *slog.Logger
}

// CopyDatabase copies a whole installation from one database into another, empty one, and says how many rows it has.
// The Noise key goes along: into noise.private_key_path for SQLite, sealed into the database for PostgreSQL.
func CopyDatabase(ctx context.Context, cfg *config.Config, job DatabaseCopy) (rows int, err error) {
	if job.From == "" && job.To == "" || job.From == job.To {
		return 0, fmt.Errorf("%w: say from which database, or to which: --from or --to", tailnet.ErrInvalid)
	}
	from, err := place(cfg, job.From, job.Log)
	if err != nil {
		return 0, err
	}
	to, err := place(cfg, job.To, job.Log)
	if err != nil {
		return 0, err
	}
	return store.Copy(ctx, from, to, store.CopyOptions{
		Progress: job.Progress,
		Secrets: func(source map[string][]byte) (map[string][]byte, error) {
			k, err := noiseKeyOf(cfg, source[noiseSecret])
			if err != nil || k.IsZero() {
				return nil, err
			}
			return putNoiseKey(cfg, to.Type, k)
		},
	})
}

// place reads how a database is named on the command line.
func place(cfg *config.Config, name string, log *slog.Logger) (store.Config, error) {
	sc := storeConfig(cfg, log)
	kind, rest, _ := strings.Cut(name, ":")
	switch {
	case name == "":
	case kind == "sqlite" && rest != "":
		path, err := filepath.Abs(rest)
		if err != nil {
			return sc, fmt.Errorf("finding %s: %w", rest, err)
		}
		sc.Type, sc.SQLite = "sqlite", store.SQLiteConfig{Path: path, WAL: true}
	case (kind == "postgres" || kind == "postgresql") && rest != "":
		if strings.HasPrefix(rest, "//") {
			rest = "postgres:" + rest
		}
		sc.Type, sc.Postgres = "postgres", store.PostgresConfig{DSN: rest}
	default:
		return sc, fmt.Errorf("%w: %q names no database: write sqlite:/var/lib/headscale/db.sqlite or postgres://user:password@host/name", tailnet.ErrInvalid, kind+":…")
	}
	return sc, nil
}

// noiseKeyOf is the Noise key of an installation: the sealed one of its database, else that of the file. Zero where no
// server ever ran.
func noiseKeyOf(cfg *config.Config, sealed []byte) (key.MachinePrivate, error) {
	if sealed != nil {
		return sharedNoiseKey(sealed, cfg)
	}
	k, err := readNoiseKey(cfg.Noise.PrivateKeyPath)
	if errors.Is(err, os.ErrNotExist) {
		return k, fmt.Errorf("the Noise key, by which clients know their server, is not at %s: set noise.private_key_path to where it is, so that the copy has it too", cfg.Noise.PrivateKeyPath)
	}
	return k, err
}

// putNoiseKey puts it where a server that uses the copy looks, and gives the secrets of that database.
func putNoiseKey(cfg *config.Config, engine string, k key.MachinePrivate) (map[string][]byte, error) {
	if engine == config.DatabasePostgres {
		v, err := openVault(&cfg.Database, true)
		if err != nil {
			return nil, err
		}
		text, err := k.MarshalText()
		if err != nil {
			return nil, fmt.Errorf("sealing the Noise key: %w", err)
		}
		sealed, err := v.seal(noiseSecret, text)
		return map[string][]byte{noiseSecret: sealed}, err
	}
	path := cfg.Noise.PrivateKeyPath
	own, err := readNoiseKey(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, writeNoiseKey(path, k)
	case err != nil:
		return nil, err
	case own.Public() != k.Public():
		return nil, fmt.Errorf("%s has another Noise key (%s) than the installation that is copied (%s): move it away, or set noise.private_key_path to a new place",
			path, own.Public().ShortString(), k.Public().ShortString())
	}
	return nil, nil
}
