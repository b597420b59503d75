package derp_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

var somewhere = netip.MustParseAddr("198.51.100.7")

func TestVerifyURL(t *testing.T) {
	node := key.NewNode().Public()
	for _, tt := range []struct {
		name     string
		answer   func(http.ResponseWriter, *http.Request)
		failOpen bool
		want     bool
		err      string
	}{
		{name: "yes", answer: reply(200, `{"Allow":true}`), want: true},
		{name: "no", answer: reply(200, `{"Allow":false}`)},
		{name: "no opinion", answer: reply(200, `{}`)},
		{name: "error", answer: reply(500, `{"Allow":true}`), err: "500"},
		{name: "error, open", answer: reply(500, `{"Allow":true}`), failOpen: true, err: "500"},
		{name: "another page", answer: reply(200, "<html>"), err: "reading the answer"},
		{name: "endless", answer: reply(200, strings.Repeat(" ", 1<<20)+`{"Allow":true}`), err: "reading the answer"},
		{name: "redirect", answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/yes", 302) }, err: "302"},
		{name: "silence", answer: hangUp, err: "asking the verify URL"},
		{name: "silence, open", answer: hangUp, failOpen: true, want: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(tt.answer))
			defer srv.Close()
			admit, err := derp.VerifyURL(srv.URL+"/verify", tt.failOpen)
			if err != nil {
				t.Fatal(err)
			}
			got, err := admit(t.Context(), node, somewhere)
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got error %v, want %q", err, tt.err)
			}
		})
	}
	for _, url := range []string{"", "verify", "ftp://h/verify", "https://"} {
		if _, err := derp.VerifyURL(url, false); err == nil {
			t.Errorf("verify URL %q was accepted", url)
		}
	}
}

func reply(status int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestVerifyURLAsksProperlyAndRemembersYes(t *testing.T) {
	var asked atomic.Int32
	member, stranger := key.NewNode().Public(), key.NewNode().Public()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var q tailcfg.DERPAdmitClientRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Method != "POST" || q.Source != somewhere {
			t.Errorf("got %s %+v (%v), want a POST from %v", r.Method, q, err, somewhere)
		}
		json.NewEncoder(w).Encode(tailcfg.DERPAdmitClientResponse{Allow: q.NodePublic == member})
	}))
	defer srv.Close()
	admit, err := derp.VerifyURL(srv.URL, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		node  key.NodePublic
		want  bool
		asked int32
	}{{member, true, 1}, {member, true, 1}, {stranger, false, 2}, {stranger, false, 3}} {
		got, err := admit(t.Context(), tt.node, somewhere)
		if err != nil || got != tt.want || asked.Load() != tt.asked {
			t.Errorf("got %v (%v) after %d questions, want %v after %d", got, err, asked.Load(), tt.want, tt.asked)
		}
	}
	srv.Close()
	if ok, err := admit(t.Context(), member, somewhere); !ok || err != nil {
		t.Errorf("a known node was refused while the URL is away: %v", err)
	}
	if ok, err := admit(t.Context(), stranger, somewhere); ok || err == nil {
		t.Errorf("got %v, %v for a stranger while the URL is away, want an error", ok, err)
	}
}

func TestLocalTailscaled(t *testing.T) {
	member := key.NewNode().Public()
	socket := filepath.Join(t.TempDir(), "tailscaled.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("addr") {
		case member.String():
			io.WriteString(w, `{"Node":{"ID":1}}`)
		default:
			http.Error(w, "no match for IP:port", 404)
		}
	})}
	go srv.Serve(ln)
	defer srv.Close()
	admit := derp.LocalTailscaled(socket)
	if ok, err := admit(t.Context(), member, somewhere); !ok || err != nil {
		t.Errorf("got %v, %v for a peer, want it admitted", ok, err)
	}
	if ok, err := admit(t.Context(), key.NewNode().Public(), somewhere); ok || err != nil {
		t.Errorf("got %v, %v for a stranger, want it refused", ok, err)
	}
	srv.Close()
	if ok, err := admit(t.Context(), member, somewhere); ok || err == nil {
		t.Errorf("got %v, %v without tailscaled, want an error", ok, err)
	}
}

func TestAll(t *testing.T) {
	yes, no := derp.Anyone, derp.Admit(func(context.Context, key.NodePublic, netip.Addr) (bool, error) { return false, nil })
	broken := derp.Admit(func(context.Context, key.NodePublic, netip.Addr) (bool, error) { return true, errors.New("x") })
	for _, tt := range []struct {
		name string
		each []derp.Admit
		want bool
	}{
		{"none", nil, true}, {"one", []derp.Admit{yes}, true}, {"both", []derp.Admit{yes, yes}, true},
		{"the second refuses", []derp.Admit{yes, no}, false}, {"the first refuses", []derp.Admit{no, yes}, false},
		{"an error refuses", []derp.Admit{yes, broken}, false},
	} {
		if got, _ := derp.All(tt.each...)(t.Context(), key.NewNode().Public(), somewhere); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// The relay and a control server that answers /verify, together.
func TestRelayFailsClosed(t *testing.T) {
	var up atomic.Bool
	up.Store(true)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			hangUp(w, r)
		}
		reply(200, `{"Allow":true}`)(w, r)
	}))
	defer srv.Close()
	admit, err := derp.VerifyURL(srv.URL, false)
	if err != nil {
		t.Fatal(err)
	}
	url := serve(t, newRelay(t, derp.Config{Admit: admit}))
	connect(t, newClient(t, url, key.NewNode()))
	up.Store(false)
	if err := introduce(newClient(t, url, key.NewNode())); err == nil {
		t.Error("a client was admitted while nobody could be asked")
	}
}
