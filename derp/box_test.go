package derp

import (
	"bytes"
	"testing"

	"tailscale.com/types/key"
)

// Our boxes are those of the clients, in both directions.
func TestBoxesAreThoseOfClients(t *testing.T) {
	relay, client := key.NewNode(), key.NewNode()
	prepared, err := newRelayKey(relay)
	if err != nil {
		t.Fatal(err)
	}
	self := rawKey(client.Public())
	shared, err := prepared.with(&self)
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("who I am")
	if got, ok := shared.open(client.SealTo(relay.Public(), text)); !ok || !bytes.Equal(got, text) {
		t.Errorf("a client's box: got %q, %v, want %q", got, ok, text)
	}
	sealed, err := shared.seal(text)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := client.OpenFrom(relay.Public(), sealed); !ok || !bytes.Equal(got, text) {
		t.Errorf("our box: got %q, %v, want %q", got, ok, text)
	}
	for _, bad := range [][]byte{nil, sealed[:23], sealed[:24], sealed[:len(sealed)-1]} {
		if got, ok := shared.open(bad); ok {
			t.Errorf("%d bytes were opened as %q", len(bad), got)
		}
	}
	var none nodeKey // of a low order: the result would be the same for every relay
	if _, err := prepared.with(&none); err == nil {
		t.Error("the key of zeros shares something with the relay")
	}
}

func BenchmarkHandshakeBoxes(b *testing.B) {
	relay, client := key.NewNode(), key.NewNode()
	prepared, err := newRelayKey(relay)
	if err != nil {
		b.Fatal(err)
	}
	self := rawKey(client.Public())
	sealed := client.SealTo(relay.Public(), make([]byte, 64))
	for b.Loop() {
		shared, err := prepared.with(&self)
		if err != nil {
			b.Fatal(err)
		}
		if _, ok := shared.open(sealed); !ok {
			b.Fatal("not opened")
		}
		if _, err := shared.seal(sealed); err != nil {
			b.Fatal(err)
		}
	}
}
