package main

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

// build makes the relay. It announces itself to out when it is open.
func (s *settings) build(log *slog.Logger, out io.Writer) (*relay, error) {
	cfg := derp.Config{
		Log:          log,
		WriteTimeout: s.writeTimeout,
		Mesh:         derp.Mesh{With: splitList(s.meshWith)},
		Pages: derp.Pages{
			Home:         s.home,
			BootstrapDNS: splitList(s.bootstrapDNS),
			HiddenDNS:    splitList(s.hiddenDNS),
			NoRelay:      !s.derp,
		},
		Listen: s.listen(),
	}
	if s.writeTimeout == 0 {
		cfg.WriteTimeout = -1
	}
	var err error
	if cfg.Key, err = s.key(); err != nil {
		return nil, err
	}
	if cfg.Mesh.Key, err = s.meshKey(); err != nil {
		return nil, err
	}
	if cfg.Admit, err = s.admit(); err != nil {
		return nil, err
	}
	if cfg.Limits, err = s.limits(); err != nil {
		return nil, err
	}
	agent, err := s.enrolment(&cfg, log)
	if err != nil {
		return nil, err
	}
	a := &announcer{settings: s, log: log, out: out, key: cfg.Key.Public()}
	if s.hostname == "" {
		if a.addrs, err = ownAddrs(); err != nil {
			return nil, err
		}
	}
	if s.certMode != certOff {
		if cfg.Listen.Cert, err = s.openCert(log, a); err != nil {
			return nil, err
		}
		a.cert.Store(cfg.Listen.Cert)
	}
	if agent != nil {
		cfg.Listen.Notes = func() []derp.Note { return enrolNotes(agent.Status(), time.Now()) }
	}
	open := make(chan derp.Ports, 1)
	cfg.Listen.Ready = func(p derp.Ports) {
		a.ready(p)
		open <- p
	}
	r, err := derp.New(cfg)
	if err != nil {
		return nil, err
	}
	built := &relay{Relay: r, log: log, cert: cfg.Listen.Cert, agent: agent, open: open, hostname: s.hostname, started: s}
	built.settings.Store(s)
	return built, nil
}

// acceptLimited reports whether there is a bound on new connections.
func (s *settings) acceptLimited() bool { return !math.IsInf(s.acceptLimit, +1) }

func (s *settings) listen() derp.Listen {
	l := derp.Listen{
		Addr:        s.addr,
		HTTPPort:    s.httpPort,
		STUNPort:    s.stunPort,
		DebugAddr:   s.debugAddr,
		KeepAlive:   s.keepAlive,
		UserTimeout: s.userTimeout,
	}
	if !s.stun {
		l.STUNPort = -1
	}
	return l
}

func (s *settings) openCert(log *slog.Logger, a *announcer) (*derp.Cert, error) {
	return derp.OpenCert(derp.CertConfig{
		Mode:          s.certMode,
		Hostname:      s.hostname,
		Dir:           s.certDir,
		Email:         s.acmeEmail,
		ACMEDirectory: s.acmeDirectory,
		Addrs:         a.addrs,
		Validity:      s.certValidity,
		Log:           log,
		Changed:       a.changed,
	})
}

// ownAddrs are the addresses of this machine that clients may use: the public ones, or the
// private ones if there are no others. They stand in the certificate, for all to read.
func ownAddrs() ([]netip.Addr, error) {
	addrs, err := derp.MachineAddrs()
	if err != nil {
		return nil, err
	}
	for i, a := range addrs { // public ones come first
		if derp.IsPublic(a) != derp.IsPublic(addrs[0]) {
			return addrs[:i], nil
		}
	}
	return addrs, nil
}

func (s *settings) key() (key.NodePrivate, error) {
	if s.keyPath == "" {
		return key.NewNode(), nil
	}
	return derp.LoadKey(s.keyPath)
}

func (s *settings) meshKey() (string, error) {
	if s.meshPSKFile == "" {
		return "", nil
	}
	raw, err := os.ReadFile(s.meshPSKFile)
	if err != nil {
		return "", fmt.Errorf("reading the mesh key (-mesh-psk-file): %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

func (s *settings) admit() (derp.Admit, error) {
	var each []derp.Admit
	if s.verifyClients {
		each = append(each, derp.LocalTailscaled(s.socket))
	}
	if s.verifyURL != "" {
		verify, err := derp.VerifyURL(s.verifyURL, s.verifyFailOpen)
		if err != nil {
			return nil, fmt.Errorf("-verify-client-url: %w", err)
		}
		each = append(each, verify)
	}
	return derp.All(each...), nil // all of none is anybody
}

func splitList(s string) (out []string) {
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// announcer tells the operator what listens where, and what to put into the DERP map.
type announcer struct {
	settings *settings
	log      *slog.Logger
	out      io.Writer
	key      key.NodePublic
	addrs    []netip.Addr
	cert     atomic.Pointer[derp.Cert]
	bound    atomic.Pointer[derp.Ports]

	published atomic.Pointer[derp.CertInfo] // what was last told
}
