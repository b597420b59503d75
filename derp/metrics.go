package derp

import (
	"expvar"
	"sync/atomic"

	"tailscale.com/derp"
)

// dropReason says why a packet was not delivered.
type dropReason uint8

const (
	unknownDest          dropReason = iota // nobody here, nor in the region, has the key
	unknownDestOnForward                   // the same, of a packet from another relay
	goneDisconnected                       // the receiver left before it was written
	queueHead                              // the receiver's queue was full: the oldest went
	queueAge                               // it had waited too long
	meshQueue                              // the queue to another relay was full: the oldest went
	writeError                             // the write failed
	dropReasons
)

// String is the reason's name in the metrics.
func (r dropReason) String() string {
	return [dropReasons]string{"unknown_dest", "unknown_dest_on_fwd", "gone_disconnected", "queue_head", "queue_age", "mesh_queue", "write_error"}[r]
}

// kinds are the names of what is dropped: all else, and discovery packets.
var kinds = [2]string{"other", "disco"}

// counters are the engine's own; those of packets are with the clients, so that nobody
// shares them.
type counters struct {
	accepts, duplicates                 atomic.Int64
	homes, movesIn, movesOut            atomic.Int64
	goneDisconnected, goneNotHere       atomic.Int64
	pings, unknownFrames, writeTimeouts atomic.Int64
	admitted, failed                    atomic.Int64 // handshakes; those refused are below
	rateWaits, refused, strangers       atomic.Int64
	age                                 ages
	dropped, droppedBytes               [dropReasons][len(kinds)]atomic.Int64
}

// traffic is what clients sent and got.
type traffic struct {
	gotPackets, gotBytes, gotDisco, sentPackets, sentBytes uint64
	gotForwards, gotForwardBytes                           uint64
}

func (t *traffic) add(c *client) {
	t.gotPackets += c.gotPackets.Load()
	t.gotBytes += c.gotBytes.Load()
	t.gotDisco += c.gotDisco.Load()
	t.gotForwards += c.gotForwards.Load()
	t.gotForwardBytes += c.gotForwardBytes.Load()
	t.sentPackets += c.sentPackets.Load()
	t.sentBytes += c.sentBytes.Load()
}

// drop counts n packets that were not delivered.
func (e *engine) drop(why dropReason, disco bool, n, size int) {
	kind := 0
	if disco {
		kind = 1
	}
	e.count.dropped[why][kind].Add(int64(n))
	e.count.droppedBytes[why][kind].Add(int64(size))
}

// dropFrames counts the packets in frames that carry them.
func (e *engine) dropFrames(why dropReason, disco bool, frames []byte) {
	n, size := countFrames(frames)
	e.drop(why, disco, n, size)
}

// census is who is here, counted when somebody asks.
type census struct {
	traffic
	lines                                                                 traffic // of our connections to other relays, by which forwarded packets leave
	watchers, clients, meshed, notIdeal, local, remote, dupKeys, dupConns int
}

func (e *engine) census() census {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := census{traffic: e.retired, lines: e.retiredLines, watchers: len(e.watchers), clients: len(e.clients)}
	for c := range e.clients {
		n.add(c)
		if c.meshed {
			n.meshed++
		}
		if c.flags&derp.PeerPresentNotIdeal != 0 {
			n.notIdeal++
		}
	}
	for c := range e.lines {
		n.lines.add(c)
	}
	for _, p := range e.peers.All() {
		switch k := len(p.conns); {
		case k > 1:
			n.dupKeys++
			n.dupConns += k
			n.local++
		case k == 1:
			n.local++
		default:
			n.remote++
		}
	}
	return n
}

// vars are the engine's counters, by the names that cmd/derper gave them where it has them.
func (e *engine) vars() expvar.Var {
	n, c := e.census(), &e.count
	m := new(expvar.Map).Init()
	set := func(name string, v int64) {
		i := new(expvar.Int)
		i.Set(v)
		m.Set(name, i)
	}
	set("gauge_watchers", int64(n.watchers))
	set("gauge_current_connections", int64(n.clients))
	set("gauge_current_home_connections", c.homes.Load())
	set("gauge_current_notideal_connections", int64(n.notIdeal))
	set("gauge_clients_total", int64(n.local+n.remote))
	set("gauge_clients_local", int64(n.local))
	set("gauge_clients_remote", int64(n.remote))
	set("gauge_current_dup_client_keys", int64(n.dupKeys))
	set("gauge_current_dup_client_conns", int64(n.dupConns))
	set("counter_total_dup_client_conns", c.duplicates.Load())
	set("accepts", c.accepts.Load())
	set("bytes_received", int64(n.gotBytes))
	set("bytes_sent", int64(n.sentBytes))
	set("packets_received", int64(n.gotPackets))
	set("packets_sent", int64(n.sentPackets))
	set("unknown_frames", c.unknownFrames.Load())
	set("home_moves_in", c.movesIn.Load())
	set("home_moves_out", c.movesOut.Load())
	set("got_ping", c.pings.Load())
	set("peer_gone_disconnected_frames", c.goneDisconnected.Load())
	set("peer_gone_not_here_frames", c.goneNotHere.Load())
	set("packets_forwarded_out", int64(n.lines.sentPackets))
	set("packets_forwarded_in", int64(n.gotForwards))
	set("sclient_write_timeouts", c.writeTimeouts.Load())
	set("rate_limit_per_client_waited", c.rateWaits.Load())
	byKind := new(expvar.Map).Init()
	byKind.Add("disco", int64(n.gotDisco))
	byKind.Add("other", int64(n.gotPackets-n.gotDisco))
	m.Set("counter_packets_received_kind", byKind)
	packets, bytes := new(expvar.Map).Init(), new(expvar.Map).Init()
	for why := range dropReasons {
		for k, kind := range kinds {
			packets.Add(why.String()+"/"+kind, c.dropped[why][k].Load())
			bytes.Add(why.String()+"/"+kind, c.droppedBytes[why][k].Load())
		}
	}
	m.Set("counter_packets_dropped", packets)
	m.Set("counter_bytes_dropped", bytes)
	return m
}
