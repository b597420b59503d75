package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Set by the linker: see the Makefile. A plain go build leaves them, and what Go knows of the checkout is shown.
var (
	version = ""
	commit  = ""
)

// build is what is known about this binary.
type build struct {
	Version   string  `json:"version"`
	Commit    string  `json:"commit"`
	BuildTime string  `json:"buildTime"`
	Go        buildGo `json:"go"`
	Dirty     bool    `json:"dirty"`
}

type buildGo struct {
	Version string `json:"version"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func thisBuild() build {
	b := build{Version: version, Commit: commit, Go: buildGo{runtime.Version(), runtime.GOOS, runtime.GOARCH}}
	b.Dirty = strings.HasSuffix(version, "-dirty")
	if info, ok := debug.ReadBuildInfo(); ok {
		b.Version = firstOf(b.Version, strings.Trim(info.Main.Version, "()"))
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = firstOf(b.Commit, s.Value)
			case "vcs.time":
				b.BuildTime = s.Value
			case "vcs.modified":
				b.Dirty = b.Dirty || s.Value == "true"
			}
		}
	}
	b.Version, b.Commit, b.BuildTime = firstOf(b.Version, "dev"), firstOf(b.Commit, "unknown"), firstOf(b.BuildTime, "unknown")
	return b
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "say which headscale this is",
		Args:  exactly(0, ""),
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			text := fmt.Sprintf("headscale version %s\ncommit: %s\nbuild time: %s\nbuilt with: %s %s/%s",
				b.Version, b.Commit, b.BuildTime, b.Go.Version, b.Go.OS, b.Go.Arch)
			return c.showAny(text, b)
		},
	}
}
