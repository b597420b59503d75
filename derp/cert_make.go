package derp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// labelZone is where the names of self-signed certificates are: nobody can have a name there
// in the DNS (RFC 2606), and nobody looks for one, as the map entry has the address.
const labelZone = ".relay.invalid"

const labelPrefix, labelDigits = "r-", 12

// ownLabel is the name of a certificate's own, made from its key.
func ownLabel(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return labelPrefix + hex.EncodeToString(sum[:labelDigits/2]), nil
}

// isLabel reports whether s is such a name, without the zone.
func isLabel(s string) bool {
	digits, ok := strings.CutPrefix(s, labelPrefix)
	return ok && len(digits) == labelDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// hasLabel reports whether a certificate is of our own making.
func hasLabel(leaf *x509.Certificate) bool {
	for _, name := range leaf.DNSNames {
		if label, ok := strings.CutSuffix(name, labelZone); ok && isLabel(label) {
			return true
		}
	}
	return false
}

// spelling writes a host name as none of the others does, so that SNI tells the certificates
// apart also where clients find the relay by the DNS, which does not mind capitals.
func spelling(host string, others []*ownCert) string {
	taken := map[string]bool{}
	for _, own := range others {
		taken[own.host] = true
	}
	for i := -1; i < len(host); i++ {
		try := host
		if i >= 0 {
			try = host[:i] + swapCase(host[i:i+1]) + host[i+1:]
		}
		if !taken[try] {
			return try
		}
	}
	return host
}

func swapCase(s string) string {
	if up := strings.ToUpper(s); up != s {
		return up
	}
	return strings.ToLower(s)
}

// make makes a certificate beside those that there are, and stores it; the key first, so that
// a certificate without its key is never found.
func (s *selfSigned) make(others []*ownCert) (*ownCert, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the certificate's key: %w", err)
	}
	label, err := ownLabel(key.Public())
	if err != nil {
		return nil, fmt.Errorf("naming the certificate: %w", err)
	}
	tmpl, err := s.template(label+labelZone, others)
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
	files := filesIn(s.c.cfg.Dir, s.base)
	for _, own := range others {
		if own.files == files {
			files = filesIn(s.c.cfg.Dir, s.base+"."+label)
		}
	}
	if err := files.store(keyDER, der); err != nil {
		return nil, fmt.Errorf("storing the certificate: %w", err)
	}
	pair, err := files.load()
	if err != nil {
		return nil, err
	}
	return s.own(pair, files), nil
}

func (s *selfSigned) template(label string, others []*ownCert) (*x509.Certificate, error) {
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
		DNSNames:              []string{label},
	}
	addrs := s.c.cfg.Addrs
	if ip, err := netip.ParseAddr(s.c.host); err == nil {
		addrs = append([]netip.Addr{ip}, addrs...)
	} else if s.c.host != "" {
		tmpl.DNSNames = append(tmpl.DNSNames, spelling(s.c.host, others))
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

// store writes a new pair, in place of an old one.
func (f certFiles) store(keyDER, der []byte) error {
	if err := os.MkdirAll(f.dir(), 0o700); err != nil {
		return err
	}
	os.Remove(f.crt) // an old one would not fit the new key
	if err := ReplaceFile(f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})); err != nil {
		return err
	}
	return ReplaceFile(f.crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// remove deletes a pair; the certificate first, so that it is never found without its key.
func (f certFiles) remove() {
	os.Remove(f.crt)
	os.Remove(f.key)
}
