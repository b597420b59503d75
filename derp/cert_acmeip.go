package derp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	xacme "golang.org/x/crypto/acme"
)

// An ACME authority vouches for an address too, for six days at a time (Let's Encrypt's profile
// "shortlived"), when the http port answers its challenge. golang.org/x/crypto/acme knows no
// profiles, so these come by acmez.

// shortLived is the profile of certificates for addresses.
const shortLived = "shortlived"

const (
	acmeTimeout  = 5 * time.Minute // of one try
	acmeFirst    = time.Minute     // between the first failure and the next try; it doubles
	acmeSlowest  = time.Hour
	acmeUpToDate = time.Hour // how often it is looked whether half of the time is over
)

// acmeIPSource asks an ACME authority for certificates for an address.
type acmeIPSource struct {
	c       *Cert
	ip      netip.Addr
	files   certFiles
	account string // file of the account's key
	cert    atomic.Pointer[tls.Certificate]
	tokens  sync.Map // path to answer, of the challenges under way
}

func openACMEIP(c *Cert) (*acmeIPSource, error) {
	ip := netip.MustParseAddr(c.host) // the caller has looked
	switch {
	case c.cfg.Dir == "":
		return nil, errors.New("Let's Encrypt needs a directory to keep certificates in (-certdir)")
	case c.cfg.ACMEDirectory == "" && !IsPublic(ip):
		return nil, fmt.Errorf("Let's Encrypt gives no certificate for %s, which the Internet cannot reach: use -certmode selfsigned", ip)
	}
	s := &acmeIPSource{
		c: c, ip: ip,
		files:   filesIn(c.cfg.Dir, strings.ReplaceAll(c.host, ":", "-")+".acme"),
		account: filepath.Join(c.cfg.Dir, "acme-account.key"),
	}
	if s.files.exist() {
		cert, err := s.files.load()
		if err != nil {
			return nil, fmt.Errorf("%w (remove both files to have new ones made)", err)
		}
		s.cert.Store(cert)
	}
	return s, nil
}

func (s *acmeIPSource) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := s.cert.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("there is no certificate yet")
}

// refresh has nothing to do: run renews.
func (s *acmeIPSource) refresh(bool) error { return nil }

func (s *acmeIPSource) current() *tls.Certificate { return s.cert.Load() }

func (s *acmeIPSource) list() []CertInfo { return oneCert(s.c.host, s.cert.Load()) }

// run has a certificate made when there is none, or half of its time is over, until ctx ends.
func (s *acmeIPSource) run(ctx context.Context) {
	wait, pause := time.Duration(0), acmeFirst
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		wait = acmeUpToDate
		if s.fresh() {
			continue
		}
		try, cancel := context.WithTimeout(ctx, acmeTimeout)
		err := s.obtain(try)
		cancel()
		if err == nil {
			pause = acmeFirst
			s.c.cfg.Log.Info("certificate from Let's Encrypt is ready", "address", s.ip, "until", s.cert.Load().Leaf.NotAfter)
			if s.c.cfg.Changed != nil {
				s.c.cfg.Changed()
			}
			continue
		}
		if ctx.Err() == nil {
			s.c.cfg.Log.Warn("no new certificate from Let's Encrypt: is port 80 of this address open to the Internet?",
				"address", s.ip, "again_in", pause, "err", err)
		}
		wait, pause = pause, min(2*pause, acmeSlowest)
	}
}

// fresh reports whether less than half of the certificate's time is over.
func (s *acmeIPSource) fresh() bool {
	cert := s.cert.Load()
	if cert == nil {
		return false
	}
	half := cert.Leaf.NotBefore.Add(cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore) / 2)
	return s.c.cfg.Now().Before(half)
}

// obtain has a certificate made, and stores it.
func (s *acmeIPSource) obtain(ctx context.Context) error {
	accountKey, err := loadECKey(s.account)
	if err != nil {
		return fmt.Errorf("the account's key: %w", err)
	}
	directory := s.c.cfg.ACMEDirectory
	if directory == "" {
		directory = xacme.LetsEncryptURL
	}
	client := acmez.Client{
		Client:           &acme.Client{Directory: directory, UserAgent: "keelscale derper", HTTPClient: &http.Client{Timeout: 30 * time.Second}},
		ChallengeSolvers: map[string]acmez.Solver{acme.ChallengeTypeHTTP01: s},
	}
	account := acme.Account{TermsOfServiceAgreed: true, PrivateKey: accountKey}
	if s.c.cfg.Email != "" {
		account.Contact = []string{"mailto:" + s.c.cfg.Email}
	}
	if account, err = client.NewAccount(ctx, account); err != nil { // the same again for a known key
		return fmt.Errorf("opening an account: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := acmez.NewCSR(key, []string{s.ip.String()})
	if err != nil {
		return err
	}
	order, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return err
	}
	order.Profile = shortLived
	chains, err := client.ObtainCertificate(ctx, order)
	if err != nil {
		return err
	}
	if len(chains) == 0 {
		return errors.New("the authority gave nothing")
	}
	return s.keep(key, chains[0].ChainPEM)
}

// keep stores a certificate and serves it.
func (s *acmeIPSource) keep(key *ecdsa.PrivateKey, chain []byte) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	pair, err := tls.X509KeyPair(chain, keyPEM)
	if err != nil {
		return fmt.Errorf("the authority's certificate: %w", err)
	}
	if pair.Leaf.VerifyHostname(s.ip.String()) != nil {
		return fmt.Errorf("the authority's certificate is not for %s", s.ip)
	}
	os.Remove(s.files.crt) // it would not fit the new key
	if err := ReplaceFile(s.files.key, keyPEM); err != nil {
		return fmt.Errorf("storing the certificate's key: %w", err)
	}
	if err := ReplaceFile(s.files.crt, chain); err != nil {
		return fmt.Errorf("storing the certificate: %w", err)
	}
	s.cert.Store(&pair)
	return nil
}

// Present implements acmez.Solver: from now on the http port answers the challenge.
func (s *acmeIPSource) Present(_ context.Context, c acme.Challenge) error {
	s.tokens.Store(c.HTTP01ResourcePath(), c.KeyAuthorization)
	return nil
}

// CleanUp implements acmez.Solver.
func (s *acmeIPSource) CleanUp(_ context.Context, c acme.Challenge) error {
	s.tokens.Delete(c.HTTP01ResourcePath())
	return nil
}

// handler answers challenges and hands all else to next.
func (s *acmeIPSource) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !strings.HasPrefix(req.URL.Path, "/.well-known/acme-challenge/") {
			next.ServeHTTP(w, req)
			return
		}
		answer, ok := s.tokens.Load(req.URL.Path)
		if !ok {
			http.NotFound(w, req)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, answer)
	})
}

// loadECKey reads a key, or makes it when it is missing.
func loadECKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := readBounded(path, maxCertFile)
	if errors.Is(err, fs.ErrNotExist) {
		return makeECKey(path)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s has no key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s has a key of another kind", path)
	}
	return key, nil
}

func makeECKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return key, ReplaceFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
