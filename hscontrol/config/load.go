package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Load reads the file at path and the HEADSCALE_ variables in env, a list like os.Environ gives; variables win.
// An empty path reads no file: Default below the usual data directory, the variables, and a guessed ServerURL.
//
// The error is an *[Error] with all that is wrong with what was said, or says why the file could not be read.
// Warnings may come with either result.
func Load(path string, env []string) (*Config, []Warning, error) {
	return loader{path: path, env: env, root: os.Geteuid() == 0}.load()
}

// loader is one run of Load; what depends on the machine is a field.
type loader struct {
	path  string
	env   []string
	root  bool
	route Route
}

func (l loader) load() (*Config, []Warning, error) {
	r := &report{}
	d, err := l.read(r)
	if err != nil {
		return nil, r.sortedWarnings(), err
	}
	cfg := d.cfg
	if cfg.ServerURL == "" && l.path == "" {
		cfg.ServerURL, cfg.ServerURLGuessed = cfg.guess(l.route), true
	}
	(&validator{cfg: cfg, set: d.set, bad: d.bad, report: r}).run()
	if err := r.err(); err != nil {
		return nil, r.sortedWarnings(), err
	}
	return cfg, r.sortedWarnings(), nil
}

// read does all but judge what the keys say. The error is only about a file that gives no tree at all.
func (l loader) read(r *report) (*decoder, error) {
	cfg, vars := base(), lookup(l.env)
	base, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	d := &decoder{cfg: cfg, report: r, set: map[string]Position{}, bad: map[string]bool{}, paths: paths{base: base, env: vars}}
	if l.path != "" {
		if cfg.File, err = filepath.Abs(l.path); err != nil {
			return nil, fmt.Errorf("reading configuration: %w", err)
		}
		data, err := readFile(cfg.File, maxFile)
		if err != nil {
			return nil, fmt.Errorf("reading configuration: %w", err)
		}
		d.paths.base = filepath.Dir(cfg.File)
		if tree := parseYAML(l.path, data, r); tree != nil {
			d.layer(tree)
		} else {
			return nil, r.err()
		}
	}
	d.layer(parseEnv(l.env, r))
	cfg.normalize()
	cfg.fill(d.set, l.root, vars)
	return d, nil
}

// layer decodes one tree, of whatever release its keys are.
func (d *decoder) layer(tree *value) {
	(&migration{root: tree, report: d.report, paths: d.paths}).run()
	d.section("", tree)
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d KiB", path, limit>>10)
	}
	return data, nil
}
