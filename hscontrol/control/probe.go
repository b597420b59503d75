package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/mapper"
	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// probes are the questions to routers that wait for an answer.
type probes struct {
	mu      sync.Mutex
	waiting map[string]*probe // by token
}

// maxToken bounds what an answer is kept for, in bytes; rand.Text makes 26.
const maxToken = 64

type probe struct {
	token   string
	node    nodeID
	machine key.MachinePublic
	session *session
}

// probeRouters asks the routers of routes that several nodes serve whether they are there. One that does not answer
// has lost its network, although its connection has not noticed yet: its poll is ended, so that it is offline and
// another becomes primary. If it was only slow it comes back, and the other one keeps the route.
func (c *Control) probeRouters(ctx context.Context) {
	if c.ProbeEvery <= 0 {
		return
	}
	tick := time.NewTicker(c.ProbeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		asked := c.askRouters()
		if len(asked) == 0 {
			continue
		}
		select {
		case <-time.After(c.ProbeTime):
		case <-ctx.Done():
			return
		}
		for _, p := range c.probes.take(asked) {
			if c.answeredElsewhere(ctx, p) {
				continue
			}
			c.Log.Warn("a router does not answer; its routes go to another", "node", p.node)
			c.live.drop(p.session, c.Now().Add(-c.Grace))
		}
	}
}

// askRouters sends the question to each, and gives the tokens.
func (c *Control) askRouters() (tokens []string) {
	for _, v := range c.State.Views() {
		for _, n := range sharingRouters(v) {
			s := c.live.of(n.ID)
			if s == nil {
				continue
			}
			token := rand.Text()
			c.probes.add(&probe{token: token, node: n.ID, machine: n.MachineKey, session: s})
			tokens = append(tokens, token)
			select {
			case s.ask <- token:
				s.out.rouse()
			default: // it has not even taken the question before this one
			}
		}
	}
	return tokens
}

// sharingRouters are the online nodes that serve a subnet route which another online node serves too.
func sharingRouters(v *state.View) []*tailnet.Node {
	byRoute := map[netip.Prefix][]*tailnet.Node{}
	for _, n := range v.Nodes {
		if n.Online && len(n.ApprovedRoutes) > 0 {
			for _, p := range n.ServedSubnets() {
				byRoute[p] = append(byRoute[p], n)
			}
		}
	}
	seen := map[nodeID]bool{}
	var out []*tailnet.Node
	for _, nodes := range byRoute {
		if len(nodes) < 2 {
			continue
		}
		for _, n := range nodes {
			if !seen[n.ID] {
				seen[n.ID] = true
				out = append(out, n)
			}
		}
	}
	return out
}

func (p *probes) add(q *probe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		p.waiting = map[string]*probe{}
	}
	p.waiting[q.token] = q
}

// take gives those that were not answered, and forgets them.
func (p *probes) take(tokens []string) (silent []*probe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range tokens {
		if q := p.waiting[t]; q != nil {
			silent = append(silent, q)
			delete(p.waiting, t)
		}
	}
	return silent
}

// answered takes out the question if the right machine answers it.
func (p *probes) answered(token string, machine key.MachinePublic) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q := p.waiting[token]; q == nil || q.machine != machine {
		return false
	}
	delete(p.waiting, token)
	return true
}

// answeredElsewhere reports whether a router that is silent here answered at another server. Where that cannot be found
// out it is left alone: no route could be given to another either.
func (c *Control) answeredElsewhere(ctx context.Context, p *probe) bool {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	answered, err := c.Store.Answered(ctx, p.machine, p.token)
	return answered || err != nil
}

// pingFrame is the question: the client answers with a HEAD request for the URL, over Noise (tailcfg.PingRequest).
// Clients hold a connection for each host of such URLs, so it is the host that they ask for in all else: a connection
// of its own would cost a handshake, and go to any server behind a load balancer.
func pingFrame(host, token string, compress bool) mapper.Frame {
	if host == "" {
		host = "unused"
	}
	where := url.URL{Scheme: "https", Host: host, Path: "/machine/ping-response", RawQuery: "id=" + token}
	text, err := json.Marshal(tailcfg.MapResponse{PingRequest: &tailcfg.PingRequest{URL: where.String(), URLIsNoise: true}})
	if err != nil {
		panic("encoding a ping: " + err.Error())
	}
	return mapper.FrameOf(text, compress)
}

func (c *Control) servePingResponse(w http.ResponseWriter, r *http.Request) {
	token := r.URL.Query().Get("id")
	if token == "" || len(token) > maxToken {
		http.Error(w, "nobody waits for this answer", http.StatusNotFound)
		return
	}
	if !c.probes.answered(token, machine(r.Context())) {
		if err := c.Store.NoteAnswer(r.Context(), machine(r.Context()), token); err != nil {
			c.Log.Warn("keeping the answer of a router for another server", "err", err)
			http.Error(w, "the server cannot keep this answer now", http.StatusServiceUnavailable)
			return
		}
	}
	w.WriteHeader(http.StatusOK)
}
