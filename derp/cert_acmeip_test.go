package derp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keelscale/keelscale/derp"
)

// authority is an ACME server (RFC 8555) for one address, without signatures: what it is told
// it believes, except that the challenge is answered. Signatures were tried with Pebble.
type authority struct {
	*httptest.Server
	address   string
	challenge func(path string) string // asks the address's http port

	mu      sync.Mutex
	key     *ecdsa.PrivateKey
	ca      *x509.Certificate
	order   map[string]any
	proved  bool
	chain   []byte
	issued  int
	profile string
	broken  bool
}

func newAuthority(t *testing.T, address string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-day), NotAfter: time.Now().Add(100 * day)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{address: address, key: key, ca: ca}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *authority) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Replay-Nonce", rand.Text())
	if a.broken {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return
	}
	var body struct{ Payload string }
	json.NewDecoder(req.Body).Decode(&body)
	payload, _ := base64.RawURLEncoding.DecodeString(body.Payload)
	reply := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	id := map[string]string{"type": "ip", "value": a.address}
	switch req.URL.Path {
	case "/dir":
		reply(200, map[string]any{"newNonce": a.URL + "/nonce", "newAccount": a.URL + "/account", "newOrder": a.URL + "/order",
			"meta": map[string]any{"profiles": map[string]string{"shortlived": "six days"}}})
	case "/nonce":
	case "/account":
		w.Header().Set("Location", a.URL+"/account/1")
		reply(201, map[string]any{"status": "valid"})
	case "/order":
		var want struct{ Profile string }
		json.Unmarshal(payload, &want)
		a.profile, a.proved = want.Profile, false
		a.order = map[string]any{"status": "pending", "identifiers": []any{id}, "authorizations": []string{a.URL + "/authz"}, "finalize": a.URL + "/finalize"}
		w.Header().Set("Location", a.URL+"/order/1")
		reply(201, a.order)
	case "/order/1":
		reply(200, a.order)
	case "/authz", "/challenge":
		if req.URL.Path == "/challenge" {
			a.proved = strings.HasPrefix(a.challenge("/.well-known/acme-challenge/token"), "token.")
		}
		status := map[bool]string{false: "pending", true: "valid"}[a.proved]
		challenge := map[string]string{"type": "http-01", "url": a.URL + "/challenge", "token": "token", "status": status}
		if req.URL.Path == "/challenge" {
			reply(200, challenge)
			return
		}
		reply(200, map[string]any{"status": status, "identifier": id, "challenges": []any{challenge}})
	case "/finalize":
		a.issue(payload)
		a.order["status"], a.order["certificate"] = "valid", a.URL+"/cert"
		reply(200, a.order)
	case "/cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.Write(a.chain)
	default:
		http.NotFound(w, req)
	}
}

// issue signs what a finalization asks for, for six days from now.
func (a *authority) issue(payload []byte) {
	var ask struct{ CSR string }
	json.Unmarshal(payload, &ask)
	raw, _ := base64.RawURLEncoding.DecodeString(ask.CSR)
	csr, err := x509.ParseCertificateRequest(raw)
	if err != nil || !a.proved {
		panic(fmt.Sprint("finalized without proof, or badly: ", err))
	}
	a.issued++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(a.issued + 1)), NotBefore: time.Now(), NotAfter: time.Now().Add(6 * day), IPAddresses: csr.IPAddresses}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.ca, csr.PublicKey, a.key)
	if err != nil {
		panic(err)
	}
	a.chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (a *authority) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.issued
}

// An address gets a certificate of an authority, which is kept over restarts and made anew when
// half of its time is over.
func TestCertificateForAnAddressByACME(t *testing.T) {
	a := newAuthority(t, "127.0.0.1")
	now := &lockedClock{at: time.Now()}
	told := make(chan struct{}, 8)
	cfg := derp.CertConfig{Mode: derp.LetsEncrypt, Hostname: "127.0.0.1", Dir: t.TempDir(), ACMEDirectory: a.URL + "/dir", Now: now.now, Changed: func() { told <- struct{}{} }}
	run := func() (c *derp.Cert, stop func()) {
		c = openCert(t, cfg)
		pages := c.HTTPHandler(http.NotFoundHandler())
		a.mu.Lock()
		a.challenge = func(path string) string {
			w := httptest.NewRecorder()
			pages.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			text, _ := io.ReadAll(w.Body)
			return string(text)
		}
		a.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		return c, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	c, stop := run()
	<-told
	leaf := mustHandshake(t, c, "")
	if err := leaf.VerifyHostname("127.0.0.1"); err != nil || c.Pin() != "" || a.profile != "shortlived" {
		t.Errorf("got %v, pin %q, profile %q, want a certificate for the address that needs no pin", err, c.Pin(), a.profile)
	}
	stop()
	c, stop = run()
	if again := mustHandshake(t, c, ""); !again.Equal(leaf) || a.count() != 1 {
		t.Errorf("after a restart: got another certificate, and %d orders", a.count())
	}
	stop()
	now.add(4 * day)
	c, stop = run()
	<-told
	if next := mustHandshake(t, c, ""); next.Equal(leaf) || a.count() != 2 {
		t.Errorf("after four days of six: got the same certificate, and %d orders", a.count())
	}
	stop()
}

// While the authority is out of order the relay asks ever more slowly, and goes on.
func TestACMEIsAskedSlowly(t *testing.T) {
	var log logBook
	synctest.Test(t, func(t *testing.T) {
		c := openCert(t, derp.CertConfig{Mode: derp.LetsEncrypt, Hostname: "127.0.0.1", Dir: t.TempDir(), ACMEDirectory: "http://127.0.0.1:1/dir", Log: log.logger()})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Hour)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
		if _, err := handshake(c, ""); err == nil {
			t.Error("there is a certificate that nobody made")
		}
	})
	if n := strings.Count(log.String(), "no new certificate"); n < 10 || n > 20 {
		t.Errorf("got %d complaints in ten hours, want about fifteen", n)
	}
}
