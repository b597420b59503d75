package derp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// acmeSource asks an ACME authority, when the first client comes or Run starts, and in time
// before the end.
type acmeSource struct {
	c       *Cert
	manager *autocert.Manager
	last    atomic.Pointer[tls.Certificate]
}

func openACME(c *Cert) (*acmeSource, error) {
	switch {
	case c.host == "":
		return nil, errors.New("Let's Encrypt needs a hostname (-hostname), or use -certmode selfsigned")
	case !strings.Contains(c.host, "."):
		return nil, fmt.Errorf("Let's Encrypt gives no certificate for %q, which is not a full domain name", c.host)
	case c.cfg.Dir == "":
		return nil, errors.New("Let's Encrypt needs a directory to keep certificates in (-certdir)")
	}
	m := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(c.cfg.Dir),
		HostPolicy: autocert.HostWhitelist(c.host),
		Email:      c.cfg.Email,
	}
	if c.cfg.ACMEDirectory != "" {
		m.Client = &acme.Client{DirectoryURL: c.cfg.ACMEDirectory}
	}
	return &acmeSource{c: c, manager: m}, nil
}

func (s *acmeSource) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := s.manager.GetCertificate(hello)
	if err == nil && cert.Leaf != nil && cert.Leaf.VerifyHostname(s.c.host) == nil {
		s.last.Store(cert)
	}
	return cert, err
}

// refresh has nothing to do: the manager renews by itself.
func (s *acmeSource) refresh(bool) error { return nil }

func (s *acmeSource) current() *tls.Certificate { return s.last.Load() }

func (s *acmeSource) list() []CertInfo { return oneCert(s.c.host, s.last.Load()) }

// first asks for the certificate before a client does, so that the operator reads now what
// is wrong.
func (s *acmeSource) first(ctx context.Context) {
	got := make(chan error, 1)
	go func() { // ends by itself: the manager gives up after five minutes, and nothing waits then
		_, err := s.get(&tls.ClientHelloInfo{
			ServerName:       s.c.host,
			CipherSuites:     []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
			SupportedCurves:  []tls.CurveID{tls.CurveP256},
			SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		})
		got <- err
	}()
	select {
	case <-ctx.Done():
	case err := <-got:
		if err != nil {
			s.c.cfg.Log.Warn("no certificate from Let's Encrypt yet: does the name point here, and are ports 80 and 443 open to the Internet?",
				"hostname", s.c.host, "err", err)
			return
		}
		s.c.cfg.Log.Info("certificate from Let's Encrypt is ready", "hostname", s.c.host)
	}
}
