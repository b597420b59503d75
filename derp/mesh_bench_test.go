package derp_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	ts "tailscale.com/derp"
	"tailscale.com/types/key"
)

// referenceDerper is the version of cmd/derper that ours is measured against.
const referenceDerper = "tailscale.com/cmd/derper@v1.102.5"

// BenchmarkMesh sends packets over two relays of a mesh, as processes of their own, and counts
// their CPU time per packet: ours and cmd/derper, started in the same way, and one of each.
func BenchmarkMesh(b *testing.B) {
	dir := b.TempDir()
	ours, theirs := filepath.Join(dir, "derper"), filepath.Join(dir, "reference", "derper")
	build(b, nil, "build", "-o", ours, "../cmd/derper")
	build(b, []string{"GOBIN=" + filepath.Dir(theirs)}, "install", referenceDerper)
	certificate(b, dir)
	if err := os.WriteFile(filepath.Join(dir, "psk"), []byte(psk), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, load := range []struct{ pairs, size int }{{1, 1200}, {10, 1200}, {100, 1200}, {10, 64}} {
		for _, by := range []struct {
			name     string
			programs [2]string
		}{
			{"ours", [2]string{ours, ours}}, {"derper", [2]string{theirs, theirs}},
			{"from-ours-to-derper", [2]string{ours, theirs}}, {"from-derper-to-ours", [2]string{theirs, ours}},
		} {
			b.Run(fmt.Sprintf("%dx%dB/%s", load.pairs, load.size, by.name), func(b *testing.B) {
				m := startPair(b, by.programs, dir)
				m.measure(b, load.pairs, load.size)
			})
		}
	}
}

func build(b *testing.B, env []string, args ...string) {
	b.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Skipf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// certificate writes one for 127.0.0.1 to dir, as -certmode manual wants it.
func certificate(b *testing.B, dir string) {
	b.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, priv.Public(), priv)
	if err != nil {
		b.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		b.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(filepath.Join(dir, "127.0.0.1"+name), pem.EncodeToMemory(block), 0o600); err != nil {
			b.Fatal(err)
		}
	}
}

// meshed are two relays that watch each other.
type meshed struct {
	addrs [2]string
	pids  [2]int
}

func startPair(b *testing.B, programs [2]string, dir string) *meshed {
	b.Helper()
	m := &meshed{}
	for i := range m.addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		m.addrs[i] = ln.Addr().String()
		ln.Close()
	}
	for i, addr := range m.addrs {
		cmd := exec.Command(programs[i], "-a", addr, "-hostname", "127.0.0.1", "-certmode", "manual", "-certdir", dir,
			"-http-port", "-1", "-stun=false", "-c", filepath.Join(b.TempDir(), "key"),
			"-mesh-psk-file", filepath.Join(dir, "psk"), "-mesh-with", strings.Join(m.addrs[:], ","))
		cmd.Env = []string{"SSL_CERT_FILE=" + filepath.Join(dir, "127.0.0.1.crt")}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		m.pids[i] = cmd.Process.Pid
		b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
	for _, addr := range m.addrs {
		waitFor(b, "the relay to listen", func() bool {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return m
}

// cpu is the time that both relays have used, in seconds.
func (m *meshed) cpu(b *testing.B) (sum float64) {
	b.Helper()
	for _, pid := range m.pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Skip("without /proc the CPU time of others cannot be known")
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		for _, ticks := range strings.Fields(rest)[11:13] { // utime, stime (proc(5))
			n, err := strconv.Atoi(ticks)
			if err != nil {
				b.Fatal(err)
			}
			sum += float64(n) / 100
		}
	}
	return sum
}

// dial connects a node to one of the relays.
func dial(b *testing.B, addr string) (*ts.Client, key.NodePublic) {
	b.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	fmt.Fprint(conn, "GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n")
	br := bufio.NewReaderSize(conn, 4<<10)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		b.Fatal(res, err)
	}
	self := key.NewNode()
	c, err := ts.NewClient(self, conn, bufio.NewReadWriter(br, bufio.NewWriterSize(conn, 4<<10)), func(string, ...any) {})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := c.Recv(); err != nil {
		b.Fatal(err)
	}
	return c, self.Public()
}

const (
	benchTime   = 3 * time.Second
	benchWindow = 16 // packets under way per pair
)

// measure has pairs of nodes, one at each relay, send for a while.
func (m *meshed) measure(b *testing.B, pairs, size int) {
	got := make(chan struct{}, 1<<16)
	stop, ctxCancel := context.WithCancel(b.Context())
	defer ctxCancel()
	for range pairs {
		from, _ := dial(b, m.addrs[0])
		to, goal := dial(b, m.addrs[1])
		credit := make(chan struct{}, benchWindow)
		go func() {
			for {
				p, err := to.Recv()
				if err != nil {
					return
				}
				if p, ok := p.(ts.ReceivedPacket); ok && len(p.Data) == size {
					select {
					case credit <- struct{}{}:
					default: // given up for lost
					}
					select {
					case got <- struct{}{}:
					default:
					}
				}
			}
		}()
		payload := make([]byte, size)
		waitFor(b, "the relays to know each other's nodes", func() bool {
			if err := from.Send(goal, payload); err != nil {
				b.Fatal(err)
			}
			select {
			case <-got:
				return true
			case <-time.After(20 * time.Millisecond):
				return false
			}
		})
		for len(credit) < cap(credit) {
			credit <- struct{}{}
		}
		go func() {
			lost := time.NewTicker(200 * time.Millisecond) // a lost packet's credit comes back
			defer lost.Stop()
			for {
				select {
				case <-credit:
				case <-lost.C:
				case <-stop.Done():
					return
				}
				if from.Send(goal, payload) != nil {
					return
				}
			}
		}()
	}
	for len(got) > 0 {
		<-got
	}
	b.ResetTimer()
	began, n := m.cpu(b), 0
	end := time.After(benchTime)
	for over := false; !over; {
		select {
		case <-got:
			n++
		case <-end:
			over = true
		}
	}
	used := m.cpu(b) - began
	b.ReportMetric(used/float64(n)*1e6, "cpu-us/packet")
	b.ReportMetric(float64(n)/benchTime.Seconds(), "packets/s")
	b.ReportMetric(0, "ns/op")
}
