package control

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"go4.org/mem"
	"google.golang.org/protobuf/proto"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	relayv1 "github.com/keelscale/keelscale/proto/relay/v1"
)

// maxRelayMessage bounds a message of either side, in bytes.
const maxRelayMessage = 1 << 20

// readReport reads one message: its length in four bytes, big endian, and itself.
func readReport(r io.Reader) (*relayv1.Report, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxRelayMessage {
		return nil, fmt.Errorf("a report of %d bytes", size)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, fmt.Errorf("reading a report: %w", err)
	}
	report := new(relayv1.Report)
	if err := proto.Unmarshal(text, report); err != nil {
		return nil, fmt.Errorf("reading a report: %w", err)
	}
	return report, nil
}

// orderFrame is an order as it goes over the wire.
func orderFrame(o *relayv1.Order) ([]byte, error) {
	frame, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 4, 4+proto.Size(o)), o)
	if err != nil {
		return nil, fmt.Errorf("writing an order: %w", err)
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame, nil
}

// Bounds of what a relay says of itself.
const (
	maxRelayAddresses    = 32
	maxRelayCertificates = 8
	maxRelayTroubles     = 16
	maxRelayText         = 253 // bytes, as a DNS name has
)

var (
	pinForm  = regexp.MustCompile(`^sha256-raw:[0-9a-f]{64}$`)
	hostForm = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)
)

// readHello checks who a relay says that it is.
func readHello(h *relayv1.Hello) (key.NodePublic, error) {
	switch {
	case h == nil:
		return key.NodePublic{}, fmt.Errorf("the first report of a relay says who it is, and this one does not")
	case len(h.DerpKey) != key.NodePublicRawLen:
		return key.NodePublic{}, fmt.Errorf("a DERP key has %d bytes, this one %d", key.NodePublicRawLen, len(h.DerpKey))
	case len(h.Version) > maxRelayText || len(h.Name) > maxRelayText || len(h.Region) > maxRelayText || len(h.EnrollKey) > 4*maxRelayText:
		return key.NodePublic{}, fmt.Errorf("version, name, region or key is too long")
	}
	k := key.NodePublicFromRaw32(mem.B(h.DerpKey))
	if k.IsZero() {
		return k, fmt.Errorf("the DERP key is empty")
	}
	return k, nil
}

// readDescription checks what a relay says of itself. What the server finds out by itself is not set.
func readDescription(d *relayv1.Description) (out tailnet.RelayDescription, err error) {
	switch {
	case d == nil:
		return out, fmt.Errorf("the relay does not describe itself")
	case len(d.Addresses) > maxRelayAddresses || len(d.Certificates) > maxRelayCertificates:
		return out, fmt.Errorf("%d addresses or %d certificates are too many", len(d.Addresses), len(d.Certificates))
	case d.DerpPort < 1 || d.DerpPort > 65535 || d.StunPort > 65535:
		return out, fmt.Errorf("there are no ports %d and %d", d.DerpPort, d.StunPort)
	}
	out.Hostname = strings.TrimSuffix(strings.Trim(d.Hostname, "[]"), ".")
	if out.Hostname != "" && !validHost(out.Hostname) {
		return out, fmt.Errorf("hostname %.80q is neither a name nor an address", d.Hostname)
	}
	out.DERPPort, out.STUNPort, out.Port80 = uint16(d.DerpPort), uint16(d.StunPort), d.Port_80
	for _, text := range d.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return out, fmt.Errorf("address %.80q is none", text)
		}
		out.Addresses = append(out.Addresses, a.Unmap())
	}
	for _, c := range d.Certificates {
		if c.Pin != "" && !pinForm.MatchString(c.Pin) || c.Name != "" && !validHost(c.Name) {
			return out, fmt.Errorf("certificate %.80q with pin %.80q is none", c.Name, c.Pin)
		}
		cert := tailnet.RelayCertificate{Name: c.Name, Pin: c.Pin}
		if c.Expires > 0 && c.Expires < endOfTime {
			cert.Expires = time.Unix(c.Expires, 0).UTC()
		}
		out.Certificates = append(out.Certificates, cert)
	}
	return out, nil
}

// endOfTime is a moment in the year 9999, in seconds since 1970: later ones cannot be stored.
const endOfTime = 253_000_000_000

// readLoad is the load of a relay as it is kept; nil where it makes no sense.
func readLoad(l *relayv1.Load) *tailnet.RelayLoad {
	if l.SentBytes > math.MaxInt64 || l.ReceivedBytes > math.MaxInt64 || l.Started < 0 || l.Started/1e6 > endOfTime {
		return nil
	}
	load := &tailnet.RelayLoad{Clients: uint64(l.Clients), SentBytes: l.SentBytes, ReceivedBytes: l.ReceivedBytes}
	if l.Cpu > 0 && l.Cpu < 1e6 {
		load.CPU = l.Cpu
	}
	if l.Started > 0 {
		began := time.UnixMicro(l.Started)
		load.Started = &began
	}
	for _, t := range l.Troubles[:min(len(l.Troubles), maxRelayTroubles)] {
		load.Troubles = append(load.Troubles, strings.ToValidUTF8(t[:min(len(t), maxRelayText)], ""))
	}
	return load
}

func validHost(host string) bool {
	if len(host) > maxRelayText {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return hostForm.MatchString(host) && !strings.Contains(host, "..")
}
