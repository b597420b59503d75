package control

import (
	"errors"
	"net/http"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/mapper"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// serveMap answers the four shapes of a map request:
//
//	Stream OmitPeers ReadOnly
//	yes    -         -         the poll: everything, then what changes; it writes nothing (capability version 68)
//	no     yes       no        an update: it writes, and only the status is read
//	no     -         yes       everything once, nothing is written
//	no     no        no        both
func (c *Control) serveMap(w http.ResponseWriter, r *http.Request) {
	arrived := c.arrival()
	var req tailcfg.MapRequest
	if !c.readJSON(w, r, &req) {
		return
	}
	if req.Version < MinCapVersion {
		http.Error(w, tooOld(req.Version), http.StatusBadRequest)
		return
	}
	view, n, err := c.State.FindFresh(r.Context(), req.NodeKey)
	switch {
	case err != nil:
		c.Log.Error("looking up a node", "node_key", req.NodeKey.ShortString(), "err", err)
		http.Error(w, "the server cannot look up this node now; try again", http.StatusServiceUnavailable)
		return
	case n == nil && req.Stream:
		c.steerToLogin(w, r, &req)
		return
	case n == nil:
		http.Error(w, "no node has this key: register first (tailscale up)", http.StatusNotFound)
		return
	case n.MachineKey != machine(r.Context()):
		c.Log.Warn("a machine used the node key of another", "node", n.ID, "from", r.RemoteAddr)
		http.Error(w, "this node key belongs to another machine", http.StatusForbidden)
		return
	}
	if req.Stream {
		c.stream(w, r, &req, view, n)
		return
	}
	if !req.ReadOnly && !c.update(w, r, &req, n, arrived) {
		return
	}
	if !req.OmitPeers || req.ReadOnly {
		c.once(w, &req, n)
	}
}

// arrival is when a request came, in microseconds (what both databases keep), and later than the one before it.
func (c *Control) arrival() time.Time {
	now := c.Now().UnixMicro()
	for {
		last := c.newest.Load()
		if now <= last {
			now = last + 1
		}
		if c.newest.CompareAndSwap(last, now) {
			return time.UnixMicro(now).UTC()
		}
	}
}

// update writes what a client says of itself. An update that was cancelled, or overtaken by a newer one, writes nothing.
func (c *Control) update(w http.ResponseWriter, r *http.Request, req *tailcfg.MapRequest, n *tailnet.Node, arrived time.Time) bool {
	updated, changed, err := c.Store.UpdateNode(r.Context(), n.ID, store.NodeUpdate{
		Arrived:       arrived,
		DiscoKey:      req.DiscoKey,
		Endpoints:     req.Endpoints,
		EndpointTypes: req.EndpointTypes,
		Hostinfo:      req.Hostinfo,
		CapVersion:    req.Version,
	})
	switch {
	case err == nil:
	case errors.Is(err, tailnet.ErrStale):
		http.Error(w, "a newer update came before this one", http.StatusConflict)
		return false
	case errors.Is(err, tailnet.ErrNotFound):
		http.Error(w, "no node has this key: register first (tailscale up)", http.StatusNotFound)
		return false
	case errors.Is(err, tailnet.ErrInvalid) || errors.Is(err, tailnet.ErrTooMany):
		http.Error(w, tailnet.Sentence(err), http.StatusBadRequest)
		return false
	case r.Context().Err() != nil:
		return false
	default:
		c.Log.Error("updating a node", "node", n.ID, "err", err)
		http.Error(w, "the server cannot store this update now; try again", http.StatusServiceUnavailable)
		return false
	}
	if changed && len(updated.AnnouncedRoutes()) > 0 {
		if _, err := c.Auth.ApproveByPolicy(r.Context(), updated); err != nil {
			c.Log.Error("approving routes by policy", "node", n.ID, "err", err)
		}
	}
	return true
}

// once sends the whole map, one time.
func (c *Control) once(w http.ResponseWriter, req *tailcfg.MapRequest, n *tailnet.Node) {
	view := c.State.View(n.TailnetID)
	if view == nil {
		http.Error(w, "the tailnet of this node was deleted", http.StatusNotFound)
		return
	}
	msg := c.Mapper.Full(view, viewer(req, n), c.Now())
	if msg == nil {
		http.Error(w, "no node has this key: register first (tailscale up)", http.StatusNotFound)
		return
	}
	for _, piece := range c.Mapper.Frame(msg, compressed(req)) {
		w.Write(piece)
	}
}

func viewer(req *tailcfg.MapRequest, n *tailnet.Node) mapper.Viewer {
	return mapper.Viewer{ID: n.ID, Cap: req.Version}
}

func compressed(req *tailcfg.MapRequest) bool { return req.Compress == "zstd" }

// stream holds a poll open: see session.
func (c *Control) stream(w http.ResponseWriter, r *http.Request, req *tailcfg.MapRequest, view *state.View, n *tailnet.Node) {
	feed := c.State.Feed(view.Tailnet.ID)
	if feed == nil {
		c.steerToLogin(w, r, req)
		return
	}
	s := &session{
		control: c, out: c.outlet(r.Context(), w, compressed(req)), feed: feed,
		viewer: viewer(req, n), nodeKey: n.NodeKey, online: !req.ReadOnly, host: r.Host,
	}
	s.run(r.Context())
}

// steerToLogin tells a client whose node does not exist that its key has expired, and keeps the poll open: a client
// that got an error would ask again and again and never say a word to its user.
func (c *Control) steerToLogin(w http.ResponseWriter, r *http.Request, req *tailcfg.MapRequest) {
	out := c.outlet(r.Context(), w, compressed(req))
	if !out.send(mapper.FrameOf(mapper.Unknown(req.NodeKey, c.Now()).JSON(), compressed(req))) {
		return
	}
	out.idle(r.Context(), c.life.Done())
}
