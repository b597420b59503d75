package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// ListRelayRegions returns all regions that enrolled relays ever had, by ID.
func (s *Store) ListRelayRegions(ctx context.Context) ([]*tailnet.RelayRegion, error) {
	var regions []*tailnet.RelayRegion
	if err := s.orm.WithContext(ctx).Order("id").Find(&regions).Error; err != nil {
		return nil, fmt.Errorf("listing regions: %w", s.engine.explain(err))
	}
	return regions, nil
}

// FindRelayRegion returns the region of an ID.
func (s *Store) FindRelayRegion(ctx context.Context, id tailnet.RegionID) (*tailnet.RelayRegion, error) {
	region, err := findRegion(s.orm.WithContext(ctx), id)
	if err != nil {
		return nil, fmt.Errorf("finding region %d: %w", id, s.engine.explain(err))
	}
	return region, nil
}

func findRegion(db *gorm.DB, id tailnet.RegionID) (*tailnet.RelayRegion, error) {
	var region tailnet.RelayRegion
	err := db.Take(&region, "id = ?", int64(id)).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, tailnet.ErrNotFound
	}
	return &region, err
}

// regionFor is the region that the relay asks for, made if there is none yet. Without a code it is a new one, called as
// the relay is.
func (t *tx) regionFor(relay *tailnet.Relay, e RelayEnrolment) (*tailnet.RelayRegion, error) {
	owner := relay.TailnetID
	var all []*tailnet.RelayRegion
	if err := t.look().Order("id").Find(&all).Error; err != nil {
		return nil, err
	}
	code := e.Region
	if code == "" {
		code = tailnet.FreeName(regionCodeOf(e.Name), func(code string) bool {
			return slices.ContainsFunc(all, func(r *tailnet.RelayRegion) bool { return r.Code == code && shareNodes(r.TailnetID, owner) })
		})
	}
	if err := t.codeIsFree(relay, code); err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Code == code && r.TailnetID == owner {
			return r, nil
		}
	}
	return t.makeRegion(owner, code, freeRegionID(all, e.Taken))
}

// shareNodes reports whether there may be a node that relays of both owners serve.
func shareNodes(a, b tailnet.ID) bool { return a == b || a == 0 || b == 0 }

// codeIsFree refuses a code under which nodes that the relay serves would see two regions.
func (t *tx) codeIsFree(relay *tailnet.Relay, code string) error {
	others, whose := "tailnet_id IS NULL", "relays for all tailnets"
	if relay.TailnetID == 0 {
		others, whose = "tailnet_id IS NOT NULL", "relays for one tailnet only"
	}
	taken, err := t.exists("SELECT 1 FROM relay_regions g WHERE g.code = ? AND g."+others+
		" AND EXISTS (SELECT 1 FROM relays r WHERE r.region_id = g.id AND r.id <> ?) LIMIT 1", code, int64(relay.ID))
	if taken {
		err = fmt.Errorf("%w: region %q has %s: take another code", tailnet.ErrConflict, code, whose)
	}
	return err
}

// freeRegionID is the lowest ID that no region has and that is not among the taken ones.
func freeRegionID(all []*tailnet.RelayRegion, taken []tailnet.RegionID) tailnet.RegionID {
	id := tailnet.FirstRegionID
	for slices.Contains(taken, id) || slices.ContainsFunc(all, func(r *tailnet.RelayRegion) bool { return r.ID == id }) {
		id++
	}
	return id
}

func (t *tx) makeRegion(owner tailnet.ID, code string, id tailnet.RegionID) (*tailnet.RelayRegion, error) {
	mesh, err := t.newMeshKey()
	if err != nil {
		return nil, err
	}
	region := &tailnet.RelayRegion{ID: id, TailnetID: owner, Code: code, Name: code, MeshKey: mesh}
	_, err = t.exec("INSERT INTO relay_regions (id, tailnet_id, code, name, mesh_key) VALUES (?, ?, ?, ?, ?)",
		int64(id), ref(&region.TailnetID), code, region.Name, mesh.Reveal())
	return region, err
}

func (t *tx) newMeshKey() (tailnet.MeshKey, error) {
	var b [32]byte
	if _, err := io.ReadFull(t.s.cfg.Rand, b[:]); err != nil {
		return "", fmt.Errorf("making a mesh key: %w", err)
	}
	return tailnet.MeshKey(hex.EncodeToString(b[:])), nil
}

// leaveRegion gives a region that a relay has left a new mesh key, because that relay knows the old one.
func (t *tx) leaveRegion(id tailnet.RegionID) error {
	region, err := findRegion(t.look(), id)
	if err != nil {
		return err
	}
	mesh, err := t.newMeshKey()
	if err != nil {
		return err
	}
	if _, err := t.exec("UPDATE relay_regions SET mesh_key = ? WHERE id = ?", mesh.Reveal(), int64(id)); err != nil {
		return err
	}
	return t.changedFor(region.TailnetID, kindRegion, uint64(id))
}

// nameRegion gives a region a name for people.
func (t *tx) nameRegion(id tailnet.RegionID, name string) error {
	region, err := findRegion(t.look(), id)
	if err != nil || region.Name == name {
		return err
	}
	if _, err := t.exec("UPDATE relay_regions SET name = ? WHERE id = ?", name, int64(id)); err != nil {
		return err
	}
	return t.changedFor(region.TailnetID, kindRegion, uint64(id))
}

var noRegionCode = regexp.MustCompile(`[^a-z0-9-]+`)

// regionCodeOf makes a code of what a relay calls itself.
func regionCodeOf(name string) string {
	code := noRegionCode.ReplaceAllString(strings.ToLower(name), "-")
	code = strings.TrimLeft(code, "-0123456789")
	code = strings.TrimRight(code[:min(len(code), 26)], "-")
	if code == "" {
		return "relay"
	}
	return code
}
