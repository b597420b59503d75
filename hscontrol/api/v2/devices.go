package v2

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

func listDevices(c *call) (any, error) {
	nodes, err := c.cfg.Store.ListNodes(c.ctx, store.NodeFilter{TailnetID: c.tailnet.ID})
	if err != nil {
		return nil, err
	}
	sketch, err := c.sketch(c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	all, filters, err := deviceQuery(c.r.URL.Query())
	if err != nil {
		return nil, err
	}
	devices := []*device{}
	for _, n := range nodes {
		if !c.caller.Owns(n.UserID) {
			continue
		}
		d := sketch.device(n, all)
		if passes(d, filters) {
			devices = append(devices, d)
		}
	}
	return map[string]any{"devices": devices}, nil
}

// deviceQuery reads which fields are wanted, and the filters: the name of a field and the values that it may have.
func deviceQuery(q url.Values) (all bool, filters map[string][]string, err error) {
	filters = map[string][]string{}
	for name, values := range q {
		switch name {
		case "fields":
			if all, err = allFields(values); err != nil {
				return false, nil, err
			}
		case "hostname", "name", "os", "user", "tags", "id", "nodeId", "addresses", "clientVersion", "isEphemeral", "isExternal",
			"authorized", "keyExpiryDisabled", "updateAvailable", "sshEnabled", "connectedToControl", "blocksIncomingConnections":
			filters[name] = values
		default:
			return false, nil, invalid("devices cannot be chosen by %q", name)
		}
	}
	return all, filters, nil
}

func allFields(values []string) (bool, error) {
	switch values[0] {
	case "all":
		return true, nil
	case "", "default":
		return false, nil
	}
	return false, invalid("fields can be all or default, not %q", values[0])
}

// passes reports whether each of the named fields has one of the values; a list, one of its items.
func passes(d *device, filters map[string][]string) bool {
	if len(filters) == 0 {
		return true
	}
	var fields map[string]any
	b, err := json.Marshal(d)
	if err != nil || json.Unmarshal(b, &fields) != nil {
		return false
	}
	for name, values := range filters {
		have, isList := fields[name].([]any)
		if !isList {
			have = []any{fields[name]}
		}
		if !slices.ContainsFunc(have, func(v any) bool { return slices.Contains(values, fmt.Sprint(v)) }) {
			return false
		}
	}
	return true
}

func getDevice(c *call) (any, error) {
	n, err := c.node()
	if err != nil {
		return nil, err
	}
	all := false
	if fields := c.r.URL.Query()["fields"]; len(fields) > 0 {
		if all, err = allFields(fields); err != nil {
			return nil, err
		}
	}
	sketch, err := c.sketch(n.TailnetID)
	if err != nil {
		return nil, err
	}
	return sketch.device(n, all), nil
}

// changeDevice makes a change of a node, and answers nothing.
func changeDevice(change func(*call, *tailnet.Node) error) func(*call) (any, error) {
	return func(c *call) (any, error) {
		n, err := c.node()
		if err != nil {
			return nil, err
		}
		return nil, change(c, n)
	}
}

func deleteDevice(c *call, n *tailnet.Node) error { return c.cfg.Store.DeleteNode(c.ctx, n.ID) }

func authorizeDevice(c *call, n *tailnet.Node) error {
	var req struct {
		Authorized *bool `json:"authorized"`
	}
	if err := c.read(&req); err != nil {
		return err
	}
	if req.Authorized == nil {
		return invalid("say authorized: true or false")
	}
	_, err := c.cfg.Store.AuthorizeNode(c.ctx, n.ID, *req.Authorized)
	return err
}

// nameDevice gives a device a name, whole or without the tailnet's domain; an empty one is that of its host again.
func nameDevice(c *call, n *tailnet.Node) error {
	var req struct {
		Name string `json:"name"`
	}
	if err := c.read(&req); err != nil {
		return err
	}
	if req.Name == "" {
		_, err := c.cfg.Store.UnpinNode(c.ctx, n.ID)
		return err
	}
	name := strings.TrimSuffix(req.Name, ".")
	if v := c.cfg.View(n.TailnetID); v != nil && v.Domain != "" {
		name = strings.TrimSuffix(name, "."+v.Domain)
	}
	_, err := c.cfg.Store.RenameNode(c.ctx, n.ID, name)
	return err
}

// tagDevice replaces a device's tags. Without any it belongs to a user again; see heir.
func tagDevice(c *call, n *tailnet.Node) error {
	var req struct {
		Tags []string `json:"tags"`
	}
	if err := c.read(&req); err != nil {
		return err
	}
	if len(req.Tags) > 0 {
		if err := c.mayTag(n.TailnetID, req.Tags); err != nil {
			return err
		}
		_, err := c.cfg.Store.SetNodeTags(c.ctx, n.ID, req.Tags)
		return err
	}
	if !n.IsTagged() {
		return nil
	}
	owner, err := c.heir(n)
	if err != nil {
		return err
	}
	_, err = c.cfg.Store.MoveNode(c.ctx, n.ID, owner)
	return err
}

// heir is whose a device is when it loses its tags: the user's on whose behalf the caller's key is. A key that may do
// everything and belongs to no user gives it to the user whose pre-auth key let it in, else to the first of those with
// the highest role. Another key may not decide that, since the device would reach what its user reaches.
func (c *call) heir(n *tailnet.Node) (tailnet.UserID, error) {
	if c.caller.User != 0 {
		return c.caller.User, nil
	}
	if !c.caller.May(tailnet.ScopeAll) {
		return 0, invalid("a device without tags needs an owner, and this key belongs to no user: use a user's key, or headscale nodes move")
	}
	if n.AuthKeyID != 0 {
		keys, err := c.cfg.Store.ListPreAuthKeys(c.ctx, store.KeyFilter{TailnetID: n.TailnetID, IDs: []tailnet.KeyID{n.AuthKeyID}})
		if err != nil {
			return 0, err
		}
		if len(keys) == 1 && keys[0].UserID != 0 {
			return keys[0].UserID, nil
		}
	}
	users, err := c.cfg.Store.ListUsers(c.ctx, store.UserFilter{TailnetID: n.TailnetID})
	if err != nil {
		return 0, err
	}
	users = slices.DeleteFunc(slices.Clone(users), func(u *tailnet.User) bool { return u.Status != tailnet.UserActive })
	if len(users) == 0 {
		return 0, invalid("a device without tags needs an owner, and the tailnet has no user: delete the device, or make a user first")
	}
	return slices.MinFunc(users, func(a, b *tailnet.User) int {
		return cmp.Or(cmp.Compare(tailnet.Rank(a.Role), tailnet.Rank(b.Role)), cmp.Compare(a.ID, b.ID))
	}).ID, nil
}

// mayTag refuses tags that the policy does not know, or that are not the caller's.
func (c *call) mayTag(id tailnet.ID, tags []string) error {
	if len(tags) == 0 {
		return nil
	}
	v, err := c.cfg.Fresh(c.ctx, id) // the policy may have been set a moment ago
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if err := tailnet.ValidateTag(tag); err != nil {
			return err
		}
		if v == nil || !v.Policy.TagExists(tag) {
			return invalid("requested tags [%s] are invalid or not permitted: add %s to tagOwners in the policy", strings.Join(tags, " "), tag)
		}
	}
	return c.ownTags(id, tags)
}

// keyDevice says whether the key of a device expires.
func keyDevice(c *call, n *tailnet.Node) error {
	var req struct {
		KeyExpiryDisabled *bool `json:"keyExpiryDisabled"`
	}
	if err := c.read(&req); err != nil {
		return err
	}
	switch {
	case req.KeyExpiryDisabled == nil:
		return invalid("say keyExpiryDisabled: true or false")
	case *req.KeyExpiryDisabled:
		_, err := c.cfg.Store.ExpireNode(c.ctx, n.ID, nil)
		return err
	case n.Expiry != nil:
		return nil
	}
	days, err := c.keyDays(n.TailnetID)
	if err != nil {
		return err
	}
	at := c.cfg.Now().Add(time.Duration(cmp.Or(days, tailnet.MaxKeyDays)) * 24 * time.Hour).UTC().Truncate(time.Second)
	_, err = c.cfg.Store.ExpireNode(c.ctx, n.ID, &at)
	return err
}

func expireDevice(c *call, n *tailnet.Node) error {
	now := c.cfg.Now()
	_, err := c.cfg.Store.ExpireNode(c.ctx, n.ID, &now)
	return err
}

func addressDevice(c *call, n *tailnet.Node) error {
	var req struct {
		IPv4 string `json:"ipv4"`
	}
	if err := c.read(&req); err != nil {
		return err
	}
	a, err := netip.ParseAddr(req.IPv4)
	if err != nil || !a.Is4() {
		return invalid("ipv4 %q is not an IPv4 address", req.IPv4)
	}
	_, err = c.cfg.Store.SetNodeAddrs(c.ctx, n.ID, []netip.Addr{a})
	return err
}

func getRoutes(c *call) (any, error) {
	n, err := c.node()
	if err != nil {
		return nil, err
	}
	return routesAnswer(n), nil
}

func routesAnswer(n *tailnet.Node) any {
	return map[string]any{"advertisedRoutes": texts(n.AnnouncedRoutes()), "enabledRoutes": texts(n.ApprovedRoutes)}
}

func setRoutes(c *call) (any, error) {
	n, err := c.node()
	if err != nil {
		return nil, err
	}
	var req struct {
		Routes []string `json:"routes"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	routes := make([]netip.Prefix, len(req.Routes))
	for i, text := range req.Routes {
		if routes[i], err = tailnet.ParseRoute(text); err != nil {
			return nil, invalid("%v", err)
		}
	}
	if n, err = c.cfg.Store.ApproveRoutes(c.ctx, n.ID, routes); err != nil {
		return nil, err
	}
	return routesAnswer(n), nil
}

// texts writes values as a list that is never null.
func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}

func idText[ID ~uint64](id ID) string { return strconv.FormatUint(uint64(id), 10) }
