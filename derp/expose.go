package derp

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// What a scraper reads, in the text format of Prometheus. Names are those of cmd/derper where
// it has them, so that its dashboards go on.

// metric is one name and its values.
type metric struct {
	name, kind, help string // kind is counter, gauge or histogram
	samples          []sample
}

// sample is one value.
type sample struct {
	suffix string // of the name, for histograms
	labels string // as they are written between braces; "" for none
	value  float64
}

// ageBuckets are the upper ends of the histogram of queue age.
var ageBuckets = [...]time.Duration{
	100 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
}

// ages is how long packets waited for their receiver to take them. One slab in eight is
// looked at, by its oldest packet.
type ages struct {
	counts [len(ageBuckets) + 1]atomic.Uint64
	nanos  atomic.Uint64
}

const ageEvery = 8

func (a *ages) note(d time.Duration) {
	i := 0
	for i < len(ageBuckets) && d > ageBuckets[i] {
		i++
	}
	a.counts[i].Add(1)
	a.nanos.Add(uint64(max(0, d)))
}

func (a *ages) samples() (out []sample) {
	var n uint64
	for i := range a.counts {
		n += a.counts[i].Load()
		end := "+Inf"
		if i < len(ageBuckets) {
			end = strconv.FormatFloat(ageBuckets[i].Seconds(), 'g', -1, 64)
		}
		out = append(out, sample{"_bucket", label("le", end), float64(n)})
	}
	return append(out, sample{"_sum", "", float64(a.nanos.Load()) / 1e9}, sample{"_count", "", float64(n)})
}

// label writes name="value" pairs.
func label(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pairs[i] + "=" + strconv.Quote(pairs[i+1]))
	}
	return b.String()
}

func gauge(name, help string, v float64) metric {
	return metric{name, "gauge", help, []sample{{value: v}}}
}

func counter(name, help string, v float64) metric {
	return metric{name, "counter", help, []sample{{value: v}}}
}

// metrics are all that the relay counts.
func (r *Relay) metrics() []metric {
	e := r.engine
	n, c := e.census(), &e.count
	list := []metric{
		gauge("derp_current_connections", "Connections of nodes and relays.", float64(n.clients)),
		gauge("derp_current_home_connections", "Connections of nodes whose home this relay is.", float64(c.homes.Load())),
		gauge("derp_current_notideal_connections", "Connections of nodes that would rather be elsewhere.", float64(n.notIdeal)),
		gauge("derp_current_mesh_connections", "Connections of other relays.", float64(n.meshed)),
		gauge("derp_clients_total", "Nodes that can be reached.", float64(n.local+n.remote)),
		gauge("derp_clients_local", "Nodes that are connected here.", float64(n.local)),
		gauge("derp_clients_remote", "Nodes that can be reached by other relays.", float64(n.remote)),
		gauge("derp_watchers", "Connections that are told who comes and goes.", float64(n.watchers)),
		gauge("derp_current_dup_client_keys", "Keys with more than one connection.", float64(n.dupKeys)),
		gauge("derp_current_dup_client_conns", "Their connections.", float64(n.dupConns)),
		counter("derp_total_dup_client_conns", "Connections of keys that had one already.", float64(c.duplicates.Load())),
		counter("derp_accepts", "Connections that began the DERP handshake.", float64(c.accepts.Load())),
		{"derp_handshakes", "counter", "How handshakes went.", []sample{
			{labels: label("result", "admitted"), value: float64(c.admitted.Load())},
			{labels: label("result", "refused"), value: float64(c.refused.Load())},
			{labels: label("result", "failed"), value: float64(c.failed.Load())},
		}},
		counter("derp_strangers_closed", "Connections closed unheard, of sources that had brought too many strangers.", float64(c.strangers.Load())),
		counter("derp_bytes_received", "Bytes of packets received from nodes.", float64(n.gotBytes)),
		counter("derp_bytes_sent", "Bytes of packets sent to nodes.", float64(n.sentBytes)),
		counter("derp_packets_received", "Packets received from nodes.", float64(n.gotPackets)),
		counter("derp_packets_sent", "Packets sent to nodes.", float64(n.sentPackets)),
		{"derp_packets_received_kind", "counter", "Packets received by kind.", []sample{
			{labels: label("kind", "disco"), value: float64(n.gotDisco)},
			{labels: label("kind", "other"), value: float64(n.gotPackets - n.gotDisco)},
		}},
		counter("derp_packets_forwarded_in", "Packets that other relays brought.", float64(n.gotForwards)),
		counter("derp_packets_forwarded_out", "Packets that were handed to other relays.", float64(n.lines.sentPackets)),
		r.dropped("derp_packets_dropped", "Packets dropped by reason and kind.", &c.dropped),
		r.dropped("derp_bytes_dropped", "Bytes dropped by reason and kind.", &c.droppedBytes),
		{"derp_queue_age_seconds", "histogram", "How long packets waited for their receiver (one write in eight).", c.age.samples()},
		counter("derp_sclient_write_timeouts", "Connections cut because they took no data.", float64(c.writeTimeouts.Load())),
		counter("derp_rate_limit_per_client_waited", "How often a sender was held back by its limit.", float64(c.rateWaits.Load())),
		counter("derp_unknown_frames", "Frames of types that are not known.", float64(c.unknownFrames.Load())),
		counter("derp_home_moves_in", "Nodes that made this relay their home.", float64(c.movesIn.Load())),
		counter("derp_home_moves_out", "Nodes that left it for another.", float64(c.movesOut.Load())),
		counter("derp_got_ping", "Pings of clients.", float64(c.pings.Load())),
		counter("derp_peer_gone_disconnected_frames", "Clients told that a peer has left.", float64(c.goneDisconnected.Load())),
		counter("derp_peer_gone_not_here_frames", "Clients told that a peer is not here.", float64(c.goneNotHere.Load())),
		gauge("derp_month_sent_bytes", "Bytes sent in this calendar month (UTC).", float64(e.month.count(time.Now(), e.carried()))),
		gauge("derp_month_quota_bytes", "Bytes that may be sent in a month; 0 for any.", float64(e.limits.Load().MonthlyQuota)),
		gauge("derp_taking_clients", "1 if new clients are taken.", oneIf(e.closedTo() == "")),
	}
	list = append(list, r.certMetrics()...)
	list = append(list, r.stunMetrics()...)
	return append(list, processMetrics(e.start)...)
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func (r *Relay) dropped(name, help string, counts *[dropReasons][len(kinds)]atomic.Int64) metric {
	m := metric{name: name, kind: "counter", help: help}
	for why := range dropReasons {
		for k, kind := range kinds {
			m.samples = append(m.samples, sample{labels: label("kind", kind, "reason", why.String()), value: float64(counts[why][k].Load())})
		}
	}
	return m
}

func (r *Relay) certMetrics() []metric {
	if r.cfg.Listen.Cert == nil {
		return nil
	}
	m := metric{name: "derp_certificate_expiry_timestamp_seconds", kind: "gauge", help: "When the certificates that are served end."}
	for i, info := range r.cfg.Listen.Cert.Certificates() {
		use := "published"
		if i > 0 {
			use = "old"
		}
		m.samples = append(m.samples, sample{labels: label("use", use, "pin", info.Pin), value: float64(info.Expires.Unix())})
	}
	return []metric{m}
}

func (r *Relay) stunMetrics() []metric {
	if r.stun == nil {
		return nil
	}
	c := r.stun.Counts()
	return []metric{
		{"stun_requests", "counter", "STUN datagrams by what became of them.", []sample{
			{labels: label("disposition", "success"), value: float64(c.IPv4 + c.IPv6)},
			{labels: label("disposition", "refused"), value: float64(c.Refused)},
			{labels: label("disposition", "not_stun"), value: float64(c.Ignored)},
			{labels: label("disposition", "write_error"), value: float64(c.Failed)},
		}},
		{"stun_addrfamily", "counter", "STUN answers by address family.", []sample{
			{labels: label("family", "ipv4"), value: float64(c.IPv4)},
			{labels: label("family", "ipv6"), value: float64(c.IPv6)},
		}},
	}
}

// processMetrics are those of the program as a whole.
func processMetrics(start time.Time) []metric {
	found := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"}, {Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(found)
	number := func(i int) float64 {
		if found[i].Value.Kind() != metrics.KindUint64 {
			return 0
		}
		return float64(found[i].Value.Uint64())
	}
	list := []metric{
		gauge("process_start_time_seconds", "When the relay began.", float64(start.UnixMilli())/1000),
		gauge("go_goroutines", "Goroutines.", float64(runtime.NumGoroutine())),
		gauge("go_memory_heap_objects_bytes", "Memory in use by Go objects.", number(0)),
		gauge("go_memory_held_bytes", "Memory that the Go runtime holds.", number(1)-number(2)),
		counter("go_gc_cycles_total", "Garbage collections.", number(3)),
	}
	if rss, fds, most := residentBytes(), openFiles(), maxFiles(); fds > 0 {
		list = append(list,
			gauge("process_resident_memory_bytes", "Memory in RAM.", rss),
			gauge("process_open_fds", "Open file descriptors.", fds),
			gauge("derp_current_file_descriptors", "Open file descriptors.", fds),
			gauge("process_max_fds", "File descriptors that may be open.", most))
	}
	return list
}

// openFiles counts file descriptors; zero where the system does not tell.
func openFiles() float64 {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0
	}
	return float64(len(names) - 1) // without dir itself
}

func residentBytes() float64 {
	text, err := readBounded("/proc/self/statm", 4096)
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize())
}

func maxFiles() float64 {
	text, _ := readBounded("/proc/self/limits", 64<<10)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64); err == nil {
				return n
			}
		}
	}
	return math.Inf(+1)
}

// serveMetrics answers a scraper.
func (r *Relay) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	writeMetrics(w, r.metrics())
}

func writeMetrics(w io.Writer, list []metric) {
	b := bufio.NewWriter(w)
	defer b.Flush()
	for _, m := range list {
		fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
		for _, s := range m.samples {
			labels := ""
			if s.labels != "" {
				labels = "{" + s.labels + "}"
			}
			fmt.Fprintf(b, "%s%s%s %s\n", m.name, s.suffix, labels, strconv.FormatFloat(s.value, 'g', -1, 64))
		}
	}
}
