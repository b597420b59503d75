package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Bounds of what a client may send.
const (
	maxBody  = 1 << 20
	bodyTime = 30 * time.Second
)

// readJSON reads the body of a request into v, within the bounds. Where it cannot it has answered.
func (c *Control) readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	// The deadline is the stream's: it must not stay on a map poll whose body has been read.
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Now().Add(bodyTime))
	defer rc.SetReadDeadline(time.Time{})
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		http.Error(w, fmt.Sprintf("the request is larger than %d bytes", maxBody), http.StatusRequestEntityTooLarge)
		return false
	case err != nil:
		http.Error(w, "the request ended early", http.StatusBadRequest)
		return false
	}
	if err := json.Unmarshal(body, v); err != nil {
		http.Error(w, "the request is not the JSON that was expected: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// tooOld is what clients before MinCapVersion are told.
func tooOld(v tailcfg.CapabilityVersion) string {
	return fmt.Sprintf("this client is too old for this server: it speaks capability version %d, the server needs %d (Tailscale v1.48) or newer; please update Tailscale", v, MinCapVersion)
}

func (c *Control) serveRegister(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.RegisterRequest
	if !c.readJSON(w, r, &req) {
		return
	}
	if req.Version < MinCapVersion {
		writeJSON(w, &tailcfg.RegisterResponse{Error: tooOld(req.Version)})
		return
	}
	ctx, cancel := c.untilDone(r.Context())
	defer cancel()
	resp, err := c.Auth.Register(tailnet.WithActor(ctx, actorOf(ctx)), machine(r.Context()), &req)
	switch {
	case err == nil:
		writeJSON(w, resp)
	case ctx.Err() != nil:
		http.Error(w, "the server is going down; try again", http.StatusServiceUnavailable)
	default:
		c.Log.Error("registering", "node_key", req.NodeKey.ShortString(), "err", err)
		http.Error(w, "the server could not register this machine now; try again", http.StatusServiceUnavailable)
	}
}

// untilDone is a context that also ends when Run does.
func (c *Control) untilDone(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// actorOf is a client, for what it does by itself. Which node it is follows from what it does.
func actorOf(ctx context.Context) tailnet.Actor {
	by := tailnet.Actor{Via: tailnet.ViaControl}
	if from := cameFrom(ctx); from.IsValid() {
		by.From = from.String()
	}
	return by
}
