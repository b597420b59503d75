package config

import (
	"net/netip"
	"time"
)

// Database says where the state is kept.
type Database struct {
	// Type is DatabaseSQLite or DatabasePostgres.
	Type     string   `key:"type"`
	SQLite   SQLite   `key:"sqlite"`
	Postgres Postgres `key:"postgres"`
	// SecretsKeyPath holds the key that seals what servers share in a PostgreSQL database, the Noise key above all. It
	// is made by the first server and copied to the others. Never empty after Load.
	SecretsKeyPath string `key:"secrets_key_path" path:"yes"`
	// SecretsKey is that key itself, 64 hex digits, and takes the place of the file; empty reads the file.
	SecretsKey string `key:"secrets_key" secret:"yes"`
}

// Values of Database.Type.
const (
	DatabaseSQLite   = "sqlite"
	DatabasePostgres = "postgres"
)

// SQLite is a database in one file.
type SQLite struct {
	// Path is the file. Never empty after Load.
	Path string `key:"path" path:"yes"`
	// WriteAheadLog lets readers go on while something is written.
	WriteAheadLog bool `key:"write_ahead_log"`
	// WALAutocheckpoint is a number of pages; zero leaves checkpoints to somebody else.
	WALAutocheckpoint int `key:"wal_autocheckpoint"`
}

// Postgres is a database server.
type Postgres struct {
	// Host is a name, an address, or the directory of a unix socket; or several names and addresses with commas between
	// them, each with a port of its own if need be: then the one that takes writes is used.
	Host string `key:"host"`
	Port int    `key:"port"`
	// Name is the database's name.
	Name string `key:"name"`
	User string `key:"user"`
	Pass string `key:"pass" secret:"yes"`
	// SSLMode is one of libpq's: disable, allow, prefer, require, verify-ca, verify-full.
	// In the file also true (require) and false (disable).
	SSLMode      string `key:"ssl" kind:"sslmode"`
	MaxOpenConns int    `key:"max_open_conns"`
	// MaxIdleConns is how many connections are kept for what comes next; zero keeps none but the one that writes.
	MaxIdleConns int `key:"max_idle_conns"`
	// ConnMaxIdleTime closes connections that were idle for so long; zero keeps them.
	// In the file a bare number of seconds, or a duration.
	ConnMaxIdleTime time.Duration `key:"conn_max_idle_time_secs" unit:"s"`
}

// DNS is what clients are told about names.
type DNS struct {
	// MagicDNS lets nodes be reached by name.
	MagicDNS bool `key:"magic_dns" reload:"live"`
	// BaseDomain is what nodes' names end in, without dots at its ends. Never empty after Load.
	BaseDomain string `key:"base_domain" reload:"live"`
	// OverrideLocalDNS makes clients ask Nameservers.Global instead of their own resolvers.
	// Only ever true when there are some.
	OverrideLocalDNS bool        `key:"override_local_dns" reload:"live"`
	Nameservers      Nameservers `key:"nameservers"`
	// SearchDomains are tried after BaseDomain.
	SearchDomains []string `key:"search_domains" reload:"live"`
	// ExtraRecords are A and AAAA records that MagicDNS answers.
	ExtraRecords []ExtraRecord `key:"extra_records" reload:"live"`
	// ExtraRecordsPath is a JSON file of such records, watched; excludes ExtraRecords.
	ExtraRecordsPath string `key:"extra_records_path" path:"yes" reload:"live"`
}

// Nameservers are addresses (1.1.1.1, [2620:fe::fe]:53) or DNS over HTTPS URLs.
type Nameservers struct {
	Global []string `key:"global" reload:"live"`
	// Split has the servers of single domains; a domain with none is answered from MagicDNS alone.
	Split map[string][]string `key:"split" reload:"live"`
}

// ExtraRecord is one name that MagicDNS answers beside those of the nodes.
type ExtraRecord struct {
	// Name is full, without a dot at its end.
	Name string `key:"name"`
	// Type is A or AAAA, the one that Value is.
	Type  string     `key:"type"`
	Value netip.Addr `key:"value"`
}

// OIDC is sign-in through an identity provider. This version reads and checks it, but cannot do it:
// [Load] refuses a configuration with Issuer set.
type OIDC struct {
	// OnlyStartIfAvailable keeps the server from starting while the provider cannot be reached.
	OnlyStartIfAvailable bool `key:"only_start_if_oidc_is_available"`
	// Issuer is the provider's URL; empty turns OIDC off.
	Issuer       string `key:"issuer"`
	ClientID     string `key:"client_id"`
	ClientSecret string `key:"client_secret" secret:"yes"`
	// ClientSecretPath is a file with the secret, in place of ClientSecret.
	ClientSecretPath string   `key:"client_secret_path" path:"yes"`
	Scope            []string `key:"scope"`
	// UseExpiryFromToken lets a node's key last as long as the token.
	UseExpiryFromToken    bool              `key:"use_expiry_from_token"`
	EmailVerifiedRequired bool              `key:"email_verified_required"`
	ExtraParams           map[string]string `key:"extra_params"`
	// AllowedDomains, AllowedGroups and AllowedUsers each let everyone in while empty; those that are
	// not must all agree.
	AllowedDomains []string `key:"allowed_domains"`
	AllowedGroups  []string `key:"allowed_groups"`
	AllowedUsers   []string `key:"allowed_users"`
	PKCEEnabled    bool     `key:"pkce.enabled"`
	// PKCEMethod is plain or S256.
	PKCEMethod string `key:"pkce.method"`
}
