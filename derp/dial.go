package derp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go4.org/mem"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// How a line of a mesh link begins: TCP, TLS, the HTTP upgrade, and the handshake of a client
// that knows the mesh key.

const (
	lineTimeout = 15 * time.Second // of all that
	dialTimeout = 4 * time.Second  // of one address
	maxUpgrade  = 16 << 10         // bytes of the answer to the HTTP request
	maxWelcome  = 4 << 10          // bytes of a frame of the handshake
	pinPrefix   = "sha256-raw:"    // of tailcfg.DERPNode.CertName
)

// target is where another relay is, and how it is known.
type target struct {
	psk   key.DERPMesh
	key   key.NodePublic // zero when it is not known beforehand
	plain bool           // without TLS
	host  string         // for the HTTP request; without its port, the name to ask for by TLS
	path  string
	addrs []string // to dial, in this order
	pin   string   // "" where an authority vouches for the certificate
}

// staticTarget reads an entry of Mesh.With.
func staticTarget(with string, psk key.DERPMesh) (*target, error) {
	t := &target{psk: psk, path: "/derp"}
	dial := ""
	if strings.Contains(with, "://") {
		u, err := url.Parse(with)
		if err != nil {
			return nil, err
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, errors.New("want a host, host:port, or a URL with http:// or https://")
		}
		t.plain, t.host, t.path = u.Scheme == "http", u.Host, strings.TrimSuffix(u.Path, "/")+"/derp"
	} else {
		t.host, dial, _ = strings.Cut(with, "/")
	}
	u := url.URL{Host: t.host}
	if u.Hostname() == "" {
		return nil, errors.New("it names no host")
	}
	port := u.Port()
	switch {
	case port != "":
	case t.plain:
		port = "80"
	default:
		port = "443"
	}
	host := u.Hostname()
	if dial != "" {
		host = trimBrackets(dial)
	}
	t.addrs = []string{net.JoinHostPort(host, port)}
	return t, nil
}

// peerTarget is where SetMesh says that a relay is.
func peerTarget(p MeshPeer, psk key.DERPMesh) (*target, error) {
	t := &target{psk: psk, key: p.Key, host: p.Name, path: "/derp", pin: p.Pin}
	for _, a := range p.Addrs {
		if !a.IsValid() {
			return nil, errors.New("an address is missing")
		}
		t.addrs = append(t.addrs, a.String())
	}
	switch {
	case p.Key.IsZero():
		return nil, errors.New("its key is missing")
	case len(p.Addrs) == 0:
		return nil, errors.New("it has no address")
	case p.Pin != "" && parsePin(p.Pin) == nil:
		return nil, fmt.Errorf("its pin must be %s and 64 hex digits", pinPrefix)
	}
	if t.host == "" {
		t.host = p.Addrs[0].Addr().String()
		if p.Addrs[0].Addr().Is6() {
			t.host = "[" + t.host + "]"
		}
	}
	return t, nil
}

// parsePin is the SHA-256 that a pin means; nil if it is none.
func parsePin(pin string) []byte {
	text, ok := strings.CutPrefix(pin, pinPrefix)
	sum, err := hex.DecodeString(text)
	if !ok || err != nil || len(sum) != sha256.Size {
		return nil
	}
	return sum
}

// dial begins line i, at the first address where the right relay answers.
func (l *link) dial(ctx context.Context, i int) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, lineTimeout)
	defer cancel()
	t := l.target.Load()
	var errs []error
	for _, addr := range t.addrs {
		c, err := l.dialAt(ctx, t, addr, i)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (l *link) dialAt(ctx context.Context, t *target, addr string, i int) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, max(dialTimeout, lineTimeout/time.Duration(len(t.addrs))))
	defer cancel()
	conn, abort, err := t.connect(ctx, addr)
	if err != nil {
		return nil, err
	}
	unhook := context.AfterFunc(ctx, func() { abort() })
	defer unhook()
	conn.SetDeadline(time.Now().Add(lineTimeout))
	relay, ahead, err := t.introduce(conn, l.keys[i], l.eng.key.Public())
	if err != nil {
		abort()
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	conn.SetDeadline(time.Time{})
	c := newClient(l.eng, accepted{conn: conn, abort: abort, ahead: ahead, remote: conn.RemoteAddr()})
	c.key, c.meshed, c.line = rawKey(relay), true, true
	c.out.bulk.width = lineWidth
	return c, nil
}

// connect opens the connection, with TLS unless the target does without.
func (t *target) connect(ctx context.Context, addr string) (conn net.Conn, abort func() error, err error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: lineSilence, Interval: lineTick, Count: 3}}
	if conn, err = d.DialContext(ctx, "tcp", addr); err != nil {
		return nil, nil, err
	}
	under := newWire(conn, !t.plain)
	if t.plain {
		return under, conn.Close, nil
	}
	sealed := tls.Client(under, t.tlsConfig())
	if err := sealed.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("TLS with %s at %s: %w", t.host, addr, err)
	}
	return sealed, conn.Close, nil
}

func (t *target) tlsConfig() *tls.Config {
	u := url.URL{Host: t.host}
	cfg := &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}, DynamicRecordSizingDisabled: true}
	if t.pin == "" {
		return cfg
	}
	want := parsePin(t.pin)
	cfg.InsecureSkipVerify = true // the pin says more than an authority could
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		leaf, now := state.PeerCertificates[0], time.Now()
		switch got := sha256.Sum256(leaf.Raw); {
		case !bytes.Equal(got[:], want):
			return fmt.Errorf("the certificate has the pin %s%x", pinPrefix, got)
		case now.Before(leaf.NotBefore) || now.After(leaf.NotAfter):
			return fmt.Errorf("the certificate is valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
		}
		return nil
	}
	return cfg
}

// introduce upgrades the connection and does the handshake. It returns the other relay's key,
// and what was read ahead.
func (t *target) introduce(conn io.ReadWriter, self key.NodePrivate, own key.NodePublic) (relay key.NodePublic, ahead []byte, err error) {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n", t.path, t.host); err != nil {
		return relay, nil, fmt.Errorf("asking for the upgrade: %w", err)
	}
	bounded := &io.LimitedReader{R: conn, N: maxUpgrade}
	br := bufio.NewReaderSize(bounded, 4<<10)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return relay, nil, fmt.Errorf("reading the answer to the upgrade: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return relay, nil, fmt.Errorf("the other relay answered %.100q to the upgrade", res.Status)
	}
	bounded.N = math.MaxInt64
	if relay, err = readServerKey(br); err != nil {
		return relay, nil, err
	}
	switch {
	case relay == own && t.key.IsZero():
		return relay, nil, errSelf
	case relay == own:
		return relay, nil, errors.New("this relay itself answers")
	case !t.key.IsZero() && relay != t.key:
		return relay, nil, fmt.Errorf("another relay answers, %s", relay.ShortString())
	}
	text, err := json.Marshal(derp.ClientInfo{Version: derp.ProtocolVersion, MeshKey: t.psk, CanAckPings: true})
	if err != nil {
		return relay, nil, err
	}
	hello := appendFrame(nil, derp.FrameClientInfo, self.Public().AppendTo(nil), self.SealTo(relay, text))
	if _, err := conn.Write(hello); err != nil {
		return relay, nil, fmt.Errorf("introducing ourselves: %w", err)
	}
	sealed, err := readFrame(br, derp.FrameServerInfo)
	if err != nil {
		return relay, nil, fmt.Errorf("the other relay did not take us, does it have the same mesh key? %w", err)
	}
	if _, ok := self.OpenFrom(relay, sealed); !ok {
		return relay, nil, errors.New("the welcome is not sealed to us")
	}
	ahead, _ = br.Peek(br.Buffered())
	return relay, bytes.Clone(ahead), nil
}

func readServerKey(br *bufio.Reader) (key.NodePublic, error) {
	body, err := readFrame(br, derp.FrameServerKey)
	if err != nil {
		return key.NodePublic{}, fmt.Errorf("reading the other relay's key: %w", err)
	}
	rest, ok := bytes.CutPrefix(body, []byte(derp.Magic))
	if !ok || len(rest) < derp.KeyLen {
		return key.NodePublic{}, errors.New("who answers is no relay")
	}
	return key.NodePublicFromRaw32(mem.B(rest[:derp.KeyLen])), nil
}

// readFrame reads a frame of the handshake, which must be of that type.
func readFrame(br *bufio.Reader, want derp.FrameType) ([]byte, error) {
	var head [derp.FrameHeaderLen]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return nil, err
	}
	t, size := derp.FrameType(head[0]), binary.BigEndian.Uint32(head[1:])
	if t != want || size > maxWelcome {
		return nil, fmt.Errorf("got a frame of type %#x and %d bytes, want type %#x", t, size, want)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(br, body); err != nil {
		return nil, err
	}
	return body, nil
}
