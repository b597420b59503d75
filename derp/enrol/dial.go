package enrol

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"tailscale.com/control/controlbase"
	"tailscale.com/control/controlhttp/controlhttpcommon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// The client of tailscale.com tries several ports, one after the other, and says of all that failed only that it did. A
// relay connects to the URL that was typed, and nowhere else.

const (
	dialTimeout   = 10 * time.Second // until there is an HTTP/2 connection within Noise
	maxHeader     = 16 << 10         // bytes of an answer's header
	maxKeyAnswer  = 4 << 10          // bytes of the answer of /key
	maxEarly      = 64 << 10         // bytes that a server may say before HTTP/2
	upgradePath   = "/ts2021"
	sessionPath   = "/relay/v1/session"
	maxComplaint  = 512 // bytes of an error page that are read
	probeKeyAfter = 5 * time.Second
)

// line is an HTTP/2 connection within Noise.
type line struct {
	conn   net.Conn // that all goes through
	h2     *http2.ClientConn
	local  netip.Addr
	remote netip.AddrPort
	close  func()
}

// dial opens a line to the control server.
func (a *Agent) dial(ctx context.Context) (*line, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	server, err := a.serverKey(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	machine := a.mu.state.MachineKey
	a.mu.Unlock()
	hello, finish, err := controlbase.ClientDeferred(machine, server, uint16(tailcfg.CurrentCapabilityVersion))
	if err != nil {
		return nil, fmt.Errorf("beginning the handshake: %w", err)
	}
	raw, err := a.upgrade(ctx, hello)
	if err != nil {
		return nil, err
	}
	noise, err := finish(ctx, raw)
	if err != nil {
		raw.Close()
		return nil, a.explainHandshake(server, err)
	}
	h2, err := (&http2.Transport{}).NewClientConn(&earlyConn{Conn: noise})
	if err != nil {
		noise.Close()
		return nil, fmt.Errorf("speaking HTTP/2 with %s: %w", a.url, err)
	}
	l := &line{conn: noise, h2: h2, close: sync.OnceFunc(func() { noise.Close() })}
	if local, ok := raw.LocalAddr().(*net.TCPAddr); ok {
		l.local = local.AddrPort().Addr().Unmap()
	}
	if remote, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		l.remote = remote.AddrPort()
	}
	return l, nil
}

// upgrade asks for Noise over HTTP, and returns the connection on which it is spoken.
func (a *Agent) upgrade(ctx context.Context, hello []byte) (net.Conn, error) {
	var conn net.Conn
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { conn = got.Conn }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodPost, a.url.JoinPath(upgradePath).String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Upgrade", controlhttpcommon.UpgradeHeaderValue)
	req.Header.Set("Connection", "upgrade")
	req.Header.Set(controlhttpcommon.HandshakeHeaderName, base64.StdEncoding.EncodeToString(hello))
	res, err := plainTransport(&tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // Noise tells whether it is the server: its certificate may be its own
	}).RoundTrip(req)
	if err != nil {
		return nil, a.explainDial(ctx, err)
	}
	body, ok := res.Body.(io.ReadWriteCloser)
	if res.StatusCode != http.StatusSwitchingProtocols || !ok || conn == nil {
		defer res.Body.Close()
		return nil, a.explainUpgrade(res)
	}
	if got := res.Header.Get("Upgrade"); !strings.EqualFold(got, controlhttpcommon.UpgradeHeaderValue) {
		body.Close()
		return nil, final("%s upgrades to %q, not to what a control server speaks: is the URL right?", a.url, got)
	}
	return &upgradedConn{conn, body}, nil
}

// plainTransport makes HTTP/1 requests, through the proxy of the environment if there is one.
func plainTransport(cfg *tls.Config) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // HTTP/2 has no upgrade
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        cfg,
		Protocols:              &protocols,
		MaxResponseHeaderBytes: maxHeader,
		DisableKeepAlives:      true,
		DisableCompression:     true,
	}
}

// upgradedConn reads what the HTTP client may have read ahead.
type upgradedConn struct {
	net.Conn
	body io.ReadWriteCloser
}

// Read implements net.Conn.
func (c *upgradedConn) Read(p []byte) (int, error) { return c.body.Read(p) }

// Write implements net.Conn.
func (c *upgradedConn) Write(p []byte) (int, error) { return c.body.Write(p) }

// Close implements net.Conn.
func (c *upgradedConn) Close() error { return c.body.Close() }

// earlyMagic begins what some servers say before HTTP/2: 5 bytes, 4 bytes of length, big endian, and JSON. It is nothing
// for relays.
var earlyMagic = []byte("\xff\xff\xffTS")

// earlyConn skips that.
type earlyConn struct {
	net.Conn
	once sync.Once
	head io.Reader // what was read and is not for us; then nil
	err  error
}

// Read implements net.Conn.
func (c *earlyConn) Read(p []byte) (int, error) {
	c.once.Do(c.skip)
	if c.err != nil {
		return 0, c.err
	}
	if c.head != nil {
		if n, _ := c.head.Read(p); n > 0 {
			return n, nil
		}
		c.head = nil
	}
	return c.Conn.Read(p)
}

func (c *earlyConn) skip() {
	head := make([]byte, len(earlyMagic)+4) // as long as the header of an HTTP/2 frame
	if _, c.err = io.ReadFull(c.Conn, head); c.err != nil {
		return
	}
	length, early := bytes.CutPrefix(head, earlyMagic)
	if !early {
		c.head = bytes.NewReader(head)
		return
	}
	size := binary.BigEndian.Uint32(length)
	if size > maxEarly {
		c.err = fmt.Errorf("%w: %d bytes before HTTP/2", errProtocol, size)
		return
	}
	_, c.err = io.CopyN(io.Discard, c.Conn, int64(size))
}

// serverKey is the key by which the server is known: from the enrolment, from the enrolment key, or, if that does not
// tell, from the server itself, which is then believed.
func (a *Agent) serverKey(ctx context.Context) (key.MachinePublic, error) {
	a.mu.Lock()
	known := a.mu.state.ServerKey
	a.mu.Unlock()
	if !known.IsZero() {
		return known, nil
	}
	k, verified, err := a.fetchKey(ctx)
	if err != nil {
		return k, err
	}
	how := "nothing vouches for it but the network, because the enrolment key does not name it"
	if verified {
		how = "its certificate vouches for it"
	}
	a.log.Warn("the control server's key is taken on trust", "control", a.url.String(), "key", k.String(), "because", how)
	a.mu.Lock()
	a.mu.state.ServerKey = k
	a.mu.Unlock()
	return k, nil
}

// fetchKey asks the server for its key. verified is whether a certificate vouches for the answer.
func (a *Agent) fetchKey(ctx context.Context) (k key.MachinePublic, verified bool, err error) {
	verified = a.url.Scheme == "https"
	k, err = a.getKey(ctx, &tls.Config{MinVersion: tls.VersionTLS12})
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) || errors.As(err, new(x509.UnknownAuthorityError)) {
		verified = false
		k, err = a.getKey(ctx, &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}) // no worse than http
	}
	return k, verified, err
}

func (a *Agent) getKey(ctx context.Context, cfg *tls.Config) (key.MachinePublic, error) {
	var none key.MachinePublic
	u := a.url.JoinPath("/key")
	u.RawQuery = fmt.Sprintf("v=%d", tailcfg.CurrentCapabilityVersion)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return none, err
	}
	res, err := plainTransport(cfg).RoundTrip(req)
	if err != nil {
		return none, a.explainDial(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return none, a.explainUpgrade(res)
	}
	var answer tailcfg.OverTLSPublicKeyResponse
	if err := json.NewDecoder(io.LimitReader(res.Body, maxKeyAnswer)).Decode(&answer); err != nil || answer.PublicKey.IsZero() {
		return none, final("%s is no control server: it tells no key at /key; is the URL right?", a.url)
	}
	return answer.PublicKey, nil
}
