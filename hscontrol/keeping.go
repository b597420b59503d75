package hscontrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Bounds of the pause between two rounds of keeping.
const (
	keepLeast = time.Second
	keepMost  = time.Minute
)

// keep does what nobody asks for: it removes ephemeral nodes that stayed away, purges what has had its time, and
// approves routes that a new policy approves, until ctx ends.
func (s *Server) keep(ctx context.Context) error {
	timeout := s.config().Node.EphemeralTimeout
	tick := time.NewTicker(min(max(timeout/10, keepLeast), keepMost))
	defer tick.Stop()
	approved := map[tailnet.ID]*tailnet.PolicyVersion{}
	purged := time.Now()
	for {
		round := s.state.Round()
		for _, v := range s.state.Views() {
			if approved[v.Tailnet.ID] != v.Snapshot.Policy {
				if err := s.auth.ApproveAllByPolicy(ctx, v.Tailnet.ID); err != nil {
					s.logUnless(ctx, "approving routes by policy", err)
				}
				approved[v.Tailnet.ID] = v.Snapshot.Policy
			}
		}
		select {
		case <-round:
			continue
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		gone, err := s.store.ReapEphemeral(ctx, time.Now().Add(-timeout))
		if err != nil {
			s.logUnless(ctx, "removing ephemeral nodes", err)
		}
		for _, id := range gone {
			s.log.Info("ephemeral node removed", "node", id, "away", timeout)
		}
		if time.Since(purged) >= keepMost {
			purged = time.Now()
			if err := s.store.PurgeExpired(ctx); err != nil {
				s.logUnless(ctx, "purging what has expired", err)
			}
			s.pruneAudit(ctx)
		}
	}
}

// pruneAudit deletes what the configuration does not want kept of the audit log.
func (s *Server) pruneAudit(ctx context.Context) {
	keep := s.config().Audit.Retention
	if keep == 0 {
		return
	}
	pruned, err := s.store.PruneAudit(ctx, time.Now().Add(-keep))
	if err != nil {
		s.logUnless(ctx, "pruning the audit log", err)
	} else if pruned > 0 {
		s.log.Info("audit log pruned", "rows", pruned, "keep", keep)
	}
}

// logUnless logs an error that is not just the end of ctx.
func (s *Server) logUnless(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		s.log.LogAttrs(ctx, slog.LevelError, what, slog.Any("err", err))
	}
}

// startPolicy loads the policy file at the start. A bad file never replaces a good policy; a server that has no earlier
// one does not start with it, since that would let everyone in.
func (s *Server) startPolicy(ctx context.Context) error {
	err := s.loadPolicyFile(ctx)
	if err == nil {
		return nil
	}
	if t, findErr := s.store.FindTailnet(ctx, tailnet.DefaultName); findErr != nil {
		return findErr
	} else if had, getErr := s.store.GetPolicy(ctx, t.ID); getErr != nil || had == nil {
		return errors.Join(err, getErr)
	}
	s.log.Error("the policy file cannot be used", "err", err)
	return nil
}

// loadPolicyFile makes the content of policy.path the policy of the default tailnet. While it cannot, and where the
// configuration names no file any more, the policy before it stays in force, and health tells so: a line that somebody
// took out of the configuration opens no tailnet.
func (s *Server) loadPolicyFile(ctx context.Context) error {
	cfg := s.config()
	if cfg.Policy.Mode != config.PolicyFile {
		s.setFault(policyFileFault, "", false)
		return nil
	}
	t, err := s.store.FindTailnet(ctx, tailnet.DefaultName)
	if err != nil {
		return fmt.Errorf("finding the default tailnet: %w", err)
	}
	had, err := s.store.GetPolicy(ctx, t.ID)
	if err != nil {
		return fmt.Errorf("reading the stored policy: %w", err)
	}
	path := cfg.Policy.Path
	if path == "" {
		s.setFault(policyFileFault, withoutFile(had), true)
		return nil
	}
	raw, err := readBounded(path, maxPolicy)
	if err == nil {
		_, err = s.state.CheckPolicy(t.ID, string(raw))
	}
	if err != nil {
		err = fmt.Errorf("policy %s: %w", path, err)
		if had != nil {
			err = fmt.Errorf("%w; the policy before it (from %s) stays in force", err, had.Source)
		}
		s.setFault(policyFileFault, err.Error(), true)
		return err
	}
	s.setFault(policyFileFault, "", false)
	if _, err := s.store.PutPolicy(ctx, t.ID, string(raw), "file "+path); err != nil {
		return fmt.Errorf("storing the policy: %w", err)
	}
	return nil
}

// withoutFile says what is in force where the policy should be a file and none is named; nothing where there has never
// been one.
func withoutFile(had *tailnet.PolicyVersion) string {
	if had == nil {
		return ""
	}
	return fmt.Sprintf("policy.mode is file, but policy.path names none: the policy before it (from %s) stays in force; name a file, or set policy.mode to database", had.Source)
}

// policyFile is the file that governs a tailnet, if one does: that of the configuration is the default tailnet's, and the
// others have their policies in the database.
func (s *Server) policyFile(t *tailnet.Tailnet) (path string, governs bool) {
	cfg := s.config()
	return cfg.Policy.Path, cfg.Policy.Mode == config.PolicyFile && t.Name == tailnet.DefaultName
}

// policyFileFault is the name of the fault that the policy file cannot be used.
const policyFileFault = "policy-file"

// maxPolicy bounds a policy, in bytes.
const maxPolicy = 4 << 20
