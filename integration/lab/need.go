//go:build linux

package lab

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// tools are the programs of the machine that scenes run, each with the Debian package that has it.
var tools = map[string]string{
	"ip": "iproute2", "nft": "nftables", "iptables": "iptables", "ping": "iputils-ping", "dig": "dnsutils",
	"curl": "curl", "openssl": "openssl", "nsenter": "util-linux", "unshare": "util-linux",
}

// Unable says why this machine cannot run a lab, or "" when it can.
func Unable() string {
	if os.Geteuid() != 0 {
		return "network namespaces and TUN need root"
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return "no TUN device: " + err.Error()
	}
	for tool, pkg := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Sprintf("no program %s (apt-get install %s)", tool, pkg)
		}
	}
	if out, err := exec.Command("unshare", "--net", "--mount", "--uts", "true").CombinedOutput(); err != nil {
		return "no new namespaces here: " + strings.TrimSpace(string(out))
	}
	return ""
}

// Main is the TestMain of a package with scenes. It plays a role when the lab started this very
// test binary as one of its small servers; otherwise it builds our programs once and runs the tests.
func Main(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role))
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		// Scenes wait more than they work, so one more than there are processors.
		_ = f.Value.Set(strconv.Itoa(runtime.GOMAXPROCS(0) + 1))
	}
	os.Exit(run(m))
}

// binVar names the directory with headscale and derper. Who has built them already sets it.
const binVar = "KEELSCALE_BIN"

// run builds what the scenes start, unless no scene can run here anyway.
func run(m *testing.M) int {
	if Unable() == "" && os.Getenv(binVar) == "" {
		dir, err := os.MkdirTemp("", "keelscale-bin")
		if err != nil {
			fmt.Fprintln(os.Stderr, "making a directory for the programs:", err)
			return 1
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-o", dir, "github.com/keelscale/keelscale/cmd/headscale", "github.com/keelscale/keelscale/cmd/derper")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building headscale and derper: %v\n%s", err, out)
			return 1
		}
		os.Setenv(binVar, dir)
	}
	return m.Run()
}

// clientDir is where integration/clients.sh puts the programs of a version.
func clientDir(version string) string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/root/.cache"
	}
	return filepath.Join(cache, "keelscale", "clients", version)
}

// Built says whether the client of a version is there to be started.
func Built(version string) bool {
	_, err := os.Stat(filepath.Join(clientDir(version), "tailscaled"))
	return err == nil
}
