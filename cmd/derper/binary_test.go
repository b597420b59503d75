package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ts "tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

// The program as it is installed: built, started on loopback, spoken to, ended.

var build struct {
	sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if build.path != "" {
		os.RemoveAll(filepath.Dir(build.path))
	}
	os.Exit(code)
}

func binary(t *testing.T) string {
	t.Helper()
	build.Do(func() {
		dir, err := os.MkdirTemp("", "derper")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "derper")
		cmd := exec.Command("go", "build", "-o", build.path, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = err
			os.Stderr.Write(out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// output is what a process wrote so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

const patience = 2 * time.Minute

func waitFor(t *testing.T, what string, out *output, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s; the output is\n%s", what, out)
		case <-tick.C:
		}
	}
}

// start runs derper with an environment of its own and returns when it is ready.
func start(t *testing.T, env []string, args ...string) (*exec.Cmd, *output) {
	t.Helper()
	out := &output{}
	cmd := exec.Command(binary(t), args...)
	cmd.Env = append([]string{"STATE_DIRECTORY=" + t.TempDir(), "PATH=/none"}, env...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	waitFor(t, "derper to be ready", out, func() bool { return strings.Contains(out.String(), "  admits ") })
	return cmd, out
}

var entryOf = regexp.MustCompile(`(?s)\n(\{\n.*?\n\})\n`)

// region is what derper printed for the DERP map.
func region(t *testing.T, out *output) *tailcfg.DERPRegion {
	t.Helper()
	found := entryOf.FindStringSubmatch(out.String())
	if found == nil {
		t.Fatalf("no entry for the DERP map in\n%s", out)
	}
	var m tailcfg.DERPMap
	if err := json.Unmarshal([]byte(found[1]), &m); err != nil {
		t.Fatalf("%v in\n%s", err, found[1])
	}
	return m.Regions[900]
}

func connect(t *testing.T, r *tailcfg.DERPRegion) (*derphttp.Client, error) {
	c := derphttp.NewRegionClient(key.NewNode(), t.Logf, netmon.NewStatic(), func() *tailcfg.DERPRegion { return r })
	t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		return nil, err
	}
	_, err := c.Recv()
	return c, err
}

func stop(t *testing.T, cmd *exec.Cmd, out *output) {
	t.Helper()
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("got %v after SIGTERM, want a clean end; the output is\n%s", err, out)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v to end", took)
	}
}

// The modern way without a domain: an address, and what is printed goes into the map.
func TestSelfSignedByAddress(t *testing.T) {
	cmd, out := start(t, []string{"DERP_ADDR=127.0.0.1:0", "DERP_HOST=127.0.0.1", "DERP_HTTP_PORT=-1", "DERP_STUN_PORT=0"})
	r := region(t, out)
	a, err := connect(t, r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := connect(t, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Send(b.SelfPublicKey(), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	m, err := b.Recv()
	if p, ok := m.(ts.ReceivedPacket); err != nil || !ok || string(p.Data) != "hello" {
		t.Errorf("got %v, %v, want hello", m, err)
	}
	if r.Nodes[0].STUNPort == 0 {
		t.Errorf("the entry has STUN port 0 for %v", r.Nodes[0])
	}
	stop(t, cmd, out)
	for told := false; ; {
		m, err := b.Recv()
		if err != nil {
			if !told {
				t.Error("the client was not told that the relay restarts")
			}
			break // and the connection has ended
		}
		if _, ok := m.(ts.ServerRestartingMessage); ok {
			told = true
		}
	}
}

func TestVerifyClientURL(t *testing.T) {
	var allow atomic.Bool
	allow.Store(true)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(tailcfg.DERPAdmitClientResponse{Allow: allow.Load()})
	}))
	defer srv.Close()
	_, out := start(t, []string{"DERP_VERIFY_CLIENT_URL=" + srv.URL + "/verify"},
		"--a", "127.0.0.1:0", "--hostname", "127.0.0.1", "--http-port", "-1", "--stun=false")
	r := region(t, out)
	if _, err := connect(t, r); err != nil {
		t.Fatal(err)
	}
	allow.Store(false)
	if _, err := connect(t, r); err == nil {
		t.Error("a stranger was admitted")
	}
	srv.Close()
	if _, err := connect(t, r); err == nil {
		t.Error("a stranger was admitted while nobody could be asked")
	}
	waitFor(t, "two refusals in the log", out, func() bool { return strings.Count(out.String(), "client refused") >= 2 })
}

func TestReloadOnSIGHUP(t *testing.T) {
	dir := t.TempDir()
	pair := func() *derp.Cert {
		c, err := derp.OpenCert(derp.CertConfig{Mode: derp.SelfSigned, Hostname: "localhost", Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := pair().Pin()
	rates := filepath.Join(dir, "rates.json")
	if err := os.WriteFile(rates, []byte(`{"PerClientRateLimitBytesPerSec": 1000000}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd, out := start(t, nil, "-a", "127.0.0.1:0", "-hostname", "localhost", "-certmode", "manual", "-certdir", dir, "-http-port", "-1", "-stun=false", "-rate-config", rates)
	r := region(t, out)
	if got := r.Nodes[0].CertName; got != first {
		t.Errorf("got pin %s, want %s", got, first)
	}
	for _, ext := range []string{"crt", "key"} {
		if err := os.Remove(filepath.Join(dir, "localhost."+ext)); err != nil {
			t.Fatal(err)
		}
	}
	second := pair().Pin()
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the reload", out, func() bool { return strings.Contains(out.String(), "msg=reloaded") })
	r.Nodes[0].CertName = second
	if _, err := connect(t, r); err != nil {
		t.Errorf("connecting with the new pin: %v", err)
	}
	if !strings.Contains(out.String(), second) {
		t.Errorf("the log does not tell of the new pin:\n%s", out)
	}
	stop(t, cmd, out)
}

// The file says what flags say, flags win, and what is live is taken from it again.
func TestConfigFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "derper.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const rest = "hostname: 127.0.0.1\nlisten:\n  address: :1\n  http-port: -1\n  stun: false\n  debug-addr: 127.0.0.1:0\n"
	write(rest + "limits: {node: 1MB}\n")
	cmd, out := start(t, []string{"DERP_CONFIG=" + file}, "-a", "127.0.0.1:0")
	limit := func() int { // what a client is told to keep to
		n := region(t, out)
		c := derphttp.NewRegionClient(key.NewNode(), t.Logf, netmon.NewStatic(), func() *tailcfg.DERPRegion { return n })
		defer c.Close()
		m, err := c.Recv()
		info, ok := m.(ts.ServerInfoMessage)
		if err != nil || !ok {
			t.Fatalf("got %v, %v, want to be welcomed", m, err)
		}
		return info.TokenBucketBytesPerSecond
	}
	if got := limit(); got != 1000000 {
		t.Errorf("got a limit of %d, want 1000000", got)
	}
	reload := func(text, say string) {
		t.Helper()
		write(text)
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		waitFor(t, say, out, func() bool { return strings.Contains(out.String(), say) })
	}
	reload(rest+"limits: {node: 2MB}\nlog: {log-level: debug}\nmap: {region-id: 901}\n", `changed="-limit-node, -log-level"`)
	if got := limit(); got != 2000000 {
		t.Errorf("got a limit of %d after the reload, want 2000000", got)
	}
	if !strings.Contains(out.String(), "need a restart") || !strings.Contains(out.String(), "settings=-region-id") {
		t.Errorf("the log does not say what needs a restart:\n%s", out)
	}
	reload(rest+"limits: {nod: 3MB}\n", `unknown key limits.nod (did you mean`)
	if got := limit(); got != 2000000 {
		t.Errorf("got a limit of %d after a reload of nonsense, want 2000000", got)
	}
	stop(t, cmd, out)
}

func TestPlainBehindAProxy(t *testing.T) {
	_, out := start(t, nil, "-a", "127.0.0.1:0", "-certmode", "off", "-stun=false")
	at := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(out.String())
	res, err := http.Get("http://" + at + "/derp/probe")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("got %s", res.Status)
	}
	if strings.Contains(out.String(), "DERP map") {
		t.Errorf("an entry was printed for a relay whose address is the proxy's:\n%s", out)
	}
}

func TestJSONLog(t *testing.T) {
	out := &output{}
	cmd := exec.Command(binary(t), "-a", "127.0.0.1:0", "-hostname", "127.0.0.1", "-http-port", "-1", "-stun=false", "-log-format", "json")
	cmd.Env = []string{"STATE_DIRECTORY=" + t.TempDir()}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "derper to be ready", out, func() bool { return strings.Contains(out.String(), `"msg":"ready"`) })
	stop(t, cmd, out)
	for line := range strings.Lines(out.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestFailuresExitWithOneSentence(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)
	notADir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notADir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	enrolKey := "hskey-relay-0123456789ab-" + strings.Repeat("5a", 32)
	for _, tt := range []struct{ args, want string }{
		{"-a 127.0.0.1:" + port, "opening the relay's port"},
		{"-a nowhere", "listen address"},
		{"-hostname derp.example.org -certmode manual", "looking for the certificate"},
		{"-hostname 10.0.2.1 -certmode letsencrypt", "-certmode selfsigned"},
		{"-mesh-with a", "-mesh-psk-file"},
		{"-mesh-psk-file " + notADir + " -mesh-with a", "mesh"},
		{"-c " + notADir, "reading the relay's key"},
		{"-certdir " + filepath.Join(notADir, "x"), "certificate"},
		{"-home nowhere", "home page"},
		{"-verify-client-url nowhere", "-verify-client-url"},
		{"-rate-config " + notADir, "rate file"},
		{"-control http://127.0.0.1:1", "not enrolled yet"},
		{"-control 127.0.0.1:8080 -enroll-key " + enrolKey, "give its URL"},
		{"-control http://127.0.0.1:1 -enroll-key " + strings.Replace(enrolKey, "relay", "auth", 1), "of another kind"},
		{"-control http://127.0.0.1:1 -enroll-key " + enrolKey + " -enroll-state " + notADir, "is damaged"},
		{"-control http://127.0.0.1:1 -enroll-key " + enrolKey + " -certmode off", "-hostname"},
		{"-control http://127.0.0.1:1 -enroll-key " + enrolKey + " -derp=false", "runs none"},
	} {
		cmd := exec.Command(binary(t), strings.Fields("-a 127.0.0.1:0 -http-port -1 -stun=false -log-level error "+tt.args)...)
		cmd.Env = []string{"STATE_DIRECTORY=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), tt.want) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s: got %v and %q, want one line with %q", tt.args, err, out, tt.want)
		}
	}
}

// The http port leads to https at the port that is really open, also with a name.
func TestRedirectFollowsThePort(t *testing.T) {
	_, out := start(t, nil, "-a", "127.0.0.1:0", "-hostname", "127.0.0.1", "-http-port", "0", "-stun=false")
	ports := regexp.MustCompile(`127\.0\.0\.1:(\d+)/tcp`).FindAllStringSubmatch(out.String(), 2)
	if len(ports) != 2 {
		t.Fatalf("want two ports in\n%s", out)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://127.0.0.1:" + ports[1][1] + "/robots.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Request.URL.String(); got != "https://127.0.0.1:"+ports[0][1]+"/robots.txt" || res.StatusCode != 200 {
		t.Errorf("got %s from %s", res.Status, got)
	}
}

// A relay is a small thing: no database, no gRPC.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		for _, no := range []string{"gorm.io/", "google.golang.org/grpc", "modernc.org/", "github.com/keelscale/keelscale/hscontrol", "github.com/keelscale/keelscale/proto/headscale"} {
			if strings.HasPrefix(dep, no) {
				t.Errorf("derper imports %s", dep)
			}
		}
	}
}
