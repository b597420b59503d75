package config

import (
	"os"
	"path/filepath"
)

// Search says which file to load: the one given by flag (-c), else by HEADSCALE_CONFIG, else the first config.yaml,
// config.yml or config.json in /etc/headscale, ~/.headscale and the working directory. A directory given stands for
// the file in it. It is empty when there is none: the server then runs on defaults.
func Search(flag string, env []string) string {
	vars := lookup(env)
	for _, given := range []string{flag, vars("HEADSCALE_CONFIG")} {
		if given == "" {
			continue
		}
		if file := inDir(given); file != "" {
			return file
		}
		return given
	}
	dirs := []string{"/etc/headscale"}
	if home := vars("HOME"); home != "" {
		dirs = append(dirs, filepath.Join(home, ".headscale"))
	}
	for _, dir := range append(dirs, ".") {
		if file := inDir(dir); file != "" {
			return file
		}
	}
	return ""
}

func inDir(dir string) string {
	for _, name := range []string{"config.yaml", "config.yml", "config.json"} {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			return file
		}
	}
	return ""
}
