package hscontrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/config"
)

// Reload reads the configuration again and applies what can change while clients stay connected: the policy file, DNS,
// the sources of the DERP map, certificates, the log level. A configuration that cannot be used changes nothing.
func (s *Server) Reload(ctx context.Context) (api.Reloaded, error) {
	s.reading.Lock()
	done, err := s.reload(ctx)
	s.reading.Unlock()
	s.mu.Lock()
	s.reloaded, s.reloadAs = time.Now(), ""
	if err != nil {
		s.reloadAs = err.Error()
	}
	s.mu.Unlock()
	return done, err
}

func (s *Server) reload(ctx context.Context) (done api.Reloaded, err error) {
	if s.opts.Load == nil {
		return done, errors.New("this server was started without a configuration that could be read again")
	}
	next, warnings, err := s.opts.Load()
	if err != nil {
		return done, fmt.Errorf("reading the configuration again: %w; nothing was changed", err)
	}
	for _, w := range warnings {
		s.log.Warn(w.String())
	}
	was := s.config()
	done.Applied, done.NeedsRestart = config.Changes(was, next)
	for _, k := range done.NeedsRestart {
		s.log.Warn("a changed setting waits for a restart", "key", k)
	}
	// What waits for a restart keeps its old value, so that the running server and its configuration agree.
	merged := config.WithLive(was, next)
	if _, err := merged.Validate(); err != nil {
		return done, fmt.Errorf("the new settings do not fit those that wait for a restart: %w; nothing was changed", err)
	}
	settings, err := settingsOf(merged)
	if err != nil {
		return done, fmt.Errorf("%w; nothing was changed", err)
	}
	s.mu.Lock()
	s.cfg = merged
	s.mu.Unlock()
	select {
	case s.rewatch <- struct{}{}:
	default:
	}
	s.setFault(recordsFault, "", false)
	s.state.SetSettings(settings)
	s.control.SetRelayRules(relayRules(merged))
	s.setLevel(merged)
	if was.Policy.Mode == config.PolicyFile && merged.Policy.Mode == config.PolicyDatabase {
		s.log.Warn("the policy is in the database from now on: what the file said last stays in force until headscale policy set changes it", "file", was.Policy.Path)
	}
	return done, errors.Join(
		s.cert.reload(merged),
		s.reloadDERPMap(ctx, was, merged),
		s.loadPolicyFile(ctx),
	)
}

// reloadDERPMap reads the sources again, or new ones in place of them.
func (s *Server) reloadDERPMap(ctx context.Context, was, is *config.Config) error {
	s.mu.Lock()
	loader := s.derpMap
	s.mu.Unlock()
	same := slices.Equal(was.DERP.URLs, is.DERP.URLs) && slices.Equal(was.DERP.Paths, is.DERP.Paths) &&
		was.DERP.AutoUpdateEnabled == is.DERP.AutoUpdateEnabled && was.DERP.UpdateFrequency == is.DERP.UpdateFrequency
	if same {
		loader.Reload(ctx)
		return nil
	}
	next, err := s.loadDERP(ctx, is)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.derpMap = next
	s.mu.Unlock()
	s.state.SetDERPMap(next.Map())
	select {
	case s.reloadDERP <- struct{}{}:
	default:
	}
	return nil
}

func (s *Server) setLevel(cfg *config.Config) {
	if s.opts.Level != nil {
		s.opts.Level.Set(LogLevel(cfg.Log.Level))
	}
}

// LogLevel is the level that log.level names; "trace" is below debug.
func LogLevel(name string) slog.Level {
	switch strings.ToLower(name) {
	case "trace":
		return slog.LevelDebug - 4
	case "debug":
		return slog.LevelDebug
	case "warn", "warning":
		return slog.LevelWarn
	case "error", "fatal", "panic":
		return slog.LevelError
	}
	return slog.LevelInfo
}
