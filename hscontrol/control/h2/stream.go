package h2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// stream is a request, and the http.ResponseWriter of its handler.
type stream struct {
	conn *conn
	id   uint32
	req  *http.Request

	// Guarded by the connection's mu:
	cancel context.CancelFunc
	window int64 // that the client grants
	err    error // why it ended before its time
	body   body

	reading *time.Timer // read deadline
	sending *time.Timer // write deadline

	// The handler's:
	header http.Header
	status int // 0: not decided yet
	sent   bool
	piece  *[]byte // written and not yet flushed; nil if nothing is
}

// body is that of a request, as far as it came and was not read.
type body struct {
	data   []byte
	credit int64 // bytes that the client may still send
	unpaid int64 // read, and not granted again
	left   int64 // of the Content-Length; -1: it was not said
	over   bool  // the client sent its end
	err    error
}

// add takes bytes from the client.
func (b *body) add(p []byte, end bool) error {
	if b.left >= 0 {
		if b.left -= int64(len(p)); b.left < 0 || end && b.left > 0 {
			b.err, b.over = io.ErrUnexpectedEOF, true
			return errors.New("the body is not as long as its Content-Length says")
		}
	}
	b.data = append(b.data, p...)
	b.over = end
	return nil
}

// takeHeaders begins a stream, or ends a body by trailers, which nobody reads.
func (c *conn) takeHeaders(f *http2.MetaHeadersFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := f.StreamID
	if st := c.streams[id]; st != nil {
		defer c.changed.Broadcast()
		if st.body.over || !f.StreamEnded() || st.body.add(nil, true) != nil {
			return http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol}
		}
		return nil
	}
	switch {
	case id%2 == 0:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case id <= c.last:
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeStreamClosed}
	case c.running >= 4*c.server.MaxStreams: // it resets requests faster than they end
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	case c.refusing, len(c.streams) >= c.server.MaxStreams:
		c.last = id
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeRefusedStream}
	}
	c.last = id
	st := &stream{conn: c, id: id, window: c.initial, header: http.Header{}}
	st.body = body{credit: bodyWindow, left: -1, over: f.StreamEnded()}
	req, err := st.request(f)
	if err != nil {
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol, Cause: err}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	st.req, st.cancel = req.WithContext(ctx), cancel
	c.streams[id] = st
	c.running++
	c.idle.Stop()
	handler := c.server.Handler
	if f.Truncated {
		handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, fmt.Sprintf("the header is larger than %d bytes", maxHeader), http.StatusRequestHeaderFieldsTooLarge)
		})
	}
	c.work.Go(func() { st.run(handler) })
	return nil
}

// request is what the header asks for.
func (st *stream) request(f *http2.MetaHeadersFrame) (*http.Request, error) {
	method, path, host := f.PseudoValue("method"), f.PseudoValue("path"), f.PseudoValue("authority")
	if method == "" || f.PseudoValue("scheme") == "" || !strings.HasPrefix(path, "/") {
		return nil, errors.New("a request without a method, a scheme or a path")
	}
	to, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, err
	}
	header := make(http.Header, len(f.RegularFields()))
	for _, field := range f.RegularFields() {
		name := textproto.CanonicalMIMEHeaderKey(field.Name)
		if hopByHop[field.Name] || field.Name == "te" && field.Value != "trailers" {
			return nil, fmt.Errorf("a request with the header %s", name)
		}
		if name == "Cookie" && header[name] != nil {
			header[name][0] += "; " + field.Value // RFC 9113 8.2.3
			continue
		}
		header[name] = append(header[name], field.Value)
	}
	r := &http.Request{
		Method: method, URL: to, Proto: "HTTP/2.0", ProtoMajor: 2, Header: header, Body: http.NoBody,
		Host: host, RemoteAddr: st.conn.remote, RequestURI: path,
	}
	if host == "" {
		r.Host = header.Get("Host")
	}
	delete(header, "Host")
	length, err := contentLength(header["Content-Length"])
	if err != nil || st.body.over && length > 0 {
		return nil, errors.New("a Content-Length that cannot be")
	}
	if !st.body.over {
		r.Body, r.ContentLength, st.body.left = st, length, length
	}
	return r, nil
}

// contentLength is the declared length; -1: none is.
func contentLength(values []string) (int64, error) {
	if len(values) == 0 {
		return -1, nil
	}
	n, err := strconv.ParseUint(values[0], 10, 62)
	if len(values) > 1 {
		err = errors.New("two of them")
	}
	return int64(n), err
}

// run has the handler answer.
func (st *stream) run(handler http.Handler) {
	c := st.conn
	code := http2.ErrCodeNo
	func() {
		defer func() {
			if p := recover(); p != nil {
				code = http2.ErrCodeInternal
				if p != http.ErrAbortHandler {
					c.server.Log.Error("http2: a handler panicked", "path", st.req.URL.Path, "panic", p, "stack", string(debug.Stack()))
				}
			}
		}()
		handler.ServeHTTP(st, st.req)
	}()
	if code == http2.ErrCodeNo {
		st.flush(true) // if it fails, nobody waits for it
	}
	st.stopTimers()
	c.mu.Lock()
	if st.piece != nil {
		freePiece(st.piece)
	}
	if st.err != nil {
		code = http2.ErrCodeNo // the client knows, or was told
	} else if code != http2.ErrCodeNo || !st.body.over {
		c.say(func(fr *http2.Framer) error { return fr.WriteRSTStream(st.id, code) })
	}
	st.end(errAnswered)
	c.running--
	c.mu.Unlock()
}

var errAnswered = errors.New("the request was answered")

// end ends the stream. The caller holds the connection's mu, and wakes those who wait.
func (st *stream) end(why error) {
	c := st.conn
	if st.err == nil {
		st.err = why
	}
	if c.streams[st.id] != st {
		return
	}
	delete(c.streams, st.id)
	c.refund(nil, int64(len(st.body.data)))
	st.body.data, st.body.over = nil, true
	if st.body.err == nil {
		st.body.err = why
	}
	st.cancel()
	if len(c.streams) == 0 {
		c.idle.Reset(c.server.Idle)
	}
}

// Read implements io.Reader, for the request's body.
func (st *stream) Read(p []byte) (int, error) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		b := &st.body
		switch {
		case len(b.data) > 0:
			n := copy(p, b.data)
			if b.data = b.data[n:]; len(b.data) == 0 {
				b.data = nil
			}
			c.refund(st, int64(n))
			return n, nil
		case b.err != nil:
			return 0, b.err
		case b.over:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		c.changed.Wait()
	}
}

// Close implements io.Closer, for the request's body: what comes of it is thrown away when the handler has answered.
func (st *stream) Close() error { return nil }

// Header implements http.ResponseWriter.
func (st *stream) Header() http.Header { return st.header }

// WriteHeader implements http.ResponseWriter. Informational answers are not sent.
func (st *stream) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid status %d", status))
	}
	if status >= 200 && st.status == 0 {
		st.status = status
	}
}

// maxPiece is how much is written before it is flushed without being asked to, in bytes.
const maxPiece = 64 << 10

// Write implements http.ResponseWriter.
func (st *stream) Write(p []byte) (int, error) {
	st.WriteHeader(http.StatusOK) // if nothing else was said
	if !st.mayHaveBody() {
		return 0, http.ErrBodyNotAllowed
	}
	for written := 0; ; {
		if st.piece == nil {
			st.piece = pieces.Get().(*[]byte)
		}
		n := min(len(p)-written, maxPiece-len(*st.piece))
		*st.piece = append(*st.piece, p[written:written+n]...)
		if written += n; written == len(p) {
			return written, nil
		}
		if err := st.flush(false); err != nil {
			return written, err
		}
	}
}

func (st *stream) mayHaveBody() bool {
	return st.status != http.StatusNoContent && st.status != http.StatusNotModified
}

// FlushError sends what was written. It is what http.ResponseController asks for.
func (st *stream) FlushError() error { return st.flush(false) }

// Flush implements http.Flusher.
func (st *stream) Flush() { st.flush(false) }

// flush sends the header, if it was not, and what was written; with end, the end of the answer.
func (st *stream) flush(end bool) error {
	st.WriteHeader(http.StatusOK)
	var text []byte
	if st.piece != nil {
		text = *st.piece
		defer func() {
			freePiece(st.piece)
			st.piece = nil
		}()
	}
	status := 0
	if !st.sent {
		status = st.status
		st.complete(text, end)
	}
	if st.req.Method == http.MethodHead {
		text = nil
	}
	for first := true; first || len(text) > 0; first = false {
		n, err := st.grant(len(text), status != 0)
		if err != nil {
			return err
		}
		if status == 0 && n == 0 && !end {
			return nil
		}
		st.sent = true
		if err := st.conn.answer(st.id, status, st.header, text[:n], end && n == len(text)); err != nil {
			return err
		}
		text, status = text[n:], 0
	}
	return nil
}

// complete adds what handlers leave to the server.
func (st *stream) complete(text []byte, end bool) {
	h := st.header
	if _, said := h["Date"]; !said {
		h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	if _, said := h["Content-Type"]; !said && len(text) > 0 {
		h.Set("Content-Type", http.DetectContentType(text))
	}
	if _, said := h["Content-Length"]; !said && end && st.mayHaveBody() && (len(text) > 0 || st.req.Method != http.MethodHead) {
		h.Set("Content-Length", strconv.Itoa(len(text)))
	}
}

// grant takes up to n bytes out of the windows, and waits while there is nothing in them; a header goes without.
func (st *stream) grant(n int, header bool) (int, error) {
	c := st.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for waits := false; ; {
		if st.err != nil {
			return 0, st.err
		}
		if c.ended != nil {
			return 0, c.ended
		}
		free := int(max(0, min(int64(n), st.window, c.window)))
		if free > 0 || n == 0 || header {
			st.window -= int64(free)
			c.window -= int64(free)
			return free, nil
		}
		if !waits {
			waits = true
			defer st.at(nil, time.Now().Add(c.server.Patience), st.expire).Stop()
		}
		c.changed.Wait()
	}
}

// expire ends the request because its time is over. The caller holds the connection's mu.
func (st *stream) expire() {
	if st.err == nil {
		st.end(os.ErrDeadlineExceeded)
		st.conn.say(func(fr *http2.Framer) error { return fr.WriteRSTStream(st.id, http2.ErrCodeInternal) })
	}
}

// SetReadDeadline has reads of the body fail from t on, for good.
func (st *stream) SetReadDeadline(t time.Time) error {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	st.reading = st.at(st.reading, t, func() {
		if st.body.err == nil {
			st.body.err = os.ErrDeadlineExceeded
		}
	})
	return nil
}

// SetWriteDeadline has the request end at t if it is not answered. It may be called from anywhere.
func (st *stream) SetWriteDeadline(t time.Time) error {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	if st.err != nil {
		return st.err
	}
	st.sending = st.at(st.sending, t, st.expire)
	return nil
}

// at has something done at t, with the connection's mu held, in place of what timer would do; never if t is zero.
func (st *stream) at(timer *time.Timer, t time.Time, do func()) *time.Timer {
	if timer != nil {
		timer.Stop()
	}
	if t.IsZero() {
		return nil
	}
	return time.AfterFunc(time.Until(t), func() {
		st.conn.mu.Lock()
		defer st.conn.mu.Unlock()
		do()
		st.conn.changed.Broadcast()
	})
}

func (st *stream) stopTimers() {
	st.conn.mu.Lock()
	defer st.conn.mu.Unlock()
	if st.reading != nil {
		st.reading.Stop()
	}
	if st.sending != nil {
		st.sending.Stop()
	}
}

// EnableFullDuplex implements what http.ResponseController asks for: it always is.
func (st *stream) EnableFullDuplex() error { return nil }
