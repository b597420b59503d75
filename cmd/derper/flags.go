package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/keelscale/keelscale/derp"
	"github.com/keelscale/keelscale/derp/nearest"
)

// settings is what flags and environment say. The names and meanings are those of
// tailscale.com/cmd/derper, except where the text of the flag says otherwise.
type settings struct {
	version, dev bool
	config       string            // the file that some of it came from
	values       map[string]string // all, by flag, as they were written

	addr               string
	httpPort, stunPort int
	debugAddr          string
	stun, derp         bool

	keyPath                     string
	certMode, certDir, hostname string
	certValidity                time.Duration
	acmeEmail, acmeDirectory    string
	acmeIPCerts                 bool

	home, bootstrapDNS, hiddenDNS string
	meshPSKFile, meshWith         string

	verifyClients  bool
	verifyURL      string
	verifyFailOpen bool
	socket         string

	acceptLimit                          float64
	acceptBurst                          int
	rateConfig                           string
	limitNode, limitNodeBurst            size // per second; bytes
	limitTotal, limitTotalBurst          size
	limitMonth                           size
	limitState                           string // file that keeps count of the month
	keepAlive, userTimeout, writeTimeout time.Duration
	regionID                             int
	regionCode, regionName               string
	logFormat, logLevel                  string

	control, enrollKey, region, name string        // see package enrol
	enrollState                      string        // file of the enrolment
	controlOutage                    time.Duration // for which known nodes are admitted without the control server
}

// certOff is the -certmode of a relay behind a TLS proxy.
const certOff = "off"

// flags ties the settings to a flag set, with their defaults.
func (s *settings) flags(home stateDirs) *flag.FlagSet {
	fs := flag.NewFlagSet("derper", flag.ContinueOnError)
	fs.BoolVar(&s.version, "version", false, "print the version and exit")
	fs.StringVar(&s.config, "config", "", "YAML `file` with settings; flags and environment win over it")
	fs.BoolVar(&s.dev, "dev", false, "serve plain HTTP on :3340 with a key that is forgotten, for development")

	fs.StringVar(&s.addr, "a", ":443", "TCP `address` of the relay, :port or ip:port")
	fs.IntVar(&s.httpPort, "http-port", 80, "TCP `port` for plain HTTP: captive portal checks, ACME challenges, redirects; -1 for none. If it is taken, that is fatal only when the certificate needs it")
	fs.IntVar(&s.stunPort, "stun-port", 3478, "UDP `port` of STUN")
	fs.StringVar(&s.debugAddr, "debug-addr", "", "TCP `address` for the operator: status page, metrics, pprof, best a loopback one; none if empty. (The public port has no /debug)")
	fs.BoolVar(&s.stun, "stun", true, "run a STUN server")
	fs.BoolVar(&s.derp, "derp", true, "run a relay; without it the other pages remain")

	fs.StringVar(&s.keyPath, "c", home.key, "`file` with the relay's private key, made when it is missing")
	fs.StringVar(&s.certMode, "certmode", "", "letsencrypt, manual, selfsigned, or off (plain HTTP, behind a TLS proxy); if empty, letsencrypt for a host name and selfsigned otherwise")
	fs.StringVar(&s.certDir, "certdir", home.certs, "`directory` of certificates and their keys; manual reads HOSTNAME.crt and HOSTNAME.key there")
	fs.StringVar(&s.hostname, "hostname", "", "what clients connect to: a host name or an IP address; if empty, the addresses of this machine")
	fs.DurationVar(&s.certValidity, "cert-validity", 365*24*time.Hour, "how long a self-signed certificate is valid; the next one is made a month (or a tenth of that) before its end, and both are served until then")
	fs.StringVar(&s.acmeEmail, "acme-email", "", "`address` given to Let's Encrypt")
	fs.BoolVar(&s.acmeIPCerts, "acme-ip-certs", false, "as in cmd/derper: letsencrypt for an address, too. Here -certmode letsencrypt alone says so")
	fs.StringVar(&s.acmeDirectory, "acme-directory", "", "`URL` of another ACME authority than Let's Encrypt")

	fs.StringVar(&s.home, "home", "", `page at /: a short text if empty, "blank", or a URL to redirect to`)
	fs.StringVar(&s.bootstrapDNS, "bootstrap-dns-names", "", "comma-separated host `names` that /bootstrap-dns resolves")
	fs.StringVar(&s.hiddenDNS, "unpublished-bootstrap-dns-names", "", "comma-separated host `names` that /bootstrap-dns resolves only for who asks by name")
	fs.StringVar(&s.meshPSKFile, "mesh-psk-file", home.meshKey, "`file` with the key that the relays of a region share, 64 hex digits")
	fs.StringVar(&s.meshWith, "mesh-with", "", "comma-separated `relays` of the same region; NAME/DIAL asks for NAME and connects to DIAL")

	fs.BoolVar(&s.verifyClients, "verify-clients", false, "admit only the peers of the tailscaled on this machine")
	fs.StringVar(&s.verifyURL, "verify-client-url", "", "admit only whom this `URL` admits, such as https://CONTROL-SERVER/verify")
	fs.BoolVar(&s.verifyFailOpen, "verify-client-url-fail-open", false, "admit everybody while that URL cannot be reached. (In cmd/derper this is on by default)")
	fs.StringVar(&s.socket, "socket", "", "`path` of tailscaled's socket for -verify-clients, if it is not the usual one")

	fs.Float64Var(&s.acceptLimit, "accept-connection-limit", math.Inf(+1), "new connections per second; what comes faster has to wait")
	fs.IntVar(&s.acceptBurst, "accept-connection-burst", math.MaxInt, "new connections that may come at once, with -accept-connection-limit")
	fs.StringVar(&s.rateConfig, "rate-config", "", "JSON `file` with PerClientRateLimitBytesPerSec and PerClientRateBurstBytes; read again on SIGHUP")
	fs.Var(&s.limitNode, "limit-node", "what each node may send, in bytes per `second`, such as 10MB; 0 is no bound")
	fs.Var(&s.limitNodeBurst, "limit-node-burst", "what it may send at once beyond that, in `bytes`")
	fs.Var(&s.limitTotal, "limit-total", "what all nodes together may send, in bytes per `second`; 0 is no bound")
	fs.Var(&s.limitTotalBurst, "limit-total-burst", "what they may send at once beyond that, in `bytes`")
	fs.Var(&s.limitMonth, "limit-month", "`bytes` that the relay may send in a calendar month (UTC), such as 1TiB; then it takes no clients until the next. 0 is no bound")
	fs.StringVar(&s.limitState, "limit-state", home.month, "`file` that keeps count of what was sent in the month, with -limit-month")
	fs.DurationVar(&s.keepAlive, "tcp-keepalive-time", 10*time.Minute, "time between TCP keep-alives")
	fs.DurationVar(&s.userTimeout, "tcp-user-timeout", 15*time.Second, "how long data sent may stay unacknowledged")
	fs.DurationVar(&s.writeTimeout, "tcp-write-timeout", 2*time.Second, "how long a client may refuse to take data; 0 for ever")

	fs.IntVar(&s.regionID, "region-id", 900, "`number` of the region in the DERP map entry that is printed")
	fs.StringVar(&s.regionCode, "region-code", "home", "its short `name`")
	fs.StringVar(&s.regionName, "region-name", "", "its long `name`")

	fs.StringVar(&s.control, "control", "", "`URL` of a control server to enrol at: it says who is admitted and puts the relay into its DERP map")
	fs.StringVar(&s.enrollKey, "enroll-key", "", "`key` from \"headscale derp enroll-keys create\"; needed once")
	fs.StringVar(&s.region, "region", "", "short `name` of the region to enrol into")
	fs.StringVar(&s.name, "name", "", "`name` of this relay at the control server; if empty, the server makes one of the region")
	fs.StringVar(&s.enrollState, "enroll-state", home.enrolment, "`file` with the enrolment and the last list of nodes")
	fs.DurationVar(&s.controlOutage, "control-outage", 7*24*time.Hour, "how long known nodes are admitted while the control server cannot be reached")

	fs.StringVar(&s.logFormat, "log-format", "text", "text or json")
	fs.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	return fs
}

// absent are the flags of cmd/derper that are not here, and why.
var absent = map[string]string{
	"acme-eab-kid":        "certificates of Google's authority (-certmode gcp) are not supported: use letsencrypt, manual or selfsigned",
	"acme-eab-key":        "certificates of Google's authority (-certmode gcp) are not supported: use letsencrypt, manual or selfsigned",
	"secrets-url":         "the setec secret store is not supported: put the mesh key into a file and name it with -mesh-psk-file",
	"secrets-path-prefix": "the setec secret store is not supported: put the mesh key into a file and name it with -mesh-psk-file",
	"secrets-cache-dir":   "the setec secret store is not supported: put the mesh key into a file and name it with -mesh-psk-file",
	"ace":                 "the ACE proxy, which leads only to Tailscale's own servers, is not supported",
}

// parseSettings reads flags, environment and the configuration file; the first to say
// something wins.
func parseSettings(args, environ []string, errOut io.Writer) (*settings, error) {
	s := &settings{}
	fs := s.flags(findStateDirs(environ))
	for name := range absent {
		if name == "ace" {
			fs.Bool(name, false, "")
		} else {
			fs.String(name, "", "")
		}
	}
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		printUsage(fs, errOut)
		return nil, err
	case err != nil:
		return nil, explain(err, fs)
	case fs.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: every setting is a flag (derper -h lists them)", fs.Arg(0))
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if err := applyEnv(fs, given, environ); err != nil {
		return nil, err
	}
	if s.config != "" {
		if err := applyFile(fs, given, s.config); err != nil {
			return nil, err
		}
	}
	s.values = map[string]string{}
	for _, name := range flagNames(fs) {
		s.values[name] = fs.Lookup(name).Value.String()
	}
	for name, why := range absent {
		if given[name] {
			return nil, fmt.Errorf("-%s: %s", name, why)
		}
	}
	return s, s.check(given)
}

// explain makes the flag package's complaint a sentence with a hint.
func explain(err error, fs *flag.FlagSet) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown {
		return err
	}
	return fmt.Errorf("unknown flag -%s%s; derper -h lists all", name, nearest.Hint(name, flagNames(fs)))
}

func flagNames(fs *flag.FlagSet) (names []string) {
	fs.VisitAll(func(f *flag.Flag) {
		if _, no := absent[f.Name]; !no {
			names = append(names, f.Name)
		}
	})
	return names
}

func printUsage(fs *flag.FlagSet, w io.Writer) {
	fmt.Fprint(w, "derper runs a DERP relay with STUN.\n\nWith no flags at all it makes a certificate of its own and prints what to put\ninto the DERP map. Every flag can also be given by the environment variable in\nparentheses, and in a YAML file (-config); flags win, then the environment.\n\n")
	for _, name := range flagNames(fs) {
		f := fs.Lookup(name)
		arg, usage := flag.UnquoteUsage(f)
		if arg != "" {
			arg = " " + arg
		}
		if vars := envNames(name); len(vars) > 0 {
			arg += " (" + strings.Join(vars, ", ") + ")"
		}
		fmt.Fprintf(w, "  -%s%s\n        %s", name, arg, usage)
		switch f.DefValue {
		case "", "0", "false", "+Inf", strconv.Itoa(math.MaxInt):
		default:
			fmt.Fprintf(w, " (default %s)", f.DefValue)
		}
		fmt.Fprintln(w)
	}
}

// check reports settings that contradict themselves. given are those that somebody gave.
func (s *settings) check(given map[string]bool) error {
	switch {
	case s.certMode == "gcp":
		return fmt.Errorf("-certmode gcp: %s", absent["acme-eab-kid"])
	case s.verifyFailOpen && s.verifyURL == "":
		return errors.New("-verify-client-url-fail-open says nothing without -verify-client-url")
	case s.httpPort < -1 || s.httpPort > 65535:
		return fmt.Errorf("-http-port %d is not a port; -1 switches it off", s.httpPort)
	case s.stunPort < -1 || s.stunPort > 65535:
		return fmt.Errorf("-stun-port %d is not a port; -stun=false switches it off", s.stunPort)
	case s.acceptLimit <= 0:
		return errors.New("-accept-connection-limit must be more than 0")
	case s.limitNodeBurst > 0 && s.limitNode == 0 || s.limitTotalBurst > 0 && s.limitTotal == 0:
		return errors.New("-limit-node-burst and -limit-total-burst say nothing without -limit-node and -limit-total")
	case s.limitNode > 0 && s.rateConfig != "":
		return errors.New("-limit-node and -rate-config say the same: leave one out")
	case s.acceptBurst < 1:
		return errors.New("-accept-connection-burst must be at least 1")
	case s.control == "" && (s.enrollKey != "" || s.name != ""):
		return errors.New("-enroll-key and -name say nothing without -control, the URL of the control server")
	case s.control != "" && !s.derp:
		return errors.New("-control enrols a relay, and -derp=false runs none")
	case s.control != "" && s.certMode == certOff && s.hostname == "":
		return errors.New("-control with -certmode off needs -hostname: the name of the TLS proxy in front, which clients connect to")
	case s.controlOutage < 0:
		return errors.New("-control-outage must not be negative")
	case s.certValidity < time.Hour:
		return errors.New("-cert-validity must be at least an hour")
	case s.logFormat != "text" && s.logFormat != "json":
		return fmt.Errorf("-log-format %q is neither text nor json", s.logFormat)
	case strings.Contains(s.hiddenDNS, "/"):
		return errors.New("-unpublished-bootstrap-dns-names: a roll-out by TXT record (NAME/RECORD) is not supported, give the names alone")
	}
	if err := new(slog.LevelVar).UnmarshalText([]byte(s.logLevel)); err != nil {
		return fmt.Errorf("-log-level %q is not one of debug, info, warn, error", s.logLevel)
	}
	if s.region != "" && !given["region-code"] {
		s.regionCode = s.region
	}
	if s.acmeIPCerts && !given["certmode"] {
		s.certMode = derp.LetsEncrypt
	}
	if s.dev {
		if !given["a"] {
			s.addr = ":3340"
		}
		if !given["c"] {
			s.keyPath = ""
		}
		if !given["certmode"] {
			s.certMode = certOff
		}
	}
	return nil
}

// logger writes to w; its level can be changed.
func (s *settings) logger(w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := &slog.LevelVar{}
	level.UnmarshalText([]byte(s.logLevel)) // which check has tried
	opts := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), level
	}
	return slog.New(slog.NewTextHandler(w, opts)), level
}

// stateDirs is where things are kept unless told otherwise.
type stateDirs struct{ key, certs, enrolment, month, meshKey string }

// findStateDirs prefers the directory that systemd gives, then root's, then the user's own.
func findStateDirs(environ []string) stateDirs {
	env := func(name string) string {
		for _, e := range environ {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	}
	dir, _, _ := strings.Cut(env("STATE_DIRECTORY"), ":")
	if dir == "" && os.Getuid() == 0 {
		dir = "/var/lib/derper"
	}
	if dir == "" {
		if dir = env("XDG_DATA_HOME"); dir == "" {
			dir = filepath.Join(env("HOME"), ".local", "share")
		}
		dir = filepath.Join(dir, "derper")
	}
	found := stateDirs{key: filepath.Join(dir, "derper.key"), certs: filepath.Join(dir, "certs"), enrolment: filepath.Join(dir, "enrolment.json"), month: filepath.Join(dir, "month.json")}
	for _, path := range []string{"/home/derp/keys/derp-mesh.key", filepath.Join(env("HOME"), "keys", "derp-mesh.key")} {
		if _, err := os.Stat(path); err == nil {
			found.meshKey = path
			break
		}
	}
	return found
}
