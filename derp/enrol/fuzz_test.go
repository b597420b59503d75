package enrol_test

import (
	"bytes"
	"io"
	"maps"
	"slices"
	"testing"

	"go4.org/mem"
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

// Whatever comes in whatever parts, the list is what the complete admissions say, those who left it are named, and the
// file gives it back.
func FuzzRoster(f *testing.F) {
	f.Add([]byte{0x81, 1, 2, 0x41, 3, 0x01, 0x12})
	f.Add([]byte{0x81, 1, 0xc1, 2, 0x01, 3, 0x01, 0x21})
	f.Add([]byte{0x01, 1, 0x81, 5})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := enrol.NewRoster()
		list := map[key.NodePublic]uint32{} // that must be
		var next map[key.NodePublic]uint32  // with the parts that have come
		number, known := uint64(0), false
		for len(script) > 0 {
			m := &relayv1.Admission{Whole: script[0]&0x80 != 0, Partial: script[0]&0x40 != 0}
			count := min(int(script[0]&0x0f), len(script)-1)
			if next == nil {
				number++
				next = map[key.NodePublic]uint32{}
				if !m.Whole {
					maps.Copy(next, list)
				}
			}
			m.Number = number
			coming, leaving := map[byte]bool{}, map[byte]bool{}
			for _, b := range script[1 : 1+count] {
				k := fuzzKey(b)
				if b&0x10 != 0 && !coming[b&0x0f] {
					leaving[b&0x0f] = true
					m.Gone = append(m.Gone, k.AppendTo(nil))
					delete(next, k)
				} else if !leaving[b&0x0f] {
					coming[b&0x0f] = true
					m.Nodes = append(m.Nodes, &relayv1.Node{Key: k.AppendTo(nil), Class: uint32(b >> 5)})
					next[k] = uint32(b >> 5)
				}
			}
			script = script[1+count:]
			gone, complete, err := r.Take(m)
			if !known && !m.Whole && err != nil { // it must begin with a whole one
				next, number = nil, number-1
				continue
			}
			known = true
			if err != nil || complete == m.Partial {
				t.Fatalf("got %v, %v for %v", complete, err, m)
			}
			if complete {
				for k := range list {
					if _, stays := next[k]; !stays && !slices.Contains(gone, k) {
						t.Fatalf("nobody said that %v is gone", k)
					}
				}
				list, next = next, nil
			}
			if got := r.Nodes(); len(list) > 0 && !maps.Equal(got, list) {
				t.Fatalf("got the list %v, want %v", got, list)
			}
		}
	})
}

// fuzzKey is one of sixteen.
func fuzzKey(b byte) key.NodePublic {
	raw := [32]byte{b&0x0f + 1}
	return key.NodePublicFromRaw32(mem.B(raw[:]))
}
