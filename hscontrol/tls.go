package hscontrol

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync/atomic"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/hscontrol/config"
)

// certificate is how the server shows who it is over TLS: one of three.
type certificate struct {
	files      *atomic.Pointer[tls.Certificate] // tls_cert_path and tls_key_path
	acme       *autocert.Manager                // tls_letsencrypt_*
	selfSigned *derp.Cert                       // of its own making: clients know it by its pin, or do not ask
}

// openCertificate prepares the one that the configuration asks for. pinned is called when there is another certificate of
// our own making to publish.
func openCertificate(cfg *config.Config, log *slog.Logger, pinned func()) (*certificate, error) {
	c := &certificate{}
	switch {
	case cfg.TLS.CertPath != "":
		c.files = &atomic.Pointer[tls.Certificate]{}
		return c, c.reload(cfg)
	case cfg.TLS.LetsEncryptHostname != "":
		c.acme = &autocert.Manager{
			Prompt:     autocert.AcceptTOS,
			Cache:      autocert.DirCache(cfg.TLS.LetsEncryptCacheDir),
			HostPolicy: autocert.HostWhitelist(cfg.TLS.LetsEncryptHostname),
			Email:      cfg.TLS.ACMEEmail,
			Client:     &acme.Client{DirectoryURL: cfg.TLS.ACMEURL},
		}
		return c, nil
	}
	u, err := url.Parse(cfg.ServerURL)
	if err != nil {
		return nil, fmt.Errorf("reading server_url: %w", err)
	}
	c.selfSigned, err = derp.OpenCert(derp.CertConfig{Mode: derp.SelfSigned, Hostname: u.Hostname(), Dir: filepath.Join(cfg.DataDir, "certs"), Changed: pinned, Log: log})
	if err != nil {
		return nil, fmt.Errorf("making a certificate for %s: %w", u.Hostname(), err)
	}
	return c, nil
}

// trusted reports whether an authority vouches for the certificate, so that the main port speaks TLS only.
func (c *certificate) trusted() bool { return c.selfSigned == nil }

// published is what the DERP map says of a certificate of the server's own making; zero for others.
func (c *certificate) published() derp.CertInfo {
	if c.selfSigned == nil {
		return derp.CertInfo{}
	}
	if list := c.selfSigned.Certificates(); len(list) > 0 {
		return list[0]
	}
	return derp.CertInfo{}
}

// own is by what name to ask for the certificate, and its pin; no pin where an authority vouches for it and nobody knows it
// beforehand. host is the name in server_url.
func (c *certificate) own(host string) (name, pin string) {
	switch {
	case c.files != nil:
		sum := sha256.Sum256(c.files.Load().Certificate[0])
		return host, "sha256-raw:" + hex.EncodeToString(sum[:])
	case c.acme != nil:
		return host, ""
	}
	info := c.published()
	return cmp.Or(info.Name, host), info.Pin
}

func (c *certificate) tlsConfig() *tls.Config {
	switch {
	case c.files != nil:
		return &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"h2", "http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.files.Load(), nil },
		}
	case c.acme != nil:
		t := c.acme.TLSConfig()
		t.MinVersion = tls.VersionTLS12
		return t
	}
	return c.selfSigned.TLSConfig()
}

// reload reads the files again; the old certificate stays where the new one cannot be used.
func (c *certificate) reload(cfg *config.Config) error {
	switch {
	case c.files != nil:
		pair, err := tls.LoadX509KeyPair(cfg.TLS.CertPath, cfg.TLS.KeyPath)
		if err != nil {
			return fmt.Errorf("reading tls_cert_path and tls_key_path: %w", err)
		}
		c.files.Store(&pair)
	case c.selfSigned != nil:
		return c.selfSigned.Reload()
	}
	return nil
}

func (c *certificate) run(ctx context.Context) error {
	if c.selfSigned != nil {
		return c.selfSigned.Run(ctx)
	}
	return nil
}

// challenge answers the HTTP-01 challenge and sends everybody else to HTTPS.
func (c *certificate) challenge() http.Handler { return c.acme.HTTPHandler(nil) }

// withoutHTTP2 leaves out the protocol that cannot be upgraded.
func withoutHTTP2(protos []string) []string {
	return slices.DeleteFunc(slices.Clone(protos), func(p string) bool { return p == "h2" })
}
