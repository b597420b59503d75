package control

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// serveKey tells the server's public Noise key. Clients before v1.24 ask without a version, for the key of a protocol
// that is gone.
func (c *Control) serveKey(w http.ResponseWriter, r *http.Request) {
	v, err := strconv.Atoi(r.URL.Query().Get("v"))
	if err != nil {
		http.Error(w, "this client is too old for this server, or 'v' is missing: Tailscale v1.48 or newer asks for /key?v=68", http.StatusBadRequest)
		return
	}
	c.Log.Debug("key asked for", "cap", v, "from", r.RemoteAddr)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(tailcfg.OverTLSPublicKeyResponse{PublicKey: c.Key.Public()})
}

type (
	machineKeyOf struct{}
	cameFromOf   struct{}
	arrivedOf    struct{}
)

// machine is the key of the machine at the other end of the Noise connection that a request came over.
func machine(ctx context.Context) key.MachinePublic {
	return ctx.Value(machineKeyOf{}).(key.MachinePublic)
}

// cameFrom is the address of that machine as the server sees it, or as a trusted proxy does; zero if it is not known.
func cameFrom(ctx context.Context) netip.Addr {
	at, err := netip.ParseAddrPort(ctx.Value(cameFromOf{}).(string))
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// serveNoise upgrades to Noise and serves HTTP/2 inside it until the client leaves. A client holds two such connections,
// so a new one says nothing about an older one.
func (c *Control) serveNoise(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		http.Error(w, "this address is for Tailscale clients: if one is on the other side, a proxy between took away its Upgrade header", http.StatusUpgradeRequired)
		return
	}
	// A WebSocket lives only as long as the context that it was accepted with, so that ends with the connection.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	leave := c.arriving.enter()
	defer leave()
	conn, err := c.key.Upgrade(ctx, w, r)
	if err != nil {
		c.Log.Debug("noise handshake", "from", r.RemoteAddr, "err", err)
		return
	}
	conn.Patience = writeTime
	defer conn.Close()
	if !c.track(conn) {
		return
	}
	defer c.untrack(conn)
	time.AfterFunc(arrivalTime, leave)
	of := context.WithValue(context.Background(), machineKeyOf{}, conn.Peer())
	of = context.WithValue(of, arrivedOf{}, leave)
	of = context.WithValue(of, cameFromOf{}, r.RemoteAddr)
	c.h2.ServeConn(of, conn, r.RemoteAddr)
}

func (c *Control) track(conn closer) bool {
	c.conns.Lock()
	defer c.conns.Unlock()
	if c.conns.closed {
		return false
	}
	c.conns.open[conn] = true
	c.conns.wait.Add(1)
	return true
}

func (c *Control) untrack(conn closer) {
	c.conns.Lock()
	defer c.conns.Unlock()
	delete(c.conns.open, conn)
	c.conns.wait.Done()
}

func (c *Control) closeConns() {
	c.conns.Lock()
	c.conns.closed = true
	for conn := range c.conns.open {
		conn.Close()
	}
	c.conns.Unlock()
	c.conns.wait.Wait()
}
