// Package store keeps the tailnets in SQL and tells followers when they moved.
package store

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

type Config struct {
	Type            string
	SQLite          SQLiteConfig
	Postgres        PostgresConfig
	Replica         string
	PrefixV4        netip.Prefix
	PrefixV6        netip.Prefix
	RandomAddresses bool
	Now             func() time.Time
	Rand            io.Reader
	Log             *slog.Logger
}

type SQLiteConfig struct {
	Path              string
	WAL               bool
	WALAutocheckpoint int
}

type PostgresConfig struct {
	Host            string
	Port            int
	Name            string
	User            string
	Pass            string
	SSL             string // "", "true", "false" or an sslmode of libpq
	MaxOpenConns    int
	MaxIdleConns    int
	ConnMaxIdleTime time.Duration
}

type Store struct{}

type UserFilter struct {
	TailnetID tailnet.ID
	ID        tailnet.UserID
	Name      string
	Email     string
}

type KeyFilter struct {
	TailnetID tailnet.ID
	UserID    tailnet.UserID
}

type NodeFilter struct {
	TailnetID  tailnet.ID
	UserID     tailnet.UserID
	MachineKey key.MachinePublic
	GivenName  string
}

type Join struct {
	MachineKey key.MachinePublic
	NodeKey    key.NodePublic
	OldNodeKey key.NodePublic
	NLKey      key.NLPublic
	Hostinfo   *tailcfg.Hostinfo
	CapVersion tailcfg.CapabilityVersion
	Ephemeral  bool
	Expiry     *time.Time
	Method     tailnet.RegisterMethod
	Tags       []string
}

type ApproveOptions struct {
	Tags   []string
	Expiry *time.Time
	Method tailnet.RegisterMethod
}

type NodeUpdate struct {
	Arrived       time.Time
	DiscoKey      key.DiscoPublic
	Endpoints     []netip.AddrPort
	EndpointTypes []tailcfg.EndpointType
	Hostinfo      *tailcfg.Hostinfo
	CapVersion    tailcfg.CapabilityVersion
}

type SessionRef struct {
	NodeID    tailnet.NodeID
	SessionID string
}

var errSoon = errors.New("store: not there yet")

func Open(ctx context.Context, cfg Config) (*Store, error) { return nil, errSoon }
func (s *Store) Close() error                              { return nil }
func (s *Store) Ping(ctx context.Context) error            { return errSoon }
func (s *Store) Moved() <-chan struct{}                    { return nil }

func (s *Store) Revisions(ctx context.Context) (map[tailnet.ID]tailnet.Revision, error) {
	return nil, errSoon
}
func (s *Store) Since(ctx context.Context, id tailnet.ID, from tailnet.Revision) (tailnet.Delta, error) {
	return tailnet.Delta{}, errSoon
}

func (s *Store) CreateTailnet(ctx context.Context, name string, v4, v6 netip.Prefix) (*tailnet.Tailnet, error) {
	return nil, errSoon
}
func (s *Store) ListTailnets(ctx context.Context) ([]*tailnet.Tailnet, error) { return nil, errSoon }
func (s *Store) FindTailnet(ctx context.Context, name string) (*tailnet.Tailnet, error) {
	return nil, errSoon
}
func (s *Store) DeleteTailnet(ctx context.Context, name string) error { return errSoon }

func (s *Store) CreateUser(ctx context.Context, u tailnet.User) (*tailnet.User, error) {
	return nil, errSoon
}
func (s *Store) ListUsers(ctx context.Context, f UserFilter) ([]*tailnet.User, error) {
	return nil, errSoon
}
func (s *Store) FindUser(ctx context.Context, id tailnet.ID, ref string) (*tailnet.User, error) {
	return nil, errSoon
}
func (s *Store) RenameUser(ctx context.Context, id tailnet.UserID, name string) (*tailnet.User, error) {
	return nil, errSoon
}
func (s *Store) DeleteUser(ctx context.Context, id tailnet.UserID) error { return errSoon }

func (s *Store) CreatePreAuthKey(ctx context.Context, k tailnet.PreAuthKey) (*tailnet.PreAuthKey, tailnet.Secret, error) {
	return nil, tailnet.Secret{}, errSoon
}
func (s *Store) ListPreAuthKeys(ctx context.Context, f KeyFilter) ([]*tailnet.PreAuthKey, error) {
	return nil, errSoon
}
func (s *Store) ExpirePreAuthKey(ctx context.Context, id tailnet.KeyID) error { return errSoon }
func (s *Store) DeletePreAuthKey(ctx context.Context, id tailnet.KeyID) error { return errSoon }
func (s *Store) FindPreAuthKey(ctx context.Context, text string) (*tailnet.PreAuthKey, error) {
	return nil, errSoon
}

func (s *Store) CreateAPIKey(ctx context.Context, id tailnet.ID, expiration *time.Time) (*tailnet.APIKey, tailnet.Secret, error) {
	return nil, tailnet.Secret{}, errSoon
}
func (s *Store) ListAPIKeys(ctx context.Context) ([]*tailnet.APIKey, error) { return nil, errSoon }
func (s *Store) ExpireAPIKey(ctx context.Context, id tailnet.KeyID) error   { return errSoon }
func (s *Store) DeleteAPIKey(ctx context.Context, id tailnet.KeyID) error   { return errSoon }
func (s *Store) FindAPIKey(ctx context.Context, id tailnet.KeyID, prefix string) (*tailnet.APIKey, error) {
	return nil, errSoon
}
func (s *Store) VerifyAPIKey(ctx context.Context, secret string) (*tailnet.APIKey, error) {
	return nil, errSoon
}

func (s *Store) JoinWithKey(ctx context.Context, secret string, j Join) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) BeginRegistration(ctx context.Context, r tailnet.Registration) (*tailnet.Registration, error) {
	return nil, errSoon
}
func (s *Store) FindRegistration(ctx context.Context, ref tailnet.RegistrationRef) (*tailnet.Registration, error) {
	return nil, errSoon
}
func (s *Store) Approve(ctx context.Context, id string, user tailnet.UserID, opts ApproveOptions) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) Reject(ctx context.Context, id string) error { return errSoon }

func (s *Store) ListNodes(ctx context.Context, f NodeFilter) ([]*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) GetNode(ctx context.Context, id tailnet.NodeID) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) FindNodeByKey(ctx context.Context, k key.NodePublic) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) UpdateNode(ctx context.Context, id tailnet.NodeID, u NodeUpdate) (node *tailnet.Node, changed bool, err error) {
	return nil, false, errSoon
}
func (s *Store) RenameNode(ctx context.Context, id tailnet.NodeID, name string) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) SetNodeTags(ctx context.Context, id tailnet.NodeID, tags []string) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) MoveNode(ctx context.Context, id tailnet.NodeID, user tailnet.UserID) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) ExpireNode(ctx context.Context, id tailnet.NodeID, at *time.Time) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) DeleteNode(ctx context.Context, id tailnet.NodeID) error { return errSoon }
func (s *Store) SetNodeAddrs(ctx context.Context, id tailnet.NodeID, addrs []netip.Addr) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) ApproveRoutes(ctx context.Context, id tailnet.NodeID, routes []netip.Prefix) (*tailnet.Node, error) {
	return nil, errSoon
}
func (s *Store) BackfillAddrs(ctx context.Context, id tailnet.ID) (changes []string, err error) {
	return nil, errSoon
}

func (s *Store) OpenSession(ctx context.Context, id tailnet.NodeID, sessionID string) error {
	return errSoon
}
func (s *Store) CloseSessions(ctx context.Context, refs []SessionRef) error { return errSoon }

func (s *Store) ReapEphemeral(ctx context.Context, offlineSince time.Time) ([]tailnet.NodeID, error) {
	return nil, errSoon
}
func (s *Store) PurgeExpired(ctx context.Context) error { return errSoon }

func (s *Store) PutPolicy(ctx context.Context, id tailnet.ID, text, source string) (*tailnet.PolicyVersion, error) {
	return nil, errSoon
}
func (s *Store) GetPolicy(ctx context.Context, id tailnet.ID) (*tailnet.PolicyVersion, error) {
	return nil, errSoon
}
func (s *Store) ListPolicies(ctx context.Context, id tailnet.ID) ([]*tailnet.PolicyVersion, error) {
	return nil, errSoon
}
