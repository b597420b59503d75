package derp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"go4.org/mem"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// What has no door: the age of a remembered yes, and the parser of introductions.

func TestRememberedYesGrowsOld(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		io.WriteString(w, `{"Allow":true}`)
	}))
	defer srv.Close()
	now := time.Unix(1_000_000, 0)
	v := &verifier{url: srv.URL, client: srv.Client(), now: func() time.Time { return now }}
	v.yes.until = map[key.NodePublic]time.Time{}
	node := key.NewNode().Public()
	for _, tt := range []struct {
		after time.Duration
		asked int
	}{{0, 1}, {verifyKeep - 1, 1}, {1, 2}} {
		now = now.Add(tt.after)
		if ok, err := v.admit(t.Context(), node, netip.Addr{}); !ok || err != nil || asked != tt.asked {
			t.Errorf("%v later: got %v, %v after %d questions, want yes after %d", tt.after, ok, err, asked, tt.asked)
		}
	}
	var raw [32]byte
	for i := range 2 * verifyMax {
		binary.BigEndian.PutUint32(raw[:], uint32(i))
		v.remember(key.NodePublicFromRaw32(mem.B(raw[:])))
	}
	if got := len(v.yes.until); got != verifyMax {
		t.Errorf("%d answers are remembered, want %d", got, verifyMax)
	}
	now = now.Add(verifyKeep)
	v.remember(node)
	if got := len(v.yes.until); got != 1 {
		t.Errorf("%d answers are remembered when all but one are old, want 1", got)
	}
}

// hello is an introduction as a client makes it.
func hello(t testing.TB, client key.NodePrivate, relay key.NodePublic, info any) []byte {
	t.Helper()
	text, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	body := append(client.Public().AppendTo(nil), client.SealTo(relay, text)...)
	n := len(body)
	return append([]byte{byte(derp.FrameClientInfo), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}

func FuzzHello(f *testing.F) {
	var relay key.NodePrivate // the same in each run
	if err := relay.UnmarshalText([]byte("privkey:0102030405060708010203040506070801020304050607080102030405060708")); err != nil {
		f.Fatal(err)
	}
	prepared, err := newRelayKey(relay)
	if err != nil {
		f.Fatal(err)
	}
	client := key.NewNode()
	f.Add(hello(f, client, relay.Public(), derp.ClientInfo{Version: 2}))
	f.Add(hello(f, client, relay.Public(), "not an object"))
	f.Add(hello(f, client, client.Public(), derp.ClientInfo{}))
	f.Add([]byte("\x02\x00\x00\x00\x38"))
	f.Fuzz(func(t *testing.T, in []byte) {
		raw, err := readHello(bytes.NewReader(in))
		if err != nil {
			return
		}
		if !bytes.HasPrefix(in, raw) {
			t.Fatalf("got %x, which is not what was sent", raw)
		}
		if node, _, _, err := parseHello(prepared, raw); err == nil && node.IsZero() {
			t.Fatal("a client without a key was understood")
		}
	})
}
