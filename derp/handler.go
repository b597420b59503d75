package derp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
	"tailscale.com/derp"
	"tailscale.com/net/wsconn"
)

// Pages says what the relay serves besides relaying.
type Pages struct {
	// Home is the page at "/": "" for a short text, "blank" for an empty page, or a URL to
	// send visitors to.
	Home string
	// BootstrapDNS names the hosts that /bootstrap-dns resolves for clients whose own DNS
	// does not work.
	BootstrapDNS []string
	// HiddenDNS names hosts that it resolves too, but only for who asks for them by name.
	HiddenDNS []string
	// NoRelay serves the pages without the relay: /derp answers 404.
	NoRelay bool
}

func (p Pages) check() error {
	if p.Home == "" || p.Home == "blank" {
		return nil
	}
	u, err := url.Parse(p.Home)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf(`home page %q must be empty, "blank", or a URL with http:// or https://`, p.Home)
	}
	return nil
}

// Handler serves all that a relay serves, for a host of its own.
func (r *Relay) Handler() http.Handler {
	mux := http.NewServeMux()
	r.Routes(mux)
	mux.HandleFunc("/robots.txt", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, "User-agent: *\nDisallow: /\n")
	})
	mux.HandleFunc("/{$}", r.serveHome)
	return mux
}

// Routes adds to mux what clients ask of a relay, for a server that has pages of its own.
func (r *Relay) Routes(mux *http.ServeMux) {
	mux.HandleFunc("/derp", r.serveDERP)
	mux.HandleFunc("/derp/probe", r.serveProbe)
	mux.HandleFunc("/derp/latency-check", r.serveProbe)
	mux.HandleFunc("/generate_204", serveNoContent)
	mux.HandleFunc("/bootstrap-dns", r.bootstrap.serve)
}

// serveDERP upgrades a request and serves the client until it leaves.
func (r *Relay) serveDERP(w http.ResponseWriter, req *http.Request) {
	if r.cfg.Pages.NoRelay {
		http.Error(w, "this server does not relay", http.StatusNotFound)
		return
	}
	upgrade := strings.ToLower(req.Header.Get("Upgrade"))
	// Very old clients say "WebSocket" and mean DERP; those that mean it name the subprotocol.
	isWebSocket := upgrade == "websocket" &&
		strings.Contains(strings.ToLower(req.Header.Get("Sec-Websocket-Protocol")), "derp")
	switch {
	case upgrade != "derp" && upgrade != "websocket":
		w.Header().Set("Upgrade", "DERP")
		http.Error(w, "DERP requires connection upgrade", http.StatusUpgradeRequired)
		return
	case !r.gate.atDoor.Load() && !r.waitAtGate(req):
		http.Error(w, "too many connections", http.StatusTooManyRequests)
		return
	case !r.enter():
		http.Error(w, "the relay is shutting down", http.StatusServiceUnavailable)
		return
	}
	handedOver := false
	defer func() {
		if !handedOver {
			r.conns.open.Done()
		}
	}()
	// The HTTP server ends its context when it thinks fit; a relay's client stays.
	ctx := context.WithoutCancel(req.Context())
	accept := r.acceptPlain
	if isWebSocket {
		accept = r.acceptWebSocket
	}
	conn, err := accept(ctx, w, req)
	if err != nil {
		r.log.DebugContext(ctx, "upgrade failed", "source", req.RemoteAddr, "err", err)
		return
	}
	conn.idealNode = req.Header.Get(derp.IdealNodeHeader)
	c, err := r.engine.begin(ctx, conn)
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		r.noteRefused(ctx, refused)
		return
	case err != nil:
		r.engine.count.failed.Add(1)
		r.log.DebugContext(ctx, "handshake failed", "source", req.RemoteAddr, "err", err)
		return
	}
	r.engine.count.admitted.Add(1)
	r.gate.admitted(c.source.Addr())
	// A goroutine of its own has a small stack, and lets go of all that the request had.
	handedOver = true
	go r.serveClient(c)
}

// gatePatience is how long an upgrade waits for its turn in a server that is not the relay's.
const gatePatience = 5 * time.Second

// waitAtGate holds up a request of an embedding server as the limits say.
func (r *Relay) waitAtGate(req *http.Request) bool {
	ctx, cancel := context.WithTimeout(req.Context(), gatePatience)
	defer cancel()
	from, _ := netip.ParseAddrPort(req.RemoteAddr) // counted by nobody if there is none
	return r.gate.pass(ctx, from.Addr())
}

// serveClient serves a client that has introduced itself until it leaves.
func (r *Relay) serveClient(c *client) {
	defer r.conns.open.Done()
	if err := r.engine.run(c); err != nil {
		r.log.Debug("connection ended", "source", c.source, "err", err)
	}
}

// acceptPlain takes the connection from the HTTP server. A client that said so begins to
// speak DERP at once and wants no answer to its request.
func (r *Relay) acceptPlain(_ context.Context, w http.ResponseWriter, req *http.Request) (accepted, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "DERP needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return accepted{}, fmt.Errorf("taking over the connection: %w", err)
	}
	conn = decided(conn)
	a := accepted{conn: conn, abort: conn.Close, ahead: readAhead(rw.Reader), remote: conn.RemoteAddr()}
	switch conn := conn.(type) {
	case *net.TCPConn:
		a.conn = newWire(conn, false)
	case *tls.Conn:
		a.abort = conn.NetConn().Close // Close of TLS says good-bye first, which may take a while
	}
	if req.Header.Get(derp.FastStartHeader) != "1" {
		a.answer = fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"+
			"Derp-Version: %d\r\nDerp-Public-Key: %s\r\n\r\n",
			derp.ProtocolVersion, r.PublicKey().UntypedHexString())
	}
	return a, nil
}

// readAhead is what the HTTP server had read ahead.
func readAhead(r *bufio.Reader) []byte {
	head, _ := r.Peek(r.Buffered())
	return bytes.Clone(head)
}

// webSocketChunk is the most that one message to a browser holds; libraries bound it.
const webSocketChunk = 16 << 10

// acceptWebSocket serves clients in a browser.
func (r *Relay) acceptWebSocket(ctx context.Context, w http.ResponseWriter, req *http.Request) (accepted, error) {
	ws, err := websocket.Accept(w, req, &websocket.AcceptOptions{
		Subprotocols:    []string{"derp"},
		OriginPatterns:  []string{"*"}, // a client proves who it is by its key, not by a page
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return accepted{}, fmt.Errorf("accepting the WebSocket: %w", err)
	}
	if ws.Subprotocol() != "derp" {
		ws.Close(websocket.StatusPolicyViolation, "client must speak the derp subprotocol")
		return accepted{}, errors.New("WebSocket without the derp subprotocol")
	}
	ws.SetReadLimit(derp.MaxInfoLen) // of one message, which may hold a large packet and more
	conn := wsconn.NetConn(ctx, ws, websocket.MessageBinary, req.RemoteAddr)
	remote := net.Addr(conn.RemoteAddr())
	if ap, err := netip.ParseAddrPort(req.RemoteAddr); err == nil {
		remote = net.TCPAddrFromAddrPort(ap)
	}
	return accepted{conn: conn, abort: ws.CloseNow, chunk: webSocketChunk, remote: remote}, nil
}

// serveProbe answers clients that measure the latency by HTTP, having no UDP. One that takes no
// clients is not to be measured.
func (r *Relay) serveProbe(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "bogus probe method", http.StatusMethodNotAllowed)
		return
	}
	if r.engine.takesNone.Load() {
		http.Error(w, "the relay takes no clients now", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Access-Control-Allow-Origin", "*")
}

// serveNoContent answers clients that look for a captive portal: only we can repeat the
// challenge, a portal cannot.
func serveNoContent(w http.ResponseWriter, req *http.Request) {
	if challenge := req.Header.Get("X-Tailscale-Challenge"); isChallenge(challenge) {
		w.Header().Set("X-Tailscale-Response", "response "+challenge)
	}
	w.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate, no-transform, max-age=0")
	w.WriteHeader(http.StatusNoContent)
}

// isChallenge reports whether s is a challenge that may be repeated in a header.
func isChallenge(s string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:"
	return s != "" && len(s) <= 64 && strings.Trim(s, allowed) == ""
}

// serveHome is what a person sees who opens the relay's address.
func (r *Relay) serveHome(w http.ResponseWriter, req *http.Request) {
	switch home := r.cfg.Pages.Home; home {
	case "":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><title>DERP</title><p>This is a DERP relay. Its key is <code>%s</code>.\n",
			html.EscapeString(r.PublicKey().String()))
	case "blank":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
	default:
		http.Redirect(w, req, home, http.StatusFound)
	}
}
