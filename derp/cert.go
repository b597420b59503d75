package derp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// The ways to come by a certificate.
const (
	// LetsEncrypt asks an ACME authority for one, by HTTP-01 or TLS-ALPN-01; for an address,
	// for one that lives six days, by HTTP-01.
	LetsEncrypt = "letsencrypt"
	// Manual reads <dir>/<hostname>.crt and .key, and reads them again when they change.
	Manual = "manual"
	// SelfSigned makes one, and keeps it. Clients know it by its hash; see Cert.Pin.
	SelfSigned = "selfsigned"
)

// CertConfig says where a certificate comes from.
type CertConfig struct {
	// Mode is LetsEncrypt, Manual or SelfSigned. "" means LetsEncrypt for a host name, and
	// SelfSigned for an IP address or nothing. Manual with an IP address and no files is
	// taken as SelfSigned, as cmd/derper does.
	Mode string

	// Hostname is what clients connect to: a name or an IP address, with or without
	// brackets. Only SelfSigned can do without one.
	Hostname string

	// Dir keeps certificates and keys. It is made when it is missing and needed.
	Dir string

	// Email is given to the ACME authority, which may warn there. May be "".
	Email string

	// ACMEDirectory is the URL of the ACME authority. "" means Let's Encrypt.
	ACMEDirectory string

	// Addrs are further addresses that a self-signed certificate is good for.
	Addrs []netip.Addr

	// Validity is how long a self-signed certificate is valid. Zero means a year. The next
	// one, with another pin, is made a month (or a tenth of Validity) before its end.
	Validity time.Duration

	// Log receives what happens to the certificate. Nil means slog.Default().
	Log *slog.Logger

	// Changed, if set, is called when what Certificates returns has changed.
	Changed func()

	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// certSource is one way to come by a certificate.
type certSource interface {
	// get returns the certificate for a handshake.
	get(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// refresh looks whether there is a newer one; force does not trust what it saw before.
	// The one in use stays when that fails.
	refresh(force bool) error
	// current returns the certificate to publish with its Leaf, nil if there is none yet.
	current() *tls.Certificate
	// list describes all that are served, the one to publish first.
	list() []CertInfo
}

// Cert is the certificate of a listener. It follows its files and its own age while Run runs.
type Cert struct {
	cfg    CertConfig
	host   string // without brackets
	source certSource
	acme   *acmeSource   // the source, if it is that
	acmeIP *acmeIPSource // likewise

	refreshing sync.Mutex // held while the source looks for a newer one
}

// OpenCert loads, makes, or prepares to ask for a certificate.
func OpenCert(cfg CertConfig) (*Cert, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Cert{cfg: cfg, host: trimBrackets(strings.TrimSuffix(cfg.Hostname, "."))}
	if err := checkHost(c.host); err != nil {
		return nil, err
	}
	isIP := isAddr(c.host)
	mode := cfg.Mode
	switch {
	case mode == "" && (c.host == "" || isIP):
		mode = SelfSigned
	case mode == "":
		mode = LetsEncrypt
	case mode == Manual && isIP && !manualFiles(cfg.Dir, c.host).areSomebodys(c.host):
		cfg.Log.Info("no certificate files for this address but our own: it is self-signed", "hostname", c.host, "dir", cfg.Dir)
		mode = SelfSigned
	}
	c.cfg.Mode = mode
	var err error
	switch mode {
	case LetsEncrypt:
		if isIP {
			c.acmeIP, err = openACMEIP(c)
			c.source = c.acmeIP
			break
		}
		c.acme, err = openACME(c)
		c.source = c.acme
	case Manual:
		c.source, err = openManual(c)
	case SelfSigned:
		c.source, err = openSelfSigned(c)
	default:
		err = fmt.Errorf("certificate mode %q is not one of %s, %s, %s", mode, LetsEncrypt, Manual, SelfSigned)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// checkHost reports, in a sentence, why host cannot be what clients connect to.
func checkHost(host string) error {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	}
	if host == "" || isAddr(host) {
		return nil
	}
	if len(host) > 253 || strings.ContainsFunc(host, bad) || strings.Contains(host, "..") || strings.HasPrefix(host, ".") {
		return fmt.Errorf("hostname %q is neither a host name nor an IP address (without port or scheme)", host)
	}
	return nil
}

func isAddr(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// Mode is how the certificate is come by, when CertConfig left it open.
func (c *Cert) Mode() string { return c.cfg.Mode }

// TLSConfig serves the certificate. The caller may change it.
func (c *Cert) TLSConfig() *tls.Config {
	cfg := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: c.source.get,
		NextProtos:     []string{"http/1.1"},
	}
	if c.acme != nil {
		cfg.NextProtos = append(cfg.NextProtos, acmeProto)
	}
	return cfg
}

// CertInfo is what a DERP map says of a certificate.
type CertInfo struct {
	// Name is by what SNI gets this certificate and no other; "" for the one that is served
	// to who names none.
	Name string
	// Host is the hostname, with capitals by which SNI gets this certificate and no other,
	// for map entries whose address comes from the DNS. "" behind an address.
	Host string
	// Pin is what the DERP map's CertName must say to trust a certificate that vouches for
	// itself ("sha256-raw:" and 64 hex digits); "" for certificates that an authority
	// vouches for. Clients from v1.84 on understand it.
	Pin string
	// Expires is when it ends, and is served no more.
	Expires time.Time
}

// Published returns the HostName, IPv4 and IPv6 of this certificate's entry in the DERP map.
// hostname is what the operator calls the relay, a name or an address, and v4 and v6 are
// its addresses as far as they are known and do not change. Where there is one, clients need
// no DNS, and HostName only says which certificate is meant.
func (i CertInfo) Published(hostname string, v4, v6 netip.Addr) (host, ip4, ip6 string) {
	hostname = trimBrackets(hostname)
	if ip, err := netip.ParseAddr(hostname); err == nil {
		if ip = ip.Unmap(); ip.Is4() && !v4.IsValid() {
			v4 = ip
		} else if ip.Is6() && !v6.IsValid() {
			v6 = ip
		}
	}
	known := v4.IsValid() || v6.IsValid()
	text := func(ip netip.Addr) string {
		switch {
		case ip.IsValid():
			return ip.String()
		case known && (i.Name != "" || isAddr(hostname)):
			return "none"
		}
		return ""
	}
	switch {
	case known && i.Name != "":
		hostname = i.Name
	case i.Pin != "" && i.Host != "":
		hostname = i.Host
	}
	return hostname, text(v4), text(v6)
}

// Certificates describes those that are served: the one to publish comes first, others are
// served until their end. It is empty before there is any.
func (c *Cert) Certificates() []CertInfo { return c.source.list() }

// oneCert is the list of a source that has no more than one.
func oneCert(host string, cert *tls.Certificate) []CertInfo {
	if cert == nil {
		return nil
	}
	if isAddr(host) {
		host = ""
	}
	return []CertInfo{{Host: host, Pin: pinOf(cert), Expires: cert.Leaf.NotAfter}}
}

func pinOf(cert *tls.Certificate) string {
	if len(cert.Certificate) != 1 || !bytes.Equal(cert.Leaf.RawIssuer, cert.Leaf.RawSubject) {
		return ""
	}
	sum := sha256.Sum256(cert.Leaf.Raw)
	return "sha256-raw:" + hex.EncodeToString(sum[:])
}

// Pin is that of the certificate to publish; see CertInfo.
func (c *Cert) Pin() string {
	if cert := c.source.current(); cert != nil {
		return pinOf(cert)
	}
	return ""
}

// Expires is when the certificate to publish ends; zero if there is none yet.
func (c *Cert) Expires() time.Time {
	if cert := c.source.current(); cert != nil {
		return cert.Leaf.NotAfter
	}
	return time.Time{}
}

// Reload reads the files again, also when they seem unchanged. The certificate in use stays
// when that fails.
func (c *Cert) Reload() error { return c.refresh(true) }

// refreshEvery is how often files are looked at, and the age of a certificate.
const refreshEvery = 10 * time.Second

// Run follows the certificate's files and renews what is renewed here, until ctx ends. It
// returns nil.
func (c *Cert) Run(ctx context.Context) error {
	if c.acme != nil {
		c.acme.first(ctx)
	}
	if c.acmeIP != nil {
		c.acmeIP.run(ctx)
		return nil
	}
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := c.refresh(false)
		if err == nil {
			said = ""
		} else if err.Error() != said { // once, not every ten seconds
			said = err.Error()
			c.cfg.Log.Warn("the new certificate cannot be used, the old one stays", "err", err)
		}
	}
}

func (c *Cert) refresh(force bool) error {
	c.refreshing.Lock()
	before := c.source.list()
	err := c.source.refresh(force)
	now := c.source.list()
	c.refreshing.Unlock()
	if err != nil || slices.Equal(before, now) {
		return err
	}
	for _, info := range now {
		if !slices.ContainsFunc(before, func(was CertInfo) bool { return was.Pin == info.Pin }) {
			c.cfg.Log.Info("certificate loaded", "hostname", c.host, "mode", c.cfg.Mode, "pin", info.Pin, "until", info.Expires.UTC())
		}
	}
	if c.cfg.Changed != nil {
		c.cfg.Changed()
	}
	return nil
}

// HTTPHandler answers ACME challenges on the http port and hands all else to next.
func (c *Cert) HTTPHandler(next http.Handler) http.Handler {
	if c.acmeIP != nil {
		return c.acmeIP.handler(next)
	}
	if c.acme == nil {
		return next
	}
	challenges := c.acme.manager.HTTPHandler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// Some authorities name the port, by which the manager does not know the host.
		if host, _, err := net.SplitHostPort(req.Host); err == nil {
			req = req.Clone(req.Context())
			req.Host = host
		}
		challenges.ServeHTTP(w, req)
	})
}

// needsHTTP reports whether the certificate cannot be had without the http port.
func (c *Cert) needsHTTP(tlsPort uint16) bool {
	return c.acmeIP != nil || c.acme != nil && tlsPort != 443
}

// errNoSNI refuses scanners that walk through addresses.
var errNoSNI = errors.New("the client named no host, or not this one")

// checkSNI reports whether a client that asked for name may see cert. Behind an IP address
// any name will do; a relay that has a name answers to it, and to those on its certificate.
func checkSNI(host, name string, cert *tls.Certificate) error {
	if host == "" || isAddr(host) {
		return nil
	}
	name = strings.TrimSuffix(name, ".")
	if strings.EqualFold(host, name) || name != "" && cert.Leaf != nil && cert.Leaf.VerifyHostname(name) == nil {
		return nil
	}
	return errNoSNI
}

// MachineAddrs are the addresses at which this machine may be reached, those of the public
// Internet first. Loopback and link-local addresses are left out.
func MachineAddrs() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the machine's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range found {
		prefix, err := netip.ParsePrefix(a.String())
		if ip := prefix.Addr().Unmap(); err == nil && ip.IsGlobalUnicast() {
			out = append(out, ip)
		}
	}
	slices.SortStableFunc(out, func(a, b netip.Addr) int { return addrRank(a) - addrRank(b) })
	return out, nil
}

// addrRank puts public before private, and IPv4 before IPv6.
func addrRank(a netip.Addr) (rank int) {
	if !IsPublic(a) {
		rank += 2
	}
	if a.Is6() {
		rank++
	}
	return rank
}

// IsPublic reports whether the whole Internet may reach a.
func IsPublic(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !sharedSpace.Contains(a)
}

// sharedSpace is RFC 6598: carriers' NAT, and tailnets.
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")
