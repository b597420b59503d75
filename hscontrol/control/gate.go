package control

import (
	"net/http"
	"runtime"
	"sync"
	"time"
)

// gate bounds how many are at the same work at a time, and lets those who wait in one after the other. When all clients
// come at once, after a cut of the network or a restart, the first are served before the last begin, memory is used for
// few of them, and none waits so long half way that it gives up. No client can hold a place for long.
type gate chan struct{}

// newGate has as many places for each processor.
func newGate(each int) gate { return make(gate, each*runtime.GOMAXPROCS(0)) }

// enter returns when there is a place; what it returns gives it back, once.
func (g gate) enter() (leave func()) {
	g <- struct{}{}
	return sync.OnceFunc(func() { <-g })
}

// arrivalTime is how long a connection may hold its place after the handshake without a request.
const arrivalTime = 100 * time.Millisecond

// arrived gives back the place of a connection when its first request is there.
func (c *Control) arrived(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if leave, ok := r.Context().Value(arrivedOf{}).(func()); ok {
			leave()
		}
		h.ServeHTTP(w, r)
	})
}
