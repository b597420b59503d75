package config

import (
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

// Files below DataDir.
const (
	databaseFile = "db.sqlite"
	noiseKeyFile = "noise_private.key"
	secretsFile  = "database_secrets.key"
	derpKeyFile  = "derp_server_private.key"
	acmeCacheDir = "cache"
	socketFile   = "headscale.sock"
)

// DefaultBaseDomain ends nodes' names when nobody chose otherwise. The top-level domain internal is reserved for
// private use (ICANN, 2024), so no name on the internet can be shadowed.
const DefaultBaseDomain = "tailnet.internal"

var (
	// DefaultV4 and DefaultV6 are the ranges that every Tailscale client takes for its own network's.
	DefaultV4 = netip.MustParsePrefix("100.64.0.0/10")
	DefaultV6 = netip.MustParsePrefix("fd7a:115c:a1e0::/48")
)

// Default is what the server uses without any file: SQLite, its own relay with STUN, and every file below dataDir,
// which must be absolute. ServerURL is empty; [GuessServerURL] makes one.
func Default(dataDir string) *Config {
	cfg := base()
	cfg.DataDir = dataDir
	cfg.Prefixes.V4, cfg.Prefixes.V6 = DefaultV4, DefaultV6
	cfg.DERP.Server.Enabled = true
	cfg.fillPaths()
	return cfg
}

// base has the defaults that depend on nothing else.
func base() *Config {
	return &Config{
		ListenAddr:           "0.0.0.0:8080",
		MetricsListenAddr:    "127.0.0.1:9090",
		UnixSocketPermission: 0o770,
		Noise:                Noise{AlsoOn443: true},
		Prefixes:             Prefixes{Allocation: AllocationSequential},
		DERP: DERP{
			Server: DERPServer{
				RegionID:       999,
				RegionCode:     "headscale",
				RegionName:     "Headscale Embedded DERP",
				VerifyClients:  true,
				STUNListenAddr: "0.0.0.0:3478",
				AutoAddRegion:  true,
			},
			AutoUpdateEnabled: true,
			UpdateFrequency:   3 * time.Hour,
			Relays: DERPRelays{
				Enabled:       true,
				Outage:        7 * 24 * time.Hour,
				ProbeInterval: 5 * time.Second,
				ProbeTimeout:  3 * time.Second,
			},
		},
		Node: Node{
			EphemeralTimeout: 30 * time.Minute,
			HAProbeInterval:  10 * time.Second,
			HAProbeTimeout:   5 * time.Second,
		},
		Database: baseDatabase(),
		TLS: TLS{
			LetsEncryptChallenge: ChallengeHTTP01,
			LetsEncryptListen:    ":http",
			ACMEURL:              "https://acme-v02.api.letsencrypt.org/directory",
		},
		Log:    Log{Level: "info", Format: "text"},
		Audit:  Audit{HTTPFormat: "json"},
		Policy: Policy{Mode: PolicyDatabase},
		DNS:    DNS{MagicDNS: true, BaseDomain: DefaultBaseDomain},
		OIDC: OIDC{
			OnlyStartIfAvailable:  true,
			Scope:                 []string{"openid", "profile", "email"},
			EmailVerifiedRequired: true,
			PKCEMethod:            "S256",
		},
		CLI:             CLI{Timeout: 5 * time.Second},
		TaildropEnabled: true,
	}
}

func baseDatabase() Database {
	return Database{
		Type:   DatabaseSQLite,
		SQLite: SQLite{WriteAheadLog: true, WALAutocheckpoint: 1000},
		Postgres: Postgres{
			Port:            5432,
			SSLMode:         "disable",
			MaxOpenConns:    10,
			MaxIdleConns:    10,
			ConnMaxIdleTime: time.Hour,
		},
	}
}

// fill sets what a file and the environment left open and what depends on what they said.
func (cfg *Config) fill(set map[string]Position, root bool, env func(string) string) {
	if cfg.DataDir == "" {
		cfg.DataDir = dataDir(cfg.File, root, env)
		if db := cfg.Database.SQLite.Path; filepath.IsAbs(db) {
			cfg.DataDir = filepath.Dir(db)
		}
	}
	cfg.fillPaths()
	if !isSet(set, "prefixes.v4") && !isSet(set, "prefixes.v6") {
		cfg.Prefixes.V4, cfg.Prefixes.V6 = DefaultV4, DefaultV6
	}
	if !isSet(set, "derp.server.enabled") {
		cfg.DERP.Server.Enabled = len(cfg.DERP.URLs) == 0 && len(cfg.DERP.Paths) == 0
	}
	if !isSet(set, "policy.mode") && cfg.Policy.Path != "" {
		cfg.Policy.Mode = PolicyFile
	}
	if cfg.DNS.BaseDomain == "" {
		cfg.DNS.BaseDomain = DefaultBaseDomain
	}
	if !isSet(set, "dns.override_local_dns") {
		cfg.DNS.OverrideLocalDNS = len(cfg.DNS.Nameservers.Global) > 0
	}
}

func isSet(set map[string]Position, path string) bool {
	_, ok := set[path]
	return ok
}

// fillPaths puts every file that has no place yet below DataDir.
func (cfg *Config) fillPaths() {
	for field, name := range map[*string]string{
		&cfg.Database.SQLite.Path:       databaseFile,
		&cfg.Database.SecretsKeyPath:    secretsFile,
		&cfg.Noise.PrivateKeyPath:       noiseKeyFile,
		&cfg.DERP.Server.PrivateKeyPath: derpKeyFile,
		&cfg.TLS.LetsEncryptCacheDir:    acmeCacheDir,
	} {
		if *field == "" {
			*field = filepath.Join(cfg.DataDir, name)
		}
	}
	if cfg.UnixSocket == "" {
		cfg.UnixSocket = filepath.Join(cfg.DataDir, socketFile)
		if cfg.DataDir == SystemDataDir {
			cfg.UnixSocket = systemSocket
		}
	}
}

// normalize brings the several ways of writing one thing to the first of them.
func (cfg *Config) normalize() {
	cfg.ServerURL = strings.TrimSuffix(strings.TrimSpace(cfg.ServerURL), "/")
	cfg.Log.Level = strings.ToLower(cfg.Log.Level)
	if cfg.Log.Level == "warning" {
		cfg.Log.Level = "warn"
	}
	cfg.Log.Format = strings.ToLower(cfg.Log.Format)
	if cfg.Database.Type == "sqlite3" {
		cfg.Database.Type = DatabaseSQLite
	}
	cfg.TLS.LetsEncryptChallenge = strings.ToUpper(cfg.TLS.LetsEncryptChallenge)
	dns := &cfg.DNS
	dns.BaseDomain = strings.ToLower(strings.Trim(dns.BaseDomain, "."))
	for i := range dns.SearchDomains {
		dns.SearchDomains[i] = strings.ToLower(strings.TrimSuffix(dns.SearchDomains[i], "."))
	}
	for i := range dns.ExtraRecords {
		dns.ExtraRecords[i].normalize()
	}
}

func (r *ExtraRecord) normalize() {
	r.Name = strings.ToLower(strings.TrimSuffix(r.Name, "."))
	r.Type = strings.ToUpper(r.Type)
	if r.Type == "" && r.Value.IsValid() {
		r.Type = map[bool]string{true: "A", false: "AAAA"}[r.Value.Is4()]
	}
}
