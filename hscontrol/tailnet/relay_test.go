package tailnet_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func relaySecret(t testing.TB) tailnet.Secret {
	t.Helper()
	secret, err := tailnet.NewSecret(tailnet.RelayKeySecret, strings.NewReader(strings.Repeat("k", 38)))
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func TestRelayKeyText(t *testing.T) {
	secret, server := relaySecret(t), key.NewMachine().Public()
	text := tailnet.RelayKeyText(secret, server)
	if parts := strings.Split(text, "-"); len(parts) != 5 || text[:12] != "hskey-relay-" || len(parts[2]) != 12 || len(parts[3]) != 64 || "mkey:"+parts[4] != server.String() {
		t.Errorf("got %q", text)
	}
	for _, whole := range []string{text, " " + text + "\n"} {
		if got, from, err := tailnet.ParseRelayKey(whole); err != nil || got != secret || from != server {
			t.Errorf("%q: got %v, %v, %v", whole, got, from, err)
		}
	}
	if got, from, err := tailnet.ParseRelayKey(secret.Reveal()); err != nil || got != secret || !from.IsZero() {
		t.Errorf("without the server: got %v, %v, %v", got, from, err)
	}
	for _, wrong := range []string{"", "hskey-relay-", "hskey-api" + text[11:], text[:len(text)-1], text + "0", text + "-", secret.Reveal() + "-", text[:40]} {
		if _, _, err := tailnet.ParseRelayKey(wrong); err == nil || wrong != "" && strings.Contains(err.Error(), wrong[min(20, len(wrong)-1):]) && len(wrong) > 20 {
			t.Errorf("%q: got %v, want an error that does not show it", wrong, err)
		}
	}
}

func FuzzParseRelayKey(f *testing.F) {
	secret := relaySecret(f)
	f.Add(tailnet.RelayKeyText(secret, key.NewMachine().Public()))
	f.Add(secret.Reveal())
	f.Add("hskey-relay-0-0-0")
	f.Fuzz(func(t *testing.T, text string) {
		secret, server, err := tailnet.ParseRelayKey(text)
		if err != nil {
			return
		}
		again := secret.Reveal()
		if !server.IsZero() {
			again = tailnet.RelayKeyText(secret, server)
		}
		if second, from, err := tailnet.ParseRelayKey(again); err != nil || second != secret || from != server {
			t.Errorf("%q: got %v, %v, %v the second time", text, second, from, err)
		}
	})
}

func TestRelayKeyUsable(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	before, after := now.Add(-time.Hour), now.Add(time.Hour)
	for _, c := range []struct {
		name string
		key  tailnet.RelayKey
		want bool
	}{
		{"fresh", tailnet.RelayKey{ExpiresAt: &after}, true},
		{"for good", tailnet.RelayKey{}, true},
		{"used", tailnet.RelayKey{UsedAt: &before}, false},
		{"used, reusable", tailnet.RelayKey{UsedAt: &before, Reusable: true}, true},
		{"expired", tailnet.RelayKey{ExpiresAt: &before, Reusable: true}, false},
		{"expires now", tailnet.RelayKey{ExpiresAt: &now}, false},
	} {
		if err := c.key.Usable(now); (err == nil) != c.want || err != nil && !errors.Is(err, tailnet.ErrRelayRefused) {
			t.Errorf("%s: got %v, want usable %v", c.name, err, c.want)
		}
	}
}

func TestSnapshotSharesRelays(t *testing.T) {
	region := func(name string) *tailnet.RelayRegion { return &tailnet.RelayRegion{ID: 901, Code: "home", Name: name} }
	a, b := &tailnet.Relay{ID: 1}, &tailnet.Relay{ID: 2}
	first := (*tailnet.Snapshot)(nil).Next(tailnet.Delta{Full: true, Rev: 1, Relays: []*tailnet.Relay{b, a}, Regions: []*tailnet.RelayRegion{region("Home")}})
	if first.Relay(1) != a || first.Relay(2) != b || first.Relay(3) != nil {
		t.Errorf("got %v, want both by their IDs", first.Relays)
	}
	c := &tailnet.Relay{ID: 2, Draining: true}
	next := first.Next(tailnet.Delta{Rev: 2, Relays: []*tailnet.Relay{c}, Regions: []*tailnet.RelayRegion{region("Home")}})
	if next.Relay(1) != a || next.Relay(2) != c || next.Regions[901] != first.Regions[901] {
		t.Error("a change of one relay did not share the rest")
	}
	if last := next.Next(tailnet.Delta{Rev: 3, RelaysGone: []tailnet.RelayID{1, 2}, Regions: []*tailnet.RelayRegion{}}); len(last.Relays)+len(last.Regions) != 0 {
		t.Errorf("got %v and %v, want all gone", last.Relays, last.Regions)
	}
	if next.Next(tailnet.Delta{Rev: 3, Regions: []*tailnet.RelayRegion{region("Attic")}}).Regions[901].Name != "Attic" {
		t.Error("a new name of a region was lost")
	}
}
