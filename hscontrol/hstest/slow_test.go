package hstest_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// freezer stands between a node and the server. Frozen, it takes nothing more from either, as a network does that
// was cut, or a machine that sleeps, and keeps all connections open.
type freezer struct {
	listener net.Listener
	target   string
	gate     sync.RWMutex // frozen while it is locked
	wait     sync.WaitGroup
	left     atomic.Int64  // bytes for the node, after which its connection is cut; negative: no end
	ended    chan struct{} // closed at the end, and all connections with it
}

func newFreezer(t *testing.T, server string) *freezer {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &freezer{listener: l, target: u.Host, ended: make(chan struct{})}
	f.left.Store(-1)
	f.wait.Go(f.accept)
	t.Cleanup(func() { l.Close(); close(f.ended); f.wait.Wait() })
	return f
}

func (f *freezer) accept() {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", f.target)
		if err != nil {
			client.Close()
			continue
		}
		// Both ends keep little, so that the server feels soon that nobody reads.
		for _, c := range []net.Conn{client, server} {
			c.(*net.TCPConn).SetReadBuffer(32 << 10)
		}
		f.wait.Go(func() {
			<-f.ended
			server.Close()
			client.Close()
		})
		f.wait.Go(func() { f.carry(server, client, func(n int) int { return n }) })
		f.wait.Go(func() { f.carry(client, server, f.share) })
	}
}

// pass waits while it is frozen.
func (f *freezer) pass() {
	f.gate.RLock()
	defer f.gate.RUnlock()
}

// share is how many of n bytes the node still gets.
func (f *freezer) share(n int) int {
	left := f.left.Load()
	if left < 0 {
		return n
	}
	n = min(n, int(left))
	f.left.CompareAndSwap(left, left-int64(n))
	return n
}

func (f *freezer) carry(to, from net.Conn, share func(int) int) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 16<<10)
	for {
		f.pass()
		n, err := from.Read(b)
		f.pass()
		if some := share(n); n > 0 {
			if _, err := to.Write(b[:some]); err != nil || some < n {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// A client that does not read any more costs little, is waited for by nobody, and is told what it missed in few
// words when it reads again.
func TestClientThatDoesNotReadHarmsNobody(t *testing.T) {
	s := hstest.Start(t)
	secret := s.Key(s.User("u"))
	f := newFreezer(t, s.URL)
	near := *s
	near.URL = "http://" + f.listener.Addr().String()
	loud, watcher, slow := s.Node("loud"), s.Node("watcher"), near.Node("slow")
	for _, n := range []*hstest.Node{loud, watcher, slow} {
		n.Join(secret)
	}
	loudPoll := loud.Poll()
	go io.Copy(io.Discard, reading{loudPoll}) // ends with the server
	polls := watcher.Poll()
	stuck := slow.Poll()
	says := func(mark string) func(*hstest.Netmap) bool {
		return func(m *hstest.Netmap) bool {
			p := m.Peer("loud")
			return p != nil && p.Hostinfo.OS() == mark
		}
	}
	stuck.Await("loud", func(m *hstest.Netmap) bool { return m.Peer("loud") != nil })

	f.gate.Lock()
	before := heap()
	const changes = 150
	worst := time.Duration(0)
	for i := range changes {
		noise := make([]byte, 45<<10) // 150 of them are more than the sockets take
		rand.Read(noise)
		mark := fmt.Sprintf("linux %d", i)
		loud.Hostinfo = &tailcfg.Hostinfo{Hostname: "loud", OS: mark, SSH_HostKeys: []string{base64.StdEncoding.EncodeToString(noise)}}
		begun := time.Now()
		loud.Update("192.0.2.1:1")
		polls.Await(mark, says(mark))
		worst = max(worst, time.Since(begun))
	}
	grown := heap() - before
	f.gate.Unlock()

	messages := stuck.Messages
	stuck.Await("the last change", says(fmt.Sprintf("linux %d", changes-1)))
	got := stuck.Messages - messages
	t.Logf("worst change %v, heap grown by %d KB, %d messages to the client that slept", worst, grown>>10, got)
	if worst > time.Minute { // it is milliseconds, or, behind who does not read, until that one is given up
		t.Errorf("a change took %v while one client did not read", worst)
	}
	if got >= changes*2/3 {
		t.Errorf("the client that slept got %d messages of %d changes: it was queued for", got, changes)
	}
	if grown > 8<<20 {
		t.Errorf("the heap grew by %d KB for one client that did not read", grown>>10)
	}
}

// reading reads a poll's messages as if they were bytes.
type reading struct{ *hstest.Poll }

func (r reading) Read([]byte) (int, error) { return 0, r.Next() }

// heap is what is in use after collection, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
