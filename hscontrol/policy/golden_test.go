package policy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/policy"
)

// evalMarker in the environment makes the test binary the command that the golden runner calls.
const evalMarker = "POLICY_TEST_EVAL"

func TestMain(m *testing.M) {
	if os.Getenv(evalMarker) == "" {
		os.Exit(m.Run())
	}
	status, err := evalCommand(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

func evalCommand(args []string) (status int, err error) {
	var texts [2][]byte
	for i := range texts {
		if texts[i], err = os.ReadFile(args[i]); err != nil {
			return 2, err
		}
	}
	out, refused, err := policy.EvalJSON(texts[0], texts[1])
	if err != nil {
		return 2, err
	}
	fmt.Printf("%s\n", out)
	if refused != nil {
		return 1, nil
	}
	return 0, nil
}

// TestGoldens holds the engine against what the hosted service answered: every case in the aspects that a case needs,
// and at least 0.95 in the others.
func TestGoldens(t *testing.T) {
	goldens, err := filepath.Abs("../../../shared/goldens")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(goldens); err != nil {
		t.Skipf("the golden cases are not here: %v", err)
	}
	runner := filepath.Join(t.TempDir(), "runner")
	build := exec.Command("go", "build", "-o", runner, "./run")
	build.Dir = goldens
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the golden runner: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := exec.Command(runner, "-cmd", self+" {policy} {inventory}", "-skip", "", "-min", "1", "-v", goldens)
	run.Env = append(os.Environ(), evalMarker+"=1")
	out, err := run.CombinedOutput()
	t.Logf("\n%s", out)
	if err != nil {
		t.Fatalf("the golden runner: %v", err)
	}
	checkAspects(t, string(out))
}

// checkAspects reads the last lines of the runner's table.
func checkAspects(t *testing.T, table string) {
	var names, all []string
	for line := range strings.Lines(table) {
		switch f := strings.Fields(line); {
		case len(f) > 0 && f[0] == "kind":
			names = f
		case len(f) > 0 && f[0] == "all":
			all = f
		}
	}
	if len(names) == 0 || len(names) != len(all) {
		t.Fatalf("cannot read the runner's table: got columns %v, values %v", names, all)
	}
	ratio := regexp.MustCompile(`^(\d+)/(\d+)$`)
	for i, name := range names[1:] {
		m := ratio.FindStringSubmatch(all[i+1])
		if m == nil {
			continue
		}
		good, _ := strconv.ParseFloat(m[1], 64)
		cases, _ := strconv.ParseFloat(m[2], 64)
		if good/cases < 0.95 {
			t.Errorf("aspect %s: got %s right, want at least 0.95", name, all[i+1])
		}
	}
}
