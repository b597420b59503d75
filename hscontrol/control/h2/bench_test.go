package h2_test

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// BenchmarkMessages is a short message to each of 200 polls: side by side with the library, and with what the bytes
// alone cost, below.
func BenchmarkMessages(b *testing.B) {
	for name, ours := range map[string]bool{"ours": true, "xnet": false} {
		b.Run(name, func(b *testing.B) {
			const polls = 200
			var mu sync.Mutex
			next := make(chan struct{})
			wait := func() <-chan struct{} { mu.Lock(); defer mu.Unlock(); return next }
			address := serve(b, ours, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				rc, text := http.NewResponseController(w), make([]byte, 200)
				for {
					told := wait()
					w.Write(text)
					if rc.Flush() != nil {
						return
					}
					select {
					case <-told:
					case <-r.Context().Done():
						return
					}
				}
			}))
			got := make(chan struct{}, polls)
			for range polls {
				resp, err := client(b, address).RoundTrip(request(b, "GET", "/", nil))
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					for buf := make([]byte, 200); ; {
						if _, err := io.ReadFull(resp.Body, buf); err != nil {
							return
						}
						got <- struct{}{}
					}
				}()
			}
			for range polls {
				<-got
			}
			for b.Loop() {
				mu.Lock()
				close(next)
				next = make(chan struct{})
				mu.Unlock()
				for range polls {
					<-got
				}
			}
		})
	}
}

// BenchmarkMessagesBare is the floor of BenchmarkMessages: as many bytes, written by one goroutine to 200 connections.
func BenchmarkMessagesBare(b *testing.B) {
	const polls, size = 200, 9 + 200
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	got := make(chan struct{}, polls)
	var conns []net.Conn
	for range polls {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { client.Close(); server.Close() })
		conns = append(conns, server)
		go func() {
			for buf := make([]byte, size); ; {
				if _, err := io.ReadFull(client, buf); err != nil {
					return
				}
				got <- struct{}{}
			}
		}()
	}
	text := make([]byte, size)
	for b.Loop() {
		for _, c := range conns {
			if _, err := c.Write(text); err != nil {
				b.Fatal(err)
			}
		}
		for range polls {
			<-got
		}
	}
}
