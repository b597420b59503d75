package derp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A batch of datagrams comes with one system call (recvmmsg) and the answers leave with
// another (sendmmsg). They are called here and not by golang.org/x/net, which allocates an
// address for each datagram.

// canShare reports whether several sockets may have one port.
const canShare = true

// sharePort lets several sockets have one port.
func sharePort(_, _ string, raw syscall.RawConn) error {
	return setOption(raw, "sharing the port", func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
}

// tellDestination has the system say which address a datagram was sent to.
func tellDestination(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return setOption(raw, "asking for the destination of datagrams", func(fd int) error {
		family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			return err
		}
		if family == unix.AF_INET6 { // it says so of IPv4 too, as a mapped address
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	})
}

func setOption(raw syscall.RawConn, what string, set func(fd int) error) error {
	var inner error
	if err := errors.Join(raw.Control(func(fd uintptr) { inner = set(int(fd)) }), inner); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return inner
}

// stunMany is how many datagrams are taken at once.
const stunMany = 32

// mmsghdr is the system's struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// datagrams is the memory of a socket's goroutine; nothing else is allocated while it serves. It
// lies on the heap and stays where it is, as the system's structs in it point into it.
type datagrams struct {
	in    [stunMany][maxSTUN]byte
	out   [stunMany][maxAnswer]byte
	from  [stunMany]unix.RawSockaddrInet6 // which has room for the other family's
	info  [stunMany][64]byte              // control messages: where it was sent to
	inIO  [stunMany]unix.Iovec
	outIO [stunMany]unix.Iovec
	recv  [stunMany]mmsghdr
	send  [stunMany]mmsghdr

	got, ready, sent int
	errno            syscall.Errno
}

func newDatagrams() *datagrams {
	b := &datagrams{}
	for i := range stunMany {
		b.inIO[i].Base = &b.in[i][0]
		b.inIO[i].SetLen(maxSTUN)
		h := &b.recv[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&b.from[i]))
		h.Iov = &b.inIO[i]
		h.SetIovlen(1)
		h.Control = &b.info[i][0]
		b.send[i].hdr.SetIovlen(1)
	}
	return b
}

// serve answers in batches until the socket is closed.
func (s *stunSocket) serve() {
	raw, err := s.conn.SyscallConn()
	if err != nil { // it is closed
		return
	}
	b := newDatagrams()
	receive, transmit := b.receive, b.transmit
	for {
		if err := raw.Read(receive); err != nil {
			return
		}
		switch b.errno {
		case 0:
		case unix.ENOSYS, unix.EPERM: // a sandbox that does not know the call, or forbids it
			s.serveSingly()
			return
		default: // such as ECONNREFUSED for an answer sent earlier; never a reason to stop
			time.Sleep(time.Millisecond)
			continue
		}
		s.answerAll(b)
		for b.sent = 0; b.sent < b.ready; {
			if err := raw.Write(transmit); err != nil {
				return
			}
			if b.errno != 0 { // the first that is left cannot be sent, such as by a firewall's will
				s.counts[stunFailed].Add(1)
				b.sent++
			}
		}
	}
}

// receive takes what has come; false has it called again when something comes.
func (b *datagrams) receive(fd uintptr) bool {
	for i := range b.recv {
		h := &b.recv[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(len(b.info[i]))
	}
	b.got, b.errno = many(unix.SYS_RECVMMSG, fd, b.recv[:])
	return b.errno != unix.EAGAIN
}

// transmit sends what is left of the answers.
func (b *datagrams) transmit(fd uintptr) bool {
	var n int
	n, b.errno = many(unix.SYS_SENDMMSG, fd, b.send[b.sent:b.ready])
	b.sent += n
	return b.errno != unix.EAGAIN
}

// many calls recvmmsg or sendmmsg and returns how many datagrams it did.
func many(call, fd uintptr, msgs []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// answerAll prepares the answers to what was received.
func (s *stunSocket) answerAll(b *datagrams) {
	b.ready = 0
	for i := range b.got {
		from, ok := b.source(i)
		if !ok {
			continue
		}
		answer := s.answer(b.out[b.ready][:0], b.in[i][:min(b.recv[i].n, maxSTUN)], from)
		if len(answer) == 0 {
			continue
		}
		asked, h := &b.recv[i].hdr, &b.send[b.ready].hdr
		b.outIO[b.ready].Base = &answer[0]
		b.outIO[b.ready].SetLen(len(answer))
		h.Iov = &b.outIO[b.ready]
		h.Name, h.Namelen = asked.Name, asked.Namelen
		h.Control = nil
		h.SetControllen(0)
		if n := int(asked.Controllen); s.wildcard && n > 0 && sameWay(b.info[i][:n]) {
			h.Control = asked.Control
			h.SetControllen(n)
		}
		b.ready++
	}
}

// source is where datagram i came from.
func (b *datagrams) source(i int) (netip.AddrPort, bool) {
	switch from := &b.from[i]; from.Family {
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(from.Addr), swapped(from.Port)), true
	case unix.AF_INET:
		from4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(from))
		return netip.AddrPortFrom(netip.AddrFrom4(from4.Addr), swapped(from4.Port)), true
	}
	return netip.AddrPort{}, false
}

// swapped reads a port, which is in the network's order.
func swapped(port uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return binary.BigEndian.Uint16(b[:])
}

// sameWay turns the control message of a question into that of its answer, which then leaves
// from the address that was asked: clients take no answer from another. By which interface is
// the routing table's affair, but for link-local addresses. It reports false for messages that
// say nothing of it.
func sameWay(control []byte) bool {
	hdr, data, rest, err := unix.ParseOneSocketControlMessage(control)
	if err != nil || len(rest) > 0 {
		return false
	}
	switch {
	case hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
		if ip := netip.AddrFrom16(info.Addr); !ip.IsLinkLocalUnicast() {
			info.Ifindex = 0
		}
		return true
	case hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		(*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0])).Ifindex = 0
		return true
	}
	return false
}
