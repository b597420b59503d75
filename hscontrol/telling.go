package hscontrol

import (
	"fmt"
	"net/url"
	"os"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hooks"
)

// openHooks makes what tells others of events. Its secrets follow from the key by which clients know the server: all
// servers of a database have it, and it is nowhere in clear there.
func (s *Server) openHooks(noiseKey key.MachinePrivate) error {
	text, err := noiseKey.MarshalText()
	if err != nil {
		return fmt.Errorf("deriving the key of webhooks: %w", err)
	}
	if s.hookKey, err = hooks.KeyFrom(text); err != nil {
		return err
	}
	streams, err := streamsOf(&s.cfg.Audit)
	if err != nil {
		return err
	}
	machine := ""
	if s.store.Shared() {
		if machine, err = os.Hostname(); err != nil {
			return fmt.Errorf("asking for this machine's name: %w", err)
		}
	}
	s.hooks = hooks.New(hooks.Config{
		Store: s.store, Key: s.hookKey, OnlyPublic: s.cfg.Webhooks.PublicOnly, Streams: streams, Machine: machine, Log: s.log,
	})
	return nil
}

// streamsOf are the receivers of the audit log that the configuration names.
func streamsOf(cfg *config.Audit) (streams []hooks.Stream, err error) {
	for _, text := range cfg.Streams {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("reading audit.streams: %w", err)
		}
		s := hooks.Stream{Name: text, Type: hooks.StreamSyslog, Address: text}
		switch u.Scheme {
		case "file":
			s = hooks.Stream{Name: text, Type: hooks.StreamFile, Path: u.Path}
		case "http", "https":
			s = hooks.Stream{Name: text, Type: hooks.StreamHTTP, URL: text, Format: cfg.HTTPFormat, Token: cfg.HTTPToken}
		}
		if err := s.Check(); err != nil {
			return nil, fmt.Errorf("reading audit.streams: %w", err)
		}
		streams = append(streams, s)
	}
	return streams, nil
}
