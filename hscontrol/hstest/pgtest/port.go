package pgtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// The ports that FreePort gives: below those that systems give to connections that go out, so that none of them has one
// by chance while the server that it was meant for is not there yet, or is being started again.
const (
	firstPort = 18_000
	lastPort  = 31_999
)

// FreePort is a TCP port on 127.0.0.1 where nobody listens yet.
func FreePort() (int, error) {
	for range 1000 {
		port := firstPort + rand.N(lastPort-firstPort+1)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no port is free")
}
