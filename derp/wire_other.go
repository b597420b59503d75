//go:build !unix

package derp

import "net"

// wire is what wire_unix.go says, for systems where the socket cannot be waited for.
type wire struct {
	net.Conn
	records bool
}

func newWire(conn net.Conn, _ bool) net.Conn { return conn }

func (*wire) first() (byte, error)       { return 0, net.ErrClosed }
func (*wire) more() bool                 { return false }
func (*wire) full() bool                 { return false }
func (*wire) hold()                      {}
func (*wire) offer([]byte) (bool, error) { return true, nil }
func (*wire) holds() bool                { return false }
func (*wire) let() error                 { return nil }

// takeTurns cannot be had here.
func takeTurns(net.Conn, turns) {}
