//go:build unix

package derp

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// sockets are the two ends of a TCP connection with small buffers, one of them as a wire.
func sockets(t *testing.T) (*wire, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near.(*net.TCPConn).SetWriteBuffer(16 << 10)
	far.(*net.TCPConn).SetReadBuffer(16 << 10)
	t.Cleanup(func() { near.Close(); far.Close() })
	return newWire(near, false).(*wire), far
}

// Whatever is held, offered and let goes out once and in order, and an offer never waits.
func TestWireKeepsTheOrder(t *testing.T) {
	w, far := sockets(t)
	sent := make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range sent {
		sent[i] = byte(rng.Uint32())
	}
	w.SetWriteDeadline(time.Now().Add(-time.Second)) // which an offer does not heed
	rest, left := sent, false
	for len(rest) > 0 && !left {
		n := min(len(rest), 1+rng.IntN(40_000))
		if rng.IntN(2) == 0 {
			w.hold()
			if _, err := w.Write(rest[:n/2]); err != nil {
				t.Fatal(err)
			}
			rest, n = rest[n/2:], n-n/2
		}
		all, err := w.offer(rest[:n])
		if err != nil {
			t.Fatal(err)
		}
		rest, left = rest[n:], !all
	}
	if !left || !w.holds() {
		t.Fatal("a megabyte went into small buffers that nobody empties")
	}
	if all, err := w.offer(nil); all || err != nil {
		t.Fatalf("got %v, %v, want the rest to stay", all, err)
	}
	w.SetWriteDeadline(time.Time{})
	done := make(chan error, 1)
	go func() {
		err := w.let()
		if err == nil {
			_, err = w.Write(rest)
		}
		w.CloseWrite()
		done <- err
	}()
	got, err := io.ReadAll(far)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || w.holds() {
		t.Errorf("got %v, holding %v, want all written", err, w.holds())
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes that differ from the %d sent", len(got), len(sent))
	}
}
