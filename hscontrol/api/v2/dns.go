package v2

import (
	"maps"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// dnsNow is what the tailnet's nodes are told of DNS now, by whoever said it: the configuration or this API. What there is
// none of is left out, as by Tailscale's.
type dnsNow struct {
	Nameservers []resolver            `json:"nameservers,omitempty"`
	SplitDNS    map[string][]resolver `json:"splitDNS,omitempty"`
	SearchPaths []string              `json:"searchPaths,omitempty"`
	Preferences dnsPreferences        `json:"preferences"`
}

type dnsPreferences struct {
	OverrideLocalDNS bool `json:"overrideLocalDNS"`
	MagicDNS         bool `json:"magicDNS"`
}

func (c *call) dns() (*dnsNow, error) {
	v, err := c.cfg.Fresh(c.ctx, c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, absent("tailnet")
	}
	global, split := v.Settings.DNSResolvers()
	now := &dnsNow{
		Nameservers: written(global), SplitDNS: map[string][]resolver{}, SearchPaths: emptied(v.Settings.SearchDomains),
		Preferences: dnsPreferences{OverrideLocalDNS: v.Settings.OverrideLocalDNS, MagicDNS: v.Settings.MagicDNS},
	}
	for domain, list := range split {
		now.SplitDNS[domain] = written(list)
	}
	return now, nil
}

// changeDNS writes a change of the tailnet's DNS, and returns when nodes are told of it, with what they are told.
func (c *call) changeDNS(change func(*tailnet.DNSSettings)) (*dnsNow, error) {
	_, err := c.cfg.Store.ChangeSettings(c.ctx, c.tailnet.ID, func(set *tailnet.Settings) error {
		change(&set.DNS)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.dns()
}

func getNameservers(c *call) (any, error) {
	now, err := c.dns()
	if err != nil {
		return nil, err
	}
	return map[string]any{"dns": addressesOf(now.Nameservers)}, nil
}

func setNameservers(c *call) (any, error) {
	var req struct {
		DNS *[]wish `json:"dns"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if req.DNS == nil {
		return nil, invalid("say which nameservers in dns: a list, which may be empty")
	}
	now, err := c.dns()
	if err != nil {
		return nil, err
	}
	list := granted(*req.DNS, now.Nameservers)
	if now, err = c.changeDNS(func(d *tailnet.DNSSettings) { d.Nameservers = &list }); err != nil {
		return nil, err
	}
	return map[string]any{"dns": asWished(anyWhole(*req.DNS), now.Nameservers), "magicDNS": now.Preferences.MagicDNS}, nil
}

func getSearchPaths(c *call) (any, error) {
	now, err := c.dns()
	if err != nil {
		return nil, err
	}
	return map[string]any{"searchPaths": now.SearchPaths}, nil
}

func setSearchPaths(c *call) (any, error) {
	var req struct {
		SearchPaths *[]string `json:"searchPaths"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if req.SearchPaths == nil {
		return nil, invalid("say which domains in searchPaths: a list, which may be empty")
	}
	now, err := c.changeDNS(func(d *tailnet.DNSSettings) { d.SearchPaths = req.SearchPaths })
	if err != nil {
		return nil, err
	}
	return map[string]any{"searchPaths": now.SearchPaths}, nil
}

func getDNSPreferences(c *call) (any, error) {
	now, err := c.dns()
	if err != nil {
		return nil, err
	}
	return map[string]any{"magicDNS": now.Preferences.MagicDNS}, nil
}

func setDNSPreferences(c *call) (any, error) {
	var req struct {
		MagicDNS *bool `json:"magicDNS"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if req.MagicDNS == nil {
		return nil, invalid("say magicDNS: true or false")
	}
	now, err := c.changeDNS(func(d *tailnet.DNSSettings) { d.MagicDNS = req.MagicDNS })
	if err != nil {
		return nil, err
	}
	return map[string]any{"magicDNS": now.Preferences.MagicDNS}, nil
}

// splitAnswer is which nameservers are asked for names below which domain.
func splitAnswer(now *dnsNow, whole bool) any {
	out := map[string]any{}
	for domain, list := range now.SplitDNS {
		out[domain] = asWished(whole, list)
	}
	return out
}

func getSplitDNS(c *call) (any, error) {
	now, err := c.dns()
	if err != nil {
		return nil, err
	}
	return splitAnswer(now, false), nil
}

// setSplitDNS replaces all; patchSplitDNS only the domains that it names, and forgets those that it names with null or
// an empty list.
func setSplitDNS(c *call) (any, error) { return c.changeSplitDNS(false) }

func patchSplitDNS(c *call) (any, error) { return c.changeSplitDNS(true) }

func (c *call) changeSplitDNS(patch bool) (any, error) {
	var req map[string][]wish
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if req == nil {
		return nil, invalid("the body has to be an object: domains, each with a list of nameservers")
	}
	now, err := c.dns() // what the configuration says stays, but for the domains that are named
	if err != nil {
		return nil, err
	}
	whole := false
	then, err := c.changeDNS(func(d *tailnet.DNSSettings) {
		split := map[string][]tailnet.Resolver{}
		switch {
		case patch && d.Split != nil:
			split = maps.Clone(*d.Split)
		case patch:
			for domain, list := range now.SplitDNS {
				split[domain] = understood(list)
			}
		}
		for domain, list := range req {
			if len(list) == 0 {
				delete(split, domain)
				continue
			}
			split[domain] = granted(list, now.SplitDNS[domain])
			whole = whole || anyWhole(list)
		}
		d.Split = &split
	})
	if err != nil {
		return nil, err
	}
	return splitAnswer(then, whole), nil
}

func getDNS(c *call) (any, error) { return c.dns() }

// setDNS replaces all of it. What the body leaves out is none, or off.
func setDNS(c *call) (any, error) {
	var req dnsNow
	if err := c.read(&req); err != nil {
		return nil, err
	}
	split := map[string][]tailnet.Resolver{}
	for domain, list := range req.SplitDNS {
		split[domain] = understood(list)
	}
	nameservers, paths := understood(req.Nameservers), slices.Clone(emptied(req.SearchPaths))
	return c.changeDNS(func(d *tailnet.DNSSettings) {
		d.Nameservers, d.Split, d.SearchPaths = &nameservers, &split, &paths
		d.MagicDNS, d.OverrideLocalDNS = &req.Preferences.MagicDNS, &req.Preferences.OverrideLocalDNS
	})
}
