package hscontrol

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/derpmap"
	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/config"
)

// openRelay makes the embedded relay if there is to be one, and loads the DERP map.
func (s *Server) openRelay(ctx context.Context) (err error) {
	cfg := s.config()
	if cfg.DERP.Server.Enabled {
		k, err := derp.LoadKey(cfg.DERP.Server.PrivateKeyPath)
		if err != nil {
			return err
		}
		admit := derp.Anyone
		if cfg.DERP.Server.VerifyClients {
			admit = s.admit
		}
		if s.relay, err = derp.New(derp.Config{Key: k, Admit: admit, Log: s.log}); err != nil {
			return fmt.Errorf("making the embedded relay: %w", err)
		}
		if addr := cfg.DERP.Server.STUNListenAddr; addr != "" {
			if s.stun, err = derp.ListenSTUN(ctx, addr); err != nil {
				return fmt.Errorf("%w; set derp.server.stun_listen_addr to a free UDP port", err)
			}
		}
	}
	s.derpMap, err = s.loadDERP(ctx, cfg)
	return err
}

// loadDERP makes a loader for the sources of cfg and reads them. A source that cannot be reached is no error: its last
// good copy is used, and `health` tells of it.
func (s *Server) loadDERP(ctx context.Context, cfg *config.Config) (*derpmap.Loader, error) {
	region, err := s.embeddedRegion(cfg)
	if err != nil {
		return nil, err
	}
	var every time.Duration
	if cfg.DERP.AutoUpdateEnabled {
		every = cfg.DERP.UpdateFrequency
	}
	loader, err := derpmap.New(derpmap.Config{
		Sources:  slices.Concat(cfg.DERP.URLs, cfg.DERP.Paths),
		Embedded: region,
		CacheDir: filepath.Join(cfg.DataDir, "derpmap"),
		Every:    every,
		Changed: func(m *tailcfg.DERPMap) {
			if s.state != nil {
				s.state.SetDERPMap(m)
			}
		},
		Log: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("reading derp.urls and derp.paths: %w", err)
	}
	first, cancel := context.WithTimeout(ctx, firstLoad)
	defer cancel()
	loader.Reload(first)
	return loader, nil
}

// firstLoad is how long the start waits for the sources of the DERP map; those that are slower come later.
const firstLoad = 3 * time.Second

// repinned puts the pin of a new certificate into the DERP map.
func (s *Server) repinned() {
	s.mu.Lock()
	loader := s.derpMap
	s.mu.Unlock()
	if loader != nil {
		loader.Refresh()
	}
}

// embeddedRegion describes the embedded relay for the DERP map: it is found where the server is.
func (s *Server) embeddedRegion(cfg *config.Config) (func() []*tailcfg.DERPRegion, error) {
	if s.relay == nil || !cfg.DERP.Server.AutoAddRegion {
		return nil, nil
	}
	u, err := url.Parse(cfg.ServerURL)
	if err != nil {
		return nil, fmt.Errorf("reading server_url: %w", err)
	}
	describe := func() (*tailcfg.DERPRegion, error) {
		cert := s.relayCert(u)
		host, ip4, ip6 := cert.Published(u.Hostname(), cfg.DERP.Server.IPv4, cfg.DERP.Server.IPv6)
		return derpmap.Embedded(derpmap.Relay{
			RegionID:   cfg.DERP.Server.RegionID,
			RegionCode: cfg.DERP.Server.RegionCode,
			RegionName: cfg.DERP.Server.RegionName,
			HostName:   host,
			IPv4:       ip4,
			IPv6:       ip6,
			CertName:   cert.Pin,
			DERPPort:   serverPort(u),
			STUNPort:   s.stunPort(),
		})
	}
	if _, err := describe(); err != nil {
		return nil, err
	}
	return func() []*tailcfg.DERPRegion {
		region, err := describe()
		if err != nil {
			s.log.Error("describing the embedded relay", "err", err)
			return nil
		}
		return []*tailcfg.DERPRegion{region}
	}, nil
}

// embeddedRelay is how the embedded relay does, for administrators; nil if there is none.
func (s *Server) embeddedRelay() *api.EmbeddedRelay {
	if s.relay == nil {
		return nil
	}
	cfg := s.config()
	e := &api.EmbeddedRelay{
		RegionID: cfg.DERP.Server.RegionID, RegionCode: cfg.DERP.Server.RegionCode, RegionName: cfg.DERP.Server.RegionName,
		Clients: s.relay.Load().Clients,
	}
	if u, err := url.Parse(cfg.ServerURL); err == nil {
		e.Expires = s.relayCert(u).Expires
	}
	region := s.state.DERPMap().Regions[e.RegionID]
	if region == nil {
		return e
	}
	for _, n := range region.Nodes {
		e.DERPPort, e.STUNPort = n.DERPPort, max(n.STUNPort, 0)
		port := strconv.Itoa(cmp.Or(n.DERPPort, 443))
		hosts := []string{n.IPv4, n.IPv6}
		if n.CertName == "" || n.IPv4 == "" && n.IPv6 == "" {
			hosts = []string{n.HostName}
		}
		for _, host := range hosts {
			if host != "" && host != "none" {
				e.Published = append(e.Published, net.JoinHostPort(host, port))
			}
		}
	}
	return e
}

// relayCert is the certificate that clients of the embedded relay are to meet. Where server_url is https and the
// certificate is our own all the same, a proxy with another one stands in front.
func (s *Server) relayCert(u *url.URL) derp.CertInfo {
	if u.Scheme == "https" {
		return derp.CertInfo{}
	}
	return s.cert.published()
}

func (s *Server) stunPort() int {
	if s.stun == nil {
		return -1
	}
	return int(s.stun.Addr().Port())
}

// serverPort is the TCP port at which clients reach the server.
func serverPort(u *url.URL) int {
	if p, err := strconv.Atoi(u.Port()); err == nil {
		return p
	}
	if u.Scheme == "http" {
		return 80
	}
	return 443
}

// followDERP keeps the DERP map up to date until ctx ends; a reload may replace the loader meanwhile.
func (s *Server) followDERP(ctx context.Context) error {
	for ctx.Err() == nil {
		s.mu.Lock()
		loader := s.derpMap
		s.mu.Unlock()
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- loader.Run(running) }()
		select {
		case <-s.reloadDERP:
		case <-ctx.Done():
		}
		stop()
		if err := <-ended; err != nil {
			return fmt.Errorf("following the DERP map: %w", err)
		}
	}
	return nil
}

// hostOf is the host of a listen address, without brackets.
func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return host
}
