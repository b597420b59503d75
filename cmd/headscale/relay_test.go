package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/enrol"
)

// relayWait is how long a script waits for a relay.
const relayWait = 2 * time.Minute

// relay starts a relay that enrols, in this process, and waits until clients are told of it: relay CONTROL KEY REGION NAME.
// "relay gone" waits until the one that was started last has ended.
func relay(ts *testscript.TestScript, neg bool, args []string) {
	gone, _ := ts.Value(relayGone{}).(*ending)
	switch {
	case neg || gone == nil:
		ts.Fatalf("relay takes no !, and needs the value that setup gives")
	case len(args) == 1 && args[0] == "gone":
		gone.wait(ts)
		return
	case len(args) != 4:
		ts.Fatalf("usage: relay CONTROL KEY REGION NAME, or relay gone")
	}
	private := key.NewNode()
	said := &hearing{words: make(chan string, 100)}
	cert, err := derp.OpenCert(derp.CertConfig{Hostname: "127.0.0.1", Dir: ts.MkAbs(args[3] + "-certs"), Log: slog.New(said)})
	ts.Check(err)
	agent, err := enrol.Open(enrol.Config{
		Control: args[0], Key: args[1], Region: args[2], Name: args[3], Version: "v1",
		StateFile: filepath.Join(ts.MkAbs("."), args[3]+".json"), RelayKey: private.Public(), Log: slog.New(said),
	})
	ts.Check(err)
	open := make(chan derp.Ports, 1)
	r, err := derp.New(derp.Config{Key: private, Admit: agent.Admit, Log: slog.New(said), Listen: derp.Listen{
		Addr: "127.0.0.1:0", Cert: cert, HTTPPort: -1, Ready: func(p derp.Ports) { open <- p },
	}})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			said.tell("the relay ended: " + err.Error())
		}
	})
	ended := gone.begin()
	running.Go(func() {
		defer close(ended)
		select {
		case ports := <-open:
			if err := agent.Run(ctx, enrol.Host{Relay: r, Hostname: "127.0.0.1", Ports: ports, Cert: cert}); err != nil {
				said.tell("the enrolment ended: " + err.Error())
			}
		case <-ctx.Done():
		}
	})
	ts.Defer(func() {
		cancel()
		running.Wait()
	})
	said.await(ts, "published as 127.0.0.1")
}

// relayGone is the key of a script's *ending.
type relayGone struct{}

// ending says when the relay that was started last has ended.
type ending struct{ ch chan struct{} }

func (e *ending) begin() chan struct{} {
	e.ch = make(chan struct{})
	return e.ch
}

func (e *ending) wait(ts *testscript.TestScript) {
	select {
	case <-e.ch:
	case <-time.After(relayWait):
		ts.Fatalf("the relay goes on")
	}
}

// hearing is a log that is waited for.
type hearing struct{ words chan string }

func (h *hearing) Enabled(context.Context, slog.Level) bool { return true }
func (h *hearing) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *hearing) WithGroup(string) slog.Handler            { return h }
func (h *hearing) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	h.tell(text)
	return nil
}

// tell drops what nobody waits for.
func (h *hearing) tell(text string) {
	select {
	case h.words <- text:
	default:
	}
}

// await waits for a line that has part.
func (h *hearing) await(ts *testscript.TestScript, part string) {
	deadline := time.After(relayWait)
	for {
		select {
		case text := <-h.words:
			ts.Logf("relay: %s", text)
			if strings.Contains(text, part) {
				return
			}
			if strings.Contains(text, " ended: ") {
				ts.Fatalf("%s", text)
			}
		case <-deadline:
			ts.Fatalf("the relay did not say %q", part)
		}
	}
}
