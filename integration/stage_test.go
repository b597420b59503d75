//go:build linux

package integration_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/integration/lab"
)

// Where the server of most scenes stands, and how clients are told.
const (
	serverIP = "203.0.113.10"
	login    = "--login-server=http://" + serverIP + ":8080"
)

// stage makes a lab with a server of today's configuration in it, and the user "amelia" on the server.
// Further lines go to the end of the configuration.
func stage(t *testing.T, more ...string) (*lab.Lab, *lab.Server) {
	t.Helper()
	t.Parallel()
	l := lab.New(t)
	host := l.Public("server", serverIP)
	host.Write("/etc/headscale/policy.hujson", "{}") // for configurations that name it: no rules, so all is open
	server := host.Headscale(lab.Config(serverIP, more...))
	server.Do("headscale users create amelia")
	return l, server
}

// says ends the scene unless text holds all of want.
func says(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Fatalf("got %q, want %q in it", text, w)
		}
	}
}

// silentOn ends the scene if text holds any of unwanted.
func silentOn(t *testing.T, text string, unwanted ...string) {
	t.Helper()
	for _, w := range unwanted {
		if strings.Contains(text, w) {
			t.Fatalf("got %q, want nothing of %q in it", text, w)
		}
	}
}

// node is what scenes read of `headscale nodes list -o json`.
type node struct {
	ID        string   `json:"id"`
	NodeKey   string   `json:"nodeKey"`
	Addresses []string `json:"ipAddresses"`
	Name      string   `json:"givenName"`
	Online    bool     `json:"online"`
	Tags      []string `json:"tags"`
	Available []string `json:"availableRoutes"`
	Approved  []string `json:"approvedRoutes"`
	User      struct {
		Name string `json:"name"`
	} `json:"user"`
}

// nodes lists all nodes that the server knows; flags narrow the list.
func nodes(t *testing.T, server *lab.Server, flags ...string) []node {
	t.Helper()
	text, err := server.Quietly("headscale nodes list -o json " + strings.Join(flags, " "))
	if err != nil {
		t.Fatalf("listing nodes: %v", err)
	}
	var list []node
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("reading the list of nodes: %v in %q", err, text)
	}
	return list
}

// nodeNamed is the node of that name.
func nodeNamed(t *testing.T, server *lab.Server, name string, flags ...string) node {
	t.Helper()
	list := nodes(t, server, flags...)
	i := slices.IndexFunc(list, func(n node) bool { return n.Name == name })
	if i < 0 {
		t.Fatalf("node %s: not among %+v", name, list)
	}
	return list[i]
}

// names are the names of all nodes, sorted.
func names(t *testing.T, server *lab.Server) []string {
	t.Helper()
	var all []string
	for _, n := range nodes(t, server) {
		all = append(all, n.Name)
	}
	slices.Sort(all)
	return all
}

// awaitNames waits until the server knows exactly these nodes.
func awaitNames(t *testing.T, l *lab.Lab, server *lab.Server, want ...string) {
	t.Helper()
	slices.Sort(want)
	l.Await(fmt.Sprintf("the nodes %v", want), func() error {
		if got := names(t, server); !slices.Equal(got, want) {
			return fmt.Errorf("the server knows %v", got)
		}
		return nil
	})
}

// join makes a client of the newest version on every host and lets it in with a fresh key of amelia's.
func join(t *testing.T, server *lab.Server, hosts ...*lab.Host) []*lab.Client {
	t.Helper()
	key := server.Key("-u amelia -e 1h --reusable")
	clients := make([]*lab.Client, len(hosts))
	for i, h := range hosts {
		clients[i] = h.Tailscale(lab.Newest).Up(login, "--auth-key="+key)
	}
	return clients
}
