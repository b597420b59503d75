package hscontrol

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
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

// eitherListener takes connections that begin with TLS and such that do not, on one port: a server whose URL is plain
// http has clients that insist on TLS after a while, and its relay needs TLS in any case.
type eitherListener struct {
	net.Listener
	tls *tls.Config
}

func (l *eitherListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &eitherConn{Conn: conn, tls: l.tls}, nil
}

// eitherConn decides by the first byte, which is read with the first Read: the listener never waits for a client.
// Deadlines are those of the socket in both cases.
type eitherConn struct {
	net.Conn // the socket
	tls      *tls.Config
	once     sync.Once
	over     atomic.Pointer[net.Conn] // what is spoken over the socket, once that is known
	err      error                    // of the first byte
}

// tlsHandshake is the type of the first TLS record (RFC 8446, 5.1).
const tlsHandshake = 0x16

func (c *eitherConn) decide() {
	var first [1]byte
	n, err := c.Conn.Read(first[:])
	if n == 0 {
		c.err = err
		return
	}
	var over net.Conn = &begunConn{Conn: c.Conn, first: first[:]}
	if first[0] == tlsHandshake {
		over = tls.Server(over, c.tls)
	}
	c.over.Store(&over)
}

func (c *eitherConn) Read(p []byte) (int, error) {
	c.once.Do(c.decide)
	if c.err != nil {
		return 0, c.err
	}
	return (*c.over.Load()).Read(p)
}

func (c *eitherConn) Write(p []byte) (int, error) {
	if over := c.over.Load(); over != nil {
		return (*over).Write(p)
	}
	return c.Conn.Write(p)
}

func (c *eitherConn) Close() error {
	if over := c.over.Load(); over != nil {
		return (*over).Close()
	}
	return c.Conn.Close()
}

// begunConn gives back the bytes that were read to look at them.
type begunConn struct {
	net.Conn
	first []byte
}

func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// withoutHTTP2 leaves out the protocol that cannot be upgraded.
func withoutHTTP2(protos []string) []string {
	return slices.DeleteFunc(slices.Clone(protos), func(p string) bool { return p == "h2" })
}
