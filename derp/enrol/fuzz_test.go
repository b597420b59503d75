package enrol_test

import (
	"bytes"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp/enrol"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// What a server sends is read without harm, and what was understood reads the same when it is written again.
func FuzzOrders(f *testing.F) {
	var good bytes.Buffer
	for _, o := range []*relayv1.Order{welcome(1, key.NewNode().Public()), {}, {Refusal: &relayv1.Refusal{Reason: "no", Removed: true}}} {
		if err := enrol.WriteMessage(&good, o); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:good.Len()-3])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0, 0, 0, 1, 0xff})
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		orders, err := enrol.ReadOrders(raw)
		if err == nil {
			t.Fatal("the stream has no end")
		}
		var again bytes.Buffer
		for _, o := range orders {
			if err := enrol.WriteMessage(&again, o); err != nil {
				t.Fatalf("writing %v: %v", o, err)
			}
		}
		back, err := enrol.ReadOrders(again.Bytes())
		if err != io.EOF || len(back) != len(orders) {
			t.Fatalf("got %d orders and %v, want %d", len(back), err, len(orders))
		}
		for i := range back {
			if !proto.Equal(back[i], orders[i]) {
				t.Errorf("got %v, want %v", back[i], orders[i])
			}
		}
	})
}

// A state file is read whole or not at all.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"format":1,"sum":"","state":{}}`))
	f.Add([]byte(`{"format":1,"sum":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","state":{}}`))
	f.Add([]byte(enrol.SampleState()))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, raw []byte) {
		again, err := enrol.ReadState(raw)
		if err != nil {
			return
		}
		if third, err := enrol.ReadState(again); err != nil || !bytes.Equal(third, again) {
			t.Errorf("got %s and %v, want %s", third, err, again)
		}
	})
}
