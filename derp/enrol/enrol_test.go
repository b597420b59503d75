package enrol_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp/enrol"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// The whole life of an enrolment, as an operator sees it.
func TestEnrol(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	node, stranger := key.NewNode(), key.NewNode()
	h := newHost(s, enrol.Config{Key: s.keyText(), Region: "home", Version: "v1.2.3"})
	in := s.next()
	hello, d := in.first.GetHello(), in.first.GetDescription()
	if hello.GetEnrollKey() != s.keyText() || hello.GetRegion() != "home" || hello.GetVersion() != "v1.2.3" || hello.GetName() != "" {
		t.Errorf("got the hello %v", hello)
	}
	if len(hello.GetDerpKey()) != 32 || d.GetDerpPort() == 0 || len(d.GetCertificates()) != 1 {
		t.Errorf("got the hello %v and the description %v", hello, d)
	}
	h.refused(node, "no list of nodes came from the control server yet")
	in.order(welcome(7, node.Public()))
	h.logged("enrolled as home-1 (region 901 home), published as 203.0.113.7:443, admits 1 node")
	c := h.admitted(node)
	h.refused(stranger, "the control server does not name this node")
	if m := in.report("a load", hasLoad); m.GetLoad().GetStarted() == 0 {
		t.Errorf("got the load %v", m.GetLoad())
	}
	st := h.agent.Status()
	if !st.Connected || st.Nodes != 1 || st.Enrolment.Name != "home-1" || st.Contact.IsZero() || st.Trouble != "" {
		t.Errorf("got the status %+v", st)
	}
	info, err := os.Stat(h.cfg.StateFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state file has mode %v, %v", info.Mode(), err)
	}
	raw, err := os.ReadFile(h.cfg.StateFile)
	if err != nil || strings.Contains(string(raw), strings.Repeat("5a", 32)) {
		t.Errorf("the state file holds the enrolment key, or cannot be read: %v", err)
	}
	if strings.Contains(h.log.String(), strings.Repeat("5a", 32)) {
		t.Error("the log holds the enrolment key")
	}
	c.stays(t)

	h = h.again(s)
	if m := in.report("good-bye", (*relayv1.Report).GetLeaving); !m.GetLeaving() {
		t.Error("the relay left without a word")
	}
	next := s.next()
	if got := next.first.GetHello(); got.GetEnrollKey() != "" || got.GetAdmission() != 7 {
		t.Errorf("after a restart the hello is %v", got)
	}
	if next.machine != in.machine {
		t.Errorf("after a restart the machine key is %v, was %v", next.machine, in.machine)
	}
	h.admitted(node) // the stored list counts
	h.refused(stranger, "the control server does not name this node")
}

// A list in parts counts when it is complete, and then as a whole.
func TestListInParts(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var nodes []key.NodePrivate
	for range 4 {
		nodes = append(nodes, key.NewNode())
	}
	h := newHost(s, enrol.Config{Key: s.keyText()})
	in := s.next()
	in.order(welcome(1, nodes[0].Public(), nodes[1].Public()))
	h.logged("admits 2 nodes")
	a, b := h.admitted(nodes[0]), h.admitted(nodes[1])

	part := admission(2, true, nodes[1].Public())
	part.Partial = true
	in.order(&relayv1.Order{Admission: part})
	part = admission(2, false, nodes[2].Public())
	part.Partial = true
	in.order(&relayv1.Order{Admission: part})
	h.refused(nodes[2], "the control server does not name this node")
	h.admitted(nodes[0])
	in.order(&relayv1.Order{Admission: admission(2, false, nodes[3].Public())})
	a.sentAway(t, patience)
	h.admitted(nodes[2])
	h.admitted(nodes[3])
	b.stays(t)
	if got := h.agent.Status().Nodes; got != 3 {
		t.Errorf("got %d nodes, want 3", got)
	}
}

// Who is taken off the list is gone within two seconds; by far, here.
func TestEviction(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a, b := key.NewNode(), key.NewNode()
	h := newHost(s, enrol.Config{Key: s.keyText()})
	in := s.next()
	in.order(welcome(1, a.Public(), b.Public()))
	h.logged("admits 2 nodes")
	first, second, other := h.admitted(a), h.admitted(a), h.admitted(b)
	in.order(&relayv1.Order{Admission: &relayv1.Admission{Number: 2, Gone: [][]byte{a.Public().AppendTo(nil)}}})
	t.Logf("sent away after %v", max(first.sentAway(t, soon), second.sentAway(t, soon)))
	h.refused(a, "the control server does not name this node")
	other.stays(t)
}

// A node that joined a moment ago may be here before the list that names it.
func TestWaitsForTheNextList(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	late := key.NewNode()
	h := newHost(s, enrol.Config{Key: s.keyText()})
	in := s.next()
	in.order(welcome(1))
	h.logged("admits 0 nodes")
	done := make(chan error, 1)
	go func() {
		_, err := h.connect(late)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("the node was not kept waiting: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	in.order(&relayv1.Order{Admission: admission(2, false, late.Public())})
	if err := <-done; err != nil {
		t.Errorf("the node was refused: %v; the log is\n%s", err, h.log)
	}
}

// Known nodes go on without the control server, for a time, over a restart of the relay too.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	node, stranger := key.NewNode(), key.NewNode()
	h := newHost(s, enrol.Config{Key: s.keyText(), Outage: soon})
	s.next().order(welcome(1, node.Public()))
	h.logged("admits 1 node")
	c := h.admitted(node)
	s.stop()
	h.logged("no session with the control server, trying again; known nodes are served meanwhile")
	c.stays(t)
	h.admitted(node)
	h.refused(stranger, "does not name this node")

	h = h.again(s)
	c = h.admitted(node)
	h.refused(stranger, "does not name this node")
	if st := h.agent.Status(); st.Connected || st.Until.IsZero() || st.Nodes != 1 {
		t.Errorf("got the status %+v", st)
	}
	c.sentAway(t, patience)
	h.logged("the control server has been away for too long: nobody is admitted")
	h.refused(node, "away for too long")

	h = h.again(s)
	h.refused(node, "away for too long")
	if st := h.agent.Status(); st.Nodes != 0 || !strings.Contains(st.Trouble, "nothing listens at") {
		t.Errorf("got the status %+v", st)
	}
}

// The server may want the outage shorter than the relay, not longer.
func TestOutageOfTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	node := key.NewNode()
	h := newHost(s, enrol.Config{Key: s.keyText()})
	o := welcome(1, node.Public())
	o.Settings.OutageSeconds = 1
	s.next().order(o)
	h.logged("admits 1 node")
	c := h.admitted(node)
	s.stop()
	c.sentAway(t, patience)
}

func TestRemoved(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	node := key.NewNode()
	h := newHost(s, enrol.Config{Key: s.keyText()})
	s.next().order(welcome(1, node.Public()))
	h.logged("admits 1 node")
	h = h.again(s)
	c := h.admitted(node)
	s.next().order(&relayv1.Order{Refusal: &relayv1.Refusal{Reason: "removed by admin", Removed: true}})
	t.Logf("sent away after %v", c.sentAway(t, soon))
	<-h.ended
	if err := h.end(); err == nil || !strings.Contains(err.Error(), "removed by admin") || !strings.Contains(err.Error(), "enroll-keys create") {
		t.Errorf("got %v", err)
	}
	h.refused(node, "no list of nodes came")
	if _, err := openHost(s, enrol.Config{StateFile: h.cfg.StateFile}); err == nil || !strings.Contains(err.Error(), "not enrolled") {
		t.Errorf("after that, opening gives %v", err)
	}
}

// A relay that was removed while it was away, and has a new key, enrols anew.
func TestRemovedWithANewKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := newHost(s, enrol.Config{Key: s.keyText()})
	s.next().order(welcome(1))
	h.logged("admits 0 nodes")
	cfg := h.cfg
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	h = newHost(s, cfg)
	in := s.next()
	if got := in.first.GetHello().GetEnrollKey(); got != "" {
		t.Errorf("a relay that is enrolled shows the key")
	}
	in.order(&relayv1.Order{Refusal: &relayv1.Refusal{Reason: "removed", Removed: true}})
	in = s.next()
	if got := in.first.GetHello().GetEnrollKey(); got != s.keyText() {
		t.Errorf("after its removal the relay shows %q", got)
	}
	in.order(welcome(2))
	h.logged("enrolled as home-1")
}

// A server that lost its database knows the relay again by a key; and another key moves a relay.
func TestShowsTheKeyAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := newHost(s, enrol.Config{Key: s.keyText()})
	s.next().order(welcome(1))
	h.logged("admits 0 nodes")
	cfg := h.cfg
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	h = newHost(s, cfg)
	for _, want := range []string{"", s.keyText(), ""} {
		in := s.next()
		if got := in.first.GetHello().GetEnrollKey(); got != want {
			t.Errorf("the relay shows the key %q, want %q", got, want)
		}
		in.order(&relayv1.Order{Refusal: &relayv1.Refusal{Reason: "I do not know you"}})
	}
	s.next().order(welcome(2))
	h.logged("admits 0 nodes")
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	cfg.Key = strings.Replace(s.keyText(), "0123456789ab", "ba9876543210", 1)
	h = newHost(s, cfg)
	in := s.next()
	if got := in.first.GetHello().GetEnrollKey(); got != cfg.Key {
		t.Errorf("with another key, the relay shows %q", got)
	}
	in.order(welcome(3))
	h.logged("admits 0 nodes")
	s.cut()
	if got := s.next().first.GetHello().GetEnrollKey(); got != "" {
		t.Errorf("once it has enrolled with the other key, it shows %q", got)
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := newHost(s, enrol.Config{Key: s.keyText()})
	s.next().order(&relayv1.Order{Refusal: &relayv1.Refusal{Reason: "the key expired yesterday"}})
	<-h.ended
	if err := h.end(); err == nil || !strings.Contains(err.Error(), "the key expired yesterday") {
		t.Errorf("got %v", err)
	}
	// One that is enrolled goes on.
	h = newHost(s, enrol.Config{Key: s.keyText()})
	in := s.next()
	in.order(welcome(1))
	h.logged("admits 0 nodes")
	in.order(&relayv1.Order{Refusal: &relayv1.Refusal{Reason: "the server is full"}})
	h.logged("the server is full")
	s.next()
}

// What is wrong is said in a sentence with a hint, and ends a relay that is not enrolled yet where waiting does not help.
func TestSentences(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	page := func(f http.HandlerFunc) string {
		srv := httptest.NewServer(f)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	overTLS := newServer(t)
	overTLS.http.Close()
	overTLS.start(true)
	old := newServer(t)
	old.refuses = func(w http.ResponseWriter) bool { http.NotFound(w, nil); return true }
	for _, tt := range []struct {
		name, control, key, want string
		ends                     bool
	}{
		{"nobody there", "http://127.0.0.1:1", s.keyText(), "nothing listens at 127.0.0.1:1", false},
		{"no such host", "http://host.invalid", s.keyText(), "no host is called host.invalid", false},
		{"another server", s.http.URL, old.keyText(), "another control server than the one that this relay trusts", true},
		{"a web page", page(func(w http.ResponseWriter, _ *http.Request) {}), s.keyText(), "is no control server", true},
		{"not found", page(http.NotFound), s.keyText(), "is no control server", true},
		{"redirect", page(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "https://vpn.example.org/x", 301) }), s.keyText(),
			"sends us on to https://vpn.example.org: give that", true},
		{"a proxy without upgrades", page(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(426) }), s.keyText(), "must let upgrades through", true},
		{"a proxy without a server", page(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }), s.keyText(), "502", false},
		{"https to http", strings.Replace(s.http.URL, "http:", "https:", 1), s.keyText(), "speaks no TLS", true},
		{"http to https", strings.Replace(overTLS.http.URL, "https:", "http:", 1), s.keyText(), "speaks TLS", true},
		{"a server without relays", old.http.URL, old.keyText(), "does not know relays that enrol", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(&server{t: t, http: s.http}, enrol.Config{Control: tt.control, Key: tt.key})
			if tt.ends {
				<-h.ended
				if err := h.end(); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				return
			}
			h.logged(tt.want)
			if err := h.end(); err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := newHost(s, enrol.Config{Key: s.keyText()})
	s.next().order(welcome(1))
	h.logged("admits 0 nodes")
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(h.cfg.StateFile)
	if err != nil {
		t.Fatal(err)
	}
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "enrolment.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	other := newServer(t)
	for _, tt := range []struct {
		name string
		cfg  enrol.Config
		want string
	}{
		{"no key", enrol.Config{}, "not enrolled yet"},
		{"a pre-auth key", enrol.Config{Key: "hskey-auth-0123456789ab-" + strings.Repeat("a", 64)}, "of another kind"},
		{"no key at all", enrol.Config{Key: "secret"}, "must begin with hskey-relay-"},
		{"half a key", enrol.Config{Key: s.keyText()[:100]}, "cut short"},
		{"URL", enrol.Config{Control: "203.0.113.5:8080", Key: s.keyText()}, "give its URL"},
		{"path", enrol.Config{Control: "http://203.0.113.5/admin", Key: s.keyText()}, "without a path"},
		{"cut file", enrol.Config{StateFile: file(string(good[:len(good)/2]))}, "damaged"},
		{"empty file", enrol.Config{StateFile: file("")}, "damaged"},
		{"changed file", enrol.Config{StateFile: file(strings.Replace(string(good), "home-1", "home-2", 1))}, "changed by hand"},
		{"newer file", enrol.Config{StateFile: file(`{"format":2}`)}, "newer derper"},
		{"another server's key", enrol.Config{StateFile: file(string(good)), Key: other.keyText()}, "of another control server"},
		{"directory", enrol.Config{StateFile: filepath.Join(file(""), "x"), Key: s.keyText()}, "enrolment"},
	} {
		_, err := openHost(s, tt.cfg)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), strings.Repeat("5a", 20)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if strings.Contains(fmt.Sprint(err), "\n") {
			t.Errorf("%s: more than a sentence: %v", tt.name, err)
		}
	}
	if _, err := openHost(s, enrol.Config{StateFile: file(string(good)), Key: s.keyText()}); err != nil {
		t.Errorf("the file that was left alone: %v", err)
	}
}
