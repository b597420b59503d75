package hooks_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/hooks"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// inOrder reads the IDs of rows as JSON, and fails unless they go on from want, one by one.
func inOrder(t *testing.T, lines [][]byte, want uint64) uint64 {
	t.Helper()
	for _, line := range lines {
		var row hooks.Row
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if want++; row.ID != want {
			t.Fatalf("got row %d, want %d", row.ID, want)
		}
	}
	return want
}

func lines(data []byte) [][]byte {
	return bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
}

// TestStreamToFile: each row is in the file once, over restarts, a half written line and a file that was moved away.
func TestStreamToFile(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	file := hooks.Stream{Name: "file", Type: hooks.StreamFile, Path: path}
	has := func(n int) func() bool {
		return func() bool {
			data, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			return bytes.Count(data, []byte("\n")) >= n
		}
	}
	s.user("anna")
	s.run(file)
	s.until("the file has a row", has(1))
	s.end()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(`{"id":2,"time":`)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	s.user("bob")
	s.restart()
	s.user("carl")
	s.run(file)
	s.until("the file has three rows", has(3))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := inOrder(t, lines(data), 0)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	s.user("dora")
	s.until("the new file has a row", has(1))
	if data, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	inOrder(t, lines(data), last)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
}

// TestStreamOverHTTP: rows wait for a receiver that is down, and go on where it was, in each format.
func TestStreamOverHTTP(t *testing.T) {
	for _, c := range []struct {
		format, token, user string
		want                string // Authorization
		rows                func(t *testing.T, body []byte) [][]byte
	}{
		{"", "abc", "", "Bearer abc", func(t *testing.T, body []byte) (rows [][]byte) {
			var list []json.RawMessage
			if err := json.Unmarshal(body, &list); err != nil {
				t.Fatal(err)
			}
			for _, row := range list {
				rows = append(rows, row)
			}
			return rows
		}},
		{hooks.FormatLines, "abc", "eve", "Basic ZXZlOmFiYw==", func(_ *testing.T, body []byte) [][]byte { return lines(body) }},
		{hooks.FormatSplunk, "abc", "", "Splunk abc", func(t *testing.T, body []byte) (rows [][]byte) {
			for _, line := range lines(body) {
				var e struct {
					Time  float64
					Event json.RawMessage
				}
				if err := json.Unmarshal(line, &e); err != nil || e.Time == 0 {
					t.Fatalf("%s: %v", line, err)
				}
				rows = append(rows, e.Event)
			}
			return rows
		}},
	} {
		t.Run("format "+c.format, func(t *testing.T) {
			s, r := newSite(t), newReceiver(t)
			r.answers(status(http.StatusServiceUnavailable))
			s.user("anna")
			stream := hooks.Stream{Name: "siem", Type: hooks.StreamHTTP, URL: r.URL, Format: c.format, Token: c.token, User: c.user}
			s.run(stream)
			r.next(t)
			s.until("its trouble is told", func() bool {
				list, err := s.store.ListAuditStreams(s.ctx)
				return err == nil && len(list) == 1 && strings.Contains(list[0].Trouble, "503")
			})
			s.user("bob")
			s.restart()
			r.answers(nil)
			s.run(stream)
			var last uint64
			for last < 2 {
				g := r.next(t)
				if !g.taken {
					continue // another attempt of before
				}
				if got := g.header.Get("Authorization"); got != c.want {
					t.Fatalf("got Authorization %q, want %q", got, c.want)
				}
				last = inOrder(t, c.rows(t, g.body), last)
			}
		})
	}
}

// TestStreamOfTailnet: the stream that a tailnet sets has that tailnet's rows from now on, and ends when it is deleted.
func TestStreamOfTailnet(t *testing.T) {
	s, r := newSite(t), newReceiver(t)
	u := s.user("before")
	s.run()
	if err := s.hooks.SetStream(s.ctx, u.TailnetID, hooks.Stream{Type: hooks.StreamHTTP, URL: r.URL, Format: hooks.FormatLines, Token: "hidden"}); err != nil {
		t.Fatal(err)
	}
	row, err := s.store.GetAuditStream(s.ctx, hooks.APIStream(u.TailnetID))
	if err != nil || strings.Contains(row.Settings+string(row.Sealed), "hidden") {
		t.Errorf("got %+v, %v, want the token sealed", row, err)
	}
	if got, err := s.hooks.GetStream(s.ctx, u.TailnetID); err != nil || got.Token != "hidden" || got.URL != r.URL {
		t.Errorf("got %+v, %v", got, err)
	}
	var told []string
	for len(told) == 0 || told[len(told)-1] != "stream.set" {
		for _, line := range lines(r.next(t).body) {
			var row hooks.Row
			if err := json.Unmarshal(line, &row); err != nil {
				t.Fatal(err)
			}
			told = append(told, row.Action)
		}
	}
	if len(told) != 1 {
		t.Errorf("got %v, want nothing from before the stream", told)
	}
	if err := s.hooks.DeleteStream(s.ctx, u.TailnetID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.hooks.GetStream(s.ctx, u.TailnetID); !errors.Is(err, tailnet.ErrNotFound) {
		t.Errorf("got %v, want it gone", err)
	}
	if err := s.hooks.SetStream(s.ctx, u.TailnetID, hooks.Stream{Type: hooks.StreamFile, Path: "/etc/passwd"}); !errors.Is(err, tailnet.ErrInvalid) {
		t.Errorf("a file through the API: got %v, want it refused", err)
	}
}

// syslogRow takes a message of RFC 5424 apart.
func syslogRow(t *testing.T, message []byte) []byte {
	t.Helper()
	fields := bytes.SplitN(message, []byte(" "), 8)
	if len(fields) != 8 || string(fields[0]) != "<110>1" || string(fields[3]) != "headscale" || string(fields[5]) != "user.create" || string(fields[6]) != "-" {
		t.Fatalf("got %q, want a message of RFC 5424", message)
	}
	return fields[7]
}

// TestStreamToSyslog: over each network the rows come in messages of RFC 5424, over TCP behind their length.
func TestStreamToSyslog(t *testing.T) {
	t.Run("udp", func(t *testing.T) { testDatagrams(t, "udp") })
	t.Run("unix", func(t *testing.T) { testDatagrams(t, "unixgram") })
	t.Run("tcp", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s := newSite(t)
		s.user("anna")
		s.user("bob")
		s.run(hooks.Stream{Name: "syslog", Type: hooks.StreamSyslog, Address: "tcp://" + l.Addr().String()})
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var rows [][]byte
		in := bufio.NewReader(conn)
		for range 2 {
			length, err := in.ReadString(' ')
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(strings.TrimSpace(length))
			if err != nil || n > 10_000 {
				t.Fatalf("got length %q", length)
			}
			message := make([]byte, n)
			if _, err := io.ReadFull(in, message); err != nil {
				t.Fatal(err)
			}
			rows = append(rows, syslogRow(t, message))
		}
		inOrder(t, rows, 0)
	})
}

func testDatagrams(t *testing.T, network string) {
	at, scheme := "127.0.0.1:0", "udp://"
	if network == "unixgram" {
		at, scheme = filepath.Join(t.TempDir(), "log"), "unix://"
	}
	pc, err := net.ListenPacket(network, at)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	s := newSite(t)
	s.user("anna")
	s.user("bob")
	s.run(hooks.Stream{Name: "syslog", Type: hooks.StreamSyslog, Address: scheme + pc.LocalAddr().String()})
	var rows [][]byte
	for range 2 {
		b := make([]byte, 64<<10)
		n, _, err := pc.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, syslogRow(t, b[:n]))
	}
	inOrder(t, rows, 0)
}

// TestBadStreams: what cannot be a stream is said at once.
func TestBadStreams(t *testing.T) {
	for _, s := range []hooks.Stream{
		{}, {Type: "pipe"}, {Type: hooks.StreamFile}, {Type: hooks.StreamSyslog, Address: "host:514"},
		{Type: hooks.StreamSyslog, Address: "quic://host"}, {Type: hooks.StreamSyslog, Address: "udp://"},
		{Type: hooks.StreamHTTP, URL: "ftp://host"}, {Type: hooks.StreamHTTP, URL: "https://a:b@host"},
		{Type: hooks.StreamHTTP, URL: "https://host", Format: "xml"},
	} {
		if err := s.Check(); !errors.Is(err, tailnet.ErrInvalid) {
			t.Errorf("%s: got %v, want it refused", fmt.Sprintf("%+v", s), err)
		}
	}
}
