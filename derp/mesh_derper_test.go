package derp_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go4.org/mem"
	ts "tailscale.com/derp"
	"tailscale.com/types/key"
)

// referenceDerper is the version of cmd/derper that ours is tried with.
const referenceDerper = "tailscale.com/cmd/derper@v1.102.5"

// TestMeshWithCmdDerper joins one of ours with Tailscale's own program, both started in the
// same way, and sends packets from each to the other.
func TestMeshWithCmdDerper(t *testing.T) {
	if testing.Short() {
		t.Skip("building cmd/derper takes long")
	}
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "derper"), filepath.Join(dir, "reference", "derper")
	build(t, nil, "build", "-o", ours, "../cmd/derper")
	build(t, []string{"GOBIN=" + filepath.Dir(theirs)}, "install", referenceDerper)
	certificate(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "psk"), []byte(psk), 0o600); err != nil {
		t.Fatal(err)
	}
	addrs := startPair(t, [2]string{ours, theirs}, dir)
	a := enterTLS(t, addrs[0], keyOf(t, addrs[0]), key.NewNode())
	b := enterTLS(t, addrs[1], keyOf(t, addrs[1]), key.NewNode())
	across(t, a, b)
	across(t, b, a)
	a.conn.Close()
	for got := []byte(nil); !bytes.Equal(got, a.raw()); {
		kind, n, err := ts.ReadFrameHeader(b.br)
		if err != nil {
			t.Fatalf("got %v, want to be told that the other node is gone", err)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(b.br, body); err != nil {
			t.Fatal(err)
		}
		if kind == ts.FramePeerGone {
			got = body[:ts.KeyLen]
		}
	}
}

// keyOf asks a relay for its key.
func keyOf(t *testing.T, addr string) key.NodePublic {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := key.ParseNodePublicUntyped(mem.S(res.Header.Get("Derp-Public-Key")))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func build(t *testing.T, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// certificate writes one for 127.0.0.1 to dir, as -certmode manual wants it.
func certificate(t *testing.T, dir string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(filepath.Join(dir, "127.0.0.1"+name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// startPair starts two relays that watch each other, and returns their addresses.
func startPair(t *testing.T, programs [2]string, dir string) (addrs [2]string) {
	t.Helper()
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = ln.Addr().String()
		ln.Close()
	}
	for i, addr := range addrs {
		cmd := exec.Command(programs[i], "-a", addr, "-hostname", "127.0.0.1", "-certmode", "manual", "-certdir", dir,
			"-http-port", "-1", "-stun=false", "-c", filepath.Join(t.TempDir(), "key"),
			"-mesh-psk-file", filepath.Join(dir, "psk"), "-mesh-with", strings.Join(addrs[:], ","))
		cmd.Env = []string{"SSL_CERT_FILE=" + filepath.Join(dir, "127.0.0.1.crt")}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
	for _, addr := range addrs {
		waitFor(t, "the relay to listen", func() bool {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return addrs
}
