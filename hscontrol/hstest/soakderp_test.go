package hstest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// TestSoakDERP lets an enrolled relay live through what the Internet has for it, for SOAK (such as 10m): clients that
// come and go, clients that do not read, garbage, strangers, and a control server that is killed again and again. All
// the while pairs of nodes exchange packets, which must never stall, and the relay's memory must stay bounded.
func TestSoakDERP(t *testing.T) {
	text := os.Getenv("SOAK")
	if text == "" {
		t.Skip("SOAK is not set: make soak-derp runs this for ten minutes")
	}
	span, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SOAK: %v", err)
	}
	s := startSoak(t)
	ctx, stop := context.WithTimeout(t.Context(), span)
	defer stop()
	var wait sync.WaitGroup
	for i := range soakPairs {
		wait.Go(func() { s.talk(ctx, s.nodes[2*i], s.nodes[2*i+1]) })
	}
	rest := s.nodes[2*soakPairs:]
	wait.Go(func() { s.dozers(ctx, rest[:2], rest[2]) })
	for range 4 {
		wait.Go(func() { s.churn(ctx, rest[3:]) })
	}
	wait.Go(func() { s.litter(ctx) })
	wait.Go(func() { s.knock(ctx) })
	wait.Go(func() { s.killControl(ctx) })
	wait.Go(func() { s.watch(ctx, span) })
	wait.Wait()
	s.judge()
}

const (
	soakPairs = 4
	soakNodes = 40
	soakStall = 5 * time.Second // the longest that a pair may go without an answer
	soakRSS   = 256 << 20       // bytes, whatever happens
)

// soak is a control server, a relay that enrolled with it, and what happened to them.
type soak struct {
	t       *testing.T
	control *hstest.Process
	relay   *exec.Cmd
	addr    string // of the relay
	nodes   []*hstest.Node

	echoes, visits, admitted, refused, garbage, kills atomic.Int64
	stall                                             atomic.Int64 // nanoseconds, the longest
	early, late                                       int64        // bytes: the most memory in the first and the last third

}

func startSoak(t *testing.T) *soak {
	s := &soak{t: t, control: hstest.StartProcess(t)}
	key := s.control.ProcessKey()
	for i := range soakNodes {
		n := s.control.Node("n" + strconv.Itoa(i))
		n.Join(key)
		s.nodes = append(s.nodes, n)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "derper")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/keelscale/keelscale/cmd/derper").CombinedOutput(); err != nil {
		t.Fatalf("building derper: %v\n%s", err, out)
	}
	enroll := firstSecret(s.control.CLI("derp", "enroll-keys", "create"))
	s.addr = unusedAddr(t)
	s.relay = exec.Command(program, "-a", s.addr, "-http-port", "-1", "-stun-port", "0",
		"-control", s.control.URL, "-enroll-key", enroll, "-region", "soak")
	s.relay.Env = append(os.Environ(), "STATE_DIRECTORY="+dir)
	log, err := s.relay.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.relay.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if !strings.Contains(lines.Text(), "client refused") { // the strangers
				t.Log(lines.Text())
			}
		}
	}()
	t.Cleanup(func() {
		s.relay.Process.Signal(syscall.SIGTERM)
		<-read
		if err := s.relay.Wait(); err != nil {
			t.Errorf("the relay ended: %v", err)
		}
	})
	s.await("the relay admits a node", func() bool {
		c, err := s.connect(t.Context(), s.nodes[0].Key)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	return s
}

// firstSecret finds the enrolment key in what the command printed.
func firstSecret(text string) string {
	for word := range strings.FieldsSeq(text) {
		if strings.HasPrefix(word, "hskey-relay-") {
			return word
		}
	}
	return ""
}

func unusedAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// await asks until it is so.
func (s *soak) await(what string, so func() bool) {
	s.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !so(); <-tick.C {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited 30 s and it is still not so: %s", what)
		}
	}
}

// derpConn is one connection of the real client's code.
type derpConn struct {
	*derp.Client
	conn net.Conn
}

func (c *derpConn) Close() { c.conn.Close() }

// dial opens TLS to the relay, without a look at its certificate.
func (s *soak) dial(ctx context.Context) (net.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true}}
	return d.DialContext(ctx, "tcp", s.addr)
}

// upgrade asks for DERP and is silent about the answer, as clients that start fast are.
func upgrade(conn net.Conn) error {
	_, err := io.WriteString(conn, "GET /derp HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n")
	return err
}

// connect makes a client of a node; the error says that it was refused, or that the relay is not there.
func (s *soak) connect(ctx context.Context, k key.NodePrivate) (*derpConn, error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	if err := upgrade(conn); err != nil {
		conn.Close()
		return nil, err
	}
	rw := bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	c, err := derp.NewClient(k, conn, rw, func(string, ...any) {})
	if err != nil {
		conn.Close()
		return nil, err
	}
	if m, err := c.Recv(); err != nil { // the welcome, which strangers do not get
		conn.Close()
		return nil, err
	} else if _, ok := m.(derp.ServerInfoMessage); !ok {
		conn.Close()
		return nil, fmt.Errorf("got %T first", m)
	}
	conn.SetDeadline(time.Time{})
	return &derpConn{c, conn}, nil
}

// talk sends numbered packets from one node to another, one at a time, and has each come back.
func (s *soak) talk(ctx context.Context, from, to *hstest.Node) {
	a, err := s.connect(ctx, from.Key)
	if err != nil {
		s.t.Errorf("%s connects: %v", from.Name, err)
		return
	}
	defer a.Close()
	b, err := s.connect(ctx, to.Key)
	if err != nil {
		s.t.Errorf("%s connects: %v", to.Name, err)
		return
	}
	defer b.Close()
	var wait sync.WaitGroup
	defer wait.Wait()
	defer b.Close()
	wait.Go(func() {
		for {
			p, err := receive(b)
			if err != nil {
				return
			}
			if b.Send(p.Source, p.Data) != nil {
				return
			}
		}
	})
	packet := make([]byte, 1200)
	for n := uint64(1); ctx.Err() == nil; n++ {
		binary.BigEndian.PutUint64(packet, n)
		sent := time.Now()
		if err := a.Send(to.Key.Public(), packet); err != nil {
			s.t.Errorf("%s sends: %v", from.Name, err)
			return
		}
		a.conn.SetReadDeadline(sent.Add(2 * soakStall))
		p, err := receive(a)
		if err != nil {
			s.t.Errorf("%s waits for packet %d: %v", from.Name, n, err)
			return
		}
		if !bytes.Equal(p.Data, packet) {
			s.t.Errorf("%s got another packet than number %d back", from.Name, n)
			return
		}
		raise(&s.stall, int64(time.Since(sent)))
		s.echoes.Add(1)
	}
}

func raise(v *atomic.Int64, to int64) {
	for old := v.Load(); to > old && !v.CompareAndSwap(old, to); old = v.Load() {
	}
}

// receive is the next packet; all else that comes is passed over.
func receive(c *derpConn) (derp.ReceivedPacket, error) {
	for {
		m, err := c.Recv()
		if err != nil {
			return derp.ReceivedPacket{}, err
		}
		if p, ok := m.(derp.ReceivedPacket); ok {
			return p, nil
		}
	}
}

// dozers are connected and never read, while another node sends them all it can.
func (s *soak) dozers(ctx context.Context, asleep []*hstest.Node, sender *hstest.Node) {
	for ctx.Err() == nil {
		round, stop := context.WithTimeout(ctx, 20*time.Second)
		s.doze(round, asleep, sender)
		stop()
	}
}

func (s *soak) doze(ctx context.Context, asleep []*hstest.Node, sender *hstest.Node) {
	from, err := s.connect(ctx, sender.Key)
	if err != nil {
		return
	}
	defer from.Close()
	defer context.AfterFunc(ctx, from.Close)()
	for _, n := range asleep {
		c, err := s.connect(ctx, n.Key)
		if err != nil {
			return
		}
		defer c.Close()
	}
	packet := make([]byte, 1200)
	for i := 0; ctx.Err() == nil; i++ {
		if from.Send(asleep[i%len(asleep)].Key.Public(), packet) != nil {
			return
		}
	}
}

// churn has nodes come, send a little to others, and go without a word.
func (s *soak) churn(ctx context.Context, nodes []*hstest.Node) {
	packet := make([]byte, 600)
	for ctx.Err() == nil {
		c, err := s.connect(context.WithoutCancel(ctx), nodes[rand.N(len(nodes))].Key)
		if err != nil {
			s.t.Errorf("a node of the tailnet is refused: %v", err)
			return
		}
		for range rand.N(50) {
			if c.Send(nodes[rand.N(len(nodes))].Key.Public(), packet) != nil {
				break
			}
		}
		c.Close()
		s.visits.Add(1)
	}
}

// litter sends what no client would.
func (s *soak) litter(ctx context.Context) {
	chaos := rand.NewChaCha8([32]byte{1})
	for ctx.Err() == nil {
		junk := make([]byte, 1+rand.N(64<<10))
		chaos.Read(junk)
		s.throw(ctx, junk, rand.N(4))
		s.garbage.Add(1)
	}
}

func (s *soak) throw(ctx context.Context, junk []byte, how int) {
	var conn net.Conn
	var err error
	if how == 0 { // into the TLS handshake
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
	} else {
		conn, err = s.dial(ctx)
	}
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	switch how {
	case 2: // into the DERP handshake
		upgrade(conn)
	case 3: // a frame that is announced and never comes whole
		upgrade(conn)
		conn.Write([]byte{byte(derp.FrameClientInfo), 0, 3, 0, 0})
	}
	conn.Write(junk)
	io.Copy(io.Discard, io.LimitReader(conn, 1<<20))
}

// knock is a stranger, who must never be let in.
func (s *soak) knock(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		c, err := s.connect(ctx, key.NewNode())
		if err == nil {
			s.admitted.Add(1)
			c.Close()
		} else if ctx.Err() == nil {
			s.refused.Add(1)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// killControl kills the control server without warning and starts it again.
func (s *soak) killControl(ctx context.Context) {
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		wait(15 * time.Second)
		s.control.End(syscall.SIGKILL)
		wait(5 * time.Second)
		s.control.Begin()
		s.kills.Add(1)
	}
}

// watch measures the relay each second.
func (s *soak) watch(ctx context.Context, span time.Duration) {
	began := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rss, err := residentBytes(s.relay.Process.Pid)
		if err != nil {
			s.t.Errorf("measuring the relay: %v", err)
			return
		}
		switch at := time.Since(began); {
		case at < span/3:
			s.early = max(s.early, rss)
		case at > 2*span/3:
			s.late = max(s.late, rss)
		}
		if rss > soakRSS {
			s.t.Errorf("the relay has %d MB, want at most %d", rss>>20, soakRSS>>20)
			return
		}
	}
}

// residentBytes is the resident memory of a process.
func residentBytes(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, errors.New("statm is cut short")
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// judge says what came of it.
func (s *soak) judge() {
	t := s.t
	stall := time.Duration(s.stall.Load())
	t.Logf("%d echoes, the slowest after %v; %d visits; %d strangers refused, %d let in; %d pieces of garbage; control server killed %d times; memory at most %d MB in the first third, %d MB in the last",
		s.echoes.Load(), stall.Round(time.Millisecond), s.visits.Load(), s.refused.Load(), s.admitted.Load(), s.garbage.Load(), s.kills.Load(), s.early>>20, s.late>>20)
	if n := s.admitted.Load(); n > 0 {
		t.Errorf("%d strangers were let in, want none", n)
	}
	for what, n := range map[string]int64{"echo": s.echoes.Load(), "visit": s.visits.Load(), "refusal": s.refused.Load(), "piece of garbage": s.garbage.Load()} {
		if n == 0 {
			t.Errorf("not one %s in all the time", what)
		}
	}
	if stall > soakStall {
		t.Errorf("a packet took %v there and back, want at most %v", stall, soakStall)
	}
	if s.late > s.early+s.early/2+16<<20 {
		t.Errorf("memory grew from %d MB to %d MB", s.early>>20, s.late>>20)
	}
	s.await("all that the dead connections held is given back", func() bool {
		n, err := openFiles(s.relay.Process.Pid)
		return err == nil && n < 64
	})
	resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 10 * time.Second}).Get("https://" + s.addr + "/derp/probe")
	if err != nil {
		t.Fatalf("asking the relay at the end: %v", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the relay answers %s at the end, want 200", resp.Status)
	}
}

// openFiles counts the file descriptors of a process.
func openFiles(pid int) (int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(list), err
}
