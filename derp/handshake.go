package derp

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derpconst"
	"tailscale.com/types/key"
)

// How a connection begins: the relay says its key (FrameServerKey), the client introduces
// itself in one frame sealed to that key (FrameClientInfo), is admitted or not, and gets the
// relay's welcome (FrameServerInfo). The introduction (tailscale.com/derp):
//
//	1 byte type | 4 bytes length, big endian | 32 bytes public key | 24 bytes nonce + box(JSON)

const (
	maxHello      = 256 << 10        // bytes of an introduction: nobody is trusted yet
	helloTimeout  = 10 * time.Second // of all that is sent and received here
	admitTimeout  = 8 * time.Second  // of one question to Admit
	metaCertYears = 10
)

// refusal says who was turned away, and why.
type refusal struct {
	node   key.NodePublic
	source netip.Addr
	reason string
}

// Error implements error.
func (r *refusal) Error() string { return "not admitted: " + r.reason }

// greet does c's handshake. Afterwards c knows who it is, and has joined the others.
func (e *engine) greet(ctx context.Context, c *client, a accepted) error {
	c.conn.SetDeadline(time.Now().Add(helloTimeout))
	if _, err := c.conn.Write(appendFrame(a.answer, derp.FrameServerKey, []byte(derp.Magic), e.self[:])); err != nil {
		return fmt.Errorf("sending the relay's key: %w", err)
	}
	raw, err := readHello(&c.in)
	if err != nil {
		return err
	}
	node, info, shared, err := parseHello(e.box, raw)
	if err != nil {
		return err
	}
	e.introduce(c, rawKey(node), info.MeshKey)
	c.flags = presence(c.meshed, info.IsProber, a.idealNode != "")
	if !c.meshed { // a mesh peer carries others' packets; no tailnet knows its key
		if err := e.ask(ctx, node, c.source.Addr()); err != nil {
			return err
		}
	}
	if !c.reserve() {
		return net.ErrClosed
	}
	if err := e.join(c); err != nil {
		return err
	}
	c.conn.SetDeadline(time.Now().Add(helloTimeout))
	welcome, err := e.welcome(c, shared)
	if err != nil {
		return err
	}
	if _, err := c.conn.Write(appendFrame(nil, derp.FrameServerInfo, welcome)); err != nil {
		return fmt.Errorf("sending the welcome: %w", err)
	}
	c.conn.SetDeadline(time.Time{})
	return nil
}

// ask asks Admit.
func (e *engine) ask(ctx context.Context, node key.NodePublic, source netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	ok, err := e.admit(ctx, node, source)
	switch {
	case err != nil:
		return &refusal{node, source, err.Error()}
	case !ok:
		return &refusal{node, source, "not a node of this network"}
	}
	return nil
}

// welcome is the sealed ServerInfo for a client that has joined.
func (e *engine) welcome(c *client, shared *boxKey) ([]byte, error) {
	e.mu.Lock()
	told := c.told
	e.mu.Unlock()
	text, err := json.Marshal(told.bucket())
	if err != nil {
		return nil, err
	}
	return shared.seal(text)
}

// tellLimits seals ServerInfo for a client anew, and sends it.
func (e *engine) tellLimits(c *client) {
	shared, err := e.box.with(&c.key)
	if err != nil {
		return // it has joined, so its key is one
	}
	if news, err := e.welcome(c, shared); err == nil {
		c.tell(derp.FrameServerInfo, news)
	}
}

// presence is how a client is described to those that watch.
func presence(meshed, prober, notIdeal bool) derp.PeerPresentFlags {
	var f derp.PeerPresentFlags
	if prober {
		f |= derp.PeerPresentIsProber
	}
	if meshed {
		f |= derp.PeerPresentIsMeshPeer
	}
	if notIdeal {
		f |= derp.PeerPresentNotIdeal
	}
	if f == 0 {
		f = derp.PeerPresentIsRegular
	}
	return f
}

// readHello reads the first frame, header included.
func readHello(r io.Reader) ([]byte, error) {
	var header [derp.FrameHeaderLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	if t := derp.FrameType(header[0]); t != derp.FrameClientInfo {
		return nil, fmt.Errorf("first frame is of type %#x, want %#x", t, derp.FrameClientInfo)
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size < derp.KeyLen+derp.NonceLen || size > maxHello {
		return nil, fmt.Errorf("introduction of %d bytes", size)
	}
	raw := make([]byte, derp.FrameHeaderLen+int(size))
	copy(raw, header[:])
	if _, err := io.ReadFull(r, raw[derp.FrameHeaderLen:]); err != nil {
		return nil, fmt.Errorf("reading the introduction: %w", err)
	}
	return raw, nil
}

// parseHello opens an introduction as readHello returns it. It also returns what the relay and
// the client share.
func parseHello(relay *relayKey, raw []byte) (key.NodePublic, derp.ClientInfo, *boxKey, error) {
	var info derp.ClientInfo
	const keyEnd = derp.FrameHeaderLen + derp.KeyLen
	if len(raw) < keyEnd+derp.NonceLen {
		return key.NodePublic{}, info, nil, errors.New("introduction too short")
	}
	self := nodeKey(raw[derp.FrameHeaderLen:keyEnd])
	node := self.public()
	shared, err := relay.with(&self)
	if err != nil {
		return node, info, nil, fmt.Errorf("using the client's key: %w", err)
	}
	clear, ok := shared.open(raw[keyEnd:])
	if !ok {
		return node, info, nil, errors.New("introduction is not sealed to this relay's key")
	}
	if err := json.Unmarshal(clear, &info); err != nil {
		return node, info, nil, fmt.Errorf("parsing the introduction: %w", err)
	}
	return node, info, shared, nil
}

// makeMetaCert makes the certificate that tells clients the relay's key within the TLS
// handshake (derpconst.MetaCertCommonNamePrefix), which saves them a round trip. Nobody
// checks who signed it, so its key is thrown away.
func makeMetaCert(relay key.NodePublic) ([]byte, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(derp.ProtocolVersion),
		Subject:               pkix.Name{CommonName: derpconst.MetaCertCommonNamePrefix + relay.UntypedHexString()},
		NotBefore:             now.AddDate(0, -1, 0),
		NotAfter:              now.AddDate(metaCertYears, 0, 0),
		BasicConstraintsValid: true, // macOS wants it where subject and issuer are the same
	}
	return x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, priv)
}
