package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/api"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// live is a bench with views that follow its store, served over HTTP.
func live(t *testing.T) (*bench, *httptest.Server) {
	t.Helper()
	var st *state.State
	b := newBench(t, func(c *api.Config) { c.View = func(id tailnet.ID) *state.View { return st.View(id) } })
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if st, err = state.New(ctx, state.Config{Store: b.store, Settings: &state.Settings{}, DERPMap: &tailcfg.DERPMap{}}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- st.Run(ctx) }()
	srv := httptest.NewUnstartedServer(b.rest)
	srv.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if err := c.(*net.TCPConn).SetWriteBuffer(4 << 10); err != nil { // a reader who does not read is noticed soon
			t.Error(err)
		}
		return ctx
	}
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return b, srv
}

// event is one that a reader got.
type event struct {
	id, name string
	data     map[string]any
}

// listener reads a stream of events as browsers do.
type listener struct {
	t    *testing.T
	body io.ReadCloser
	in   *bufio.Reader
	last string // the ID of the last event
}

func listen(t *testing.T, srv *httptest.Server, key, query, last string) (*listener, int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/api/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return &listener{t: t, body: resp.Body, in: bufio.NewReader(resp.Body), last: last}, resp.StatusCode
}

// next is the next event; blocks without one only say where the reader is, and return with an empty name.
func (l *listener) next() (e event) {
	l.t.Helper()
	for {
		line, err := l.in.ReadString('\n')
		if err != nil {
			l.t.Fatalf("the stream ended: %v", err)
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "":
			if e.id != "" {
				l.last = e.id
				return e
			}
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.data); err != nil {
				l.t.Fatalf("%s: %v", value, err)
			}
		}
	}
}

// until reads up to an event that is wanted, and fails if one comes that is not.
func (l *listener) until(want string) event {
	l.t.Helper()
	for {
		e := l.next()
		told := e.name
		if e.name == "audit" {
			told = fmt.Sprint(e.data["action"])
		}
		switch told {
		case "":
		case want:
			return e
		default:
			l.t.Fatalf("got event %s %v, want %s", told, e.data, want)
		}
	}
}

// TestEvents: a reader is told of changes and of nodes that come and go, and one who comes again of what it missed.
func TestEvents(t *testing.T) {
	b, srv := live(t)
	b.user(t, "alice", "")
	n := b.node(t, "laptop", "alice", "")
	key := b.apiKey(t, "")
	l, code := listen(t, srv, key, "", "")
	if code != http.StatusOK {
		t.Fatalf("got status %d", code)
	}
	l.next() // where it begins
	id := tailnet.NodeID(n.GetId())
	session := func(open bool, name string) {
		t.Helper()
		var err error
		if open {
			err = b.store.OpenSession(t.Context(), id, name)
		} else {
			err = b.store.CloseSessions(t.Context(), []store.SessionRef{{NodeID: id, SessionID: name}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	session(true, "one")
	if e := l.until("nodeOnline"); e.data["givenName"] != "laptop" || e.data["online"] != true {
		t.Errorf("got %v", e.data)
	}
	if _, err := b.store.RenameNode(t.Context(), id, "desk"); err != nil {
		t.Fatal(err)
	}
	if e := l.until("node.rename"); e.data["targetName"] != "desk" || e.data["before"] != `{"name":"laptop"}` {
		t.Errorf("got %v", e.data)
	}
	session(false, "one")
	l.until("nodeOffline")
	last := l.last
	l.body.Close()

	session(true, "two")
	b.user(t, "bob", "")
	l, _ = listen(t, srv, key, "", last)
	if e := l.until("user.create"); e.data["targetName"] != "bob" {
		t.Errorf("got %v", e.data)
	}
	l.until("nodeOnline")
	b.user(t, "carl", "")
	l.until("user.create")
}

// TestEventsForWhom: who may read only nodes is told of nodes only, a key of one tailnet of that one only, and the others
// are refused.
func TestEventsForWhom(t *testing.T) {
	b, srv := live(t)
	b.user(t, "alice", "")
	b.tailnet(t, "lab")
	b.user(t, "lena", "lab")
	n := b.node(t, "laptop", "alice", "")
	secret := func(k tailnet.APIKey) string {
		t.Helper()
		_, s, err := b.store.CreateAPIKey(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		return s.Reveal()
	}
	nodes, code := listen(t, srv, secret(tailnet.APIKey{Scopes: []string{"devices:core:read"}}), "", "")
	if code != http.StatusOK {
		t.Fatalf("nodes only: got status %d", code)
	}
	lab, code := listen(t, srv, b.apiKey(t, "lab"), "", "")
	if code != http.StatusOK {
		t.Fatalf("the key of lab: got status %d", code)
	}
	nodes.next()
	lab.next()
	b.user(t, "bob", "")
	if err := b.store.OpenSession(t.Context(), tailnet.NodeID(n.GetId()), "x"); err != nil {
		t.Fatal(err)
	}
	nodes.until("nodeOnline")
	b.user(t, "lisa", "lab")
	if e := lab.until("user.create"); e.data["targetName"] != "lisa" {
		t.Errorf("the key of lab was told of %v", e.data)
	}
	for _, c := range []struct {
		name, key, query, last string
		want                   int
	}{
		{"no key", "", "", "", http.StatusUnauthorized},
		{"another scope", secret(tailnet.APIKey{Scopes: []string{"users:read"}}), "", "", http.StatusForbidden},
		{"another tailnet", b.apiKey(t, "lab"), "?tailnet=default", "", http.StatusNotFound},
		{"no ID of ours", b.apiKey(t, ""), "", "yesterday", http.StatusBadRequest},
		{"a long ID", b.apiKey(t, ""), "", "1-" + strings.Repeat("1:1,", 5000) + "1:1", http.StatusBadRequest},
	} {
		if _, code := listen(t, srv, c.key, c.query, c.last); code != c.want {
			t.Errorf("%s: got status %d, want %d", c.name, code, c.want)
		}
	}
}

// TestEventsMany: one caller has some streams at a time, not any number.
func TestEventsMany(t *testing.T) {
	b, srv := live(t)
	key := b.apiKey(t, "")
	for range 8 {
		if _, code := listen(t, srv, key, "", ""); code != http.StatusOK {
			t.Fatalf("got status %d", code)
		}
	}
	if _, code := listen(t, srv, key, "", ""); code != http.StatusTooManyRequests {
		t.Errorf("the ninth stream: got status %d, want 429", code)
	}
}

// TestEventsSlow: readers who do not read are dropped, which makes room for others, and hold up nobody.
func TestEventsSlow(t *testing.T) {
	b, srv := live(t)
	key := b.apiKey(t, "")
	for range 8 { // as many as one caller may have
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", key)
		head := make([]byte, 12)
		if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 200" {
			t.Fatalf("got %q, %v", head, err)
		}
	}
	quick, _ := listen(t, srv, b.apiKey(t, ""), "", "")
	quick.next()
	for i := range 300 {
		b.user(t, fmt.Sprintf("u%d", i), "")
	}
	for range 300 {
		quick.until("user.create")
	}
	deadline := time.After(3 * time.Minute)
	for {
		if _, code := listen(t, srv, key, "", ""); code == http.StatusOK {
			return
		}
		select {
		case <-time.After(time.Second):
		case <-deadline:
			t.Fatal("no slow reader was dropped in three minutes")
		}
	}
}
