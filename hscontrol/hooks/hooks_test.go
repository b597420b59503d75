package hooks_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/hooks"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// events are those of a request in Tailscale's own format.
func events(t *testing.T, g got) []tailnet.Event {
	t.Helper()
	var list []tailnet.Event
	if err := json.Unmarshal(g.body, &list); err != nil {
		t.Fatalf("%s: %v", g.body, err)
	}
	return list
}

// signed checks a signature as receivers of Tailscale's webhooks do.
func signed(t *testing.T, g got, secret string) {
	t.Helper()
	var at int64
	var sum string
	if _, err := fmt.Sscanf(strings.Replace(g.header.Get("Tailscale-Webhook-Signature"), ",", " ", 1), "t=%d v1=%s", &at, &sum); err != nil {
		t.Fatalf("signature %q: %v", g.header.Get("Tailscale-Webhook-Signature"), err)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.%s", at, g.body)
	if want := hex.EncodeToString(mac.Sum(nil)); sum != want {
		t.Errorf("got signature %s, want %s", sum, want)
	}
	if age := time.Since(time.Unix(at, 0)); age < -time.Minute || age > time.Minute {
		t.Errorf("signed %v ago, want now", age)
	}
}

// TestDeliver: who subscribed is told, signed, once; a new secret signs what comes after.
func TestDeliver(t *testing.T) {
	s, r, deaf := newSite(t), newReceiver(t), newReceiver(t)
	w := s.webhook(r.URL+"/hook", "", "userCreated")
	s.webhook(deaf.URL, "", "policyUpdate")
	s.run()
	s.user("anna")
	g := r.next(t)
	list := events(t, g)
	if len(list) != 1 || list[0].Type != "userCreated" || list[0].Version != 1 || list[0].Tailnet != "default" ||
		list[0].Message != "User anna created" || list[0].Data["user"] != "anna" {
		t.Errorf("got %s", g.body)
	}
	signed(t, g, s.key.Secret(w))
	s.until("the delivery ends", func() bool { return s.deliveries(w.ID)[0].State == tailnet.DeliveryDone })

	rotated, err := s.store.RotateWebhook(s.ctx, w.ID)
	if err != nil || s.key.Secret(rotated) == s.key.Secret(w) {
		t.Fatalf("rotating: %v, or the same secret", err)
	}
	if err := s.store.TestWebhook(s.ctx, w.ID); err != nil {
		t.Fatal(err)
	}
	g = r.next(t)
	signed(t, g, s.key.Secret(rotated))
	if list := events(t, g); len(list) != 1 || list[0].Type != "test" {
		t.Errorf("got %s, want a test event", g.body)
	}
	select {
	case g := <-deaf.told:
		t.Errorf("who wants policies was told %s", g.body)
	default:
	}
}

// TestRetry: an event is tried again until it is taken, with pauses, and what the last answer was is known.
func TestRetry(t *testing.T) {
	s, r := newSite(t), newReceiver(t)
	w := s.webhook(r.URL, "", "userCreated")
	r.answers(status(http.StatusInternalServerError))
	s.run()
	s.user("anna")
	for range 2 {
		r.next(t)
	}
	if d := s.deliveries(w.ID)[0]; d.State != tailnet.DeliveryWaiting || d.Attempts < 1 {
		t.Errorf("got %+v, want it waiting", d)
	}
	r.answers(nil)
	s.until("it is taken", func() bool { return s.deliveries(w.ID)[0].State == tailnet.DeliveryDone })
	if d := s.deliveries(w.ID)[0]; d.Attempts < 3 || d.Status != 200 || d.Trouble != "" {
		t.Errorf("got %+v, want three attempts at least, the last with 200", d)
	}
}

// TestGiveUp: after a day, here some moments, an event is given up.
func TestGiveUp(t *testing.T) {
	s, r := newSite(t), newReceiver(t)
	w := s.webhook(r.URL, "", "userCreated")
	r.answers(status(http.StatusNotFound))
	s.runAs(hooks.Config{Backoff: hooks.Backoff{First: 10 * time.Millisecond, Most: 10 * time.Millisecond, GiveUp: time.Millisecond}})
	s.user("anna")
	s.until("it is given up", func() bool { return s.deliveries(w.ID)[0].State == tailnet.DeliveryAbandoned })
	if d := s.deliveries(w.ID)[0]; d.Status != 404 || !strings.Contains(d.Trouble, "404") {
		t.Errorf("got %+v, want the 404 told", d)
	}
}

// TestRestart: what was not delivered when the server ended is delivered by its next life, also what was just under way.
func TestRestart(t *testing.T) {
	s, r := newSite(t), newReceiver(t)
	s.webhook(r.URL, "", "userCreated")
	reached := make(chan struct{}, 10)
	r.answers(func(_ http.ResponseWriter, req *http.Request) {
		reached <- struct{}{}
		<-req.Context().Done() // until the client hangs up
	})
	s.runAs(hooks.Config{Timeout: time.Minute})
	s.user("anna")
	<-reached
	s.end()
	r.next(t) // the request that came to nothing
	s.user("bob")
	s.restart()
	r.answers(nil)
	s.run()
	told := map[string]int{}
	for len(told) < 2 {
		for _, e := range events(t, r.next(t)) {
			told[e.Data["user"]]++
		}
	}
	if told["anna"] != 1 || told["bob"] != 1 {
		t.Errorf("got %v, want each once", told)
	}
}

// TestWhereTo: nothing is sent on to where a redirect leads, nor to addresses of the link, nor, if so set, to private ones.
func TestWhereTo(t *testing.T) {
	for _, c := range []struct {
		name   string
		url    func(r, other *receiver) string
		public bool
		want   string
	}{
		{"redirect", func(r, other *receiver) string {
			r.answers(func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, other.URL, http.StatusTemporaryRedirect)
			})
			return r.URL
		}, false, "redirect"},
		{"link", func(_, _ *receiver) string { return "http://169.254.169.254/latest" }, false, "not open to webhooks"},
		{"link over IPv6", func(_, _ *receiver) string { return "http://[fe80::1%25lo]/" }, false, "not open to webhooks"},
		{"any", func(_, _ *receiver) string { return "http://0.0.0.0:1/" }, false, "not open to webhooks"},
		{"private", func(r, _ *receiver) string { return r.URL }, true, "not open to webhooks"},
		{"mapped", func(r, _ *receiver) string { return strings.Replace(r.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1) }, true, "not open to webhooks"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, r, other := newSite(t), newReceiver(t), newReceiver(t)
			w := s.webhook(c.url(r, other), "", "userCreated")
			s.runAs(hooks.Config{OnlyPublic: c.public, Backoff: hooks.Backoff{First: time.Millisecond, Most: time.Millisecond, GiveUp: time.Nanosecond}})
			s.user("anna")
			s.until("it is given up", func() bool { return s.deliveries(w.ID)[0].State == tailnet.DeliveryAbandoned })
			if d := s.deliveries(w.ID)[0]; !strings.Contains(d.Trouble, c.want) {
				t.Errorf("got %q, want %q", d.Trouble, c.want)
			}
			if len(other.told) != 0 {
				t.Error("the other one was told")
			}
		})
	}
}

// TestProviders: each chat gets what it takes, and nothing in a name is a command to it.
func TestProviders(t *testing.T) {
	s := newSite(t)
	s.run()
	for _, c := range []struct {
		provider, member, text string
	}{
		{tailnet.WebhookSlack, "text", "User u.slack created (by &lt;!channel&gt; @all)"},
		{tailnet.WebhookMattermost, "text", "User u.mattermost created (by <!channel> @\u200ball)"},
		{tailnet.WebhookDiscord, "content", "User u.discord created (by <!channel> @all)"},
		{tailnet.WebhookGoogleChat, "text", "User u.googlechat created (by <\u200b!channel> @all)"},
	} {
		r := newReceiver(t)
		w := s.webhook(r.URL, c.provider, tailnet.CategoryManagement)
		ctx := tailnet.WithActor(s.ctx, tailnet.Actor{Via: "cli", Who: "<!channel> @all"})
		if _, err := s.store.CreateUser(ctx, tailnet.User{Name: "u." + c.provider}); err != nil {
			t.Fatal(err)
		}
		var body map[string]any
		if err := json.Unmarshal(r.next(t).body, &body); err != nil {
			t.Fatal(err)
		}
		if body[c.member] != c.text {
			t.Errorf("%s: got %v, want %s: %q", c.provider, body, c.member, c.text)
		}
		if c.provider == tailnet.WebhookDiscord && fmt.Sprint(body["allowed_mentions"]) != "map[parse:[]]" {
			t.Errorf("Discord may mention %v, want nobody", body["allowed_mentions"])
		}
		if err := s.store.DeleteWebhook(s.ctx, w.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPresence: a node that comes is told; one that goes and comes back soon is not.
func TestPresence(t *testing.T) {
	s, r := newSite(t), newReceiver(t)
	u := s.user("anna")
	_, secret, err := s.store.CreatePreAuthKey(s.ctx, tailnet.PreAuthKey{UserID: u.ID})
	if err != nil {
		t.Fatal(err)
	}
	w := s.webhook(r.URL, "", tailnet.EventNodeOnline, tailnet.EventNodeOffline, "nodeCreated")
	s.run()
	n, err := s.store.JoinWithKey(s.ctx, secret.Reveal(), store.Join{MachineKey: key.NewMachine().Public(), NodeKey: key.NewNode().Public()})
	if err != nil {
		t.Fatal(err)
	}
	if e := events(t, r.next(t)); e[0].Type != "nodeCreated" || e[0].Data["nodeID"] != fmt.Sprint(n.ID) || e[0].Data["managedBy"] != "anna" {
		t.Errorf("got %+v", e)
	}
	open := func(id string) {
		t.Helper()
		if err := s.store.OpenSession(s.ctx, n.ID, id); err != nil {
			t.Fatal(err)
		}
	}
	open("one")
	if e := events(t, r.next(t)); e[0].Type != tailnet.EventNodeOnline || e[0].Data["deviceName"] != n.GivenName {
		t.Errorf("got %+v, want it online", e)
	}
	if err := s.store.CloseSessions(s.ctx, []store.SessionRef{{NodeID: n.ID, SessionID: "one"}}); err != nil {
		t.Fatal(err)
	}
	if d := s.deliveries(w.ID)[0]; d.State != tailnet.DeliveryWaiting || d.DueAt.Sub(d.CreatedAt) < 10*time.Second {
		t.Errorf("got %+v, want that it went away to be told later", d)
	}
	open("two")
	if list := s.deliveries(w.ID); len(list) != 2 {
		t.Errorf("got %d deliveries, want neither that it went nor that it came back", len(list))
	}
}
