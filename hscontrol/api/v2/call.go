package v2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Bounds of a call. A policy may be 4 MiB long; quoted in JSON it may be longer.
const (
	maxBody  = 8 << 20
	callTime = 30 * time.Second
)

// call is one request while it is answered.
type call struct {
	*Server
	ctx     context.Context
	w       http.ResponseWriter
	r       *http.Request
	caller  access.Caller
	tailnet *tailnet.Tailnet // that the path names, or the caller's; nil where the path has none
}

// raw is an answer that is no JSON, or has headers of its own.
type raw struct {
	contentType string
	etag        string
	body        []byte
}

// handle answers one operation.
func (s *Server) handle(op operation) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callTime)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Log.Error("a call to /api/v2 broke", "method", r.Method, "path", r.URL.Path, "panic", p)
				refuse(w, errors.New("the server could not answer this; its log says more"))
			}
		}()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		answer, err := s.answer(&call{Server: s, ctx: ctx, w: w, r: r}, op)
		if err != nil {
			s.note(r, err)
			refuse(w, err)
			return
		}
		write(w, answer)
	})
}

// answer finds out who calls and what they mean, and does it. The body is not read before the caller is known.
func (s *Server) answer(c *call, op operation) (answer any, err error) {
	if c.caller, err = s.cfg.Guard.Authenticate(c.ctx, c.r.Header.Get("Authorization"), from(c.r)); err != nil {
		return nil, err
	}
	c.ctx = access.With(c.ctx, c.caller)
	if !c.caller.May(op.scope) {
		if op.scope == tailnet.ScopeOwnDevices {
			op.scope = "devices:core" // which a key can have
		}
		return nil, c.caller.Check(op.scope)
	}
	if name := c.r.PathValue("tailnet"); name != "" {
		if c.tailnet, err = c.tailnetNamed(name); err != nil {
			return nil, err
		}
	}
	return op.do(c)
}

// note logs what is the server's own fault.
func (s *Server) note(r *http.Request, err error) {
	for _, row := range statusOf {
		if errors.Is(err, row.fault) {
			return
		}
	}
	var own *refusal
	var bad *complaint
	if errors.As(err, &own) || errors.As(err, &bad) {
		return
	}
	s.cfg.Log.Log(r.Context(), slog.LevelError, "answering /api/v2", "method", r.Method, "path", r.URL.Path, "err", err)
}

// from is the address that a request came from, without its port.
func from(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

func write(w http.ResponseWriter, answer any) {
	if own, ok := answer.(raw); ok {
		w.Header().Set("Content-Type", own.contentType)
		if own.etag != "" {
			w.Header().Set("ETag", own.etag)
		}
		_, _ = w.Write(own.body) // who hung up reads nothing
		return
	}
	if answer == nil {
		answer = struct{}{}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// tailnetNamed is the tailnet of that name, ID or MagicDNS domain, if the caller may see it; "-" is the caller's own, or
// the default one.
func (c *call) tailnetNamed(name string) (*tailnet.Tailnet, error) {
	own := c.caller.Tailnet
	if own == 0 {
		if name == "-" {
			name = tailnet.DefaultName
		}
		t, err := c.cfg.Store.FindTailnet(c.ctx, name)
		if !errors.Is(err, tailnet.ErrNotFound) {
			return t, err
		}
	}
	all, err := c.cfg.Store.ListTailnets(c.ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if own == 0 && c.goesBy(t, name) || t.ID == own && (name == "-" || name == t.Name || c.goesBy(t, name)) {
			return t, nil
		}
	}
	return nil, absent("tailnet " + strconv.Quote(name))
}

// read decodes the body, which has to be one JSON value with known members only.
func (c *call) read(into any) error {
	return decode(c.r.Body, into)
}

func decode(body io.Reader, into any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("there is more after the JSON value")
		}
	}
	return bodyFault(err)
}

// bodyFault says in a sentence what is wrong with a body.
func bodyFault(err error) error {
	var tooLong *http.MaxBytesError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLong):
		return &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d MiB", maxBody>>20)}
	case errors.Is(err, io.EOF):
		return invalid("the body is empty: send JSON")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("the body ends within a JSON value")
	case errors.As(err, &kind) && kind.Field != "":
		return invalid("%s cannot be a %s", kind.Field, kind.Value)
	case errors.As(err, &kind):
		return invalid("the body cannot be a %s", kind.Value)
	}
	return invalid("the body cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// readText is the whole body.
func (c *call) readText() (string, error) {
	var b bytes.Buffer
	if _, err := b.ReadFrom(c.r.Body); err != nil {
		return "", bodyFault(err)
	}
	return b.String(), nil
}

// wants reports whether the client asks for a media type before JSON.
func wants(r *http.Request, media string) bool {
	for each := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		switch kind, _, err := mime.ParseMediaType(each); {
		case err != nil:
		case kind == media:
			return true
		case kind == "application/json":
			return false
		}
	}
	return false
}

// node is the device that the path names, if it is there for the caller.
func (c *call) node() (*tailnet.Node, error) {
	text := c.r.PathValue("device")
	id, err := strconv.ParseUint(text, 10, 63)
	if err != nil || id == 0 {
		return nil, absent("device " + strconv.Quote(text))
	}
	n, err := c.cfg.Store.GetNode(c.ctx, tailnet.NodeID(id))
	if errors.Is(err, tailnet.ErrNotFound) || err == nil && !(c.caller.Sees(n.TailnetID) && c.caller.Owns(n.UserID)) {
		return nil, absent("device " + strconv.Quote(text))
	}
	return n, err
}

// user is the one that the path names, if it is there for the caller.
func (c *call) user() (*tailnet.User, error) {
	text := c.r.PathValue("user")
	id, err := strconv.ParseUint(text, 10, 63)
	if err != nil || id == 0 {
		return nil, absent("user " + strconv.Quote(text))
	}
	users, err := c.cfg.Store.ListUsers(c.ctx, store.UserFilter{ID: tailnet.UserID(id)})
	if err != nil {
		return nil, err
	}
	if len(users) == 0 || !c.caller.Sees(users[0].TailnetID) || !c.caller.Owns(users[0].ID) {
		return nil, absent("user " + strconv.Quote(text))
	}
	return users[0], nil
}
