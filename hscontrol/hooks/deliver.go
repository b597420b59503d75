package hooks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// SignatureHeader is where a request says that it comes from here, as Tailscale has it:
// "t=SECONDS,v1=HEX", the HMAC-SHA256 of SECONDS, a point and the body, by the endpoint's secret.
const SignatureHeader = "Tailscale-Webhook-Signature"

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 4 << 10

// errForbidden refuses to connect to where no endpoint may be.
var errForbidden = errors.New("this address is not open to webhooks")

// newClient connects to http and https endpoints only, follows no redirects, and asks no proxy.
func newClient(timeout time.Duration, onlyPublic bool) *http.Client {
	dialer := &net.Dialer{Timeout: timeout, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !mayDial(at.Addr().Unmap(), onlyPublic) {
			return fmt.Errorf("%s: %w", address, errForbidden)
		}
		return nil
	}}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout,
			MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// mayDial reports whether a receiver may be at the address, after names were resolved.
func mayDial(a netip.Addr, onlyPublic bool) bool {
	if a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return false
	}
	shared := netip.MustParsePrefix("100.64.0.0/10")
	return !onlyPublic || !a.IsLoopback() && !a.IsPrivate() && !shared.Contains(a)
}

// deliver makes one request with the events. Any status of 200 to 299 is a success.
func (h *Hooks) deliver(ctx context.Context, w *tailnet.Webhook, batch []tailnet.Delivery) (status int, err error) {
	body, err := format(w, batch)
	if err != nil {
		return 0, err
	}
	return post(ctx, h.client, w.URL, body, http.Header{
		"Content-Type":  {"application/json"},
		SignatureHeader: {Sign(h.cfg.Key.Secret(w), time.Now(), body)},
	})
}

// post sends a body. Its error is about the answer, and names no URL, which may be a secret.
func post(ctx context.Context, client *http.Client, url string, body []byte, header http.Header) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("the URL cannot be used")
	}
	req.Header = header
	req.Header.Set("User-Agent", "headscale-webhook")
	resp, err := client.Do(req)
	if err != nil {
		return 0, withoutURL(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // so that the connection can be used again
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return resp.StatusCode, nil
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return resp.StatusCode, fmt.Errorf("it answered with a redirect (%d), which is not followed", resp.StatusCode)
	}
	return resp.StatusCode, fmt.Errorf("it answered %s", resp.Status)
}

// Sign is the value of SignatureHeader.
func Sign(secret string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.", at.Unix())
	mac.Write(body)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}
