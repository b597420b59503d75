package console_test

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/keelscale/keelscale/hscontrol/console"
)

func urlEscape(text string) string { return url.QueryEscape(text) }

// strs reads the string entries of a property list: key -> values, over all dictionaries. It fails on anything that
// is not well-formed.
func strs(t *testing.T, list string) map[string][]string {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(list))
	out := map[string][]string{}
	var element, key string
	for {
		token, err := d.Token()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatalf("reading the profile: %v\n%s", err, list)
		}
		switch token := token.(type) {
		case xml.StartElement:
			element = token.Name.Local
		case xml.EndElement:
			element = ""
		case xml.CharData:
			switch element {
			case "key":
				key = string(token)
			case "string":
				out[key] = append(out[key], string(token))
			}
		}
	}
}

func TestAppleProfiles(t *testing.T) {
	h := console.New(console.Config{ServerURL: serverURL})
	seen := map[string]string{}
	for platform, domain := range map[string]string{
		"ios": "io.tailscale.ipn.ios", "macos": "io.tailscale.ipn.macos",
		"macos-app-store": "io.tailscale.ipn.macos", "macos-standalone": "io.tailscale.ipn.macsys",
	} {
		w := get(t, h, "/apple/"+platform)
		if got, want := w.Header().Get("Content-Type"), "application/x-apple-aspen-config"; got != want {
			t.Errorf("%s: got content type %q, want %q", platform, got, want)
		}
		if got, want := w.Header().Get("Content-Disposition"), fmt.Sprintf(`attachment; filename="headscale-%s.mobileconfig"`, platform); got != want {
			t.Errorf("%s: got %q, want %q", platform, got, want)
		}
		entries := strs(t, w.Body.String())
		if diff := cmp.Diff([]string{serverURL}, entries["ControlURL"]); diff != "" {
			t.Errorf("%s: ControlURL (-want +got):\n%s", platform, diff)
		}
		if diff := cmp.Diff([]string{"Configuration", domain}, entries["PayloadType"]); diff != "" {
			t.Errorf("%s: PayloadType (-want +got):\n%s", platform, diff)
		}
		ids := entries["PayloadUUID"]
		if len(ids) != 2 || ids[0] == ids[1] || len(ids[0]) != 36 {
			t.Errorf("%s: got UUIDs %q, want two of their own", platform, ids)
		}
		if other, ok := seen[domain]; ok && other != w.Body.String() {
			t.Errorf("%s: two addresses give two profiles for one app", platform)
		}
		seen[domain] = w.Body.String()
	}
}

// A second server's profile stands beside the first one's; the same server's replaces it.
func TestProfileIdentity(t *testing.T) {
	id := func(server string) string {
		return strs(t, get(t, console.New(console.Config{ServerURL: server}), "/apple/ios").Body.String())["PayloadIdentifier"][0]
	}
	if one, again := id("https://a.example"), id("https://a.example"); one != again {
		t.Errorf("got identifiers %s and %s for one server", one, again)
	}
	if one, other := id("https://a.example"), id("https://b.example"); one == other {
		t.Errorf("got the identifier %s for two servers", one)
	}
}

func TestProfileIsEscaped(t *testing.T) {
	server := `https://a.example/<&"`
	entries := strs(t, get(t, console.New(console.Config{ServerURL: server}), "/apple/ios").Body.String())
	if diff := cmp.Diff([]string{server}, entries["ControlURL"]); diff != "" {
		t.Errorf("ControlURL (-want +got):\n%s", diff)
	}
}

func TestWindowsRegistry(t *testing.T) {
	w := get(t, console.New(console.Config{ServerURL: `https://a.example/"\`}), "/windows/tailscale.reg")
	want := "Windows Registry Editor Version 5.00\r\n\r\n" +
		"[HKEY_LOCAL_MACHINE\\SOFTWARE\\Tailscale IPN]\r\n" +
		"\"UnattendedMode\"=\"always\"\r\n" +
		"\"LoginURL\"=\"https://a.example/\\\"\\\\\"\r\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Errorf("tailscale.reg (-want +got):\n%s", diff)
	}
}
