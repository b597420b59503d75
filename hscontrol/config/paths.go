package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// SystemDataDir is where a server that belongs to the machine, rather than to one of its users, keeps its files.
const SystemDataDir = "/var/lib/headscale"

// systemSocket is the unix socket of such a server.
const systemSocket = "/var/run/headscale/headscale.sock"

// paths makes what people write into absolute paths.
type paths struct {
	// base is what relative paths start from: the directory of the file, else the working directory.
	base string
	env  func(name string) string
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// resolve expands ~ and ${VARIABLE} and makes the path absolute. An empty path stays empty, and so do SQLite's
// own names for a database that is no file.
func (p paths) resolve(path string) (string, error) {
	if path == "" || path == ":memory:" || strings.HasPrefix(path, "file:") {
		return path, nil
	}
	if strings.IndexByte(path, 0) >= 0 {
		return "", fmt.Errorf("a path cannot hold a zero byte")
	}
	var missing string
	path = variable.ReplaceAllStringFunc(path, func(ref string) string {
		name := ref[2 : len(ref)-1]
		if p.env(name) == "" {
			missing = name
		}
		return p.env(name)
	})
	if missing != "" {
		return "", fmt.Errorf("the environment has no %s; set it or write the path out", missing)
	}
	if path == "~" || strings.HasPrefix(path, "~/") {
		home := p.env("HOME")
		if home == "" {
			return "", fmt.Errorf("~ means nothing here: the environment has no HOME; write the path out")
		}
		path = filepath.Join(home, path[1:])
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.base, path)
	}
	return filepath.Clean(path), nil
}

// dataDir is where files live when nobody says anything: the system's directory for root and for a file
// below /etc, so that a command typed by root and a service run by another user agree; else the directory
// that the service manager gave; else the user's own.
func dataDir(file string, root bool, env func(string) string) string {
	if root || strings.HasPrefix(file, "/etc/") {
		return SystemDataDir
	}
	if dir, _, _ := strings.Cut(env("STATE_DIRECTORY"), ":"); filepath.IsAbs(dir) {
		return dir
	}
	if dir := env("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "headscale")
	}
	if home := env("HOME"); home != "" {
		return filepath.Join(home, ".local", "share", "headscale")
	}
	return SystemDataDir
}

// lookup reads from a list like os.Environ gives. The last of equal names wins, as in a process.
func lookup(env []string) func(string) string {
	vars := make(map[string]string, len(env))
	for _, pair := range env {
		if name, text, ok := strings.Cut(pair, "="); ok {
			vars[name] = text
		}
	}
	return func(name string) string { return vars[name] }
}
