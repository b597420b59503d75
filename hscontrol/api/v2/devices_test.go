package v2_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	tailscale "tailscale.com/client/tailscale/v2"

	"github.com/keelscale/keelscale/hscontrol/hstest"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func preauthorized(k *tailnet.PreAuthKey) { k.Preauthorized = true }

func TestDevices(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	n := w.Node("box")
	n.Hostinfo.OS, n.Hostinfo.IPNVersion, n.Hostinfo.RoutableIPs = "linux", "1.80.2-t123", []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}
	n.Join(w.Key(w.owner))
	id := w.idOf(n)
	n.Update("192.0.2.1:41641")
	devices := w.admin.Devices()

	d := must[*tailscale.Device](t)(devices.GetWithAllFields(w.ctx, id))
	if d.NodeID != id || d.ID != id || d.Hostname != "box" || d.OS != "linux" || d.ClientVersion != "1.80.2-t123" || d.User != "odin@example.com" ||
		!d.Authorized || !d.KeyExpiryDisabled || d.ConnectedToControl || !strings.HasPrefix(d.Name, "box") || len(d.Addresses) != 2 ||
		d.NodeKey != n.Key.Public().String() || d.MachineKey != n.Machine.Public().String() {
		t.Errorf("the device: got %+v", d)
	}
	if !slices.Equal(d.AdvertisedRoutes, []string{"10.7.0.0/24"}) || len(d.EnabledRoutes) != 0 || !slices.Equal(d.ClientConnectivity.Endpoints, []string{"192.0.2.1:41641"}) {
		t.Errorf("its details: got %+v, %+v", d, d.ClientConnectivity)
	}
	if d := must[*tailscale.Device](t)(devices.Get(w.ctx, id)); d.ClientConnectivity != nil || d.AdvertisedRoutes != nil {
		t.Errorf("without details: got %+v", d)
	}

	story := []struct {
		what  string
		do    func() error
		check func(d *tailscale.Device) bool
	}{
		{"a name", func() error { return devices.SetName(w.ctx, id, "printer") }, func(d *tailscale.Device) bool { return strings.Split(d.Name, ".")[0] == "printer" }},
		{"a whole name", func() error { return devices.SetName(w.ctx, id, strings.Replace(d.Name, "box", "press", 1)) },
			func(d *tailscale.Device) bool { return strings.Split(d.Name, ".")[0] == "press" }},
		{"no name", func() error { return devices.SetName(w.ctx, id, "") }, func(d *tailscale.Device) bool { return strings.Split(d.Name, ".")[0] == "box" }},
		{"an expiry", func() error { return devices.SetKey(w.ctx, id, tailscale.DeviceKey{}) },
			func(d *tailscale.Device) bool {
				return !d.KeyExpiryDisabled && d.Expires.After(time.Now().Add(179*24*time.Hour))
			}},
		{"none again", func() error { return devices.SetKey(w.ctx, id, tailscale.DeviceKey{KeyExpiryDisabled: true}) }, func(d *tailscale.Device) bool { return d.KeyExpiryDisabled }},
		{"an address", func() error { return devices.SetIPv4Address(w.ctx, id, "100.64.9.9") }, func(d *tailscale.Device) bool { return slices.Contains(d.Addresses, "100.64.9.9") }},
		{"routes", func() error { return devices.SetSubnetRoutes(w.ctx, id, []string{"10.7.0.0/24"}) },
			func(d *tailscale.Device) bool { return slices.Equal(d.EnabledRoutes, []string{"10.7.0.0/24"}) }},
		{"tags", func() error { return devices.SetTags(w.ctx, id, []string{"tag:web"}) },
			func(d *tailscale.Device) bool {
				return slices.Equal(d.Tags, []string{"tag:web"}) && d.User == "tagged-devices"
			}},
		{"no authorization", func() error { return devices.SetAuthorized(w.ctx, id, false) }, func(d *tailscale.Device) bool { return !d.Authorized }},
		{"authorization", func() error { return devices.SetAuthorized(w.ctx, id, true) }, func(d *tailscale.Device) bool { return d.Authorized }},
	}
	for _, s := range story {
		if err := s.do(); err != nil {
			t.Errorf("%s: %v", s.what, err)
		}
		if d := must[*tailscale.Device](t)(devices.GetWithAllFields(w.ctx, id)); !s.check(d) {
			t.Errorf("%s: got %+v", s.what, d)
		}
	}
	routes := must[*tailscale.DeviceRoutes](t)(devices.SubnetRoutes(w.ctx, id))
	if !slices.Equal(routes.Advertised, []string{"10.7.0.0/24"}) || !slices.Equal(routes.Enabled, routes.Advertised) {
		t.Errorf("routes: got %+v", routes)
	}

	refused(t, "a name with a space", devices.SetName(w.ctx, id, "a b"), http.StatusBadRequest)
	refused(t, "a tag that the policy does not know", devices.SetTags(w.ctx, id, []string{"tag:unheard"}), http.StatusBadRequest)
	narrow := w.client(w.key(tailnet.APIKey{Scopes: []string{"devices:core"}, Tags: []string{"tag:web"}}), "")
	refused(t, "no tags, by a key that may not say whose the device is", narrow.Devices().SetTags(w.ctx, id, nil), http.StatusBadRequest)
	refused(t, "an address of elsewhere", devices.SetIPv4Address(w.ctx, id, "192.0.2.1"), http.StatusBadRequest)
	refused(t, "no address", devices.SetIPv4Address(w.ctx, id, "x"), http.StatusBadRequest)
	refused(t, "host bits", devices.SetSubnetRoutes(w.ctx, id, []string{"10.7.0.1/24"}), http.StatusBadRequest)
	_, second := w.node("second")
	refused(t, "a name that is taken", devices.SetName(w.ctx, second, "box"), http.StatusConflict)
	refused(t, "an address that is taken", devices.SetIPv4Address(w.ctx, second, "100.64.9.9"), http.StatusConflict)

	if err := devices.Delete(w.ctx, id); err != nil {
		t.Error(err)
	}
	refused(t, "one that is gone", devices.Delete(w.ctx, id), http.StatusNotFound)
	for _, bad := range []string{"0", "x", "99999999999999999999", "-1"} {
		_, err := devices.Get(w.ctx, bad)
		refused(t, "device "+bad, err, http.StatusNotFound)
	}
}

func TestListDevices(t *testing.T) {
	w := newWorld(t)
	w.SetPolicy(policyText)
	_, a := w.node("a")
	mac := w.Node("b")
	mac.Hostinfo.OS = "macOS"
	mac.Join(w.Key(w.owner))
	if err := w.admin.Devices().SetTags(w.ctx, a, []string{"tag:web", "tag:ci"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		filter string
		values []string
		want   []string
	}{
		{"os", []string{"macOS"}, []string{"b"}},
		{"os", []string{"macOS", "linux"}, []string{"a", "b"}},
		{"tags", []string{"tag:ci"}, []string{"a"}},
		{"hostname", []string{"nobody"}, nil},
		{"isEphemeral", []string{"false"}, []string{"a", "b"}},
		{"user", []string{"odin@example.com"}, []string{"b"}},
	} {
		var got []string
		for _, d := range must[[]tailscale.Device](t)(w.admin.Devices().List(w.ctx, tailscale.WithFilter(c.filter, c.values))) {
			got = append(got, d.Hostname)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s=%v: got %v, want %v", c.filter, c.values, got, c.want)
		}
	}
	_, err := w.admin.Devices().List(w.ctx, tailscale.WithFilter("colour", []string{"red"}))
	refused(t, "an unknown filter", err, http.StatusBadRequest)
	if all := must[[]tailscale.Device](t)(w.client(w.admin.APIKey, "elsewhere").Devices().ListWithAllFields(w.ctx)); len(all) != 0 {
		t.Errorf("another tailnet: got %v, want none", all)
	}
}

// What waits for approval sees nobody and is seen by nobody, until it is let in.
func TestDeviceApproval(t *testing.T) {
	w := newWorld(t)
	on := true
	if err := w.admin.TailnetSettings().Update(w.ctx, tailscale.UpdateTailnetSettingsRequest{DevicesApprovalOn: &on}); err != nil {
		t.Fatal(err)
	}
	in, _ := w.node("in", preauthorized)
	poll := in.Poll()
	defer poll.Close()

	waiting := w.Node("waiting")
	if resp := must[*tailcfg.RegisterResponse](t)(waiting.Register(w.ctx, hstest.WithKey(w.Key(w.owner)))); resp.MachineAuthorized || resp.Error != "" {
		t.Fatalf("registering: got %+v, want it to wait", resp)
	}
	id := w.idOf(waiting)
	own := waiting.Poll()
	defer own.Close()
	if own.Netmap.Node.MachineAuthorized || len(own.Netmap.Peers) != 0 {
		t.Errorf("while it waits: got %+v with %d peers, want it not authorized and alone", own.Netmap.Node, len(own.Netmap.Peers))
	}
	if err := w.admin.Devices().SetAuthorized(w.ctx, id, true); err != nil {
		t.Fatal(err)
	}
	poll.Await("the new node", func(m *hstest.Netmap) bool { return len(m.Peers) == 1 })
	own.Await("being let in", func(m *hstest.Netmap) bool { return m.Node.MachineAuthorized && len(m.Peers) == 1 })
	if err := w.admin.Devices().SetAuthorized(w.ctx, id, false); err != nil {
		t.Fatal(err)
	}
	poll.Await("its end", func(m *hstest.Netmap) bool { return len(m.Peers) == 0 })
	own.Await("waiting again", func(m *hstest.Netmap) bool { return !m.Node.MachineAuthorized && len(m.Peers) == 0 })
}
