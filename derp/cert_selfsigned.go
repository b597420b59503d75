package derp

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Clients know a self-signed certificate by its hash, which the DERP map tells them. So that
// none is ever without a relay that it trusts, the next certificate is made, served and
// published long before the old one ends, and the old one is served until then:
//
//	made        next made            old ends
//	|-- old, published --|- still served -|
//	                     |-- next, published and served --------...
//
// A client says by SNI which of the two its DERP map means: each has a name of its own, by
// which it is published while there is an older one. The oldest is published by the plain
// address, and is what those get who name none.

// year is how long a self-signed certificate is valid unless told otherwise.
const year = 365 * 24 * time.Hour

// selfSigned are the certificates of our own making for one host, kept in files so that their
// pins survive a restart.
type selfSigned struct {
	c    *Cert
	base string // of the first one's files; the others add their label
	set  atomic.Pointer[ownSet]
	seen map[certFiles]stamp // only refresh touches it
}

// ownSet are the certificates that are served, the newest first.
type ownSet struct{ certs []*ownCert }

// ownCert is one of them.
type ownCert struct {
	*tls.Certificate
	files certFiles
	label string // see ownLabel; "" for one that was made elsewhere, or before there were labels
	host  string // the hostname as this one's map entry writes it; "" for addresses
}

func openSelfSigned(c *Cert) (*selfSigned, error) {
	if c.cfg.Dir == "" {
		return nil, errors.New("a self-signed certificate needs a directory to be kept in (-certdir)")
	}
	base := strings.ReplaceAll(c.host, ":", "-")
	if base == "" {
		base = "selfsigned"
	}
	if isAddr(c.host) { // which cmd/derper writes in another way
		base = strings.TrimSuffix(filepath.Base(manualFiles(c.cfg.Dir, c.host).crt), ".crt")
	}
	s := &selfSigned{c: c, base: base}
	s.set.Store(&ownSet{})
	if err := s.refresh(true); err != nil {
		return nil, err
	}
	return s, nil
}

// get serves the certificate that the client's DERP map means. The oldest one is for those
// who know it by the plain hostname, or do not say.
func (s *selfSigned) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certs := s.set.Load().certs
	name := strings.TrimSuffix(hello.ServerName, ".")
	for _, own := range certs {
		if name != "" && (name == own.host || strings.EqualFold(name, own.label)) {
			return own.Certificate, nil
		}
	}
	oldest := certs[len(certs)-1]
	return oldest.Certificate, checkSNI(s.c.host, name, oldest.Certificate)
}

// current is the one to publish.
func (s *selfSigned) current() *tls.Certificate {
	if certs := s.set.Load().certs; len(certs) > 0 {
		return certs[0].Certificate
	}
	return nil
}

func (s *selfSigned) list() (infos []CertInfo) {
	for _, own := range s.set.Load().certs {
		infos = append(infos, CertInfo{Name: own.label, Host: own.host, Pin: pinOf(own.Certificate), Expires: own.Leaf.NotAfter})
	}
	if n := len(infos); n > 0 {
		infos[n-1].Name = "" // see get; clients behind a proxy reach an address, and no name of ours
	}
	return infos
}

// refresh loads the files if they changed, forgets what has ended, and makes a certificate if
// there is none, or if the time of the newest one is coming.
func (s *selfSigned) refresh(force bool) error {
	files, err := s.find()
	if err != nil {
		return fmt.Errorf("looking for the certificate: %w", err)
	}
	certs := s.set.Load().certs
	if force || !sameFiles(files, s.seen) {
		if certs, err = s.load(files); err != nil {
			return err
		}
	}
	certs, ended := s.withoutEnded(certs)
	if why := s.wants(certs, ended); why != "" {
		s.c.cfg.Log.Info("making a self-signed certificate", "hostname", s.c.host, "dir", s.c.cfg.Dir, "reason", why)
		next, err := s.make(certs)
		if err != nil {
			return err
		}
		certs = append([]*ownCert{next}, certs...)
		ended = slices.DeleteFunc(ended, func(own *ownCert) bool { return own.files == next.files })
	}
	for _, own := range ended {
		own.files.remove()
	}
	if s.seen, err = s.find(); err != nil {
		return fmt.Errorf("looking for the certificate: %w", err)
	}
	s.set.Store(&ownSet{certs})
	return nil
}

// find lists the files of our certificates.
func (s *selfSigned) find() (map[certFiles]stamp, error) {
	found := map[certFiles]stamp{}
	names := []string{s.base}
	entries, err := os.ReadDir(s.c.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		name, isCrt := strings.CutSuffix(e.Name(), ".crt")
		if label, ok := strings.CutPrefix(name, s.base+"."); ok && isCrt && isLabel(label) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		f := filesIn(s.c.cfg.Dir, name)
		stamp, err := f.stamp()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found[f] = stamp
	}
	return found, nil
}

func sameFiles(a, b map[certFiles]stamp) bool {
	for f, stamp := range a {
		if seen, ok := b[f]; !ok || seen != stamp {
			return false
		}
	}
	return len(a) == len(b)
}

// load reads the certificates that are for our host, the newest first.
func (s *selfSigned) load(files map[certFiles]stamp) (certs []*ownCert, err error) {
	for f := range files {
		pair, err := f.load()
		if err != nil {
			return nil, fmt.Errorf("%w (remove both files to have new ones made)", err)
		}
		if host := s.c.host; host == "" || pair.Leaf.VerifyHostname(host) == nil {
			certs = append(certs, s.own(pair, f))
		}
	}
	slices.SortFunc(certs, func(a, b *ownCert) int {
		if c := b.Leaf.NotBefore.Compare(a.Leaf.NotBefore); c != 0 {
			return c
		}
		return strings.Compare(a.files.crt, b.files.crt)
	})
	return certs, nil
}

// own reads from a certificate the names by which clients ask for it.
func (s *selfSigned) own(pair *tls.Certificate, f certFiles) *ownCert {
	own := &ownCert{Certificate: pair, files: f}
	if !isAddr(s.c.host) {
		own.host = s.c.host
	}
	for _, name := range pair.Leaf.DNSNames {
		if label, ok := strings.CutSuffix(name, labelZone); ok && isLabel(label) {
			own.label = name
		} else if strings.EqualFold(name, s.c.host) {
			own.host = name
		}
	}
	return own
}

// withoutEnded parts those that still count from those whose time is over.
func (s *selfSigned) withoutEnded(certs []*ownCert) (valid, ended []*ownCert) {
	now := s.c.cfg.Now()
	for _, own := range certs {
		if now.After(own.Leaf.NotAfter) {
			ended = append(ended, own)
		} else {
			valid = append(valid, own)
		}
	}
	return valid, ended
}

// wants says why another certificate is needed, "" if none is.
func (s *selfSigned) wants(certs, ended []*ownCert) string {
	switch {
	case len(certs) == 0 && len(ended) > 0:
		return "the last one has ended"
	case len(certs) == 0:
		return "there is none for this host"
	}
	early := min(30*24*time.Hour, s.validity()/10)
	if end := certs[0].Leaf.NotAfter; s.c.cfg.Now().After(end.Add(-early)) {
		return "the present one ends on " + end.UTC().Format(time.DateTime)
	}
	return ""
}

func (s *selfSigned) validity() time.Duration {
	if v := s.c.cfg.Validity; v > 0 {
		return v
	}
	return year
}
