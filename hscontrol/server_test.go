package hscontrol_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
	"tailscale.com/control/controlbase"
	"tailscale.com/control/tsp"
	"tailscale.com/net/wsconn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// Browsers cannot upgrade a POST: they come with a WebSocket, and speak the same inside it.
func TestNoiseOverWebSocket(t *testing.T) {
	s := hstest.Start(t)
	ctx := hstest.Context(t)
	serverKey, err := tsp.DiscoverServerKey(ctx, s.URL)
	if err != nil {
		t.Fatal(err)
	}
	init, resume, err := controlbase.ClientDeferred(key.NewMachine(), serverKey, uint16(tailcfg.CurrentCapabilityVersion))
	if err != nil {
		t.Fatal(err)
	}
	ws, _, err := websocket.Dial(ctx, strings.Replace(s.URL, "http", "ws", 1)+"/ts2021?X-Tailscale-Handshake="+url.QueryEscape(base64.StdEncoding.EncodeToString(init)),
		&websocket.DialOptions{Subprotocols: []string{"tailscale-control-protocol"}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := resume(ctx, wsconn.NetConn(ctx, ws, websocket.MessageBinary, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h2, err := new(http2.Transport).NewClientConn(conn)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, "GET", "https://control/machine/whoami", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h2.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("whoami over WebSocket: got %s", resp.Status)
	}
}

// Handshakes that are none get an answer, and the server goes on.
func TestMalformedHandshakes(t *testing.T) {
	s := hstest.Start(t)
	for name, header := range map[string]string{
		"nothing": "", "no base64": "%%%", "short": "AAAA", "long": strings.Repeat("A", 8000),
		"noise of nobody": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 101)),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(hstest.Patience))
			req := "POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n"
			if header != "" {
				req += "X-Tailscale-Handshake: " + header + "\r\n"
			}
			if _, err := conn.Write([]byte(req + "\r\n")); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, 4096)
			n, err := conn.Read(answer)
			if n == 0 {
				t.Errorf("got no answer: %v", err)
			}
		})
	}
	s.Node("alpha").Join(s.Key(s.User("alice")))
}

// One port takes plain HTTP and TLS alike: a client that insists on TLS gets it, with a certificate of our own making.
func TestOnePortSpeaksBoth(t *testing.T) {
	s := hstest.Start(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, base := range []string{s.URL, strings.Replace(s.URL, "http", "https", 1)} {
		resp, err := client.Get(base + "/key?v=142")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: got %s", base, resp.Status)
		}
	}
}

// A reload changes what can change under a connected client, and keeps the client.
func TestReloadKeepsClients(t *testing.T) {
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.hujson")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]} // everyone
`)
	s := hstest.Start(t, func(c *config.Config) { c.Policy.Mode, c.Policy.Path = config.PolicyFile, policy })
	secret := s.Key(s.User("alice"))
	a, b := s.Node("alpha"), s.Node("beta")
	a.Join(secret)
	b.Join(secret)
	pa := a.Poll()

	s.Next = func(c *config.Config) { c.DNS.SearchDomains = []string{"corp.example"} }
	if err := s.Reload(hstest.Context(t)); err != nil {
		t.Fatal(err)
	}
	pa.Await("the search domain", func(m *hstest.Netmap) bool { return strings.Contains(strings.Join(m.DNS.Domains, " "), "corp.example") })

	write(`{"acls": []}`)
	if err := s.Reload(hstest.Context(t)); err != nil {
		t.Fatal(err)
	}
	pa.Await("nobody to be left", func(m *hstest.Netmap) bool { return len(m.Peers) == 0 && len(m.Filters["base"]) == 0 })

	// A policy that is wrong changes nothing, and is told of.
	write(`{"acls": [{"action": "deny"}]}`)
	if err := s.Reload(hstest.Context(t)); err == nil || !strings.Contains(err.Error(), "stays in force") {
		t.Fatalf("a reload with a wrong policy file: got %v, want to be told what stays in force", err)
	}
	found := false
	for _, f := range s.Faults(context.Background()) {
		found = found || strings.Contains(f, "stays in force")
	}
	if !found {
		t.Errorf("health after a wrong policy file: got %q, want it told", s.Faults(context.Background()))
	}

	// The watched file needs no reload.
	write(`{"acls": [{"action": "accept", "src": ["alice@"], "dst": ["alice@:22"]}]}`)
	pa.Await("beta again", func(m *hstest.Netmap) bool { return m.Peer("beta") != nil })
}
