package noise

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/coder/websocket"
	"tailscale.com/control/controlhttp/controlhttpcommon"
	"tailscale.com/net/netutil"
	"tailscale.com/net/wsconn"
)

const (
	protocol  = controlhttpcommon.UpgradeHeaderValue
	handshake = controlhttpcommon.HandshakeHeaderName // a header, or a parameter of a WebSocket's address
)

// Upgrade makes of a request the connection that the client asks for with it. Where that cannot be, the client has got
// an answer. A connection over a WebSocket ends with ctx.
func (k *Key) Upgrade(ctx context.Context, w http.ResponseWriter, r *http.Request) (*Conn, error) {
	var init string
	var take func(http.ResponseWriter, *http.Request, []byte) (net.Conn, error)
	switch next := r.Header.Get("Upgrade"); strings.ToLower(next) {
	case protocol:
		init, take = r.Header.Get(handshake), switchProtocols
	case "websocket":
		init, take = r.URL.Query().Get(handshake), func(w http.ResponseWriter, r *http.Request, answer []byte) (net.Conn, error) {
			return openWebSocket(ctx, w, r, answer)
		}
	default:
		http.Error(w, "this address upgrades to "+protocol+" and to nothing else", http.StatusBadRequest)
		return nil, fmt.Errorf("upgrade to %q", next)
	}
	first, err := base64.StdEncoding.DecodeString(init)
	if err != nil {
		http.Error(w, handshake+" is no base64", http.StatusBadRequest)
		return nil, fmt.Errorf("decoding %s: %w", handshake, err)
	}
	c, answer, err := k.accept(first)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, err
	}
	c.Conn, err = take(w, r, answer)
	return c, err
}

// switchProtocols takes the connection over from HTTP and sends the answer.
func switchProtocols(w http.ResponseWriter, _ *http.Request, answer []byte) (net.Conn, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this address needs HTTP/1.1", http.StatusBadRequest)
		return nil, fmt.Errorf("taking the connection over: %w", err)
	}
	rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + protocol + "\r\nConnection: upgrade\r\n\r\n")
	rw.Write(answer)
	if err := rw.Flush(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("answering the handshake: %w", err)
	}
	return netutil.NewDrainBufConn(conn, rw.Reader), nil
}

// openWebSocket does the same for a client in a browser. It may come from any page: what it may do depends on its key.
func openWebSocket(ctx context.Context, w http.ResponseWriter, r *http.Request, answer []byte) (net.Conn, error) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{protocol}, OriginPatterns: []string{"*"}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, fmt.Errorf("accepting a WebSocket: %w", err)
	}
	if ws.Subprotocol() != protocol {
		ws.Close(websocket.StatusPolicyViolation, "this address speaks the subprotocol "+protocol)
		return nil, fmt.Errorf("WebSocket with the subprotocol %q", ws.Subprotocol())
	}
	conn := wsconn.NetConn(ctx, ws, websocket.MessageBinary, r.RemoteAddr)
	if _, err := conn.Write(answer); err != nil {
		conn.Close()
		return nil, fmt.Errorf("answering the handshake: %w", err)
	}
	return conn, nil
}
