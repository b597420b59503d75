package derp

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"go4.org/mem"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// How admission works, and why here.
//
// The engine (derpserver) knows two ways to ask whether a client may come in: a tailscaled
// on the same machine, and a URL that it calls through http.DefaultClient. It has no hook
// for a function, so others register a URL scheme of their own on http.DefaultTransport,
// which is state shared by the whole process. And with a loopback listener as the URL every
// connection would cost an HTTP request to ourselves.
//
// But a client's introduction is one frame, the first that it sends, sealed to our key. So
// the reader that the engine reads from is a gate: it takes that one frame from the socket,
// opens it, asks Admit, and then either hands the same bytes on to the engine, which does
// all its own checks again, or fails the read, which ends the connection before the engine
// has registered anybody. After that the gate is a plain reader.
//
// The frame (tailscale.com/derp, FrameClientInfo):
//
//	1 byte type | 4 bytes length, big endian | 32 bytes public key | 24 bytes nonce + box(JSON)

// maxHello bounds the introduction, as the engine does: nobody is trusted yet.
const maxHello = 256 << 10

// admitTimeout bounds one question to Admit. The engine gives the whole introduction ten
// seconds.
const admitTimeout = 8 * time.Second

// gate is an io.Reader that answers its first Read only when the client may come in.
type gate struct {
	ctx    context.Context
	relay  *Relay
	source netip.Addr
	src    io.Reader

	opened  bool
	replay  []byte   // the introduction, for the engine to read again
	refused *refusal // why the client was turned away, if it was
}

// refusal says who was turned away, and why.
type refusal struct {
	node   key.NodePublic
	source netip.Addr
	reason string
}

// Error implements error.
func (r *refusal) Error() string { return "not admitted: " + r.reason }

// Read implements io.Reader.
func (g *gate) Read(p []byte) (int, error) {
	if !g.opened {
		if err := g.open(); err != nil {
			return 0, err
		}
		g.opened = true
	}
	if len(g.replay) > 0 {
		n := copy(p, g.replay)
		if g.replay = g.replay[n:]; len(g.replay) == 0 {
			g.replay = nil
		}
		return n, nil
	}
	return g.src.Read(p)
}

// open reads the introduction and asks whether its sender may come in.
func (g *gate) open() error {
	raw, err := readHello(g.src)
	if err != nil {
		return err
	}
	node, info, err := parseHello(g.relay.cfg.Key, raw)
	if err != nil {
		return err
	}
	g.replay = raw
	if g.relay.engine.isMeshPeer(info.MeshKey) {
		return nil // it carries others' packets; no tailnet knows its key
	}
	ctx, cancel := context.WithTimeout(g.ctx, admitTimeout)
	defer cancel()
	ok, err := g.relay.cfg.Admit(ctx, node, g.source)
	switch {
	case err != nil:
		g.refused = &refusal{node, g.source, err.Error()}
	case !ok:
		g.refused = &refusal{node, g.source, "not a node of this network"}
	default:
		return nil
	}
	return g.refused
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

// parseHello opens an introduction as readHello returns it.
func parseHello(priv key.NodePrivate, raw []byte) (key.NodePublic, derp.ClientInfo, error) {
	var info derp.ClientInfo
	const keyEnd = derp.FrameHeaderLen + derp.KeyLen
	if len(raw) < keyEnd+derp.NonceLen {
		return key.NodePublic{}, info, errors.New("introduction too short")
	}
	node := key.NodePublicFromRaw32(mem.B(raw[derp.FrameHeaderLen:keyEnd]))
	clear, ok := priv.OpenFrom(node, raw[keyEnd:])
	if !ok {
		return node, info, errors.New("introduction is not sealed to this relay's key")
	}
	if err := json.Unmarshal(clear, &info); err != nil {
		return node, info, fmt.Errorf("parsing the introduction: %w", err)
	}
	return node, info, nil
}
