// Package keelscale_test holds the rules of the house that a compiler does not: who may import whom, which packages
// are pure, that every package says what it is for, and that what is generated, linked and formatted is in order.
//
// docs/architecture.md has the picture that these rules draw.
package keelscale_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keelscale/keelscale/"

// rooms is the table of docs/architecture.md: each package, and which of ours it may import. A package under one of
// these may import what the nearest one above it may, and its neighbours under the same one.
var rooms = map[string][]string{
	"cmd/headscale":     {"proto", "hscontrol", "hscontrol/config", "derp", "hscontrol/tailnet", "hscontrol/policy", "hscontrol/store"},
	"cmd/derper":        {"derp"},
	"hscontrol":         {"hscontrol", "derp", "proto"},
	"hscontrol/config":  {},
	"hscontrol/tailnet": {},
	"hscontrol/store":   {"hscontrol/tailnet"},
	"hscontrol/hooks":   {"hscontrol/tailnet", "hscontrol/store"},
	"hscontrol/policy":  {"hscontrol/tailnet"},
	"hscontrol/state":   {"hscontrol/tailnet", "hscontrol/store", "hscontrol/policy", "derp/derpmap"},
	"hscontrol/mapper":  {"hscontrol/tailnet", "hscontrol/policy", "hscontrol/state"},
	"hscontrol/control": {"hscontrol/tailnet", "hscontrol/store", "hscontrol/policy", "hscontrol/state", "hscontrol/mapper", "hscontrol/auth", "proto/relay"},
	"hscontrol/auth":    {"hscontrol/tailnet", "hscontrol/store", "hscontrol/policy", "hscontrol/state"},
	"hscontrol/api":     {"hscontrol/tailnet", "hscontrol/store", "hscontrol/policy", "hscontrol/state", "hscontrol/auth", "hscontrol/hooks", "proto"},
	"hscontrol/console": {"hscontrol/tailnet"},
	"hscontrol/hstest":  {"hscontrol", "derp", "proto"},
	"derp":              {"derp"},
	"derp/derpmap":      {"derp/nearest"},
	"derp/enrol":        {"derp", "proto/relay"},
	"proto":             {},
	"integration":       {"derp/derpmap"},
}

// foreign are modules that only some rooms may use. A room not named here goes without.
var foreign = map[string][]string{
	"gorm.io/":                      {"hscontrol/store"},
	"github.com/glebarez/":          {"hscontrol/store"},
	"modernc.org/":                  {"hscontrol/store"},
	"github.com/jackc/":             {"hscontrol/store"},
	"database/sql":                  {"hscontrol/store"},
	"google.golang.org/grpc":        {"proto", "hscontrol/api", "hscontrol", "cmd/headscale"},
	"google.golang.org/protobuf":    {"proto", "hscontrol/api", "hscontrol/control", "hscontrol", "cmd/headscale", "derp/enrol"},
	"github.com/spf13/":             {"cmd/headscale", "cmd/derper"},
	"tailscale.com/derp/derpserver": {"derp"},
}

// pure are the packages that take values and give values.
var pure = []string{"hscontrol/tailnet", "hscontrol/policy", "hscontrol/mapper"}

// effects are what a pure package does not import, each with everything under it.
var effects = []string{"os", "net", "log", "context", "syscall", "io/fs", "io/ioutil", "crypto/rand", "math/rand", "database"}

// harmless are under one of the effects and have none.
var harmless = []string{"net/netip", "net/url", "net/mail"}

// carried is what a pure package hands on without acting on it: an Actor travels in a context.
var carried = map[string][]string{"hscontrol/tailnet": {"context"}}

// clocks are the functions of package time that read one.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}

// pkg is what go list says of a package, as far as it matters here.
type pkg struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	CgoFiles   []string
	Imports    []string
}

// room is the path within the module.
func (p pkg) room() string { return strings.TrimPrefix(p.ImportPath, module) }

// list runs go list with the arguments.
func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Name,GoFiles,CgoFiles,Imports"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatalf("reading what go list says: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

// ours are the packages of the module that have more than tests.
func ours(t *testing.T) []pkg {
	t.Helper()
	return slices.DeleteFunc(list(t, "./..."), func(p pkg) bool { return len(p.GoFiles)+len(p.CgoFiles) == 0 })
}

// under reports whether path is dir or lies in it.
func under(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// house is the nearest room of the table that holds path.
func house(path string) (string, bool) {
	for {
		if _, ok := rooms[path]; ok {
			return path, true
		}
		up := strings.LastIndexByte(path, '/')
		if up < 0 {
			return "", false
		}
		path = path[:up]
	}
}

func TestImportDirection(t *testing.T) {
	for _, p := range ours(t) {
		home, ok := house(p.room())
		if !ok {
			t.Errorf("%s is in no room: give it a row in the table here and in docs/architecture.md", p.room())
			continue
		}
		for _, imported := range p.Imports {
			path, ok := strings.CutPrefix(imported, module)
			if !ok {
				continue
			}
			if !under(path, home) && !slices.ContainsFunc(rooms[home], func(r string) bool { return under(path, r) }) {
				t.Errorf("%s imports %s; a package of %s may import only %v", p.room(), path, home, rooms[home])
			}
		}
	}
}

var tableRow = regexp.MustCompile("(?m)^\\| `([a-z0-9/]+)` \\|")

// The table that people read has a row for each room, and no other.
func TestTableOfRooms(t *testing.T) {
	for _, page := range []string{"docs/architecture.md", "docs/zh/architecture.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		told := map[string]bool{}
		for _, m := range tableRow.FindAllStringSubmatch(string(text), -1) {
			home, ok := house(m[1])
			if !ok {
				t.Errorf("%s has a row for %s, which is no room", page, m[1])
			}
			told[home] = true
		}
		for room := range rooms {
			if !told[room] {
				t.Errorf("%s has no row for %s", page, room)
			}
		}
	}
}

func TestForeignGuests(t *testing.T) {
	for _, p := range ours(t) {
		for _, imported := range p.Imports {
			for guest, hosts := range foreign {
				if !strings.HasPrefix(imported, guest) {
					continue
				}
				home, _ := house(p.room())
				if !slices.Contains(hosts, home) {
					t.Errorf("%s imports %s, which belongs in %v only", p.room(), imported, hosts)
				}
			}
		}
	}
}

func TestNoDrawers(t *testing.T) {
	for _, p := range ours(t) {
		for word := range strings.SplitSeq(p.room(), "/") {
			if slices.Contains([]string{"util", "utils", "common", "helpers", "pkg", "internal", "misc"}, word) {
				t.Errorf("%s: a room has a noun for a name", p.room())
			}
		}
	}
}

func TestPureRooms(t *testing.T) {
	for _, p := range ours(t) {
		if !slices.ContainsFunc(pure, func(r string) bool { return under(p.room(), r) }) {
			continue
		}
		for _, imported := range p.Imports {
			if slices.ContainsFunc(effects, func(e string) bool { return under(imported, e) }) && !slices.Contains(harmless, imported) && !slices.Contains(carried[p.room()], imported) {
				t.Errorf("%s imports %s; it takes values and gives values, with no I/O, clock or log", p.room(), imported)
			}
		}
		for _, name := range p.GoFiles {
			for _, at := range clockReads(t, filepath.Join(p.Dir, name)) {
				t.Errorf("%s: pass the time in", at)
			}
		}
	}
}

// clockReads finds where a file calls one of the clocks.
func clockReads(t *testing.T, file string) []string {
	t.Helper()
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, s.Sel.Name) {
				found = append(found, fmt.Sprintf("%s: time.%s", files.Position(s.Pos()), s.Sel.Name))
			}
		}
		return true
	})
	return found
}

// The relay is a small program: nothing of the control server comes along with it.
func TestDerperIsSmall(t *testing.T) {
	if len(list(t, "-e", "./cmd/derper")[0].GoFiles) == 0 {
		t.Skip("cmd/derper has no files yet")
	}
	for _, p := range list(t, "-deps", "./cmd/derper") {
		for _, heavy := range []string{module + "hscontrol", "gorm.io", "github.com/glebarez", "modernc.org", "google.golang.org/grpc"} {
			if under(p.ImportPath, heavy) {
				t.Errorf("cmd/derper pulls in %s", p.ImportPath)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range ours(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + filepath.Base(p.Dir) + " "
		}
		var comments []string
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				comments = append(comments, f.Doc.Text())
			}
		}
		switch {
		case len(comments) != 1:
			t.Errorf("%s: got %d package comments, want one", p.room(), len(comments))
		case !strings.HasPrefix(comments[0], want):
			t.Errorf("%s: got the package comment %.40q, want it to begin with %q", p.room(), comments[0], want)
		}
	}
}
