package hscontrol_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// embedded gives a server its own relay.
func embedded(cfg *config.Config) {
	cfg.DERP.Server.Enabled, cfg.DERP.Server.STUNListenAddr = true, ""
}

// relayClient is connected to the embedded relay over plain HTTP, or not.
func relayClient(t *testing.T, url string, k key.NodePrivate) (*derphttp.Client, error) {
	t.Helper()
	c, err := derphttp.NewClient(k, url+"/derp", func(string, ...any) {}, netmon.NewStatic())
	if err != nil {
		t.Fatal(err)
	}
	return introduce(t, c)
}

// introduce connects a client.
func introduce(t *testing.T, c *derphttp.Client) (*derphttp.Client, error) {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	if err := c.Connect(hstest.Context(t)); err != nil {
		return nil, err
	}
	m, err := c.Recv()
	if err != nil {
		return nil, err
	}
	if _, ok := m.(derp.ServerInfoMessage); !ok {
		return nil, fmt.Errorf("got %T first", m)
	}
	return c, nil
}

// closed is when the relay ended the client's connection.
func closed(c *derphttp.Client) <-chan time.Time {
	at := make(chan time.Time, 1)
	go func() {
		for {
			if _, err := c.Recv(); err != nil {
				at <- time.Now()
				return
			}
		}
	}()
	return at
}

// gone is how long a relay may serve a node that is none any more. It is two seconds for real, and more for a machine that
// is busy with other tests.
const gone = 20 * time.Second

// The embedded relay serves nodes while they are some, over plain HTTP and TLS on one port.
func TestEmbeddedAdmission(t *testing.T) {
	s := hstest.Start(t, embedded)
	secret := s.Key(s.User("alice"))
	for name, leave := range map[string]func(n *hstest.Node) error{
		"deleted": func(n *hstest.Node) error {
			found, err := s.Store().FindNodeByKey(hstest.Context(t), n.Key.Public())
			if err != nil {
				return err
			}
			return s.Store().DeleteNode(hstest.Context(t), found.ID)
		},
		"expired": func(n *hstest.Node) error {
			found, err := s.Store().FindNodeByKey(hstest.Context(t), n.Key.Public())
			if err != nil {
				return err
			}
			soon := time.Now().Add(100 * time.Millisecond)
			_, err = s.Store().ExpireNode(hstest.Context(t), found.ID, &soon)
			return err
		},
		"logged out": func(n *hstest.Node) error {
			_, err := n.Register(hstest.Context(t), func(r *tailcfg.RegisterRequest) { r.Expiry = time.Unix(123, 0) })
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := s.Node("alpha"), s.Node("beta")
			a.Join(secret)
			b.Join(secret)
			region := a.Poll().Netmap.DERP.Regions[999]
			over, err := introduce(t, derphttp.NewRegionClient(a.Key, func(string, ...any) {}, netmon.NewStatic(), func() *tailcfg.DERPRegion { return region }))
			if err != nil {
				t.Fatalf("over TLS: %v", err)
			}
			plain, err := relayClient(t, s.URL, b.Key)
			if err != nil {
				t.Fatalf("plain: %v", err)
			}
			if err := over.Send(b.Key.Public(), make([]byte, 30_000)); err != nil {
				t.Fatal(err)
			}
			if m, err := plain.Recv(); err != nil || len(m.(derp.ReceivedPacket).Data) != 30_000 {
				t.Fatalf("got %v, %v; want the packet", m, err)
			}
			ended := closed(over)
			began := time.Now()
			if err := leave(a); err != nil {
				t.Fatal(err)
			}
			at := <-ended
			t.Logf("disconnected after %v", at.Sub(began))
			if took := at.Sub(began); took > gone {
				t.Errorf("disconnected after %v, want %v at most", took, gone)
			}
			if _, err := relayClient(t, s.URL, a.Key); err == nil {
				t.Error("it came in again")
			}
			// And so says /verify to relays of others.
			if verify(t, s, a.Key.Public()) || !verify(t, s, b.Key.Public()) {
				t.Error("/verify: want the one that left to be refused, and the other one not")
			}
		})
	}
	if _, err := relayClient(t, s.URL, key.NewNode()); err == nil {
		t.Error("a stranger came in")
	}
}

func verify(t *testing.T, s *hstest.Server, k key.NodePublic) bool {
	t.Helper()
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.URL+"/verify", "application/json", strings.NewReader(fmt.Sprintf(`{"NodePublic": %q, "Source": "192.0.2.1"}`, text)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer [64]byte
	n, _ := resp.Body.Read(answer[:])
	return strings.Contains(string(answer[:n]), "true")
}

// The bounds of the configuration are those of the embedded relay, live, and a client is told.
func TestEmbeddedLimits(t *testing.T) {
	s := hstest.Start(t, embedded, func(c *config.Config) { c.DERP.Limits.PerNode = config.Bound{Rate: 3e6, Burst: 4e6} })
	a := s.Node("alpha")
	a.Join(s.Key(s.User("alice")))
	c, err := derphttp.NewClient(a.Key, s.URL+"/derp", func(string, ...any) {}, netmon.NewStatic())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Connect(hstest.Context(t)); err != nil {
		t.Fatal(err)
	}
	told := func(want int) {
		t.Helper()
		for {
			m, err := c.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if info, ok := m.(derp.ServerInfoMessage); ok && info.TokenBucketBytesPerSecond == want {
				return
			}
		}
	}
	told(3e6)
	s.Next = func(c *config.Config) { c.DERP.Limits.PerNode.Rate = 5e6 }
	if err := s.Reload(hstest.Context(t)); err != nil {
		t.Fatal(err)
	}
	told(5e6)
}

// At its end the server tells the clients of its relay that it restarts, and does not wait for them.
func TestEmbeddedDrains(t *testing.T) {
	s := hstest.Start(t, embedded)
	a := s.Node("alpha")
	a.Join(s.Key(s.User("alice")))
	c, err := relayClient(t, s.URL, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 1)
	go func() {
		for {
			m, err := c.Recv()
			if _, ok := m.(derp.ServerRestartingMessage); ok {
				said <- nil
				return
			}
			if err != nil {
				said <- errors.Join(errors.New("the connection ended without a word"), err)
				return
			}
		}
	}()
	s.End()
	if err := <-said; err != nil {
		t.Error(err)
	}
}
