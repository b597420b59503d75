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

	"github.com/keelscale/keelscale/hscontrol/control/noise"
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

// serveNoise upgrades to Noise, and has HTTP/2 served inside it until the client leaves. A client holds two such
// connections, so a new one says nothing about an older one.
func (c *Control) serveNoise(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		http.Error(w, "this address is for Tailscale clients: if one is on the other side, a proxy between took away its Upgrade header", http.StatusUpgradeRequired)
		return
	}
	leave := c.arriving.enter()
	// A WebSocket lives only as long as the context that it was accepted with, so that ends with the connection.
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := c.key.Upgrade(ctx, w, r)
	if err != nil {
		cancel()
		leave()
		c.Log.Debug("noise handshake", "from", r.RemoteAddr, "err", err)
		return
	}
	conn.Patience = writeTime
	if !c.track(conn) {
		cancel()
		leave()
		conn.Close()
		return
	}
	from := r.RemoteAddr
	go func() { // so that the buffers of HTTP/1 are not kept for as long as the client stays
		defer c.untrack(conn)
		defer cancel()
		defer leave()
		c.serveMachine(conn, from, leave)
	}()
}

// serveMachine serves the requests of a client until it leaves, and closes the connection.
func (c *Control) serveMachine(conn *noise.Conn, from string, leave func()) {
	late := time.AfterFunc(arrivalTime, leave)
	of := context.WithValue(context.Background(), machineKeyOf{}, conn.Peer())
	of = context.WithValue(of, arrivedOf{}, func() { late.Stop(); leave() })
	of = context.WithValue(of, cameFromOf{}, from)
	c.h2.ServeConn(of, conn, from)
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
