package store

import (
	"encoding/json"
	"fmt"
	"strings"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Bounds on what a client may say of itself.
const (
	maxHostinfo  = 64 << 10 // bytes of JSON
	maxHostname  = 255      // bytes
	maxEndpoints = 100
)

func checkHostinfo(h *tailcfg.Hostinfo) error {
	if h == nil {
		return nil
	}
	if len(h.Hostname) > maxHostname {
		return fmt.Errorf("%w: a host name of %d bytes: %d at most", tailnet.ErrInvalid, len(h.Hostname), maxHostname)
	}
	if len(h.RoutableIPs) > maxRoutes {
		return fmt.Errorf("%w routes: %d, at most %d", tailnet.ErrTooMany, len(h.RoutableIPs), maxRoutes)
	}
	if len(h.RequestTags) > maxTags {
		return fmt.Errorf("%w tags: %d, at most %d", tailnet.ErrTooMany, len(h.RequestTags), maxTags)
	}
	b, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("%w: host information: %w", tailnet.ErrInvalid, err)
	}
	if len(b) > maxHostinfo {
		return fmt.Errorf("%w: host information of %d bytes: %d at most", tailnet.ErrInvalid, len(b), maxHostinfo)
	}
	return nil
}

// hear writes into the node what h says; nil says nothing. A host information without network information leaves the
// one that is known. A new host name renames the node, unless an administrator pinned its name.
func (t *tx) hear(n *tailnet.Node, h *tailcfg.Hostinfo) error {
	if h == nil {
		return nil
	}
	known := n.Hostinfo
	n.Hostinfo = h.Clone()
	if h.NetInfo == nil && known != nil {
		n.Hostinfo.NetInfo = known.NetInfo
	}
	if n.Hostinfo.NetInfo != nil {
		n.HomeDERP = n.Hostinfo.NetInfo.PreferredDERP
	}
	// PostgreSQL takes no text with a zero byte, nor one that is not UTF-8.
	hostname := strings.ToValidUTF8(strings.ReplaceAll(h.Hostname, "\x00", ""), "\uFFFD")
	if hostname == "" || hostname == n.Hostname {
		return nil
	}
	n.Hostname = hostname
	if n.NamePinned {
		return nil
	}
	return t.nameAfter(n, hostname)
}

// nameAfter names the node after its host name, with a number if others have that name.
func (t *tx) nameAfter(n *tailnet.Node, hostname string) error {
	var fault error
	name := tailnet.FreeName(tailnet.BaseName(hostname), func(name string) bool {
		if fault != nil {
			return false // ends the search
		}
		var taken bool
		taken, fault = t.taken(n, "given_name", name)
		return taken
	})
	if fault != nil {
		return fmt.Errorf("choosing a name: %w", fault)
	}
	n.GivenName = name
	return nil
}
