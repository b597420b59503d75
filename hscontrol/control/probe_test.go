package control_test

import (
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// A router that lost its network without a word is found out by a question, and the other one takes over; the first
// does not take the route back.
func TestSilentRouterLosesItsRoute(t *testing.T) {
	s := hstest.Start(t, func(c *config.Config) {
		c.Node.HAProbeInterval, c.Node.HAProbeTimeout = 100*time.Millisecond, 100*time.Millisecond
	})
	secret := s.Key(s.User("alice"))
	route := netip.MustParsePrefix("10.9.0.0/24")
	router := func(name string) (*hstest.Node, *hstest.Poll) {
		n := s.Node(name)
		n.Hostinfo.RoutableIPs = []netip.Prefix{route}
		n.Join(secret)
		p := n.Poll()
		if _, err := s.Store().ApproveRoutes(hstest.Context(t), tailnet.NodeID(p.Netmap.Node.ID), []netip.Prefix{route}); err != nil {
			t.Fatal(err)
		}
		return n, p
	}
	viewer := s.Node("viewer")
	viewer.Join(secret)
	pv := viewer.Poll()
	_, silent := router("first") // it reads nothing from here on, and so answers nothing
	second, answering := router("second")
	var wg sync.WaitGroup
	wg.Go(func() {
		answering.Pings = func(url string) {
			req, err := http.NewRequest(http.MethodHead, url, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := second.Do(req); err == nil {
				resp.Body.Close()
			}
		}
		for answering.Next() == nil {
		}
	})
	primary := func(name string) func(*hstest.Netmap) bool {
		return func(m *hstest.Netmap) bool {
			p := m.Peer(name)
			return p != nil && slices.Contains(p.PrimaryRoutes, route)
		}
	}
	pv.Await("the second router to take over", primary("second"))
	silent.Close()
	answering.Close()
	wg.Wait()
}
