package derp

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// certFiles are the two files of a certificate.
type certFiles struct{ crt, key string }

func filesIn(dir, base string) certFiles {
	return certFiles{filepath.Join(dir, base+".crt"), filepath.Join(dir, base+".key")}
}

func (f certFiles) dir() string { return filepath.Dir(f.crt) }

// manualFiles finds the files of host in dir. An IPv6 address may be written with colons,
// with dashes for them (as we do), or without either (as cmd/derper does).
func manualFiles(dir, host string) certFiles {
	for _, colon := range []string{"-", ":", ""} {
		if f := filesIn(dir, strings.ReplaceAll(host, ":", colon)); f.exist() {
			return f
		}
	}
	return filesIn(dir, strings.ReplaceAll(host, ":", "-"))
}

func (f certFiles) exist() bool {
	_, crtErr := os.Stat(f.crt)
	_, keyErr := os.Stat(f.key)
	return crtErr == nil && keyErr == nil
}

// areSomebodys reports whether there are files, and they are not what we made for host.
func (f certFiles) areSomebodys(host string) bool {
	if !f.exist() {
		return false
	}
	cert, err := f.load()
	return err != nil || !hasLabel(cert.Leaf) || cert.Leaf.VerifyHostname(host) != nil
}

// maxCertFile bounds a certificate or key file.
const maxCertFile = 1 << 20

// load reads both files. The certificate has its Leaf.
func (f certFiles) load() (*tls.Certificate, error) {
	crt, err := readBounded(f.crt, maxCertFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	key, err := readBounded(f.key, maxCertFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate's key: %w", err)
	}
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s and key %s: %w", f.crt, f.key, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("parsing the certificate %s: %w", f.crt, err)
		}
	}
	return &pair, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}

// stamp tells whether files changed: their times and sizes. A link that was turned elsewhere
// changes it too.
type stamp struct {
	crt, key         time.Time
	crtSize, keySize int64
}

func (f certFiles) stamp() (s stamp, err error) {
	crt, err := os.Stat(f.crt)
	if err != nil {
		return s, err
	}
	key, err := os.Stat(f.key)
	if err != nil {
		return s, err
	}
	return stamp{crt.ModTime(), key.ModTime(), crt.Size(), key.Size()}, nil
}

// manualSource is a certificate that somebody else puts into its files.
type manualSource struct {
	host  string
	files certFiles
	cert  atomic.Pointer[tls.Certificate]
	seen  stamp // of what was last tried; only refresh touches it
}

func openManual(c *Cert) (*manualSource, error) {
	if c.host == "" {
		return nil, fmt.Errorf("certificate mode %s needs a hostname, which names the files", Manual)
	}
	s := &manualSource{host: c.host, files: manualFiles(c.cfg.Dir, c.host)}
	if err := s.refresh(true); err != nil {
		return nil, err
	}
	leaf := s.cert.Load().Leaf
	if now := c.cfg.Now(); now.After(leaf.NotAfter) {
		c.cfg.Log.Warn("the certificate has expired", "file", s.files.crt, "expired", leaf.NotAfter)
	}
	if !isAddr(c.host) && leaf.VerifyHostname(c.host) != nil {
		c.cfg.Log.Warn("the certificate is not for this hostname", "file", s.files.crt, "hostname", c.host, "names", leaf.DNSNames)
	}
	return s, nil
}

func (s *manualSource) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert := s.cert.Load()
	return cert, checkSNI(s.host, hello.ServerName, cert)
}

// refresh loads the files if they changed. When only one of the two has been replaced so far,
// they do not fit; the next change is tried again.
func (s *manualSource) refresh(force bool) error {
	now, err := s.files.stamp()
	if err != nil {
		return fmt.Errorf("looking for the certificate (%s): %w", Manual, err)
	}
	if now == s.seen && !force {
		return nil
	}
	cert, err := s.files.load()
	if err != nil {
		return err
	}
	s.seen = now
	s.cert.Store(cert)
	return nil
}

func (s *manualSource) current() *tls.Certificate { return s.cert.Load() }

func (s *manualSource) list() []CertInfo { return oneCert(s.host, s.cert.Load()) }
