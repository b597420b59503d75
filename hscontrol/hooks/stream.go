package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Stream is a receiver of the audit log.
type Stream struct {
	Name string `json:"-"`    // one of a kind
	Type string `json:"type"` // StreamFile, StreamSyslog or StreamHTTP

	Path    string `json:"path,omitempty"`    // of a file
	Address string `json:"address,omitempty"` // of syslog: udp://HOST:PORT, tcp://, tls://, unix:///PATH
	URL     string `json:"url,omitempty"`     // of HTTP
	Format  string `json:"format,omitempty"`  // of HTTP: FormatArray (also empty), FormatLines or FormatSplunk
	User    string `json:"user,omitempty"`    // of HTTP: with it Token is a password
	Token   string `json:"-"`

	TailnetID tailnet.ID        `json:"-"` // zero: all
	Notes     map[string]string `json:"notes,omitempty"`
}

const (
	StreamFile   = "file"
	StreamSyslog = "syslog"
	StreamHTTP   = "http"

	FormatArray  = "json"   // one JSON array in each request
	FormatLines  = "ndjson" // a line for each row
	FormatSplunk = "splunk" // Splunk's HTTP Event Collector
)

// Check reports why this cannot be a stream.
func (s *Stream) Check() error {
	switch s.Type {
	case StreamFile:
		if s.Path == "" {
			return fmt.Errorf("%w: a stream to a file needs its path", tailnet.ErrInvalid)
		}
	case StreamSyslog:
		_, _, err := syslogAddress(s.Address)
		return err
	case StreamHTTP:
		u, err := url.Parse(s.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil {
			return fmt.Errorf("%w: a stream over HTTP needs an https:// or http:// URL without user and password in it", tailnet.ErrInvalid)
		}
		if !slices.Contains([]string{"", FormatArray, FormatLines, FormatSplunk}, s.Format) {
			return fmt.Errorf("%w: format %q is not known: write json, ndjson or splunk", tailnet.ErrInvalid, s.Format)
		}
	default:
		return fmt.Errorf("%w: stream type %q is not known: write file, syslog or http", tailnet.ErrInvalid, s.Type)
	}
	return nil
}

// Row is a row of the audit log as receivers get it. With them the chain can be verified elsewhere.
type Row struct {
	ID         uint64          `json:"id"`
	Time       time.Time       `json:"time"`
	TailnetID  tailnet.ID      `json:"tailnetId,omitempty"`
	Via        string          `json:"via"`
	Who        string          `json:"who,omitempty"`
	From       string          `json:"from,omitempty"`
	Action     string          `json:"action"`
	Kind       string          `json:"kind"`
	TargetID   string          `json:"targetId,omitempty"`
	TargetName string          `json:"targetName,omitempty"`
	Before     json.RawMessage `json:"before,omitempty"`
	After      json.RawMessage `json:"after,omitempty"`
	Hash       string          `json:"hash"`
}

func rowOf(e *tailnet.AuditEntry) Row {
	return Row{e.ID, e.At, e.TailnetID, e.Actor.Via, e.Actor.Who, e.Actor.From, e.Action, e.Kind, e.TargetID, e.TargetName, e.Before, e.After, e.Hash.String()}
}

const (
	apiStreams  = "api/" // the names of streams that were set through the API
	streamRows  = 500    // at one time
	streamLease = time.Minute
)

// APIStream is the name of the stream that a tailnet's administrators set.
func APIStream(id tailnet.ID) string { return fmt.Sprint(apiStreams, uint64(id)) }

// fromAPI reports whether a tailnet's administrators set the stream, and not who runs the server.
func (s *Stream) fromAPI() bool { return strings.HasPrefix(s.Name, apiStreams) }

// SetStream sets a tailnet's stream. It goes on where the former one was; a new one begins with what comes now.
func (h *Hooks) SetStream(ctx context.Context, id tailnet.ID, s Stream) error {
	if s.Type != StreamHTTP {
		return fmt.Errorf("%w: through the API a stream may be set over HTTP only; others are in the configuration", tailnet.ErrInvalid)
	}
	if err := s.Check(); err != nil {
		return err
	}
	name := APIStream(id)
	settings, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("setting stream: %w", err)
	}
	row := store.AuditStream{Name: name, TailnetID: id, Settings: string(settings)}
	if s.Token != "" {
		if row.Sealed, err = h.cfg.Key.Seal(name, s.Token); err != nil {
			return err
		}
	}
	head, err := h.cfg.Store.AuditHead(ctx)
	if err != nil {
		return err
	}
	row.Sent = head.ID
	return h.cfg.Store.PutAuditStream(ctx, row)
}

// GetStream is the stream of a tailnet, with its token. ErrNotFound if none is set.
func (h *Hooks) GetStream(ctx context.Context, id tailnet.ID) (Stream, error) {
	row, err := h.cfg.Store.GetAuditStream(ctx, APIStream(id))
	if err != nil {
		return Stream{}, err
	}
	return h.streamOf(row)
}

// DeleteStream ends the stream of a tailnet.
func (h *Hooks) DeleteStream(ctx context.Context, id tailnet.ID) error {
	return h.cfg.Store.DeleteAuditStream(ctx, APIStream(id))
}

func (h *Hooks) streamOf(row *store.AuditStream) (s Stream, err error) {
	if err := json.Unmarshal([]byte(row.Settings), &s); err != nil {
		return s, fmt.Errorf("reading stream %s: %w", row.Name, err)
	}
	s.Name, s.TailnetID = row.Name, row.TailnetID
	if row.Sealed != nil {
		s.Token, err = h.cfg.Key.Open(row.Name, row.Sealed)
	}
	return s, err
}

// running is a stream that is being followed.
type running struct {
	stream string // as text: another one takes its place when that changes
	stop   context.CancelFunc
	done   chan struct{}
}

// runStreams follows each stream in a goroutine of its own, those of the configuration and those of the API, which come
// and go.
func (h *Hooks) runStreams(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for _, s := range h.cfg.Streams {
		if s.Type == StreamFile && h.cfg.Machine != "" {
			s.Name = h.cfg.Machine + "/" + s.Name // each server's files are its own
		}
		settings, err := json.Marshal(s)
		if err == nil {
			err = h.cfg.Store.NoteAuditStream(ctx, store.AuditStream{Name: s.Name, Settings: string(settings)})
		}
		if err != nil {
			h.cfg.Log.Error("the audit log cannot be streamed", "stream", s.Name, "err", err)
			continue
		}
		work.Go(func() { h.follow(ctx, s) })
	}
	now := map[string]*running{}
	for {
		h.adjust(ctx, now)
		if !pause(ctx, lookEvery) {
			break
		}
	}
	for _, r := range now {
		r.stop()
		<-r.done
	}
}

// adjust starts the streams of the API that are new, and ends those that are gone or were changed.
func (h *Hooks) adjust(ctx context.Context, now map[string]*running) {
	rows, err := h.cfg.Store.ListAuditStreams(ctx)
	if err != nil {
		return // the store logs nothing of it, and neither need we: it is tried again
	}
	there := map[string]bool{}
	for i := range rows {
		row := &rows[i]
		if !strings.HasPrefix(row.Name, apiStreams) {
			continue
		}
		s, err := h.streamOf(row)
		if err != nil {
			h.cfg.Log.Error("the audit log cannot be streamed", "stream", row.Name, "err", err)
			continue
		}
		there[row.Name] = true
		text := row.Settings + s.Token
		if r := now[row.Name]; r != nil {
			if r.stream == text {
				continue
			}
			r.stop()
			<-r.done
		}
		inner, stop := context.WithCancel(ctx)
		r := &running{stream: text, stop: stop, done: make(chan struct{})}
		now[row.Name] = r
		go func() {
			defer close(r.done)
			h.follow(inner, s)
		}()
	}
	for name, r := range now {
		if !there[name] {
			r.stop()
			<-r.done
			delete(now, name)
		}
	}
}

// follow sends one stream on until ctx ends: read after the last row that the receiver has, send, note. What was sent
// and could not be noted is sent twice; nothing is left out.
func (h *Hooks) follow(ctx context.Context, s Stream) {
	var held time.Time
	var told string
	wait := time.Second
	for ctx.Err() == nil {
		moved := h.cfg.Store.Moved()
		n, err := h.advance(ctx, s, &held)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if told != err.Error() {
				told = err.Error()
				h.cfg.Log.Error("the audit log cannot be streamed", "stream", s.Name, "err", err)
			}
			if !pause(ctx, wait) {
				return
			}
			wait = min(wait*2, time.Minute)
			continue
		case n == streamRows:
			continue
		}
		told, wait = "", time.Second
		if !pause(ctx, quietTime) {
			return
		}
		select {
		case <-moved:
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return
		}
	}
}

// advance sends the next rows, and says how many they were.
func (h *Hooks) advance(ctx context.Context, s Stream, held *time.Time) (int, error) {
	if time.Until(*held) < streamLease/2 {
		ours, err := h.cfg.Store.HoldAuditStream(ctx, s.Name, streamLease)
		if err != nil || !ours {
			return 0, err
		}
		*held = time.Now().Add(streamLease)
	}
	row, err := h.cfg.Store.GetAuditStream(ctx, s.Name)
	if err != nil {
		return 0, err
	}
	entries, err := h.cfg.Store.ListAudit(ctx, store.AuditFilter{TailnetID: s.TailnetID, After: row.Sent, Limit: streamRows})
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	rows := make([]Row, len(entries))
	for i := range entries {
		rows[i] = rowOf(&entries[i])
	}
	if err := h.send(ctx, s, rows); err != nil {
		if noteErr := h.cfg.Store.AdvanceAuditStream(ctx, s.Name, row.Sent, err.Error()); noteErr != nil {
			return 0, errors.Join(err, noteErr)
		}
		return 0, err
	}
	return len(rows), h.cfg.Store.AdvanceAuditStream(context.WithoutCancel(ctx), s.Name, entries[len(entries)-1].ID, "")
}

// send gives the rows to the receiver, and returns when it has them.
func (h *Hooks) send(ctx context.Context, s Stream, rows []Row) error {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	switch s.Type {
	case StreamFile:
		return appendRows(s.Path, rows)
	case StreamSyslog:
		return sendSyslog(ctx, s.Address, rows)
	}
	return h.postRows(ctx, s, rows)
}
