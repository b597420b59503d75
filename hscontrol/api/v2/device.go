package v2

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/state"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// device is a node as Tailscale's API writes it.
type device struct {
	Addresses                 []string   `json:"addresses"`
	ID                        string     `json:"id"`
	NodeID                    string     `json:"nodeId"`
	User                      string     `json:"user"`
	Name                      string     `json:"name"`
	Hostname                  string     `json:"hostname"`
	ClientVersion             string     `json:"clientVersion"`
	UpdateAvailable           bool       `json:"updateAvailable"`
	OS                        string     `json:"os"`
	Created                   time.Time  `json:"created"`
	LastSeen                  *time.Time `json:"lastSeen,omitempty"` // while it is not connected
	ConnectedToControl        bool       `json:"connectedToControl"`
	KeyExpiryDisabled         bool       `json:"keyExpiryDisabled"`
	Expires                   time.Time  `json:"expires"`
	Authorized                bool       `json:"authorized"`
	IsExternal                bool       `json:"isExternal"`
	IsEphemeral               bool       `json:"isEphemeral"`
	MachineKey                string     `json:"machineKey"`
	NodeKey                   string     `json:"nodeKey"`
	BlocksIncomingConnections bool       `json:"blocksIncomingConnections"`
	TailnetLockKey            string     `json:"tailnetLockKey"`
	TailnetLockError          string     `json:"tailnetLockError"`
	Tags                      []string   `json:"tags,omitempty"`

	*deviceDetails
}

// deviceDetails are what is told with fields=all only.
type deviceDetails struct {
	AdvertisedRoutes []string      `json:"advertisedRoutes"`
	EnabledRoutes    []string      `json:"enabledRoutes"`
	SSHEnabled       bool          `json:"sshEnabled"`
	Connectivity     *connectivity `json:"clientConnectivity,omitempty"`
	Distro           *distro       `json:"distro,omitempty"`
}

type connectivity struct {
	Endpoints             []string           `json:"endpoints"`
	DERP                  string             `json:"derp"`
	MappingVariesByDestIP bool               `json:"mappingVariesByDestIP"`
	Latency               map[string]latency `json:"latency"`
	ClientSupports        map[string]bool    `json:"clientSupports"`
}

type latency struct {
	Preferred bool    `json:"preferred,omitempty"`
	Millis    float64 `json:"latencyMs"`
}

type distro struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	CodeName string `json:"codeName"`
}

// sketch is what devices of one tailnet are written with.
type sketch struct {
	users map[tailnet.UserID]*tailnet.User
	view  *state.View // nil: the tailnet is new, or gone
}

func (c *call) sketch(id tailnet.ID) (*sketch, error) {
	users, err := c.cfg.Store.ListUsers(c.ctx, store.UserFilter{TailnetID: id})
	if err != nil {
		return nil, err
	}
	s := &sketch{users: map[tailnet.UserID]*tailnet.User{}, view: c.cfg.View(id)}
	for _, u := range users {
		s.users[u.ID] = u
	}
	return s, nil
}

func (s *sketch) device(n *tailnet.Node, all bool) *device {
	d := &device{
		Addresses: texts(n.Addrs()), ID: idText(n.ID), NodeID: idText(n.ID), User: tailnet.TaggedDevicesProfile().LoginName,
		Name: n.GivenName, Hostname: n.Hostname, Created: n.CreatedAt.UTC(),
		ConnectedToControl: n.Online, KeyExpiryDisabled: n.Expiry == nil, Authorized: !n.Unauthorized, IsEphemeral: n.Ephemeral,
		MachineKey: n.MachineKey.String(), NodeKey: n.NodeKey.String(), Tags: n.Tags,
	}
	if s.view != nil {
		d.Name = strings.TrimSuffix(n.FQDN(s.view.Domain), ".")
	}
	if u := s.users[n.UserID]; u != nil && !n.IsTagged() {
		d.User = u.LoginName()
	}
	if n.Expiry != nil {
		d.Expires = n.Expiry.UTC()
	}
	if !n.Online && n.LastSeen != nil {
		at := n.LastSeen.UTC()
		d.LastSeen = &at
	}
	if !n.NLKey.IsZero() {
		d.TailnetLockKey = n.NLKey.CLIString()
	}
	if h := n.Hostinfo; h != nil {
		d.OS, d.ClientVersion, d.BlocksIncomingConnections = osName(h), h.IPNVersion, h.ShieldsUp
	}
	if all {
		d.deviceDetails = s.details(n)
	}
	return d
}

// osName is an operating system as the API calls it.
func osName(h *tailcfg.Hostinfo) string { return h.OS }

func (s *sketch) details(n *tailnet.Node) *deviceDetails {
	more := &deviceDetails{AdvertisedRoutes: texts(n.AnnouncedRoutes()), EnabledRoutes: texts(n.ApprovedRoutes)}
	h := n.Hostinfo
	if h == nil {
		return more
	}
	more.SSHEnabled = len(h.SSH_HostKeys) > 0
	if h.Distro != "" {
		more.Distro = &distro{h.Distro, h.DistroVersion, h.DistroCodeName}
	}
	more.Connectivity = &connectivity{Endpoints: texts(n.Endpoints), DERP: s.region(n.HomeDERP), Latency: map[string]latency{}, ClientSupports: map[string]bool{}}
	net := h.NetInfo
	if net == nil {
		return more
	}
	more.Connectivity.MappingVariesByDestIP = net.MappingVariesByDestIP.EqualBool(true)
	for name, seconds := range net.DERPLatency {
		region, _, _ := strings.Cut(name, "-") // "1-v4": region and family
		id, err := strconv.Atoi(region)
		if err != nil {
			continue
		}
		millis := seconds * 1000
		if known, ok := more.Connectivity.Latency[s.region(id)]; !ok || millis < known.Millis {
			more.Connectivity.Latency[s.region(id)] = latency{id == net.PreferredDERP, millis}
		}
	}
	for name, is := range map[string]bool{
		"ipv6": net.WorkingIPv6.EqualBool(true), "udp": net.WorkingUDP.EqualBool(true),
		"pcp": net.PCP.EqualBool(true), "pmp": net.PMP.EqualBool(true), "upnp": net.UPnP.EqualBool(true),
	} {
		more.Connectivity.ClientSupports[name] = is
	}
	return more
}

// region is the name of a DERP region, or its number where it has none.
func (s *sketch) region(id int) string {
	if id == 0 {
		return ""
	}
	if s.view != nil && s.view.DERPMap != nil {
		if r := s.view.DERPMap.Regions[id]; r != nil && r.RegionName != "" {
			return r.RegionName
		}
	}
	return fmt.Sprintf("region %d", id)
}

// ownTags refuses tags that are not among the caller's, if it has any: those, and tags that these own.
func (c *call) ownTags(id tailnet.ID, tags []string) error {
	if len(tags) == 0 {
		return nil
	}
	err := c.caller.CheckTags(tags, func(by []string, tag string) bool {
		v := c.cfg.View(id)
		return v != nil && v.Policy.TagOwnedBy(by, tag)
	})
	if err != nil {
		return &refusal{403, fmt.Sprintf("requested tags [%s] are invalid or not permitted: %v", strings.Join(tags, " "), err)}
	}
	return nil
}
