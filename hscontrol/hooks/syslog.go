package hooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	syslogPriority = 13*8 + 6 // facility "log audit", severity "informational" (RFC 5424, 6.2.1)
	maxDatagram    = 8 << 10
	goodbye        = 2 * time.Second // for a receiver over TCP to hang up first
)

// syslogAddress is where a receiver is: the network (udp, tcp, tls or unix) and the address in it.
func syslogAddress(text string) (network, address string, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", "", fmt.Errorf("%w: the address of syslog is no URL: write udp://HOST:514, tcp://HOST:601, tls://HOST:6514 or unix:///dev/log", tailnet.ErrInvalid)
	}
	ports := map[string]string{"udp": "514", "tcp": "601", "tls": "6514"}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		return "unix", u.Path, nil
	case ports[u.Scheme] == "" || u.Hostname() == "":
		return "", "", fmt.Errorf("%w: the address of syslog has to be udp://HOST:514, tcp://HOST:601, tls://HOST:6514 or unix:///dev/log", tailnet.ErrInvalid)
	case u.Port() == "":
		return u.Scheme, net.JoinHostPort(u.Hostname(), ports[u.Scheme]), nil
	}
	return u.Scheme, u.Host, nil
}

// syslogMessage is a row as RFC 5424 has it, the row itself as JSON. One that is longer than most goes without what was
// before and after; 0: any length.
func syslogMessage(row Row, host string, pid, most int) ([]byte, error) {
	text, err := json.Marshal(row)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "<%d>1 %s %s headscale %d %s - ", syslogPriority, row.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), syslogWord(host, 255), pid, syslogWord(row.Action, 32))
	if most > 0 && b.Len()+len(text) > most && (row.Before != nil || row.After != nil) {
		row.Before, row.After = nil, nil
		return syslogMessage(row, host, pid, most)
	}
	b.Write(text)
	return b.Bytes(), nil
}

// syslogWord is a text as a field of the header: visible ASCII, "-" for nothing.
func syslogWord(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, text)
	if text == "" {
		return "-"
	}
	return text[:min(len(text), most)]
}

// sendSyslog sends rows to syslog. A receiver over TCP and TLS gets each behind its length (RFC 6587, 3.4.1; RFC 5425)
// and is waited for until it has read them, as far as it says so by hanging up.
func sendSyslog(ctx context.Context, address string, rows []Row) error {
	network, at, err := syslogAddress(address)
	if err != nil {
		return err
	}
	conn, datagrams, err := dialSyslog(ctx, network, at)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // an error shows at the write
	}
	host, _ := os.Hostname() // without one the field is "-"
	var stream bytes.Buffer
	for _, row := range rows {
		most := 0
		if datagrams {
			most = maxDatagram
		}
		message, err := syslogMessage(row, host, os.Getpid(), most)
		if err != nil {
			return fmt.Errorf("writing row %d of the audit log: %w", row.ID, err)
		}
		if datagrams {
			if _, err := conn.Write(message); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(&stream, "%d ", len(message))
		stream.Write(message)
	}
	if datagrams {
		return nil
	}
	if _, err := conn.Write(stream.Bytes()); err != nil {
		return err
	}
	return hangUp(conn)
}

func dialSyslog(ctx context.Context, network, address string) (conn net.Conn, datagrams bool, err error) {
	var d net.Dialer
	switch network {
	case "udp":
		conn, err = d.DialContext(ctx, "udp", address)
		return conn, true, err
	case "unix":
		if conn, err = d.DialContext(ctx, "unixgram", address); err == nil {
			return conn, true, nil
		}
		conn, err = d.DialContext(ctx, "unix", address)
		return conn, false, err
	case "tls":
		conn, err = (&tls.Dialer{NetDialer: &d, Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", address)
		return conn, false, err
	}
	conn, err = d.DialContext(ctx, "tcp", address)
	return conn, false, err
}

// hangUp ends what is sent and waits a little for the other side to do the same: if it breaks the connection instead,
// it has not read everything.
func hangUp(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := half.CloseWrite(); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(goodbye)) // an error shows at the read
	_, err := io.Copy(io.Discard, io.LimitReader(conn, maxAnswer))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}
