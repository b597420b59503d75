package config_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	moduleTop   = "../.."
	packagePath = "github.com/keelscale/keelscale/hscontrol/config"
)

// useless are the sections whose keys nobody has to read, with the reason.
var useless = map[string]string{
	"oidc": "Load refuses a file with an issuer, and without one there is nothing to do",
}

// A key that is accepted has to do something: the program reads its field somewhere outside of this package.
// No two sections share a type, so that Type.Field is one key.
func TestEveryKeyIsUsed(t *testing.T) {
	used := usedFields(t)
	for _, l := range leaves() {
		section, _, _ := strings.Cut(l.key, ".")
		_, excused := useless[section]
		switch {
		case !used[l.field] && !excused:
			t.Errorf("got no use of %s, the field of key %q, outside of this package; "+
				"use it, or have the key warn that it has no effect, like tuning in legacy.go", l.field, l.key)
		case used[l.field] && excused:
			t.Errorf("got a use of %s, the field of key %q; take %s off the list of the useless", l.field, l.key, section)
		}
	}
}

// usedFields are the fields of this package's types that the program reads elsewhere. A field that is only written,
// and one that only tests and their kit read, does not count.
func usedFields(t *testing.T) map[string]bool {
	fset := token.NewFileSet()
	checker := types.Config{Error: func(error) {}} // what comes from other packages is unknown
	checker.Importer = justUs{}
	us, _ := checker.Check(packagePath, fset, parse(t, fset, "."), nil)
	checker.Importer = justUs{us}
	used := map[string]bool{}
	for _, dir := range importers(t) {
		files := parse(t, fset, dir)
		info := &types.Info{Selections: map[*ast.SelectorExpr]*types.Selection{}}
		_, _ = checker.Check(dir, fset, files, info)
		written := assigned(files)
		for expr, s := range info.Selections {
			if s.Kind() == types.FieldVal && s.Obj().Pkg().Path() == packagePath && !written[expr] {
				used[ownerOf(s)+"."+s.Obj().Name()] = true
			}
		}
	}
	return used
}

// ownerOf is the name of the type whose field is selected.
func ownerOf(s *types.Selection) string {
	owner := s.Recv()
	if p, ok := owner.Underlying().(*types.Pointer); ok {
		owner = p.Elem()
	}
	if named, ok := owner.(*types.Named); ok {
		return named.Obj().Name()
	}
	return ""
}

// assigned are the selectors that stand to the left of an equals sign.
func assigned(files []*ast.File) map[*ast.SelectorExpr]bool {
	left := map[*ast.SelectorExpr]bool{}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if a, ok := n.(*ast.AssignStmt); ok && a.Tok == token.ASSIGN {
				for _, lhs := range a.Lhs {
					if expr, ok := lhs.(*ast.SelectorExpr); ok {
						left[expr] = true
					}
				}
			}
			return true
		})
	}
	return left
}

// justUs imports this package as it is, and any other as an empty one: fast, and enough to know our types.
type justUs struct{ us *types.Package }

func (j justUs) Import(path string) (*types.Package, error) {
	if path == packagePath {
		return j.us, nil
	}
	empty := types.NewPackage(path, filepath.Base(path))
	empty.MarkComplete()
	return empty, nil
}

// importers are the directories of the packages that import this one, without tests and what serves them.
func importers(t *testing.T) []string {
	var dirs []string
	err := filepath.WalkDir(moduleTop, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case slices.Contains([]string{".git", "node_modules", "testdata", "hstest", "bench", "integration"}, entry.Name()):
			return fs.SkipDir
		case entry.IsDir(), !isProgram(entry.Name()), slices.Contains(dirs, filepath.Dir(path)):
			return nil
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), `"`+packagePath+`"`) {
			dirs = append(dirs, filepath.Dir(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) == 0 {
		t.Fatal("got no package that imports this one, want the server at least")
	}
	return dirs
}

func isProgram(name string) bool {
	return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
}

func parse(t *testing.T, fset *token.FileSet, dir string) []*ast.File {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, entry := range entries {
		if !isProgram(entry.Name()) {
			continue
		}
		file, err := parser.ParseFile(fset, filepath.Join(dir, entry.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}
