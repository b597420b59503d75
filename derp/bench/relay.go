package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// program is one that is measured.
type program int

const (
	derper program = iota
	ours
	bare // the floor: see serveFloor
)

// String is the program's name in messages.
func (p program) String() string { return [...]string{"cmd/derper", "ours", "the floor"}[p] }

// hall is where relays are started.
type hall struct {
	options
	dir  string
	self string // this program
	runs int
}

// newHall makes the certificate and the mesh key that all relays use.
func newHall(dir string, o options) (*hall, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "bench"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(300 * 24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	h := &hall{options: o, dir: dir, self: self}
	for name, content := range map[string][]byte{
		"127.0.0.1.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"127.0.0.1.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		"mesh.key":      []byte(strings.Repeat("5e", 32) + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// relay is a running relay.
type relay struct {
	cmd    *exec.Cmd
	addr   string
	tls    bool
	stderr bytes.Buffer
	done   chan error
}

// freeAddr is a loopback address that nobody listened on a moment ago.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// start starts a relay that stands alone.
func (h *hall) start(ctx context.Context, p program, tls bool) (*relay, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return h.startAt(ctx, p, tls, addr)
}

// startMesh starts two relays that know each other.
func (h *hall) startMesh(ctx context.Context, p program) (a, b *relay, err error) {
	addrA, err := freeAddr()
	if err != nil {
		return nil, nil, err
	}
	addrB, err := freeAddr()
	if err != nil {
		return nil, nil, err
	}
	psk := filepath.Join(h.dir, "mesh.key")
	if a, err = h.startAt(ctx, p, true, addrA, "-mesh-psk-file", psk, "-mesh-with", addrB); err != nil {
		return nil, nil, err
	}
	if b, err = h.startAt(ctx, p, true, addrB, "-mesh-psk-file", psk, "-mesh-with", addrA); err != nil {
		a.stop()
		return nil, nil, err
	}
	return a, b, nil
}

func (h *hall) startAt(ctx context.Context, p program, tls bool, addr string, more ...string) (*relay, error) {
	h.runs++
	args := []string{"-a", addr, "-http-port", "-1", "-stun=false", "-hostname", "127.0.0.1", "-certdir", h.dir,
		"-c", filepath.Join(h.dir, fmt.Sprintf("%d.key", h.runs))}
	name := h.ours
	switch {
	case p == bare:
		name, args = h.self, []string{"floor", addr, h.dir}
	case tls:
		args = append(args, "-certmode", "manual")
	case p == derper:
		args = append(args, "-certmode", "letsencrypt") // plain HTTP on any port but 443
	default:
		args = append(args, "-certmode", "off")
	}
	if p == derper {
		name = h.derper
	}
	r := &relay{cmd: exec.CommandContext(ctx, name, append(args, more...)...), addr: addr, tls: tls, done: make(chan error, 1)}
	r.cmd.Stderr = &r.stderr
	// The relays of a mesh trust each other's certificate as if an authority vouched for it.
	r.cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+filepath.Join(h.dir, "127.0.0.1.crt"))
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { r.done <- r.cmd.Wait() }()
	for end := time.Now().Add(10 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
			return r, nil
		}
		select {
		case err := <-r.done:
			return nil, fmt.Errorf("%s ended: %v\n%s", name, err, r.stderr.Bytes())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			r.stop()
			return nil, fmt.Errorf("%s does not listen: %w\n%s", name, err, r.stderr.Bytes())
		}
	}
}

func (r *relay) stop() {
	r.cmd.Process.Kill()
	<-r.done
}

// cpu is the processor time that the relay has used, user and system.
func (r *relay) cpu() time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// memory is a line of /proc/PID/status in KiB: VmRSS or VmHWM.
func (r *relay) memory(line string) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), line+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.Atoi(fields[0])
	return float64(kb)
}
