package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Shared reports whether other servers may use the database at the same time.
func (s *Store) Shared() bool { return s.engine.shared() }

// Secret is what KeepSecret kept under the name, as its owner sealed it. ErrNotFound if there is none.
func (s *Store) Secret(ctx context.Context, name string) (sealed []byte, err error) {
	err = s.reads.QueryRowContext(ctx, s.engine.rebind(selectSecret), name).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		err = tailnet.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading secret %s: %w", name, s.engine.explain(err))
	}
	return sealed, nil
}

const selectSecret = "SELECT sealed FROM secrets WHERE name = ?"

// KeepSecret keeps what was sealed under the name, unless there is something already, and gives what is kept then.
func (s *Store) KeepSecret(ctx context.Context, name string, sealed []byte) (kept []byte, err error) {
	err = s.write(ctx, func(t *tx) error {
		if _, err := t.exec("INSERT INTO secrets (name, sealed, created_at) VALUES (?, ?, ?)"+orNothing, name, sealed, t.now); err != nil {
			return err
		}
		return t.queryRow(selectSecret, name).Scan(&kept)
	})
	if err != nil {
		return nil, fmt.Errorf("keeping secret %s: %w", name, err)
	}
	return kept, nil
}

// HasNodes reports whether any tailnet has a node.
func (s *Store) HasNodes(ctx context.Context) (bool, error) {
	var one int
	err := s.reads.QueryRowContext(ctx, "SELECT 1 FROM nodes LIMIT 1").Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for nodes: %w", s.engine.explain(err))
	}
	return true, nil
}
