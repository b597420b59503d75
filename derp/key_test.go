package derp_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

func TestLoadKeyMakesOneAndKeepsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "derper.key")
	k, err := derp.LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := derp.LoadKey(path)
	if err != nil || !again.Equal(k) {
		t.Errorf("got another key at the second start (%v)", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("got mode %v, want 0600", info.Mode())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ PrivateKey key.NodePrivate } // as cmd/derper reads it
	if err := json.Unmarshal(raw, &file); err != nil || !file.PrivateKey.Equal(k) {
		t.Errorf("cmd/derper would read another key (%v)", err)
	}
}

func TestLoadKeyForms(t *testing.T) {
	k := key.NewNode()
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file string
		ok         bool
	}{
		{"of cmd/derper", `{"PrivateKey":"` + string(text) + `"}`, true},
		{"of headscale", string(text) + "\n", true},
		{"empty", "", false},
		{"without a key", "{}", false},
		{"cut off", string(text[:20]), false},
		{"of something else", "-----BEGIN PRIVATE KEY-----", false},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := derp.LoadKey(path)
		if tt.ok != (err == nil) || tt.ok && !got.Equal(k) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestLoadRate(t *testing.T) {
	for _, tt := range []struct {
		file string
		want derp.Bound
		ok   bool
	}{
		{`{"PerClientRateLimitBytesPerSec": 1000, "PerClientRateBurstBytes": 2000}`, derp.Bound{Rate: 1000, Burst: 2000}, true},
		{`{}`, derp.Bound{}, true},
		{`{"PerClientRateLimit": 1000}`, derp.Bound{}, false},
		{`{"PerClientRateLimitBytesPerSec": -1}`, derp.Bound{}, false},
		{``, derp.Bound{}, false},
	} {
		path := filepath.Join(t.TempDir(), "rate.json")
		if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := derp.LoadRate(path)
		if got != tt.want || tt.ok != (err == nil) {
			t.Errorf("%s: got %+v, %v, want %+v", tt.file, got, err, tt.want)
		}
	}
}
