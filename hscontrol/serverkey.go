package hscontrol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// noiseSecret is the name under which the database has the Noise key.
const noiseSecret = "noise_private_key"

// serverKey is the key by which clients know the server. A server alone has it in a file. Those that share a database
// have it there, sealed; the first of them brings its file's, or a new one.
func serverKey(ctx context.Context, st *store.Store, cfg *config.Config) (key.MachinePrivate, error) {
	if !st.Shared() {
		return loadNoiseKey(cfg.Noise.PrivateKeyPath)
	}
	sealed, err := st.Secret(ctx, noiseSecret)
	if errors.Is(err, tailnet.ErrNotFound) {
		return bringNoiseKey(ctx, st, cfg)
	}
	if err != nil {
		return key.MachinePrivate{}, err
	}
	return sharedNoiseKey(sealed, cfg)
}

// bringNoiseKey puts the key of this server's file into the database, or a new one where no client knows any yet.
func bringNoiseKey(ctx context.Context, st *store.Store, cfg *config.Config) (key.MachinePrivate, error) {
	k, err := readNoiseKey(cfg.Noise.PrivateKeyPath)
	if errors.Is(err, os.ErrNotExist) {
		known, err := st.HasNodes(ctx)
		if err != nil {
			return k, err
		}
		if known {
			return k, fmt.Errorf("the database has nodes, and they know their server by a Noise key that is not here: copy %s from the server that ran so far (noise.private_key_path), or start that one first, with this version", cfg.Noise.PrivateKeyPath)
		}
		k = key.NewMachine()
	} else if err != nil {
		return k, err
	}
	return keepNoiseKey(ctx, st, cfg, k)
}

// keepNoiseKey seals k into the database, and gives what the database has then: another server may have been first.
func keepNoiseKey(ctx context.Context, st *store.Store, cfg *config.Config, k key.MachinePrivate) (key.MachinePrivate, error) {
	v, err := openVault(&cfg.Database, true)
	if err != nil {
		return k, err
	}
	text, err := k.MarshalText()
	if err != nil {
		return k, fmt.Errorf("sealing the Noise key: %w", err)
	}
	sealed, err := v.seal(noiseSecret, text)
	if err != nil {
		return k, err
	}
	kept, err := st.KeepSecret(ctx, noiseSecret, sealed)
	switch {
	case err != nil:
		return k, errors.Join(err, v.forget())
	case bytes.Equal(kept, sealed):
		return k, nil
	case v.made != "":
		return k, errors.Join(errors.New("another server has put its Noise key into the database at the same time: start this one again, with that server's "+
			cfg.Database.SecretsKeyPath+" (database.secrets_key_path)"), v.forget())
	}
	return sharedNoiseKey(kept, cfg)
}

// sharedNoiseKey opens the key that the database has. A file with another one is never passed over in silence: either
// it, or the database, is the wrong one.
func sharedNoiseKey(sealed []byte, cfg *config.Config) (k key.MachinePrivate, err error) {
	v, err := openVault(&cfg.Database, false)
	if errors.Is(err, errNoVault) {
		return k, fmt.Errorf("the database has the Noise key of its servers, sealed with a key that is not here: copy %s from a server that runs, readable for this one only, or set database.secrets_key (HEADSCALE_DATABASE_SECRETS_KEY)", cfg.Database.SecretsKeyPath)
	}
	if err != nil {
		return k, err
	}
	text, err := v.open(noiseSecret, sealed)
	if err != nil {
		where := cfg.Database.SecretsKeyPath
		if cfg.Database.SecretsKey != "" {
			where = "database.secrets_key"
		}
		return k, fmt.Errorf("the Noise key in the database does not open with %s: %w; take that of a server that runs, or restore it from a backup", where, err)
	}
	if err := k.UnmarshalText(text); err != nil {
		return k, errors.New("the Noise key in the database is no key; restore the database from a backup")
	}
	own, err := readNoiseKey(cfg.Noise.PrivateKeyPath)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return k, nil
	case err != nil:
		return k, err
	case own.Public() != k.Public():
		return k, fmt.Errorf("%s has another Noise key (%s) than the database (%s), by which its clients know it: move the file away to go on with the database's; to change the key is not possible without every client logging in anew",
			cfg.Noise.PrivateKeyPath, own.Public().ShortString(), k.Public().ShortString())
	}
	return k, nil
}

// loadNoiseKey reads the file of the key, and makes it at the first start.
func loadNoiseKey(path string) (key.MachinePrivate, error) {
	k, err := readNoiseKey(path)
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	k = key.NewMachine()
	return k, writeNoiseKey(path, k)
}

func readNoiseKey(path string) (k key.MachinePrivate, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return k, fmt.Errorf("reading the Noise key: %w; set noise.private_key_path to a file that can be read", err)
	}
	if err := k.UnmarshalText(bytes.TrimSpace(text)); err != nil {
		return k, fmt.Errorf("reading the Noise key %s: it is not a key (privkey:…); restore it from a backup: without it every client must log in anew", path)
	}
	return k, nil
}

func writeNoiseKey(path string, k key.MachinePrivate) error {
	text, err := k.MarshalText()
	if err != nil {
		return fmt.Errorf("making the Noise key: %w", err)
	}
	return writeNewFile(path, append(text, '\n'))
}

// writeNewFile writes a secret so that it is whole or not there, and safe before anybody is told of it.
func writeNewFile(path string, text []byte) error {
	f, err := store.NewFile(path)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
