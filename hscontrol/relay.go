package hscontrol

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/derpmap"
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
	if err := s.joinNeighbours(ctx); err != nil {
		return err
	}
	s.derpMap, err = s.loadDERP(ctx, cfg)
	return err
}

// loadDERP makes a loader for the sources of cfg and reads them. A source that cannot be reached is no error: its last
// good copy is used, and `health` tells of it.
func (s *Server) loadDERP(ctx context.Context, cfg *config.Config) (*derpmap.Loader, error) {
	regions, err := s.embeddedRegions(cfg)
	if err != nil {
		return nil, err
	}
	var every time.Duration
	if cfg.DERP.AutoUpdateEnabled {
		every = cfg.DERP.UpdateFrequency
	}
	loader, err := derpmap.New(derpmap.Config{
		Sources:  slices.Concat(cfg.DERP.URLs, cfg.DERP.Paths),
		Embedded: regions,
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

// repinned puts the pin of a new certificate into the DERP map, and tells other servers.
func (s *Server) repinned() {
	s.refreshDERP()
	select {
	case s.near.changed <- struct{}{}:
	default:
	}
}

// refreshDERP puts what has changed about relays inside servers into the DERP map.
func (s *Server) refreshDERP() {
	s.mu.Lock()
	loader := s.derpMap
	s.mu.Unlock()
	if loader != nil {
		loader.Refresh()
	}
}

// embeddedRegions describes the relays inside servers for the DERP map.
func (s *Server) embeddedRegions(cfg *config.Config) (func() []*tailcfg.DERPRegion, error) {
	if entry := s.relayEntry(cfg); entry != nil {
		if _, err := derpmap.Embedded(*entry); err != nil {
			return nil, err
		}
	}
	return func() []*tailcfg.DERPRegion { return s.regions(s.relayEntry(cfg)) }, nil
}

// relayEntry is the embedded relay as the DERP map has it: it is found where the server is. Nil if the map shall not
// have it.
func (s *Server) relayEntry(cfg *config.Config) *derpmap.Relay {
	own := cfg.DERP.Server
	if s.relay == nil || !own.AutoAddRegion {
		return nil
	}
	u := s.serverURL()
	cert := s.relayCert(u)
	host, ip4, ip6 := cert.Published(u.Hostname(), own.IPv4, own.IPv6)
	return &derpmap.Relay{
		RegionID:   own.RegionID,
		RegionCode: own.RegionCode,
		RegionName: own.RegionName,
		HostName:   host,
		IPv4:       ip4,
		IPv6:       ip6,
		CertName:   cert.Pin,
		DERPPort:   cmp.Or(own.Port, serverPort(u)),
		STUNPort:   s.stunPort(),
	}
}

// aboutRelay is what other servers are to know of the embedded relay.
func (s *Server) aboutRelay(ctx context.Context) (string, error) {
	cfg := s.config()
	about := relayAbout{Entry: s.relayEntry(cfg), Mesh: []derp.MeshPeer{s.meshPeer(ctx, cfg)}}
	text, err := json.Marshal(about)
	if err != nil {
		return "", fmt.Errorf("telling other servers of the embedded relay: %w", err)
	}
	return string(text), nil
}

// meshPeer is how other servers connect to the embedded relay: not by server_url, behind which any server may be, but at
// the addresses of this machine and its own port.
func (s *Server) meshPeer(ctx context.Context, cfg *config.Config) derp.MeshPeer {
	u := s.serverURL()
	p := derp.MeshPeer{Name: u.Hostname()}
	p.Name, p.Pin = s.cert.own(p.Name)
	add := func(a netip.Addr, port uint16) {
		if at := netip.AddrPortFrom(a.Unmap(), port); a.IsValid() && !slices.Contains(p.Addrs, at) {
			p.Addrs = append(p.Addrs, at)
		}
	}
	if u.Scheme == "http" || s.cert.trusted() || cfg.DERP.Server.Port != 0 { // otherwise what stands there is a proxy
		port := uint16(cmp.Or(cfg.DERP.Server.Port, serverPort(u)))
		add(cfg.DERP.Server.IPv4, port)
		add(cfg.DERP.Server.IPv6, port)
	}
	host, text, err := net.SplitHostPort(cfg.ListenAddr)
	port, portErr := strconv.ParseUint(text, 10, 16)
	if err != nil || portErr != nil {
		return p
	}
	for _, a := range listens(ctx, host) {
		add(a, uint16(port))
	}
	return p
}

// listens are the addresses of this machine that host, the one of a listener, stands for.
func listens(ctx context.Context, host string) []netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
		return []netip.Addr{a}
	} else if err != nil && host != "" {
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil
		}
		return found
	}
	found, err := derp.MachineAddrs()
	if err != nil || len(found) == 0 {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	return found
}

// serverURL is server_url, which was read at the start.
func (s *Server) serverURL() *url.URL {
	u, err := url.Parse(s.config().ServerURL)
	if err != nil {
		return &url.URL{}
	}
	return u
}

// relayExpires is when the certificate of the embedded relay ends; zero where it is none of its own.
func (s *Server) relayExpires() time.Time { return s.relayCert(s.serverURL()).Expires }

// relayCert is the certificate that clients of the embedded relay are to meet. Where server_url is https and the
// certificate is our own all the same, a proxy with another one stands in front, unless clients go past it.
func (s *Server) relayCert(u *url.URL) derp.CertInfo {
	if u.Scheme == "https" && s.config().DERP.Server.Port == 0 {
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
