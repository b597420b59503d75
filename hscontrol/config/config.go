// Package config turns a YAML file and HEADSCALE_ variables into one typed Config, or into sentences that say why not.
//
// The way of a key through the files of this package:
//
//	yaml.go, env.go   text -> tree of values, each with its position
//	legacy.go         keys of older releases -> today's keys, one warning each
//	decode.go         tree -> Config, by the key tags below; what is not known is an error
//	defaults.go       what nobody set
//	validate*.go      what cannot work, with a remedy
package config

import (
	"io/fs"
	"net/netip"
	"time"
)

// Config is everything that the server can be told. Its fields carry their key in the file in the tag `key`,
// and the tag `reload:"live"` when a change of it is applied by SIGHUP, without a restart.
//
// The zero Config is of no use: begin with [Default] or [Load].
type Config struct {
	// File is the file that was loaded; empty when there was none.
	File string
	// ServerURLGuessed says that nobody set ServerURL and that it was made from this machine's address.
	ServerURLGuessed bool

	// DataDir is the directory below which all files live that have no path of their own. Never empty, absolute.
	DataDir string `key:"data_dir" path:"yes"`

	// ServerURL is what clients are given with --login-server: scheme, host, and port where it is not the
	// scheme's own; never a path, never a slash at the end.
	ServerURL string `key:"server_url"`
	// ListenAddr is where clients are answered, host:port.
	ListenAddr string `key:"listen_addr"`
	// MetricsListenAddr is where /metrics and pprof are answered; empty turns both off.
	MetricsListenAddr string `key:"metrics_listen_addr"`
	// GRPCListenAddr is where a remote CLI is answered over TCP; empty turns it off.
	GRPCListenAddr string `key:"grpc_listen_addr"`
	// GRPCAllowInsecure serves gRPC over TCP without TLS too.
	GRPCAllowInsecure bool `key:"grpc_allow_insecure"`
	// TrustedProxies are the peers whose X-Forwarded-For and kin are believed; empty believes nobody.
	TrustedProxies []netip.Prefix `key:"trusted_proxies"`

	// UnixSocket is where the CLI on this machine is answered. Never empty after Load.
	UnixSocket string `key:"unix_socket" path:"yes"`
	// UnixSocketPermission is the mode of that socket.
	UnixSocketPermission fs.FileMode `key:"unix_socket_permission"`

	Noise    Noise    `key:"noise"`
	Prefixes Prefixes `key:"prefixes"`
	DERP     DERP     `key:"derp"`
	Node     Node     `key:"node"`
	Database Database `key:"database"`
	// TLS has keys at the top level of the file.
	TLS    TLS    `key:""`
	Log    Log    `key:"log"`
	Policy Policy `key:"policy"`
	DNS    DNS    `key:"dns"`
	OIDC   OIDC   `key:"oidc"`
	CLI    CLI    `key:"cli"`
	CORS   CORS   `key:"cors"`
	UI     UI     `key:"ui"`

	Audit    Audit    `key:"audit"`
	Webhooks Webhooks `key:"webhooks"`

	// LogtailEnabled lets clients send their logs to Tailscale; otherwise they are told not to.
	LogtailEnabled bool `key:"logtail.enabled"`
	// TaildropEnabled lets nodes of one user send files to each other.
	TaildropEnabled bool `key:"taildrop.enabled"`
	// AutoUpdateEnabled asks clients that have no opinion of their own to update themselves.
	AutoUpdateEnabled bool `key:"auto_update.enabled"`
	// RandomizeClientPort asks clients to use a random WireGuard port instead of 41641.
	RandomizeClientPort bool `key:"randomize_client_port"`
}

// Noise is the encrypted channel between client and server.
type Noise struct {
	// PrivateKeyPath holds the server's key, made at the first start. Never empty after Load.
	PrivateKeyPath string `key:"private_key_path" path:"yes"`
	// AlsoOn443 answers on port 443 too, with a certificate of the server's own making, where ServerURL is
	// plain http: clients that dialled such a server twice within two minutes insist on TLS at 443 from then
	// on. Without effect where ServerURL is https.
	AlsoOn443 bool `key:"also_on_443"`
}

// Prefixes are the ranges that nodes get their addresses from. At least one is valid after Load.
type Prefixes struct {
	// V4 is the IPv4 range; the zero Prefix gives nodes no IPv4 address.
	V4 netip.Prefix `key:"v4"`
	// V6 is the IPv6 range; the zero Prefix gives nodes no IPv6 address.
	V6 netip.Prefix `key:"v6"`
	// Allocation is AllocationSequential or AllocationRandom.
	Allocation string `key:"allocation"`
}

// Values of Prefixes.Allocation.
const (
	AllocationSequential = "sequential"
	AllocationRandom     = "random"
)

// DERP says where the relays of the clients' DERP map come from.
type DERP struct {
	Server DERPServer `key:"server"`
	// URLs are maps fetched over http(s), merged in this order; empty fetches none.
	URLs []string `key:"urls" reload:"live"`
	// Paths are map files in YAML or JSON, merged after URLs.
	Paths []string `key:"paths" path:"yes" reload:"live"`
	// AutoUpdateEnabled reads URLs and Paths again every UpdateFrequency.
	AutoUpdateEnabled bool `key:"auto_update_enabled" reload:"live"`
	// UpdateFrequency is positive whenever AutoUpdateEnabled is set.
	UpdateFrequency time.Duration `key:"update_frequency" reload:"live"`
	Limits          DERPLimits    `key:"limits"`
	Relays          DERPRelays    `key:"relays"`
}

// DERPLimits bound what the relays of this server carry: the embedded one, and each that enrolled. Zero is no bound.
type DERPLimits struct {
	// PerNode bounds what each node sends.
	PerNode Bound `key:"per_node" reload:"live"`
	// PerTag takes the place of PerNode for nodes with a tag; of several tags the widest counts.
	PerTag map[string]Bound `key:"per_tag" reload:"live"`
	// Total bounds all nodes of one relay together.
	Total Bound `key:"total" reload:"live"`
	// MonthlyQuota is what one relay may send in a calendar month (UTC).
	MonthlyQuota Size `key:"monthly_quota" reload:"live"`
	// ConnectionsPerSecond bounds how many connections one relay takes.
	ConnectionsPerSecond int `key:"connections_per_second" reload:"live"`
}

// DERPRelays are the rules for relays that enrol themselves (derper --enroll-key).
type DERPRelays struct {
	// Enabled lets relays with a key enrol, and those that did stay connected.
	Enabled bool `key:"enabled" reload:"live"`
	// Outage is how long a relay goes on serving the nodes that it knows while it cannot reach this server.
	Outage time.Duration `key:"outage" reload:"live"`
	// ProbeInterval is the pause between two probes of a relay; zero probes never.
	ProbeInterval time.Duration `key:"probe_interval" reload:"live"`
	// ProbeTimeout is how long a relay may take to answer one.
	ProbeTimeout time.Duration `key:"probe_timeout" reload:"live"`
}

// DERPServer is the relay inside the server.
type DERPServer struct {
	Enabled bool `key:"enabled"`
	// RegionID is the id of its region in the map, 1 to 65535.
	RegionID   int    `key:"region_id"`
	RegionCode string `key:"region_code"`
	RegionName string `key:"region_name"`
	// VerifyClients admits only nodes of this server.
	VerifyClients bool `key:"verify_clients"`
	// STUNListenAddr is a UDP host:port; empty answers no STUN.
	STUNListenAddr string `key:"stun_listen_addr"`
	// PrivateKeyPath holds the relay's key, made at the first start. Never empty after Load.
	PrivateKeyPath string `key:"private_key_path" path:"yes"`
	// AutoAddRegion puts the relay into the map; otherwise a source of the map has to.
	AutoAddRegion bool `key:"automatically_add_embedded_derp_region"`
	// IPv4 and IPv6 are the relay's addresses in the map; the zero Addr lets clients resolve the host name.
	IPv4 netip.Addr `key:"ipv4"`
	IPv6 netip.Addr `key:"ipv6"`
	// Port is the relay's TCP port in the map, with the server's own certificate; zero means that of server_url.
	Port int `key:"port"`
}

// Node holds the rules that apply to every node.
type Node struct {
	// Expiry is how long the key of a user's node lasts; zero means for ever.
	Expiry time.Duration `key:"expiry"`
	// EphemeralTimeout removes an ephemeral node that was away for so long. Above 65 seconds.
	EphemeralTimeout time.Duration `key:"ephemeral.inactivity_timeout"`
	// HAProbeInterval is the pause between two probes of routers that share a route; zero probes never.
	HAProbeInterval time.Duration `key:"routes.ha.probe_interval"`
	// HAProbeTimeout is how long a router may take to answer; shorter than HAProbeInterval.
	HAProbeTimeout time.Duration `key:"routes.ha.probe_timeout"`
}

// TLS is how the server comes by its certificate. With nothing set it speaks plain http, or stands behind a proxy.
type TLS struct {
	// CertPath and KeyPath are PEM files, set both or neither.
	CertPath string `key:"tls_cert_path" path:"yes" reload:"live"`
	KeyPath  string `key:"tls_key_path" path:"yes" reload:"live"`
	// LetsEncryptHostname is the name to have certified over ACME; empty asks for none.
	LetsEncryptHostname string `key:"tls_letsencrypt_hostname"`
	// LetsEncryptCacheDir keeps the account and the certificates.
	LetsEncryptCacheDir string `key:"tls_letsencrypt_cache_dir" path:"yes"`
	// LetsEncryptChallenge is ChallengeHTTP01 or ChallengeTLSALPN01.
	LetsEncryptChallenge string `key:"tls_letsencrypt_challenge_type"`
	// LetsEncryptListen is where the HTTP-01 challenge is answered.
	LetsEncryptListen string `key:"tls_letsencrypt_listen"`
	// ACMEURL is the directory of the certificate authority.
	ACMEURL string `key:"acme_url"`
	// ACMEEmail is given to the authority; may be empty.
	ACMEEmail string `key:"acme_email"`
}

// Values of TLS.LetsEncryptChallenge.
const (
	ChallengeHTTP01    = "HTTP-01"
	ChallengeTLSALPN01 = "TLS-ALPN-01"
)

// Log says how much is logged, and how it looks.
type Log struct {
	// Level is trace, debug, info, warn or error.
	Level string `key:"level" reload:"live"`
	// Format is text or json.
	Format string `key:"format"`
}

// Policy says where the access rules come from.
type Policy struct {
	// Mode is PolicyFile or PolicyDatabase; where nobody set it, the first if there is a Path.
	Mode string `key:"mode" reload:"live"`
	// Path is a HuJSON file, the policy of the default tailnet. Empty means that there is none: what is stored stays in
	// force, and where nothing is, everyone in the tailnet sees everyone.
	// The file's content is read again at SIGHUP.
	Path string `key:"path" path:"yes" reload:"live"`
}

// Values of Policy.Mode.
const (
	PolicyFile     = "file"
	PolicyDatabase = "database"
)

// CLI is how the command line reaches a server that is elsewhere. The server itself ignores it.
type CLI struct {
	// Address is host:port of the server's gRPC; empty means the unix socket.
	Address string `key:"address"`
	APIKey  string `key:"api_key" secret:"yes"`
	// Timeout ends a command that got no answer.
	Timeout time.Duration `key:"timeout"`
	// Insecure checks no certificate.
	Insecure bool `key:"insecure"`
	// OutputCompat is the release whose JSON and YAML the command line writes; empty is today's.
	OutputCompat string `key:"output_compat"`
}

// CORS says which pages of other origins may use the API in a browser.
type CORS struct {
	// AllowedOrigins are origins like https://ui.example.com, or * for all; empty allows pages of this server only.
	AllowedOrigins []string `key:"allowed_origins" reload:"live"`
}

// Audit says how long the audit log is kept in the database, and to where it is sent beside.
type Audit struct {
	// Retention is after how long rows are deleted; 0 keeps them for good.
	Retention time.Duration `key:"retention" reload:"live"`
	// Streams are file:///PATH, udp://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT and unix:///PATH (syslog), http:// and
	// https:// URLs; empty sends it nowhere.
	Streams []string `key:"streams"`
	// HTTPFormat is json, ndjson or splunk, for all streams over HTTP.
	HTTPFormat string `key:"http_format"`
	// HTTPToken is what streams over HTTP are opened with; empty: nothing.
	HTTPToken string `key:"http_token" secret:"yes"`
}

// Webhooks says where endpoints may be.
type Webhooks struct {
	// PublicOnly refuses endpoints in private networks and on this machine, and receivers of the audit log there that were
	// set through the API. Audit.Streams may be there.
	PublicOnly bool `key:"public_only"`
}

// UI is user interfaces that run in browsers.
type UI struct {
	// StaticDirs has the directory that is served at each path, /web for instance; empty serves none.
	StaticDirs map[string]string `key:"static_dirs" path:"yes" reload:"live"`
}
