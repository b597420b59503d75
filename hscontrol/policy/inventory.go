package policy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

// An inventory is users and nodes in the shape of the answers of GET /api/v1/user and GET /api/v1/node.
type inventory struct {
	Users []inventoryUser `json:"users"`
	Nodes []inventoryNode `json:"nodes"`
}

type inventoryUser struct {
	ID          number `json:"id"`
	Name        string `json:"name"`
	DisplayName string `json:"displayName"`
	Email       string `json:"email"`
	Role        string `json:"role"`
}

type inventoryNode struct {
	ID              number         `json:"id"`
	Name            string         `json:"name"`
	GivenName       string         `json:"givenName"`
	User            *inventoryUser `json:"user"`
	IPAddresses     []string       `json:"ipAddresses"`
	Tags            []string       `json:"tags"`
	AvailableRoutes []string       `json:"availableRoutes"`
	ApprovedRoutes  []string       `json:"approvedRoutes"`
	Online          bool           `json:"online"`
}

// number is an ID, which the API writes as a text.
type number uint64

func (n *number) UnmarshalJSON(b []byte) error {
	if len(b) > 1 && b[0] == '"' {
		b = b[1 : len(b)-1]
	}
	id, err := strconv.ParseUint(string(b), 10, 64)
	*n = number(id)
	return err
}

// ReadInventory makes a snapshot of an inventory: a JSON object with the lists users and nodes, in the shape of the API.
func ReadInventory(text []byte) (*tailnet.Snapshot, error) {
	var inv inventory
	if err := json.Unmarshal(text, &inv); err != nil {
		return nil, fmt.Errorf("reading the inventory: %w", err)
	}
	s := &tailnet.Snapshot{Tailnet: &tailnet.Tailnet{ID: 1, Name: tailnet.DefaultName}, Users: map[tailnet.UserID]*tailnet.User{}}
	for _, u := range inv.Users {
		if u.ID == 0 {
			return nil, fmt.Errorf("reading the inventory: user %q has no id", u.Name)
		}
		s.Users[tailnet.UserID(u.ID)] = &tailnet.User{
			ID: tailnet.UserID(u.ID), TailnetID: 1, Name: u.Name, DisplayName: u.DisplayName, Email: u.Email, Role: u.Role,
		}
	}
	ids := map[tailnet.NodeID]bool{}
	for _, in := range inv.Nodes {
		n, err := in.node()
		if err == nil && (n.ID == 0 || ids[n.ID]) {
			err = errors.New("its id is missing or used twice")
		}
		if err != nil {
			return nil, fmt.Errorf("reading node %q of the inventory: %w", in.GivenName, err)
		}
		ids[n.ID] = true
		s.Nodes = append(s.Nodes, n)
	}
	slices.SortFunc(s.Nodes, func(a, b *tailnet.Node) int { return cmp.Compare(a.ID, b.ID) })
	for id, routes := range tailnet.ElectPrimaries(s.Nodes) {
		s.Node(id).PrimaryRoutes = routes
	}
	return s, nil
}

func (in inventoryNode) node() (*tailnet.Node, error) {
	n := &tailnet.Node{
		ID: tailnet.NodeID(in.ID), TailnetID: 1, GivenName: cmp.Or(in.GivenName, in.Name), Hostname: in.Name,
		Tags: slices.Clone(in.Tags), Online: in.Online, Hostinfo: &tailcfg.Hostinfo{},
	}
	slices.Sort(n.Tags)
	if in.User != nil && len(n.Tags) == 0 {
		n.UserID = tailnet.UserID(in.User.ID)
	}
	for _, text := range in.IPAddresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		if a.Is4() {
			n.IPv4 = a
		} else {
			n.IPv6 = a
		}
	}
	var err error
	if n.Hostinfo.RoutableIPs, err = parsePrefixes(in.AvailableRoutes); err != nil {
		return nil, err
	}
	n.ApprovedRoutes, err = parsePrefixes(in.ApprovedRoutes)
	return n, err
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, p.Masked())
	}
	return prefixes, nil
}
