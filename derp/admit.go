package derp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Admit reports whether a node may use the relay. It is asked once for each connection,
// after the node has proved that it holds the key. An error turns the node away and its text
// is logged: a relay that cannot ask stays closed. source may be the zero Addr.
type Admit func(ctx context.Context, node key.NodePublic, source netip.Addr) (bool, error)

// Anyone admits everybody.
func Anyone(context.Context, key.NodePublic, netip.Addr) (bool, error) { return true, nil }

// All admits those whom each of the given functions admits.
func All(each ...Admit) Admit {
	return func(ctx context.Context, node key.NodePublic, source netip.Addr) (bool, error) {
		for _, ask := range each {
			if ok, err := ask(ctx, node, source); err != nil || !ok {
				return false, err
			}
		}
		return true, nil
	}
}

// LocalTailscaled admits the peers of the tailscaled on this machine, and that machine
// itself. socket is the path of its socket; "" means the usual place.
func LocalTailscaled(socket string) Admit {
	lc := &local.Client{Socket: socket, UseSocketOnly: socket != ""}
	return func(ctx context.Context, node key.NodePublic, _ netip.Addr) (bool, error) {
		_, err := lc.WhoIsNodeKey(ctx, node)
		if errors.Is(err, local.ErrPeerNotFound) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("asking the local tailscaled: %w", err)
		}
		return true, nil
	}
}

const (
	verifyTimeout = 5 * time.Second  // of one question to a verify URL
	verifyKeep    = 30 * time.Second // that a yes is believed
	verifyMax     = 10_000           // yeses kept
)

// VerifyURL admits whom an HTTP endpoint admits, such as /verify of a control server: it
// posts a tailcfg.DERPAdmitClientRequest and reads a tailcfg.DERPAdmitClientResponse. A yes
// is believed for thirty seconds, a no is asked again each time.
//
// An endpoint that does not answer admits nobody, unless failOpen is set; one that answers
// with anything but 200 admits nobody in either case.
func VerifyURL(endpoint string, failOpen bool) (Admit, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("reading the verify URL: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("verify URL %q must begin with http:// or https:// and name a host", endpoint)
	}
	v := &verifier{
		url:      endpoint,
		failOpen: failOpen,
		client: &http.Client{
			Timeout: verifyTimeout,
			// A redirect would turn the POST into a GET, and the question into another.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		now: time.Now,
	}
	v.yes.until = map[key.NodePublic]time.Time{}
	return v.admit, nil
}

type verifier struct {
	url      string
	failOpen bool
	client   *http.Client
	now      func() time.Time

	yes struct {
		sync.Mutex
		until map[key.NodePublic]time.Time
		swept time.Time // when old ones were last removed
	}
}

func (v *verifier) admit(ctx context.Context, node key.NodePublic, source netip.Addr) (bool, error) {
	if v.remembered(node) {
		return true, nil
	}
	body, err := json.Marshal(tailcfg.DERPAdmitClientRequest{NodePublic: node, Source: source})
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := v.client.Do(req)
	if err != nil {
		if v.failOpen {
			return true, nil
		}
		return false, fmt.Errorf("asking the verify URL: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the verify URL answered %s", res.Status)
	}
	var answer tailcfg.DERPAdmitClientResponse
	if err := json.NewDecoder(io.LimitReader(res.Body, 4<<10)).Decode(&answer); err != nil {
		return false, fmt.Errorf("reading the answer of the verify URL: %w", err)
	}
	if answer.Allow {
		v.remember(node)
	}
	return answer.Allow, nil
}

func (v *verifier) remembered(node key.NodePublic) bool {
	v.yes.Lock()
	defer v.yes.Unlock()
	return v.now().Before(v.yes.until[node])
}

func (v *verifier) remember(node key.NodePublic) {
	v.yes.Lock()
	defer v.yes.Unlock()
	now := v.now()
	if len(v.yes.until) >= verifyMax && now.Sub(v.yes.swept) >= time.Second {
		v.yes.swept = now
		for k, until := range v.yes.until {
			if !now.Before(until) {
				delete(v.yes.until, k)
			}
		}
	}
	if len(v.yes.until) < verifyMax {
		v.yes.until[node] = now.Add(verifyKeep)
	}
}
