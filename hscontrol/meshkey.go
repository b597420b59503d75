package hscontrol

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// meshSecret is the name under which the database has the key that the relays inside its servers share.
const meshSecret = "relay_mesh_key"

// meshKey is that key (64 hex digits), which the first server with a relay makes.
func meshKey(ctx context.Context, st *store.Store, cfg *config.Config) (string, error) {
	v, err := openVault(&cfg.Database, true)
	if err != nil {
		return "", err
	}
	sealed, err := st.Secret(ctx, meshSecret)
	if errors.Is(err, tailnet.ErrNotFound) {
		sealed, err = makeMeshKey(ctx, st, v)
	}
	if err != nil {
		return "", err
	}
	text, err := v.open(meshSecret, sealed)
	if err != nil {
		return "", fmt.Errorf("the key of the servers' relays in the database does not open: %w; take the key of a server that runs (database.secrets_key_path)", err)
	}
	return string(text), nil
}

// makeMeshKey gives the one that the database has then, which may be another server's.
func makeMeshKey(ctx context.Context, st *store.Store, v *vault) ([]byte, error) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("making the key of the servers' relays: %w", err)
	}
	sealed, err := v.seal(meshSecret, []byte(hex.EncodeToString(raw)))
	if err != nil {
		return nil, err
	}
	return st.KeepSecret(ctx, meshSecret, sealed)
}
