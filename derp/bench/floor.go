package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"go4.org/mem"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

// The floor is the least that a relay over crypto/tls and the system's sockets can cost: it
// reads what there is, changes the sender's frames into the receiver's where they lie, and
// writes them with one call. It has no queue, waits for a slow receiver, and forgets nobody.

// serveFloor serves at args[0] with the certificate in the directory args[1].
func serveFloor(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: bench floor ADDRESS DIRECTORY")
	}
	base := filepath.Join(args[1], "127.0.0.1")
	cert, err := tls.LoadX509KeyPair(base+".crt", base+".key")
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	f := &floor{key: key.NewNode(), conf: &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
	}}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := f.serve(conn); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				fmt.Fprintln(os.Stderr, "floor:", err)
			}
		}()
	}
}

type floor struct {
	key   key.NodePrivate
	conf  *tls.Config
	nodes sync.Map // key.NodePublic -> *outlet
}

// outlet is the way to a node.
type outlet struct {
	sync.Mutex
	conn *tls.Conn
	raw  *corked
}

// corked is a socket that is read and written in large pieces.
type corked struct {
	net.Conn
	in   *bufio.Reader
	left int // bytes of the record that is being read
	out  []byte
	hot  bool // keep what is written
}

// Read never returns more than the rest of a record, so that whole knows what there is.
func (c *corked) Read(b []byte) (int, error) {
	if c.left == 0 {
		head, err := c.in.Peek(recordHeader)
		if err != nil {
			return 0, err
		}
		c.left = recordHeader + int(binary.BigEndian.Uint16(head[3:]))
	}
	n, err := c.in.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

func (c *corked) Write(b []byte) (int, error) {
	if c.hot {
		c.out = append(c.out, b...)
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// whole reports whether a whole TLS record has been read ahead.
func (c *corked) whole() bool {
	if c.in.Buffered() < recordHeader {
		return false
	}
	b, _ := c.in.Peek(recordHeader)
	return c.in.Buffered() >= recordHeader+int(binary.BigEndian.Uint16(b[3:]))
}

const recordHeader = 5 // bytes before each TLS record

func (f *floor) serve(conn net.Conn) error {
	raw := &corked{Conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	sealed := tls.Server(raw, f.conf)
	self, err := f.greet(sealed)
	if err != nil {
		return err
	}
	f.nodes.Store(self, &outlet{conn: sealed, raw: raw})
	defer f.nodes.Delete(self)
	var src [derp.KeyLen]byte
	copy(src[:], self.AppendTo(nil))
	buf := make([]byte, 128<<10)
	var to *outlet
	read, done := 0, 0 // bytes in buf, and those of frames that are ready to be written
	for {
		k, err := sealed.Read(buf[read:])
		if err != nil {
			return err
		}
		read += k
		for read-done >= derp.FrameHeaderLen {
			size := derp.FrameHeaderLen + int(binary.BigEndian.Uint32(buf[done+1:]))
			if size < derp.FrameHeaderLen+derp.KeyLen || size > len(buf)/2 || derp.FrameType(buf[done]) != derp.FrameSendPacket {
				return fmt.Errorf("frame of type %#x and %d bytes", buf[done], size)
			}
			if read-done < size {
				break
			}
			peer := buf[done+derp.FrameHeaderLen:][:derp.KeyLen]
			if to == nil {
				found, ok := f.nodes.Load(key.NodePublicFromRaw32(mem.B(peer)))
				if !ok {
					return errors.New("nobody has this key")
				}
				to = found.(*outlet)
			}
			buf[done] = byte(derp.FrameRecvPacket)
			copy(peer, src[:])
			done += size
		}
		if done == 0 || raw.whole() && read < len(buf)/4 {
			continue
		}
		if err := to.write(buf[:done]); err != nil {
			return err
		}
		read = copy(buf, buf[done:read])
		done = 0
	}
}

func (o *outlet) write(b []byte) error {
	o.Lock()
	defer o.Unlock()
	o.raw.hot = true
	_, err := o.conn.Write(b)
	o.raw.hot = false
	if err != nil {
		return err
	}
	_, err = o.raw.Conn.Write(o.raw.out)
	o.raw.out = o.raw.out[:0]
	return err
}

// greet does the handshake of the protocol.
func (f *floor) greet(conn *tls.Conn) (self key.NodePublic, err error) {
	in := bufio.NewReaderSize(conn, 16)
	if _, err := http.ReadRequest(in); err != nil {
		return self, err
	}
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n")
	send := func(t derp.FrameType, body []byte) {
		conn.Write(append(binary.BigEndian.AppendUint32([]byte{byte(t)}, uint32(len(body))), body...))
	}
	send(derp.FrameServerKey, append([]byte(derp.Magic), f.key.Public().AppendTo(nil)...))
	head := make([]byte, derp.FrameHeaderLen)
	if _, err := io.ReadFull(in, head); err != nil {
		return self, err
	}
	hello := make([]byte, min(1<<16, binary.BigEndian.Uint32(head[1:])))
	if _, err := io.ReadFull(in, hello); err != nil || len(hello) < derp.KeyLen {
		return self, errors.Join(err, errors.New("no introduction"))
	}
	self = key.NodePublicFromRaw32(mem.B(hello[:derp.KeyLen]))
	info, err := json.Marshal(derp.ServerInfo{Version: derp.ProtocolVersion})
	send(derp.FrameServerInfo, f.key.SealTo(self, info))
	return self, err
}
