package v2

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// customAttribute is the name of an attribute that programs may set.
var customAttribute = regexp.MustCompile(`^custom:[a-zA-Z0-9_]{1,40}$`)

// getAttributes are what is known of a device: what its client says, and what was set.
func getAttributes(c *call) (any, error) {
	n, err := c.node()
	if err != nil {
		return nil, err
	}
	return c.attributesAnswer(n)
}

func (c *call) attributesAnswer(n *tailnet.Node) (any, error) {
	list, err := c.cfg.Store.Attributes(c.ctx, n.ID)
	if err != nil {
		return nil, err
	}
	attributes, expiries := hostAttributes(n), map[string]time.Time{}
	for _, a := range list {
		attributes[a.Name] = json.RawMessage(a.Value)
		if a.ExpiresAt != nil {
			expiries[a.Name] = *a.ExpiresAt
		}
	}
	return map[string]any{"attributes": attributes, "expiries": expiries}, nil
}

// hostAttributes are what a client says of its machine, by Tailscale's names.
func hostAttributes(n *tailnet.Node) map[string]any {
	out := map[string]any{}
	h := n.Hostinfo
	if h == nil {
		return out
	}
	for name, v := range map[string]string{"node:os": h.OS, "node:osVersion": h.OSVersion, "node:tsVersion": shortVersion(h.IPNVersion)} {
		if v != "" {
			out[name] = v
		}
	}
	if minor := strings.Split(shortVersion(h.IPNVersion), "."); len(minor) > 1 {
		if number, err := strconv.Atoi(minor[1]); err == nil {
			out["node:tsReleaseTrack"] = []string{"stable", "unstable"}[number%2]
		}
	}
	if on, ok := h.AllowsUpdate, true; ok {
		out["node:tsAutoUpdate"] = on
	}
	if on, ok := h.StateEncrypted.Get(); ok {
		out["node:tsStateEncrypted"] = on
	}
	return out
}

// shortVersion is a version without what follows a dash.
func shortVersion(v string) string {
	short, _, _ := strings.Cut(v, "-")
	return short
}

// attributeRequest is what is to be set. A zero expiry is none.
type attributeRequest struct {
	Value   json.RawMessage `json:"value"`
	Expiry  expiry          `json:"expiry"`
	Comment string          `json:"comment"`
}

// expiry is a time that may be written as nothing.
type expiry struct{ time.Time }

func (e *expiry) UnmarshalJSON(b []byte) error {
	if string(b) == `""` || string(b) == "null" {
		return nil
	}
	return json.Unmarshal(b, &e.Time)
}

func (r *attributeRequest) attribute(id tailnet.NodeID, name string) (tailnet.Attribute, error) {
	a := tailnet.Attribute{NodeID: id, Name: name, Value: string(r.Value), Comment: r.Comment}
	if !customAttribute.MatchString(name) {
		return a, invalid("attribute %q cannot be set: its name has to be custom: and up to 40 letters, digits and underscores", name)
	}
	var v any
	if json.Unmarshal(r.Value, &v) != nil {
		return a, invalid("value is missing: a text, a number, true or false")
	}
	switch v.(type) {
	case string, float64, bool:
	default:
		return a, invalid("value can be a text, a number, true or false")
	}
	if !r.Expiry.IsZero() {
		a.ExpiresAt = &r.Expiry.Time
	}
	return a, nil
}

func setAttribute(c *call) (any, error) {
	n, err := c.node()
	if err != nil {
		return nil, err
	}
	var req attributeRequest
	if err := c.read(&req); err != nil {
		return nil, err
	}
	a, err := req.attribute(n.ID, c.r.PathValue("attribute"))
	if err != nil {
		return nil, err
	}
	if err := c.cfg.Store.SetAttribute(c.ctx, a); err != nil {
		return nil, err
	}
	return c.attributesAnswer(n)
}

func deleteAttribute(c *call) (any, error) {
	n, err := c.node()
	if err != nil {
		return nil, err
	}
	name := c.r.PathValue("attribute")
	if !customAttribute.MatchString(name) {
		return nil, invalid("attribute %q cannot be deleted: only those that begin with custom: can", name)
	}
	return nil, c.cfg.Store.DeleteAttribute(c.ctx, n.ID, name)
}

// maxBatch is of how many devices attributes may be changed at once.
const maxBatch = 1000

// patchAttributes sets attributes of many devices, and deletes those that are null. All are looked at before any is
// written.
func patchAttributes(c *call) (any, error) {
	var req struct {
		Nodes   map[string]map[string]*attributeRequest `json:"nodes"`
		Comment string                                  `json:"comment"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if len(req.Nodes) == 0 || len(req.Nodes) > maxBatch {
		return nil, invalid("say nodes: from 1 to %d devices, each with attributes", maxBatch)
	}
	var set, gone []tailnet.Attribute
	for id, attributes := range req.Nodes {
		c.r.SetPathValue("device", id)
		n, err := c.node()
		if err != nil {
			return nil, err
		}
		if n.TailnetID != c.tailnet.ID {
			return nil, absent("device " + strconv.Quote(id))
		}
		for name, r := range attributes {
			if r == nil {
				gone = append(gone, tailnet.Attribute{NodeID: n.ID, Name: name})
				continue
			}
			if r.Comment == "" {
				r.Comment = req.Comment
			}
			a, err := r.attribute(n.ID, name)
			if err != nil {
				return nil, err
			}
			set = append(set, a)
		}
	}
	for _, a := range set {
		if err := c.cfg.Store.SetAttribute(c.ctx, a); err != nil {
			return nil, err
		}
	}
	for _, a := range gone {
		list, err := c.cfg.Store.Attributes(c.ctx, a.NodeID)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(list, func(b tailnet.Attribute) bool { return b.Name == a.Name }) {
			continue
		}
		if err := c.cfg.Store.DeleteAttribute(c.ctx, a.NodeID, a.Name); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
