package config

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Validate checks a Config that was made by code rather than by Load. The error is an *[Error].
func (cfg *Config) Validate() ([]Warning, error) {
	r := &report{}
	(&validator{cfg: cfg, report: r}).run()
	return r.warnings, r.err()
}

// validator says what cannot work, each with what to do about it.
type validator struct {
	cfg    *Config
	report *report
	// set has the positions of keys that somebody set, bad has those whose values could not be read: what they
	// are now is not what was meant, so nothing is said about it.
	set map[string]Position
	bad map[string]bool
}

func (v *validator) run() {
	v.server()
	v.listeners()
	v.tls()
	v.prefixes()
	v.derp()
	v.node()
	v.database()
	v.logs()
	v.dns()
	v.oidc()
	v.browsers()
	v.audit()
}

// problem reports what is wrong with a key, where it was set.
func (v *validator) problem(path, format string, args ...any) {
	if v.bad[path] {
		return
	}
	v.report.problem(v.pos(path), "%s: %s", path, fmt.Sprintf(format, args...))
}

func (v *validator) warn(path, format string, args ...any) {
	v.report.warn(v.pos(path), path, "%s: %s", path, fmt.Sprintf(format, args...))
}

// pos is where a key was set, or else the file that could have set it.
func (v *validator) pos(path string) Position {
	if pos, ok := v.set[path]; ok {
		return pos
	}
	return Position{File: v.cfg.File}
}

// oneOf wants one of a few words.
func (v *validator) oneOf(path, got string, words ...string) {
	if slices.Contains(words, got) {
		return
	}
	hint := ""
	if near := nearest(got, words); near != "" {
		hint = "; did you mean " + quote(near) + "?"
	}
	v.problem(path, "expected %s, got %q%s", either(words), got, hint)
}

func either(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func (v *validator) node() {
	node := &v.cfg.Node
	if node.EphemeralTimeout <= 65*time.Second {
		v.problem("node.ephemeral.inactivity_timeout",
			"%v is too short, connected nodes are heard of once a minute only; make it longer than 65s", node.EphemeralTimeout)
	}
	if node.HAProbeInterval == 0 {
		return
	}
	if node.HAProbeInterval < 2*time.Second {
		v.problem("node.routes.ha.probe_interval", "%v is too short; make it 2s or longer, or 0 to probe never", node.HAProbeInterval)
	}
	if node.HAProbeTimeout < time.Second || node.HAProbeTimeout >= node.HAProbeInterval {
		v.problem("node.routes.ha.probe_timeout", "%v does not fit; make it 1s or longer, and shorter than node.routes.ha.probe_interval (%v)",
			node.HAProbeTimeout, node.HAProbeInterval)
	}
}

func (v *validator) database() {
	db := &v.cfg.Database
	v.oneOf("database.type", db.Type, DatabaseSQLite, DatabasePostgres)
	if db.SQLite.WALAutocheckpoint < 0 {
		v.problem("database.sqlite.wal_autocheckpoint", "%d is negative; write a number of pages, or 0", db.SQLite.WALAutocheckpoint)
	}
	if raw, err := hex.DecodeString(db.SecretsKey); db.SecretsKey != "" && (err != nil || len(raw) != 32) {
		v.problem("database.secrets_key", "is no key; write 64 hex digits, as `openssl rand -hex 32` makes them")
	}
	if db.Type != DatabasePostgres {
		return
	}
	pg := &db.Postgres
	for _, field := range []struct{ path, text string }{
		{"database.postgres.host", pg.Host},
		{"database.postgres.name", pg.Name},
		{"database.postgres.user", pg.User},
	} {
		if field.text == "" {
			v.problem(field.path, "is missing; database.type postgres needs host, name and user")
		}
	}
	if pg.Port < 1 || pg.Port > 65535 {
		v.problem("database.postgres.port", "%d is no port; PostgreSQL usually listens on 5432", pg.Port)
	}
	v.oneOf("database.postgres.ssl", pg.SSLMode, "disable", "allow", "prefer", "require", "verify-ca", "verify-full")
	if pg.MaxOpenConns < 1 {
		v.problem("database.postgres.max_open_conns", "%d is too few; allow at least 1", pg.MaxOpenConns)
	}
	if pg.MaxIdleConns < 0 {
		v.problem("database.postgres.max_idle_conns", "%d is negative; 0 keeps none but the one that writes", pg.MaxIdleConns)
	}
}

func (v *validator) logs() {
	log := &v.cfg.Log
	switch log.Level {
	case "fatal", "panic", "disabled":
		v.warn("log.level", "%q would hide errors; taken as error", log.Level)
		log.Level = "error"
	default:
		v.oneOf("log.level", log.Level, "trace", "debug", "info", "warn", "error")
	}
	v.oneOf("log.format", log.Format, "text", "json")
	v.oneOf("policy.mode", v.cfg.Policy.Mode, PolicyFile, PolicyDatabase)
	if v.cfg.Policy.Mode == PolicyDatabase && v.cfg.Policy.Path != "" {
		v.warn("policy.path", "is not read, since policy.mode is database; load the file with `headscale policy set -f %s` and remove the key",
			v.cfg.Policy.Path)
	}
	if v.cfg.CLI.Timeout <= 0 {
		v.problem("cli.timeout", "must be longer than nothing; 5s is usual")
	}
}

func (v *validator) oidc() {
	oidc := &v.cfg.OIDC
	if oidc.Issuer == "" {
		return
	}
	v.problem("oidc.issuer", "signing in through an identity provider is not supported by this version yet; "+
		"remove the oidc section, and let nodes join by pre-auth key or `headscale nodes register`")
	if _, err := parseURL(oidc.Issuer, "https", "http"); err != nil {
		v.problem("oidc.issuer", "%v; write the provider's URL, as in https://sso.example.com", err)
	}
	if oidc.ClientID == "" {
		v.problem("oidc.client_id", "is missing; the provider gives it together with the secret")
	}
	switch {
	case oidc.ClientSecret != "" && oidc.ClientSecretPath != "":
		v.problem("oidc.client_secret_path", "is set beside oidc.client_secret; keep one of them")
	case oidc.ClientSecret == "" && oidc.ClientSecretPath == "" && !oidc.PKCEEnabled:
		v.problem("oidc.client_secret", "is missing; set it, or oidc.client_secret_path")
	}
	if oidc.PKCEEnabled {
		v.oneOf("oidc.pkce.method", oidc.PKCEMethod, "plain", "S256")
	}
}
