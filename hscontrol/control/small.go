package control

import (
	"context"
	"io"
	"net/http"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// handleSmall registers the requests that a client makes beside registering and polling. What this server has no use
// for is taken; what it cannot do is refused with the reason, which clients pass on.
func (c *Control) handleSmall(mux *http.ServeMux) {
	mux.HandleFunc("GET /machine/whoami", c.serveWhoami)
	mux.HandleFunc("POST /machine/update-health", c.serveTaken) // clients up to v1.88 report warnings
	mux.HandleFunc("POST /machine/c2n/{token}", c.serveTaken)   // the answer to a ping that was given up
	mux.HandleFunc("POST /machine/audit-log", c.serveAuditLog)
	mux.HandleFunc("POST /machine/feature/query", c.serveFeature)
	for path, why := range map[string]string{
		"POST /machine/set-dns":          "this server has no public DNS zone to prove names in, so it cannot get certificates (tailscale cert, HTTPS in serve)",
		"PATCH /machine/set-device-attr": "this server takes attributes of devices from administrators, over its API, and not from the devices",
		"POST /machine/id-token":         "this server issues no identity tokens",
		"/machine/webclient/":            "this server does not confirm sessions of the device web interface",
		"/machine/tka/":                  "tailnet lock is not enabled on this server",
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { http.Error(w, why, http.StatusForbidden) })
	}
}

// serveWhoami tells a machine which nodes are its own (tailscale debug ts2021).
func (c *Control) serveWhoami(w http.ResponseWriter, r *http.Request) {
	type own struct {
		ID      nodeID
		Name    string
		Tailnet string
	}
	me := struct {
		MachineKey key.MachinePublic
		Nodes      []own
	}{MachineKey: machine(r.Context()), Nodes: []own{}}
	for _, v := range c.State.Views() {
		for _, n := range v.Nodes {
			if n.MachineKey == me.MachineKey {
				me.Nodes = append(me.Nodes, own{ID: n.ID, Name: n.FQDN(v.Domain), Tailnet: v.Tailnet.Name})
			}
		}
	}
	writeJSON(w, me)
}

func (c *Control) serveTaken(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
	w.WriteHeader(http.StatusNoContent)
}

// serveAuditLog takes what a client must report before its user may disconnect it (MDM policy), and logs it.
func (c *Control) serveAuditLog(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.AuditLogRequest
	if !c.readJSON(w, r, &req) {
		return
	}
	_, n, err := c.State.FindFresh(r.Context(), req.NodeKey)
	if err != nil || n == nil || n.MachineKey != machine(r.Context()) {
		http.Error(w, "no node of this machine has this key", http.StatusForbidden)
		return
	}
	c.Log.Info("client audit", "node", n.ID, "action", string(req.Action), "details", req.Details)
	writeJSON(w, struct{}{})
}

// serveFeature answers clients that want serve or funnel over HTTPS.
func (c *Control) serveFeature(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.QueryFeatureRequest
	if !c.readJSON(w, r, &req) {
		return
	}
	writeJSON(w, tailcfg.QueryFeatureResponse{Text: "This server does not offer HTTPS certificates, which '" + req.Feature + "' needs here. TCP and plain HTTP can be served without them."})
}

// maxVerify bounds the question of a relay.
const maxVerify = 4 << 10

// serveVerify answers relays that ask whether a client may use them (derper --verify-client-url).
func (c *Control) serveVerify(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.DERPAdmitClientRequest
	r.Body = http.MaxBytesReader(w, r.Body, maxVerify)
	if !c.readJSON(w, r, &req) {
		return
	}
	ok, err := c.Admits(r.Context(), req.NodePublic)
	if err != nil {
		c.Log.Error("answering a relay", "err", err)
		http.Error(w, "the server cannot look up nodes now; try again", http.StatusServiceUnavailable)
		return
	}
	writeJSON(w, tailcfg.DERPAdmitClientResponse{Allow: ok})
}

// Admits reports whether a node with this key may use the relays: it exists, its key has not expired,
// and it is not cut off.
func (c *Control) Admits(ctx context.Context, k key.NodePublic) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, n, err := c.State.FindFresh(ctx, k)
	return Admitted(n), err
}
