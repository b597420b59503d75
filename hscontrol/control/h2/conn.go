// Package h2 serves HTTP/2 (RFC 9113) to handlers that hold a stream open and write short messages to it, as polls do.
//
// A message that is flushed is one write to the connection, made by the goroutine that flushes it; nothing is handed
// to other goroutines, and a connection that is idle holds one of them and no buffer. What the polls do not need is not
// here: trailers, pushes, priorities, CONNECT.
//
//	conn.go    frames that come: requests, bodies, windows
//	stream.go  a request and what its handler answers
//	write.go   frames that go
package h2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Server serves connections. It may serve many at once.
type Server struct {
	Handler    http.Handler
	MaxStreams int           // that one connection may have open at once
	Idle       time.Duration // a connection without streams is closed after it
	Patience   time.Duration // a request is ended whose client takes nothing of the answer for so long
	Log        *slog.Logger
}

// Bounds of what a client may do.
const (
	prefaceTime = 10 * time.Second
	maxHeader   = 64 << 10 // bytes of a request's header, as RFC 9113 6.5.2 counts them
	maxFrame    = 16 << 10 // bytes of a frame that comes
	bodyWindow  = 64 << 10 // bytes of a body that wait for the handler
	connWindow  = 1 << 20  // of all bodies of a connection
	refundEvery = 16 << 10 // bytes that were read until the client hears of it
	maxPending  = 64 << 10 // bytes of answers to PING and the like that wait for the connection
	maxWindow   = 1<<31 - 1
)

// conn is one connection. mu guards what is here; the lock of out is taken without it.
type conn struct {
	server *Server
	nc     net.Conn
	remote string
	ctx    context.Context // ends with the connection
	fr     *http2.Framer   // reads
	work   sync.WaitGroup  // handlers, and who writes pending answers
	out    writer

	mu       sync.Mutex
	changed  sync.Cond // windows grew, or something ended
	streams  map[uint32]*stream
	last     uint32 // highest ID of a client's stream
	running  int    // handlers, also of streams that were reset
	window   int64  // that the client grants the connection
	initial  int64  // and each new stream
	credit   int64  // that it has left of ours
	unpaid   int64  // bytes of bodies that were read and not yet granted again
	idle     *time.Timer
	ended    error // why nothing goes any more
	refusing bool  // the connection is going away
}

// ServeConn serves the connection until it ends, closes it, and waits for the handlers. Their requests have a context
// made of ctx, and remote as RemoteAddr.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn, remote string) {
	ctx, cancel := context.WithCancel(ctx)
	c := &conn{
		server: s, nc: nc, remote: remote, ctx: ctx, streams: map[uint32]*stream{},
		window: 65535, initial: 65535, credit: connWindow,
	}
	c.changed.L = &c.mu
	c.out.init()
	err := c.serve()
	c.mu.Lock()
	if c.ended == nil {
		c.ended = err
	}
	c.mu.Unlock()
	if code := (http2.ConnectionError)(0); errors.As(err, &code) {
		c.say(func(fr *http2.Framer) error { return fr.WriteGoAway(c.last, http2.ErrCode(code), nil) })
		c.flushPending()
		s.Log.Debug("http2: closing a connection", "from", remote, "err", err, "detail", c.fr.ErrorDetail())
	}
	cancel()
	nc.Close()
	c.mu.Lock()
	for _, st := range c.streams {
		st.end(errConn)
	}
	c.changed.Broadcast()
	c.idle.Stop()
	c.mu.Unlock()
	c.shut()
	c.work.Wait()
}

var errConn = errors.New("the connection ended")

func (c *conn) serve() error {
	c.fr = http2.NewFramer(nil, c.nc)
	c.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.fr.MaxHeaderListSize = maxHeader
	c.fr.SetMaxReadFrameSize(maxFrame)
	c.fr.SetReuseFrames()
	c.idle = time.AfterFunc(c.server.Idle, c.leave)
	c.say(func(fr *http2.Framer) error {
		return errors.Join(fr.WriteSettings(
			http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.server.MaxStreams)},
			http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeader},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: bodyWindow},
		), fr.WriteWindowUpdate(0, connWindow-65535))
	})
	c.nc.SetReadDeadline(time.Now().Add(prefaceTime))
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.nc, preface); err != nil {
		return err
	}
	if !bytes.Equal(preface, []byte(http2.ClientPreface)) {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	for first := true; ; first = false {
		f, err := c.fr.ReadFrame()
		if err == nil {
			if _, ok := f.(*http2.SettingsFrame); first && !ok {
				return http2.ConnectionError(http2.ErrCodeProtocol)
			}
			if first {
				c.nc.SetReadDeadline(time.Time{})
			}
			err = c.take(f)
		}
		if bad := (http2.StreamError{}); errors.As(err, &bad) {
			c.reset(bad.StreamID, bad.Code)
			continue
		}
		if errors.Is(err, http2.ErrFrameTooLarge) {
			err = http2.ConnectionError(http2.ErrCodeFrameSize)
		}
		if err != nil {
			return err
		}
	}
}

// leave tells an idle client that the connection is over, and ends it.
func (c *conn) leave() {
	c.mu.Lock()
	if len(c.streams) > 0 || c.ended != nil {
		c.mu.Unlock()
		return
	}
	c.refusing = true
	last := c.last
	c.mu.Unlock()
	c.say(func(fr *http2.Framer) error { return fr.WriteGoAway(last, http2.ErrCodeNo, nil) })
	c.nc.SetReadDeadline(time.Now().Add(time.Second)) // for it to hang up by itself
}

// take handles one frame. A StreamError resets the stream, another error ends the connection.
func (c *conn) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return c.takeHeaders(f)
	case *http2.DataFrame:
		return c.takeData(f)
	case *http2.SettingsFrame:
		return c.takeSettings(f)
	case *http2.WindowUpdateFrame:
		return c.takeWindow(f)
	case *http2.RSTStreamFrame:
		c.mu.Lock()
		defer c.mu.Unlock()
		if f.StreamID > c.last {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if st := c.streams[f.StreamID]; st != nil {
			st.end(fmt.Errorf("the client ended the request: %v", f.ErrCode))
			c.changed.Broadcast()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			data := f.Data
			return c.say(func(fr *http2.Framer) error { return fr.WritePing(true, data) })
		}
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil // GOAWAY, PRIORITY and what we do not know say nothing that matters here
}

func (c *conn) takeSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if f.HasDuplicates() {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.mu.Lock()
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			grown := int64(s.Val) - c.initial
			c.initial = int64(s.Val)
			for _, st := range c.streams {
				if st.window += grown; st.window > maxWindow {
					return http2.ConnectionError(http2.ErrCodeFlowControl)
				}
			}
			c.changed.Broadcast()
		case http2.SettingMaxFrameSize:
			c.out.maxFrame.Store(s.Val)
		case http2.SettingHeaderTableSize:
			c.out.tableSize.Store(s.Val)
		}
		return nil
	})
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.say((*http2.Framer).WriteSettingsAck)
}

func (c *conn) takeWindow(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.changed.Broadcast()
	if f.StreamID == 0 {
		if c.window += int64(f.Increment); c.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		return nil
	}
	if f.StreamID > c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if st := c.streams[f.StreamID]; st != nil {
		if st.window += int64(f.Increment); st.window > maxWindow {
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
		}
	}
	return nil
}

func (c *conn) takeData(f *http2.DataFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := int64(f.Length)
	if f.StreamID > c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if c.credit -= size; c.credit < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	st := c.streams[f.StreamID]
	if st == nil || st.body.over {
		c.refund(nil, size)
		if st == nil {
			return nil // it crossed with the end of the answer
		}
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeStreamClosed}
	}
	if st.body.credit -= size; st.body.credit < 0 {
		c.refund(nil, size)
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	if padding := size - int64(len(f.Data())); padding > 0 {
		c.refund(st, padding)
	}
	if err := st.body.add(f.Data(), f.StreamEnded()); err != nil {
		c.refund(nil, int64(len(f.Data())))
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
	}
	c.changed.Broadcast()
	return nil
}

// refund grants the client n bytes of a body again; st is nil when the stream needs none. The caller holds mu.
func (c *conn) refund(st *stream, n int64) {
	if c.unpaid += n; c.unpaid >= refundEvery {
		grant := c.unpaid
		c.credit, c.unpaid = c.credit+grant, 0
		c.say(func(fr *http2.Framer) error { return fr.WriteWindowUpdate(0, uint32(grant)) })
	}
	if st == nil || st.body.over {
		return
	}
	if st.body.unpaid += n; st.body.unpaid >= refundEvery {
		grant := st.body.unpaid
		st.body.credit, st.body.unpaid = st.body.credit+grant, 0
		c.say(func(fr *http2.Framer) error { return fr.WriteWindowUpdate(st.id, uint32(grant)) })
	}
}

// reset ends a stream for a fault of the client's.
func (c *conn) reset(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	if st := c.streams[id]; st != nil {
		st.end(fmt.Errorf("the request was broken: %v", code))
		c.changed.Broadcast()
	}
	c.last = max(c.last, id)
	c.mu.Unlock()
	c.say(func(fr *http2.Framer) error { return fr.WriteRSTStream(id, code) })
}
