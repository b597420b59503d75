package v2

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// resolver is a nameserver as Tailscale's API writes it.
type resolver struct {
	Address         string `json:"address"`
	UseWithExitNode bool   `json:"useWithExitNode,omitempty"`
}

// wish is a nameserver as a request writes it: an address, which leaves all else of that nameserver as it is, or an
// object that says all of it.
type wish struct {
	resolver
	whole bool
}

func (w *wish) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '{' {
		return json.Unmarshal(b, &w.Address)
	}
	w.whole = true
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(&w.resolver)
}

// granted are the resolvers that a request wishes where now are those that there are.
func granted(wishes []wish, now []resolver) []tailnet.Resolver {
	out := make([]tailnet.Resolver, len(wishes))
	for i, w := range wishes {
		w.Address = strings.TrimSpace(w.Address)
		if k := slices.IndexFunc(now, func(r resolver) bool { return r.Address == w.Address }); !w.whole && k >= 0 {
			w.UseWithExitNode = now[k].UseWithExitNode
		}
		out[i] = tailnet.Resolver{Address: w.Address, ViaExitNode: w.UseWithExitNode}
	}
	return out
}

// asWished are nameservers as the request wrote them.
func asWished(whole bool, list []resolver) any {
	if whole {
		return list
	}
	return addressesOf(list)
}

func anyWhole(wishes []wish) bool {
	return slices.ContainsFunc(wishes, func(w wish) bool { return w.whole })
}

func written(list []tailnet.Resolver) []resolver {
	out := make([]resolver, len(list))
	for i, r := range list {
		out[i] = resolver{r.Address, r.ViaExitNode}
	}
	return out
}

func understood(list []resolver) []tailnet.Resolver {
	out := make([]tailnet.Resolver, len(list))
	for i, r := range list {
		out[i] = tailnet.Resolver{Address: strings.TrimSpace(r.Address), ViaExitNode: r.UseWithExitNode}
	}
	return out
}

func addressesOf(list []resolver) []string {
	out := make([]string, len(list))
	for i, r := range list {
		out[i] = r.Address
	}
	return out
}
