package hstest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// apiCall is one kind of call, and how many there are of it among a hundred.
type apiCall struct {
	name  string
	share int
	make  func(r *rand.Rand) (method, path, body string)
}

// apiCalls are what user interfaces, exporters and scripts ask of a server with so many nodes. Two in a hundred change
// a node.
func apiCalls(nodes int) []apiCall {
	get := func(path string) func(*rand.Rand) (string, string, string) {
		return func(*rand.Rand) (string, string, string) { return "GET", path, "" }
	}
	node := func(r *rand.Rand) string { return "/node/" + strconv.Itoa(1+r.IntN(nodes)) }
	return []apiCall{
		{"a node", 32, func(r *rand.Rand) (string, string, string) { return "GET", node(r), "" }},
		{"50 nodes", 20, get("/node?pageSize=50")},
		{"all nodes", 2, get("/node")},
		{"users", 14, get("/user")},
		{"keys", 10, get("/preauthkey?pageSize=50")},
		{"policy", 8, get("/policy")},
		{"API keys", 4, get("/apikey")},
		{"health", 4, get("/health")},
		{"make a key", 4, func(*rand.Rand) (string, string, string) { return "POST", "/preauthkey", `{"user": "bench"}` }},
		{"rename", 1, func(r *rand.Rand) (string, string, string) {
			return "POST", node(r) + "/rename/box-" + strconv.FormatUint(r.Uint64(), 36), ""
		}},
		{"approve", 1, func(r *rand.Rand) (string, string, string) {
			return "POST", node(r) + "/approve_routes", fmt.Sprintf(`{"routes": ["10.%d.%d.0/24"]}`, r.IntN(256), r.IntN(256))
		}},
	}
}

// TestAPIUnderLoad makes mixed calls at a steady rate while nodes are connected and changes go out to all of them. The
// clock of a call begins when it is due, so that a server that stands still is not let off. The calls come from a process
// of their own: what a thousand nodes cost is not the caller's. For numbers: make bench-api.
func TestAPIUnderLoad(t *testing.T) {
	nodes, rate, changes := setting(t, "API_NODES", 40), setting(t, "API_CALLS", 100), setting(t, "API_CHANGES", 10)
	seconds, limit := setting(t, "API_SECONDS", 3), setting(t, "API_P99_MS", 0)
	l := startAPILoad(t, nodes)
	ctx, stop := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { l.change(ctx, max(changes-rate*2/100, 1)) })
	before, own := cpuTime(t, l.server.PID()), cpuTime(t, os.Getpid())
	took := l.runElsewhere(apiCalling{URL: l.server.URL, Keys: l.keys, Nodes: nodes, Rate: rate, Seconds: seconds})
	wg.Wait()
	t.Logf("the server took %.1f s of a processor for it, the nodes %.1f s",
		(cpuTime(t, l.server.PID()) - before).Seconds(), (cpuTime(t, os.Getpid()) - own).Seconds())

	var all []time.Duration
	for _, name := range slices.Sorted(maps.Keys(took)) {
		all = append(all, took[name]...)
		t.Logf("%-10s  %6d calls  p50 %6.1f ms  p99 %6.1f ms", name, len(took[name]), quantile(took[name], .5), quantile(took[name], .99))
	}
	p99 := quantile(all, .99)
	t.Logf("%d nodes, %d calls a second, %d changes a second: %d calls, p50 %.1f ms, p99 %.1f ms, longest %.1f ms; nodes read %d KiB/s",
		nodes, rate, changes, len(all), quantile(all, .5), p99, quantile(all, 1), l.read.Load()/1024/int64(seconds))
	if len(all) != rate*seconds {
		t.Errorf("got %d calls made, want %d", len(all), rate*seconds)
	}
	if limit > 0 && p99 > float64(limit) {
		t.Errorf("got %.1f ms for 99 of 100 calls, want %d ms at most", p99, limit)
	}
}

// cpuTime is what a process took of processors until now.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ") // a name in parentheses stands before
	var ticks int
	fields := strings.Fields(rest)
	for _, at := range []int{14 - 3, 15 - 3} { // utime and stime of proc(5), in hundredths of a second
		n, err := strconv.Atoi(fields[at])
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// apiLoad is a server with nodes connected.
type apiLoad struct {
	*apiCaller
	server *hstest.Process
	nodes  []*hstest.Node
	read   atomic.Int64 // bytes that the nodes read
}

// apiCaller is somebody who calls the API of a server.
type apiCaller struct {
	t      *testing.T
	url    string
	keys   []string
	client *http.Client
}

func newAPICaller(t *testing.T, url string, keys ...string) *apiCaller {
	return &apiCaller{t: t, url: url, keys: keys, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
}

func startAPILoad(t *testing.T, nodes int) *apiLoad {
	t.Helper()
	server := hstest.StartProcess(t)
	l := &apiLoad{server: server, apiCaller: newAPICaller(t, server.URL)}
	secret := l.server.ProcessKey()
	for range 4 {
		l.keys = append(l.keys, l.server.CLI("apikeys", "create"))
	}
	if status, text := l.call("PUT", "/policy", `{"policy": "{\"acls\": [{\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"*:*\"]}]}"}`); status != http.StatusOK {
		t.Fatalf("setting the policy: got %d: %s", status, text)
	}
	l.nodes = make([]*hstest.Node, nodes)
	gate := make(chan bool, 16)
	var wg sync.WaitGroup
	for i := range nodes {
		wg.Go(func() {
			gate <- true
			defer func() { <-gate }()
			l.nodes[i] = l.server.Node("node" + strconv.Itoa(i))
			l.nodes[i].Join(secret)
			l.poll(l.nodes[i])
		})
	}
	wg.Wait()
	await(t, "everybody online", func() bool { return l.online() == nodes })
	return l
}

// poll keeps a node connected until the test ends. What it reads is only counted, as this machine has the server to
// run as well.
func (l *apiLoad) poll(n *hstest.Node) {
	ctx, stop := context.WithCancel(context.Background())
	resp, err := n.Post(ctx, "/machine/map", &tailcfg.MapRequest{
		Version: n.Cap, Compress: "zstd", KeepAlive: true, Stream: true, NodeKey: n.Key.Public(), DiscoKey: n.Disco.Public(), Hostinfo: n.Hostinfo,
	})
	if err != nil {
		stop()
		l.t.Errorf("%s polls: %v", n.Name, err)
		return
	}
	ended := make(chan bool)
	go func() {
		defer close(ended)
		io.Copy(counter{&l.read}, resp.Body)
	}()
	l.t.Cleanup(func() {
		stop()
		resp.Body.Close()
		<-ended
	})
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// online is how many nodes the server says are there.
func (l *apiLoad) online() (n int) {
	_, text := l.call("GET", "/node", "")
	var answer struct{ Nodes []struct{ Online bool } }
	if err := json.Unmarshal(text, &answer); err != nil {
		l.t.Fatalf("listing nodes: %v in %.100s", err, text)
	}
	for _, node := range answer.Nodes {
		if node.Online {
			n++
		}
	}
	return n
}

// call makes one call and gives its status and answer; status 0 where there was none.
func (l *apiCaller) call(method, path, body string) (int, []byte) {
	req, err := http.NewRequest(method, l.url+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		return 0, []byte(err.Error())
	}
	req.Header.Set("Authorization", "Bearer "+l.keys[rand.IntN(len(l.keys))])
	req.Header.Set("Accept", "application/json")
	resp, err := l.client.Do(req)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		return 0, []byte(err.Error())
	}
	return resp.StatusCode, text.Bytes()
}

// apiCalling is what a process that calls is told to do.
type apiCalling struct {
	URL     string
	Keys    []string
	Nodes   int // that the server has
	Rate    int // calls in a second
	Seconds int
}

// callerEnv has an apiCalling, as JSON, for a process that calls; callerFile is where it writes how long its calls took.
const (
	callerEnv  = "API_CALLER"
	callerFile = "API_CALLER_FILE"
)

// runElsewhere makes calls in a process of its own, and tells how long each kind took.
func (l *apiLoad) runElsewhere(what apiCalling) (took map[string][]time.Duration) {
	l.t.Helper()
	order, err := json.Marshal(what)
	if err != nil {
		l.t.Fatal(err)
	}
	file := filepath.Join(l.t.TempDir(), "took.json")
	caller := exec.Command(os.Args[0], "-test.run", "^TestAPICaller$", "-test.v")
	caller.Env = append(os.Environ(), callerEnv+"="+string(order), callerFile+"="+file)
	if out, err := caller.CombinedOutput(); err != nil {
		l.t.Fatalf("calling: %v\n%s", err, out)
	}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &took)
	}
	if err != nil {
		l.t.Fatalf("reading what the calls took: %v", err)
	}
	return took
}

// TestAPICaller is the process that calls.
func TestAPICaller(t *testing.T) {
	order := os.Getenv(callerEnv)
	if order == "" {
		t.Skip("TestAPIUnderLoad runs this in a process of its own")
	}
	var what apiCalling
	if err := json.Unmarshal([]byte(order), &what); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(newAPICaller(t, what.URL, what.Keys...).run(what))
	if err == nil {
		err = os.WriteFile(os.Getenv(callerFile), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run makes so many calls a second for so many seconds, and tells how long each kind took.
func (l *apiCaller) run(what apiCalling) map[string][]time.Duration {
	var deck []apiCall // a hundred, shuffled
	for _, c := range apiCalls(what.Nodes) {
		deck = append(deck, slices.Repeat([]apiCall{c}, c.share)...)
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(deck), func(i, k int) { deck[i], deck[k] = deck[k], deck[i] })

	var mu sync.Mutex
	took := map[string][]time.Duration{}
	var wg sync.WaitGroup
	start := time.Now()
	for i := range what.Rate * what.Seconds {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(what.Rate))
		time.Sleep(time.Until(due))
		c := deck[i%len(deck)]
		method, path, body := c.make(r)
		wg.Go(func() {
			status, text := l.call(method, path, body)
			d := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			took[c.name] = append(took[c.name], d)
			if status != http.StatusOK {
				l.t.Errorf("%s %s: got %d: %.200s", method, path, status, text)
			}
		})
	}
	wg.Wait()
	return took
}

// change has so many nodes a second tell new endpoints, of which all others hear.
func (l *apiLoad) change(ctx context.Context, rate int) {
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		endpoint := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 41641)
		if status, text := l.nodes[i%len(l.nodes)].TryUpdate(ctx, endpoint.String()); status != http.StatusOK && ctx.Err() == nil {
			l.t.Errorf("%s tells its endpoints: got %d: %s", l.nodes[i%len(l.nodes)].Name, status, text)
		}
	}
}
