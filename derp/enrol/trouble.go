package enrol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tailscale.com/types/key"
)

// refusal is a server's no.
type refusal struct {
	reason  string
	removed bool
}

// Error implements error.
func (r *refusal) Error() string { return "the control server refuses this relay: " + r.reason }

// finalError is one that a relay that is not enrolled yet cannot get over by waiting. One that is enrolled can: somebody
// may be repairing the server.
type finalError struct{ error }

// Unwrap implements what errors.Is looks for.
func (e finalError) Unwrap() error { return e.error }

func final(format string, args ...any) error { return finalError{fmt.Errorf(format, args...)} }

func hopeless(err error) bool { return errors.As(err, new(finalError)) }

// Why a session ended without the server's doing.
var (
	errMoved  = errors.New("this machine has another address")
	errSilent = fmt.Errorf("the line to the control server is dead: nothing came for %v", silence)
)

// explainDial says in a sentence why the server could not be reached.
func (a *Agent) explainDial(ctx context.Context, err error) error {
	var dns *net.DNSError
	var op *net.OpError
	text := err.Error()
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("no host is called %s: is the control server's URL right, and does DNS work here?", a.url.Hostname())
	case errors.As(err, &dns):
		return fmt.Errorf("the address of %s cannot be looked up now: %w", a.url.Hostname(), err)
	case strings.Contains(text, "server gave HTTP response to HTTPS client"), strings.Contains(text, "first record does not look like a TLS handshake"):
		return final("%s speaks no TLS: begin the control server's URL with http://", a.url.Host)
	case isTimeout(err) || ctx.Err() != nil:
		return fmt.Errorf("%s does not answer: is it the right address, and does a firewall let this machine through?", a.url.Host)
	case strings.Contains(text, "connection refused"):
		return fmt.Errorf("nothing listens at %s: does the control server run, and is its URL right?", a.url.Host)
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("%s cannot be reached: %w", a.url.Host, op.Err)
	}
	return fmt.Errorf("asking %s: %w", a.url, err)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// explainUpgrade says in a sentence what an answer means that is not the one we want.
func (a *Agent) explainUpgrade(res *http.Response) error {
	page, _ := io.ReadAll(io.LimitReader(res.Body, maxComplaint))
	switch code := res.StatusCode; {
	case code >= 300 && code < 400:
		to := res.Header.Get("Location")
		if u, err := res.Location(); err == nil {
			to = (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
		}
		return final("%s sends us on to %s: give that as the control server's URL", a.url, to)
	case code == http.StatusBadRequest && strings.Contains(string(page), "HTTP request to an HTTPS server"):
		return final("%s speaks TLS: begin the control server's URL with https://", a.url.Host)
	case code == http.StatusNotFound || code == http.StatusMethodNotAllowed || code == http.StatusOK:
		return final("%s is no control server: it answers %q to %s; is the URL right?", a.url, res.Status, res.Request.URL.Path)
	case code == http.StatusUpgradeRequired || code == http.StatusBadRequest:
		return final("%s does not get our Upgrade header (it answers %q): the proxy before the control server must let upgrades through, as for WebSocket", a.url, res.Status)
	case code >= 500:
		return fmt.Errorf("%s answers %q: the control server, or a proxy before it, is not well", a.url, res.Status)
	default:
		return fmt.Errorf("%s answers %q to %s", a.url, res.Status, res.Request.URL.Path)
	}
}

// explainHandshake says why Noise failed: most often because it is another server. Asking that for its key proves
// nothing, but it tells the operator what to look at.
func (a *Agent) explainHandshake(want key.MachinePublic, err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeKeyAfter)
	defer cancel()
	got, _, kerr := a.fetchKey(ctx)
	if kerr != nil || got == want {
		return fmt.Errorf("the handshake with %s failed: %w", a.url, err)
	}
	return final("%s is another control server than the one that this relay trusts: it has the key %s, not %s; "+
		"if the server lost its key, give it back its noise_private.key, or remove the state file (--enroll-state) and enrol with a new enrolment key",
		a.url, got.ShortString(), want.ShortString())
}

// explainSession says what an answer means that is no session.
func (a *Agent) explainSession(res *http.Response) error {
	page, _ := io.ReadAll(io.LimitReader(res.Body, maxComplaint))
	text := strings.TrimSpace(string(page))
	switch res.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return final("the control server at %s does not know relays that enrol: it is too old, or another program than keelscale; update it", a.url)
	default:
		return fmt.Errorf("the control server answers %q: %s", res.Status, text)
	}
}

// maxSkew is how far the clocks of relay and server may be apart before the operator should know.
const maxSkew = time.Minute

// noteClock compares our clock with the server's, which its answer tells.
func (a *Agent) noteClock(header http.Header, now time.Time) {
	at, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return
	}
	skew := now.Sub(at)
	a.mu.Lock()
	a.mu.line.skew = skew
	a.mu.Unlock()
	if s := skewText(skew); s != "" {
		a.log.Warn(s)
	}
}

// skewText is a sentence about a clock that is wrong, "" if it is right enough.
func skewText(skew time.Duration) string {
	if skew.Abs() <= maxSkew {
		return ""
	}
	way := "ahead of"
	if skew < 0 {
		way = "behind"
	}
	return fmt.Sprintf("the clock of this relay is %v %s the control server's: certificates and expiry go by it, so set it (NTP)", skew.Abs().Round(time.Second), way)
}
