// Package derpmap gathers the DERP map that clients are given from files, URLs and the
// embedded relay, and keeps the last good copy of whatever cannot be had.
//
// The way of a map: load.go (bytes from a source) -> tree.go (JSON or YAML) -> decode.go
// (names and types) -> check.go (sense) -> Merge -> loader.go (kept, refreshed, handed out).
package derpmap

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"tailscale.com/tailcfg"
)

// MaxSize bounds the text of one DERP map, in bytes.
const MaxSize = 4 << 20

// Parse reads a DERP map from JSON or YAML. Keys may be in any letter case and numbers may
// be quoted. A region that is null is in the result as nil: it removes that region in Merge.
// What is left out is filled in: a region's ID from its key, a node's from its region, codes
// and names from IDs. A key that is not known is an error, and so is a map that no client
// could use.
func Parse(text []byte) (*tailcfg.DERPMap, error) {
	m, unknown, err := parse(text)
	if err == nil && len(unknown) > 0 {
		err = errors.New(strings.Join(unknown, "; "))
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// parse is Parse, except that it returns what it did not know as sentences of their own.
func parse(text []byte) (m *tailcfg.DERPMap, unknown []string, err error) {
	if len(text) > MaxSize {
		return nil, nil, fmt.Errorf("the DERP map is larger than %d bytes", MaxSize)
	}
	tree, err := readTree(text)
	if err != nil {
		return nil, nil, err
	}
	if m, unknown, err = decode(tree); err != nil {
		return nil, nil, err
	}
	complete(m)
	return m, unknown, check(m)
}

// complete fills in what follows from the rest.
func complete(m *tailcfg.DERPMap) {
	for id, r := range m.Regions {
		if r == nil {
			continue
		}
		if r.RegionID == 0 {
			r.RegionID = id
		}
		if r.RegionCode == "" {
			r.RegionCode = "r" + strconv.Itoa(id)
		}
		if r.RegionName == "" {
			r.RegionName = r.RegionCode
		}
		for i, n := range r.Nodes {
			if n.RegionID == 0 {
				n.RegionID = r.RegionID
			}
			if n.Name == "" {
				n.Name = nodeName(id, i)
			}
		}
	}
}

// nodeName is 900a, 900b, ..., 900z, 900-26, ...
func nodeName(region, i int) string {
	if i < 26 {
		return strconv.Itoa(region) + string(rune('a'+i))
	}
	return fmt.Sprintf("%d-%d", region, i)
}

// Merge puts maps over each other: a later region takes the place of an earlier one with its
// ID, and a nil region removes it. The result shares nothing with its parts.
//
// Clients find nodes by their names, over all regions. So a node whose name is taken by
// another region's is renamed, to its region's ID and its name.
func Merge(parts ...*tailcfg.DERPMap) *tailcfg.DERPMap {
	out := &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{}}
	for _, part := range parts {
		if part == nil {
			continue
		}
		part = part.Clone()
		maps.Copy(out.Regions, part.Regions)
		out.OmitDefaultRegions = out.OmitDefaultRegions || part.OmitDefaultRegions
		if part.HomeParams == nil {
			continue
		}
		if out.HomeParams == nil {
			out.HomeParams = &tailcfg.DERPHomeParams{RegionScore: map[int]float64{}}
		}
		maps.Copy(out.HomeParams.RegionScore, part.HomeParams.RegionScore)
	}
	maps.DeleteFunc(out.Regions, func(_ int, r *tailcfg.DERPRegion) bool { return r == nil })
	taken := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(out.Regions)) {
		for _, n := range out.Regions[id].Nodes {
			if taken[n.Name] {
				n.Name = strconv.Itoa(id) + "-" + n.Name
			}
			taken[n.Name] = true
		}
	}
	return out
}
