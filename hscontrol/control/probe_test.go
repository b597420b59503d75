package control_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// A router that lost its network without a word is found out by a question, and the other one takes over; the first
// does not take the route back when it is there again. The time for an answer is what a busy machine needs.
func TestSilentRouterLosesItsRoute(t *testing.T) {
	s := hstest.Start(t, func(c *config.Config) {
		c.Node.HAProbeInterval, c.Node.HAProbeTimeout = 100*time.Millisecond, 6*time.Second
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
	first, silent := router("first") // it reads nothing from here on, and so answers nothing
	second, answering := router("second")
	var wg sync.WaitGroup
	pings := make(chan bool, 100)
	answer := func(n *hstest.Node, p *hstest.Poll) {
		p.Pings = func(url string) {
			if !strings.HasPrefix(url, "https://127.0.0.1/") { // clients have a connection for each host
				t.Errorf("asked to answer at %s, want the host of all its requests", url)
			}
			req, err := http.NewRequest(http.MethodHead, url, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := n.Do(req); err == nil {
				resp.Body.Close()
				pings <- true
			}
		}
		wg.Go(func() {
			for p.Next() == nil {
			}
		})
	}
	answer(second, answering)
	primary := func(name string) func(*hstest.Netmap) bool {
		return func(m *hstest.Netmap) bool {
			p := m.Peer(name)
			return p != nil && slices.Contains(p.PrimaryRoutes, route)
		}
	}
	pv.Await("the first router to serve", primary("first"))
	pv.Await("the second router to take over", primary("second"))
	silent.Close()

	first.Disconnect()
	silent = first.Poll()
	pv.Await("the first router to be back", func(m *hstest.Netmap) bool { p := m.Peer("first"); return p.Online != nil && *p.Online })
	for len(pings) > 0 {
		<-pings
	}
	answer(first, silent)
	for range 4 { // two rounds of both
		<-pings
	}
	if !primary("second")(pv.Netmap) {
		t.Error("the first router took its route back")
	}
	silent.Close()
	answering.Close()
	wg.Wait()
}
