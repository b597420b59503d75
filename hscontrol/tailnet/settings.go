package tailnet

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"tailscale.com/util/dnsname"
)

// Settings are what an administrator has set for one tailnet, over what the server's configuration says. The zero
// value sets nothing.
type Settings struct {
	// DisplayName is what people call the tailnet, where that is not its name.
	DisplayName string `json:",omitempty"`

	// DevicesApproval keeps new nodes out until an administrator lets them in, but for those of preauthorized keys.
	DevicesApproval bool `json:",omitempty"`
	// UsersApproval does so with users that log in for the first time.
	UsersApproval bool `json:",omitempty"`
	// KeyDays is for how many days the key of a user's node is good; zero: as the configuration says.
	KeyDays int `json:",omitempty"`
	// AutoUpdates is what clients do that have not chosen; nil: as the configuration says.
	AutoUpdates *bool `json:",omitempty"`

	// PolicyElsewhere says to people and programs that the policy is kept elsewhere, at PolicyLink, and not to be edited.
	PolicyElsewhere bool   `json:",omitempty"`
	PolicyLink      string `json:",omitempty"`

	// These are kept for programs that ask, and change nothing: the server issues no certificates, asks devices for no
	// serial numbers, and lets nobody be in two tailnets.
	HTTPS             bool   `json:",omitempty"`
	PostureIdentities bool   `json:",omitempty"`
	JoinElsewhere     string `json:",omitempty"` // the role that may: JoinNone (or nothing), JoinAdmin or JoinMember

	Posture []PostureService `json:",omitempty"`

	DNS      DNSSettings       `json:",omitzero"`
	Contacts map[string]string `json:",omitempty"` // mail addresses by what they are for
}

// Who may join other tailnets.
const (
	JoinNone   = "none"
	JoinAdmin  = "admin"
	JoinMember = "member"
)

// PostureService is a device management service that an administrator has written down. Its secret is not kept: the
// server asks no such service.
type PostureService struct {
	ID        string
	Provider  string
	CloudID   string    `json:",omitempty"`
	ClientID  string    `json:",omitempty"`
	TenantID  string    `json:",omitempty"`
	ChangedAt time.Time `json:",omitzero"`
}

// postureProviders are the services that Tailscale's API knows.
var postureProviders = []string{"falcon", "fleet", "huntress", "intune", "jamfpro", "kandji", "kolide", "sentinelone"}

// DNSSettings are the parts of DNS that were set for one tailnet; nil: as the configuration says.
type DNSSettings struct {
	Nameservers      *[]Resolver            `json:",omitempty"`
	Split            *map[string][]Resolver `json:",omitempty"`
	SearchPaths      *[]string              `json:",omitempty"`
	MagicDNS         *bool                  `json:",omitempty"`
	OverrideLocalDNS *bool                  `json:",omitempty"`
}

// Resolver is a DNS server.
type Resolver struct {
	Address     string // an address, or a URL of DNS over HTTPS
	ViaExitNode bool   `json:",omitempty"` // it is asked also while an exit node is in use
}

// Bounds of settings.
const (
	MaxKeyDays     = 180
	maxResolvers   = 100
	maxPosture     = 100
	maxDomains     = 500
	maxSettingText = 1024
)

// Validate says what is wrong with settings, in a sentence.
func (s *Settings) Validate() error {
	if s.KeyDays < 0 || s.KeyDays > MaxKeyDays {
		return fmt.Errorf("%w: a key is good for 1 to %d days", ErrInvalid, MaxKeyDays)
	}
	if len(s.DisplayName) > maxSettingText || strings.ContainsAny(s.DisplayName, "\x00\r\n") {
		return fmt.Errorf("%w: the display name is longer than %d bytes, or more than a line", ErrInvalid, maxSettingText)
	}
	if len(s.PolicyLink) > maxSettingText {
		return fmt.Errorf("%w: the link is longer than %d bytes", ErrInvalid, maxSettingText)
	}
	if u, err := url.Parse(s.PolicyLink); s.PolicyLink != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		return fmt.Errorf("%w: the link %q is not an https URL", ErrInvalid, s.PolicyLink)
	}
	for what, mail := range s.Contacts {
		if at := strings.IndexByte(mail, '@'); len(mail) > 320 || mail != "" && (at < 1 || at == len(mail)-1 || strings.ContainsAny(mail, " \r\n\t\x00")) {
			return fmt.Errorf("%w: the %s contact %q is not a mail address", ErrInvalid, what, mail)
		}
	}
	if join := s.JoinElsewhere; join != "" && join != JoinNone && join != JoinAdmin && join != JoinMember {
		return fmt.Errorf("%w: who may join other tailnets: %q, write none, admin or member", ErrInvalid, join)
	}
	if err := s.validatePosture(); err != nil {
		return err
	}
	return s.DNS.validate()
}

func (s *Settings) validatePosture() error {
	if len(s.Posture) > maxPosture {
		return fmt.Errorf("%w device management services: %d, at most %d", ErrTooMany, len(s.Posture), maxPosture)
	}
	for _, p := range s.Posture {
		if !slices.Contains(postureProviders, p.Provider) {
			return fmt.Errorf("%w: provider %q: write one of %s", ErrInvalid, p.Provider, strings.Join(postureProviders, ", "))
		}
		for _, text := range []string{p.CloudID, p.ClientID, p.TenantID} {
			if len(text) > maxSettingText || strings.ContainsAny(text, "\x00\r\n") {
				return fmt.Errorf("%w: an ID of the device management service is longer than %d bytes, or more than a line", ErrInvalid, maxSettingText)
			}
		}
	}
	return nil
}

func (d *DNSSettings) validate() error {
	if d.Nameservers != nil {
		if err := validateResolvers(*d.Nameservers); err != nil {
			return err
		}
	}
	if d.SearchPaths != nil {
		if err := validateDomains(*d.SearchPaths); err != nil {
			return err
		}
	}
	if d.Split == nil {
		return nil
	}
	if err := validateDomains(slices.Sorted(maps.Keys(*d.Split))); err != nil {
		return err
	}
	for domain, resolvers := range *d.Split {
		if err := validateResolvers(resolvers); err != nil {
			return fmt.Errorf("domain %s: %w", domain, err)
		}
	}
	return nil
}

func validateDomains(names []string) error {
	if len(names) > maxDomains {
		return fmt.Errorf("%w domains: %d, at most %d", ErrTooMany, len(names), maxDomains)
	}
	for _, name := range names {
		if _, err := dnsname.ToFQDN(name); err != nil || strings.Trim(name, ".") == "" {
			return fmt.Errorf("%w: %q is not a domain", ErrInvalid, name)
		}
	}
	return nil
}

func validateResolvers(list []Resolver) error {
	if len(list) > maxResolvers {
		return fmt.Errorf("%w nameservers: %d, at most %d", ErrTooMany, len(list), maxResolvers)
	}
	for _, r := range list {
		if u, err := url.Parse(r.Address); err == nil && u.Scheme == "https" && u.Host != "" && len(r.Address) <= maxSettingText {
			continue
		}
		if _, err := netip.ParseAddr(r.Address); err == nil {
			continue
		}
		if _, err := netip.ParseAddrPort(r.Address); err == nil {
			continue
		}
		return fmt.Errorf("%w: nameserver %q is neither an address nor an https URL", ErrInvalid, r.Address)
	}
	return nil
}

// Rank is the place of a role among all, the highest first. No role is a member's.
func Rank(role string) int {
	if i := slices.Index(roles, role); i >= 0 {
		return i
	}
	return len(roles) - 1
}

// Attribute is something that an administrator or a program knows of a node: "custom:ticket".
type Attribute struct {
	NodeID    NodeID
	Name      string
	Value     string // JSON: a text, a number or a boolean
	Comment   string
	ExpiresAt *time.Time // nil: never
	UpdatedAt time.Time
}

// Service is a name and addresses that stand for several nodes ("svc:web").
type Service struct {
	TailnetID   ID
	Name        string
	Addrs       []netip.Addr
	Comment     string
	Annotations map[string]string
	Ports       []string
	Tags        []string
	UpdatedAt   time.Time
}

// UserInvite gives a role to whoever logs in with a mail address.
type UserInvite struct {
	ID        uint64
	TailnetID ID
	Email     string
	Role      string
	InviterID UserID // zero: nobody in particular
	CreatedAt time.Time
}

// The states of a user. Nodes of a user that is not active reach nobody, and nobody reaches them.
const (
	UserActive        = ""
	UserSuspended     = "suspended"
	UserNeedsApproval = "needs-approval"
)

// Roles are what a user may be, the highest first.
var roles = []string{"owner", "admin", "it-admin", "network-admin", "billing-admin", "auditor", "member"}

// ValidateRole refuses what no user can be.
func ValidateRole(role string) error {
	if !slices.Contains(roles, role) {
		return fmt.Errorf("%w: role %q: write one of %s", ErrInvalid, role, strings.Join(roles, ", "))
	}
	return nil
}

// Excludes reports whether the node is to be cut off: nobody let it in yet, or its owner is not active. A tagged node has
// no owner.
func Excludes(n *Node, owner *User) bool {
	return n.Unauthorized || !n.IsTagged() && owner != nil && owner.Status != UserActive
}

// Admitted is the snapshot less the nodes that are cut off; the same one if there is none.
func (s *Snapshot) Admitted() *Snapshot {
	if !slices.ContainsFunc(s.Nodes, func(n *Node) bool { return n.Barred }) {
		return s
	}
	c := *s
	c.Nodes = slices.DeleteFunc(slices.Clone(s.Nodes), func(n *Node) bool { return n.Barred })
	return &c
}
