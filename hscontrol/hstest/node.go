package hstest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"tailscale.com/control/ts2021"
	"tailscale.com/control/tsp"
	"tailscale.com/health"
	"tailscale.com/net/tsdial"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/zstdframe"
)

// Node is a client that speaks with a server through the Noise code of real ones. Its fields may be changed between
// requests.
type Node struct {
	Name     string
	Machine  key.MachinePrivate
	Key      key.NodePrivate
	Disco    key.DiscoPrivate
	Cap      tailcfg.CapabilityVersion
	Hostinfo *tailcfg.Hostinfo

	t      testing.TB
	url    string
	client *ts2021.Client
}

// Node is a new machine that has not registered yet. It speaks today's version of the protocol.
func (s *Server) Node(name string) *Node {
	s.t.Helper()
	n := &Node{
		Name: name, Machine: key.NewMachine(), Key: key.NewNode(), Disco: key.NewDisco(),
		Cap:      tailcfg.CurrentCapabilityVersion,
		Hostinfo: &tailcfg.Hostinfo{Hostname: name, OS: "linux", BackendLogID: "x"},
		t:        s.t, url: s.URL,
	}
	s.t.Cleanup(n.Disconnect)
	return n
}

// Use has the node speak with another server from now on, as a load balancer would.
func (n *Node) Use(s *Server) {
	n.Disconnect()
	n.url = s.URL
}

// Disconnect closes the Noise connection; the next request makes a new one.
func (n *Node) Disconnect() {
	if n.client != nil {
		n.client.Close()
		n.client = nil
	}
}

func (n *Node) noise(ctx context.Context) (*ts2021.Client, error) {
	if n.client != nil {
		return n.client, nil
	}
	serverKey, err := tsp.DiscoverServerKey(ctx, n.url)
	if err != nil {
		return nil, fmt.Errorf("asking for the server's key: %w", err)
	}
	n.client, err = ts2021.NewClient(ts2021.ClientOpts{
		ServerURL: n.url, PrivKey: n.Machine, ServerPubKey: serverKey,
		Dialer: tsdial.NewFromFuncForDebug(discard, new(net.Dialer).DialContext),
		Logf:   discard, ProtocolVersion: uint16(n.Cap), HealthTracker: new(health.Tracker),
	})
	return n.client, err
}

// Connect makes the Noise client; the connection itself is made by the first request.
func (n *Node) Connect(ctx context.Context) error {
	_, err := n.noise(ctx)
	return err
}

func discard(string, ...any) {}

// Post sends a request inside Noise and gives the answer, whose body the caller closes.
func (n *Node) Post(ctx context.Context, path string, body any) (*http.Response, error) {
	c, err := n.noise(ctx)
	if err != nil {
		return nil, err
	}
	return c.Post(ctx, path, n.Key.Public(), body)
}

// Do sends any request inside Noise; the host of its URL does not matter.
func (n *Node) Do(req *http.Request) (*http.Response, error) {
	c, err := n.noise(req.Context())
	if err != nil {
		return nil, err
	}
	return c.Do(req)
}

// Register sends a RegisterRequest, after edit, and gives the answer.
func (n *Node) Register(ctx context.Context, edit ...func(*tailcfg.RegisterRequest)) (*tailcfg.RegisterResponse, error) {
	req := &tailcfg.RegisterRequest{Version: n.Cap, NodeKey: n.Key.Public(), Hostinfo: n.Hostinfo}
	for _, e := range edit {
		e(req)
	}
	resp, err := n.Post(ctx, "/machine/register", req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("register: %s: %s", resp.Status, text)
	}
	answer := new(tailcfg.RegisterResponse)
	return answer, json.Unmarshal(text, answer)
}

// WithKey makes a RegisterRequest use a pre-auth key.
func WithKey(secret string) func(*tailcfg.RegisterRequest) {
	return func(r *tailcfg.RegisterRequest) { r.Auth = &tailcfg.RegisterResponseAuth{AuthKey: secret} }
}

// Join registers with a pre-auth key, which must work.
func (n *Node) Join(secret string) {
	n.t.Helper()
	resp, err := n.Register(Context(n.t), WithKey(secret))
	if err != nil {
		n.t.Fatalf("%s joins: %v", n.Name, err)
	}
	if resp.Error != "" || !resp.MachineAuthorized {
		n.t.Fatalf("%s joins: got %+v, want to be let in", n.Name, resp)
	}
}

// Update sends what the node says of itself, which must be taken.
func (n *Node) Update(endpoints ...string) {
	n.t.Helper()
	status, text := n.TryUpdate(Context(n.t), endpoints...)
	if status != http.StatusOK {
		n.t.Fatalf("%s updates: got status %d: %s", n.Name, status, text)
	}
}

// TryUpdate sends what the node says of itself and gives the status; 0 where there was no answer.
func (n *Node) TryUpdate(ctx context.Context, endpoints ...string) (status int, text string) {
	req := n.request()
	req.OmitPeers = true
	for _, e := range endpoints {
		req.Endpoints = append(req.Endpoints, netip.MustParseAddrPort(e))
		req.EndpointTypes = append(req.EndpointTypes, tailcfg.EndpointLocal)
	}
	resp, err := n.Post(ctx, "/machine/map", req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func (n *Node) request() *tailcfg.MapRequest {
	return &tailcfg.MapRequest{
		Version: n.Cap, Compress: "zstd", KeepAlive: true,
		NodeKey: n.Key.Public(), DiscoKey: n.Disco.Public(), Hostinfo: n.Hostinfo,
	}
}

// Poll is an open map stream, and what it made known so far.
type Poll struct {
	Netmap   *Netmap
	Messages int // without keep-alives
	Bytes    int // on the wire, lengths included

	// Pings, if set, is called with the URL of each question whether the node is there (tailcfg.PingRequest).
	Pings func(url string)

	t    testing.TB
	name string
	body io.ReadCloser
	stop context.CancelFunc
}

// Poll opens a map stream and reads the first message, which must come.
func (n *Node) Poll() *Poll {
	n.t.Helper()
	p, err := n.TryPoll()
	if err != nil {
		n.t.Fatalf("%s polls: %v", n.Name, err)
	}
	return p
}

// TryPoll opens a map stream and reads the first message.
func (n *Node) TryPoll() (*Poll, error) {
	ctx, stop := context.WithCancel(context.Background())
	n.t.Cleanup(stop)
	req := n.request()
	req.Stream = true
	resp, err := n.Post(ctx, "/machine/map", req)
	if err != nil {
		stop()
		return nil, err
	}
	p := &Poll{Netmap: NewNetmap(), t: n.t, name: n.Name, body: resp.Body, stop: stop}
	if resp.StatusCode != http.StatusOK {
		defer p.Close()
		text, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	if err := p.Next(); err != nil {
		p.Close()
		return nil, fmt.Errorf("reading the first message: %w", err)
	}
	return p, nil
}

// Close leaves.
func (p *Poll) Close() { p.stop(); p.body.Close() }

// Next reads one message and applies it.
func (p *Poll) Next() error {
	for {
		resp, size, err := ReadFrame(p.body)
		if err != nil {
			return err
		}
		p.Bytes += size
		if resp.PingRequest != nil && p.Pings != nil {
			p.Pings(resp.PingRequest.URL)
		}
		if resp.KeepAlive || resp.PingRequest != nil {
			continue
		}
		p.Messages++
		return p.Netmap.Apply(resp)
	}
}

// Await reads messages until ok holds.
func (p *Poll) Await(what string, ok func(*Netmap) bool) {
	p.t.Helper()
	timer := time.AfterFunc(Patience, p.stop)
	defer timer.Stop()
	for !ok(p.Netmap) {
		if err := p.Next(); err != nil {
			p.t.Fatalf("%s waits for %s: %v", p.name, what, err)
		}
	}
}

// AwaitEnd reads messages until the server ends the stream.
func (p *Poll) AwaitEnd() {
	p.t.Helper()
	timer := time.AfterFunc(Patience, p.stop)
	for p.Next() == nil {
	}
	if !timer.Stop() {
		p.t.Fatalf("%s: the stream does not end", p.name)
	}
}

// Patience is how long a test waits for what should take milliseconds. It is more than any machine needs, however busy
// it is with other things: only a test that fails takes so long.
const Patience = 3 * time.Minute

// Context ends with the patience of a test, which begins now: one that was made at the start of a long test may be over
// at its end.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// maxFrame bounds a message, in bytes.
const maxFrame = 64 << 20

// ReadFrame reads one message of a stream that was asked for with zstd.
func ReadFrame(r io.Reader) (*tailcfg.MapResponse, int, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, 0, err
	}
	size := binary.LittleEndian.Uint32(length[:])
	if size > maxFrame {
		return nil, 0, fmt.Errorf("a frame of %d bytes", size)
	}
	packed := make([]byte, size)
	if _, err := io.ReadFull(r, packed); err != nil {
		return nil, 0, err
	}
	text, err := zstdframe.AppendDecode(nil, packed)
	if err != nil {
		return nil, 0, fmt.Errorf("decompressing a message: %w", err)
	}
	resp := new(tailcfg.MapResponse)
	if err := json.Unmarshal(text, resp); err != nil {
		return nil, 0, fmt.Errorf("reading a message: %w", err)
	}
	return resp, 4 + int(size), nil
}
