package derp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// year is how long a self-signed certificate is valid unless told otherwise.
const year = 365 * 24 * time.Hour

// selfSigned is a certificate of our own making, kept in files so that its pin survives a
// restart.
type selfSigned struct {
	c     *Cert
	files certFiles
	cert  atomic.Pointer[tls.Certificate]
	seen  stamp // only refresh touches it
}

func openSelfSigned(c *Cert) (*selfSigned, error) {
	if c.cfg.Dir == "" {
		return nil, errors.New("a self-signed certificate needs a directory to be kept in (-certdir)")
	}
	base := strings.ReplaceAll(c.host, ":", "-")
	if base == "" {
		base = "selfsigned"
	}
	s := &selfSigned{c: c, files: filesIn(c.cfg.Dir, base)}
	if isAddr(c.host) {
		s.files = manualFiles(c.cfg.Dir, c.host)
	}
	if err := s.refresh(true); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *selfSigned) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert := s.cert.Load()
	return cert, checkSNI(s.c.host, hello.ServerName, cert)
}

func (s *selfSigned) current() *tls.Certificate { return s.cert.Load() }

// refresh loads the files if they changed, and makes new ones if there are none, if they are
// for another host, or if their time is coming.
func (s *selfSigned) refresh(force bool) error {
	now, err := s.files.stamp()
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return fmt.Errorf("looking for the certificate: %w", err)
	}
	cert := s.cert.Load()
	if !missing && (force || cert == nil || now != s.seen) {
		if cert, err = s.files.load(); err != nil {
			return fmt.Errorf("%w (remove both files to have new ones made)", err)
		}
	}
	if why := s.unfit(cert, missing); why != "" {
		s.c.cfg.Log.Info("making a self-signed certificate", "hostname", s.c.host, "file", s.files.crt, "reason", why)
		if cert, err = s.make(); err != nil {
			return err
		}
		if now, err = s.files.stamp(); err != nil {
			return err
		}
	}
	s.seen = now
	s.cert.Store(cert)
	return nil
}

// unfit says why cert cannot go on, "" if it can.
func (s *selfSigned) unfit(cert *tls.Certificate, missing bool) string {
	if cert == nil || missing {
		return "there is none"
	}
	if host := s.c.host; host != "" && cert.Leaf.VerifyHostname(host) != nil {
		return "it is for another host"
	}
	early := min(30*24*time.Hour, s.validity()/10)
	if end := cert.Leaf.NotAfter; s.c.cfg.Now().After(end.Add(-early)) {
		return "it ends on " + end.UTC().Format(time.DateOnly)
	}
	return ""
}

func (s *selfSigned) validity() time.Duration {
	if v := s.c.cfg.Validity; v > 0 {
		return v
	}
	return year
}

// make makes a certificate and stores it; the key first, so that a certificate without its
// key is never found.
func (s *selfSigned) make() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the certificate's key: %w", err)
	}
	tmpl, err := s.template()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.c.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for certificates: %w", err)
	}
	os.Remove(s.files.crt) // an old one would not fit the new key
	for _, f := range []struct {
		path, kind string
		der        []byte
	}{{s.files.key, "PRIVATE KEY", keyDER}, {s.files.crt, "CERTIFICATE", der}} {
		if err := writeFile(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der})); err != nil {
			return nil, fmt.Errorf("storing the certificate: %w", err)
		}
	}
	return s.files.load()
}

func (s *selfSigned) template() (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := s.c.cfg.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: s.commonName()},
		NotBefore:             now.Add(-24 * time.Hour), // clients' clocks
		NotAfter:              now.Add(s.validity()),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	addrs := s.c.cfg.Addrs
	if ip, err := netip.ParseAddr(s.c.host); err == nil {
		addrs = append([]netip.Addr{ip}, addrs...)
	} else if s.c.host != "" {
		tmpl.DNSNames = []string{s.c.host}
	}
	for _, a := range addrs {
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.IP(a.Unmap().WithZone("").AsSlice()))
	}
	return tmpl, nil
}

// commonName is for people; it must not look like the engine's own certificate.
func (s *selfSigned) commonName() string {
	if n := len(s.c.host); n > 0 && n <= 64 {
		return s.c.host
	}
	return "relay"
}
