package main

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keelscale/keelscale/derp/nearest"
)

// aliases are the environment variables of the known images (derper-docker, ip_derper) that
// are not simply the name of their flag.
var aliases = map[string]string{
	"DERP_DOMAIN":   "hostname",
	"DERP_HOST":     "hostname",
	"DERP_CERT_DIR": "certdir",
	"DERP_CERTS":    "certdir",
	"DERP_ADDR":     "a",
	"DERP_KEY":      "c",
}

// spelled are flags whose variable has more words than the flag.
var spelled = map[string]string{"certmode": "DERP_CERT_MODE"}

// envNames are the variables that set a flag, the one to recommend first.
func envNames(flagName string) (names []string) {
	if flagName == "version" { // images say by such a variable which one they are
		return nil
	}
	for alias, to := range aliases {
		if to == flagName {
			names = append(names, alias)
		}
	}
	slices.Sort(names)
	if name, ok := spelled[flagName]; ok {
		return append(names, name)
	}
	if len(flagName) == 1 {
		return names
	}
	return append(names, "DERP_"+strings.ToUpper(strings.ReplaceAll(flagName, "-", "_")))
}

// notOurs are variables with our prefix that others set: the engine's own knobs, and what
// Kubernetes and docker links say about a service that is called derp.
var notOurs = regexp.MustCompile(`^DERP_(DEBUG_LOGS|PROBER_DEBUG_LOGS|PORT|PORT_\d+_(TCP|UDP).*|SERVICE_(HOST|PORT).*|ENV_.*|VERSION)$`)

// isOthers reports whether a variable is none of ours. docker links set DERP_NAME to
// /container/alias.
func isOthers(name, value string) bool {
	return notOurs.MatchString(name) || name == "DERP_NAME" && strings.HasPrefix(value, "/")
}

// applyEnv sets the flags that were not given from the environment, and counts them as given.
// An empty variable is one that is not set.
func applyEnv(fs *flag.FlagSet, given map[string]bool, environ []string) error {
	toFlag := map[string]string{}
	var known []string
	fs.VisitAll(func(f *flag.Flag) {
		for _, name := range envNames(f.Name) {
			toFlag[name] = f.Name
			if _, no := absent[f.Name]; !no {
				known = append(known, name)
			}
		}
	})
	setBy := map[string]string{} // flag to variable
	environ = slices.Sorted(slices.Values(environ))
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "DERP_") || value == "" || isOthers(name, value) {
			continue
		}
		flagName, ok := toFlag[name]
		if !ok {
			return fmt.Errorf("unknown environment variable %s%s; derper -h lists all", name, nearest.Hint(name, known))
		}
		if other := setBy[flagName]; other != "" && fs.Lookup(flagName).Value.String() != value && !given[flagName] {
			return fmt.Errorf("%s and %s set the same (-%s) to different values", other, name, flagName)
		}
		if given[flagName] {
			continue
		}
		if err := fs.Set(flagName, value); err != nil {
			return fmt.Errorf("%s=%q (flag -%s): want %s", name, value, flagName, wanted(fs.Lookup(flagName)))
		}
		setBy[flagName] = name
	}
	for flagName := range setBy {
		given[flagName] = true
	}
	return nil
}

// wanted says what a flag takes.
func wanted(f *flag.Flag) string {
	switch f.Value.(flag.Getter).Get().(type) {
	case bool:
		return "true or false"
	case int:
		return "a whole number"
	case float64:
		return "a number"
	case size:
		return "a size such as 500kB, 10MB or 1TiB"
	case time.Duration:
		return "a time such as 15s or 10m"
	}
	return "text"
}
