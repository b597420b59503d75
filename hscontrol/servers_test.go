package hscontrol_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"tailscale.com/tailcfg"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// shareSecrets is the key file of another server.
func shareSecrets(from *hstest.Server) func(*config.Config) {
	return func(cfg *config.Config) { cfg.Database.SecretsKeyPath = from.Config.Database.SecretsKeyPath }
}

// What begins at one server goes on at another: the page of a registration and its approval, the wait for it, and the
// approval of a login by SSH.
func TestApprovalsAtAnotherServer(t *testing.T) {
	use := hstest.StartPostgres(t).Database()
	c := newChecked(t, use)
	b := hstest.Start(t, use, shareSecrets(c.Server))
	ctx := hstest.Context(t)
	cli := admin(t, b)

	n := c.Node("newcomer")
	asked, err := n.Register(ctx)
	if err != nil || asked.AuthURL == "" {
		t.Fatalf("got %+v and %v, want a page to open", asked, err)
	}
	page, err := url.Parse(asked.AuthURL)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(b.URL + page.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	id := authID.FindString(string(text))
	if resp.StatusCode != http.StatusOK || id == "" || !strings.Contains(string(text), "newcomer") {
		t.Fatalf("the page at the other server: got %s and\n%s", resp.Status, text)
	}
	// It waits at the first server twice: over the connection it has, and at the second over a new one.
	done := make(chan *tailcfg.RegisterResponse, 1)
	go func() {
		resp, err := n.Register(ctx, func(r *tailcfg.RegisterRequest) { r.Followup = asked.AuthURL })
		if err != nil {
			t.Error(err)
		}
		done <- resp
	}()
	if _, err := cli.AuthRegister(ctx, &headscalev1.AuthRegisterRequest{User: "alice", AuthId: id}); err != nil {
		t.Fatalf("approving at the other server: %v", err)
	}
	if resp := <-done; resp == nil || !resp.MachineAuthorized {
		t.Errorf("the waiting machine: got %+v, want it let in", resp)
	}
	n.Use(b)
	if p := n.Poll(); p.Netmap.Node.Expired || p.Netmap.Peer("db") == nil {
		t.Errorf("polling at the other server: got peers %v", p.Netmap.Names())
	}

	login, where := c.hold("root")
	waiting := c.later(where)
	if _, err := cli.AuthApprove(ctx, &headscalev1.AuthApproveRequest{AuthId: login}); err != nil {
		t.Fatal(err)
	}
	if action := <-waiting; !action.Accept {
		t.Errorf("a login approved at the other server: got %+v, want it to go on", action)
	}
	c.db.Use(b)
	if _, action := c.fetch(c.db, where); !action.Accept {
		t.Errorf("the same, asked at the other server: got %+v, want it to go on", action)
	}
}
