//go:build !linux

package derp

import (
	"net"
	"syscall"
)

// canShare reports whether several sockets may have one port.
const canShare = false

func sharePort(string, string, syscall.RawConn) error { return nil }

func tellDestination(*net.UDPConn) error { return nil }

func (s *stunSocket) serve() { s.serveSingly() }
