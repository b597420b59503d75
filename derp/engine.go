package derp

import (
	"bufio"
	"context"
	"encoding/json"
	"expvar"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"strings"

	"tailscale.com/derp/derpserver"
	"tailscale.com/types/key"
)

// engine moves the frames of admitted connections. It is the one place that names the
// implementation, so that another can take its place without anybody else noticing.
type engine struct {
	srv *derpserver.Server
}

func newEngine(cfg Config) (*engine, error) {
	logf := func(format string, args ...any) {
		if cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
			cfg.Log.Debug(strings.TrimSpace(fmt.Sprintf(format, args...)))
		}
	}
	srv := derpserver.New(cfg.Key, logf)
	if cfg.Mesh.Key != "" {
		if err := srv.SetMeshKey(cfg.Mesh.Key); err != nil {
			return nil, fmt.Errorf("reading the mesh key (64 hex digits): %w", err)
		}
	}
	switch {
	case cfg.WriteTimeout > 0:
		srv.SetTCPWriteTimeout(cfg.WriteTimeout)
	case cfg.WriteTimeout < 0:
		srv.SetTCPWriteTimeout(0)
	}
	e := &engine{srv: srv}
	e.setRate(cfg.Rate)
	return e, nil
}

// serve speaks DERP over conn until either side ends it. It reads from r, which is the gate
// in front of conn, and closes conn.
func (e *engine) serve(ctx context.Context, c accepted, r io.Reader) {
	if c.idealNode != "" {
		ctx = derpserver.IdealNodeContextKey.WithValue(ctx, c.idealNode)
	}
	brw := bufio.NewReadWriter(bufio.NewReader(r), c.writer)
	e.srv.Accept(ctx, c.conn, brw, c.remote.String())
}

// accepted is an upgraded connection on its way to the engine.
type accepted struct {
	conn      net.Conn
	reader    io.Reader     // conn, after what the HTTP server had read ahead
	writer    *bufio.Writer // to conn
	remote    net.Addr
	idealNode string // the node that the client would rather be on; "" if on it
}

func (e *engine) close() { e.srv.Close() }

func (e *engine) setRate(v Rate) {
	e.srv.UpdateRateLimits(derpserver.RateConfig{
		PerClientRateLimitBytesPerSec: v.PerClient,
		PerClientRateBurstBytes:       v.Burst,
	})
}

// isMeshPeer reports whether a client knows the mesh key; it compares in constant time.
func (e *engine) isMeshPeer(k key.DERPMesh) bool {
	return e.srv.HasMeshKey() && !k.IsZero() && e.srv.MeshKey().Equal(k)
}

// meshKey is what the relays of a mesh know each other by; zero without a mesh.
func (e *engine) meshKey() key.DERPMesh { return e.srv.MeshKey() }

// metaCert is the certificate that tells a client the relay's key within the TLS handshake,
// which saves it a round trip.
func (e *engine) metaCert() []byte { return e.srv.MetaCert() }

// forward sends packets for node by way of f, a link to another relay of the mesh.
func (e *engine) forward(node key.NodePublic, f forwarder)   { e.srv.AddPacketForwarder(node, f) }
func (e *engine) unforward(node key.NodePublic, f forwarder) { e.srv.RemovePacketForwarder(node, f) }

type forwarder = derpserver.PacketForwarder

// vars are the engine's counters.
func (e *engine) vars() expvar.Var { return e.srv.ExpVar(true) }

// LoadRate reads a Rate from a JSON file, the -rate-config of cmd/derper.
func LoadRate(path string) (Rate, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Rate{}, fmt.Errorf("reading the rate file: %w", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	var v Rate
	if err := dec.Decode(&v); err != nil {
		return Rate{}, fmt.Errorf("parsing the rate file %s: %w", path, err)
	}
	if v.PerClient > math.MaxInt64 || v.Burst > math.MaxInt64 {
		return Rate{}, fmt.Errorf("the rate file %s has a rate that is too large", path)
	}
	return v, nil
}
