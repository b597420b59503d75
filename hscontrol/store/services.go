package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"go4.org/netipx"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Bounds of services.
const (
	maxServices    = 2000
	maxServiceBody = 64 << 10
)

// serviceBody is what of a service is kept as one text.
type serviceBody struct {
	Comment     string            `json:"comment,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Ports       []string          `json:"ports,omitempty"`
	Tags        []string          `json:"tags,omitempty"`
}

const selectServices = "SELECT tailnet_id, name, ipv4, ipv6, body, updated_at FROM services WHERE tailnet_id = ?"

// ListServices returns the services of a tailnet, sorted by name.
func (s *Store) ListServices(ctx context.Context, id tailnet.ID) ([]*tailnet.Service, error) {
	rows, err := s.reads.QueryContext(ctx, s.engine.rebind(selectServices+" ORDER BY name"), int64(id))
	if err != nil {
		return nil, fmt.Errorf("listing services: %w", s.engine.explain(err))
	}
	defer rows.Close()
	var list []*tailnet.Service
	for rows.Next() {
		v, err := scanService(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("listing services: %w", err)
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// FindService returns the service of that name. ErrNotFound if there is none.
func (s *Store) FindService(ctx context.Context, id tailnet.ID, name string) (*tailnet.Service, error) {
	v, err := scanService(s.reads.QueryRowContext(ctx, s.engine.rebind(selectServices+" AND name = ?"), int64(id), name).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		err = tailnet.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("finding service %q: %w", name, s.engine.explain(err))
	}
	return v, nil
}

func scanService(scan func(...any) error) (*tailnet.Service, error) {
	var v tailnet.Service
	var v4, v6 netip.Addr
	var text64 string
	if err := scan(number(&v.TailnetID), &v.Name, text(&v4), text(&v6), &text64, instant(&v.UpdatedAt)); err != nil {
		return nil, err
	}
	for _, a := range []netip.Addr{v4, v6} {
		if a.IsValid() {
			v.Addrs = append(v.Addrs, a)
		}
	}
	var body serviceBody
	if err := json.Unmarshal([]byte(text64), &body); err != nil {
		return nil, fmt.Errorf("table services, row %q: %w", v.Name, err)
	}
	v.Comment, v.Annotations, v.Ports, v.Tags = body.Comment, body.Annotations, body.Ports, body.Tags
	return &v, nil
}

// PutService makes a service, or changes it. It keeps the addresses that it has where v names none, and gets free ones of
// the tailnet's ranges where it has none. ErrExists says that an address is taken.
func (s *Store) PutService(ctx context.Context, v tailnet.Service) (*tailnet.Service, error) {
	body, err := json.Marshal(serviceBody{v.Comment, v.Annotations, v.Ports, v.Tags})
	if err == nil {
		err = errors.Join(checkText(v.Name, longText), checkText(string(body), maxServiceBody))
	}
	if err != nil {
		return nil, fmt.Errorf("putting service %q: %w", v.Name, err)
	}
	var row *tailnet.Service
	err = s.write(ctx, func(t *tx) (err error) {
		row, err = t.putService(v, string(body))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("putting service %q: %w", v.Name, err)
	}
	return row, nil
}

func (t *tx) putService(v tailnet.Service, body string) (*tailnet.Service, error) {
	tn, err := t.tailnet(v.TailnetID)
	if err != nil {
		return nil, err
	}
	was, err := scanService(t.queryRow(selectServices+" AND name = ?", int64(v.TailnetID), v.Name).Scan)
	action := "service.update"
	switch {
	case errors.Is(err, sql.ErrNoRows):
		was, action = &tailnet.Service{}, "service.create"
		var many int
		if err := t.queryRow("SELECT COUNT(*) FROM services WHERE tailnet_id = ?", int64(v.TailnetID)).Scan(&many); err != nil {
			return nil, err
		}
		if many >= maxServices {
			return nil, fmt.Errorf("%w services: a tailnet may have %d at most", tailnet.ErrTooMany, maxServices)
		}
	case err != nil:
		return nil, err
	}
	if _, err := t.exec("DELETE FROM services WHERE tailnet_id = ? AND name = ?", int64(v.TailnetID), v.Name); err != nil {
		return nil, err
	}
	// A node that is none: its addresses are chosen and claimed as those of nodes are.
	var place tailnet.Node
	place.TailnetID = v.TailnetID
	for _, f := range t.s.families(tn) {
		if !f.prefix.IsValid() {
			continue
		}
		if err := t.serviceAddr(&place, f, v.Addrs, was.Addrs); err != nil {
			return nil, err
		}
	}
	v.Addrs, v.UpdatedAt = place.Addrs(), t.now
	_, err = t.exec("INSERT INTO services (tailnet_id, name, ipv4, ipv6, body, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
		int64(v.TailnetID), v.Name, text(&place.IPv4), text(&place.IPv6), body, t.now)
	if err != nil {
		return nil, err
	}
	r := record{tailnet: v.TailnetID, action: action, kind: "service", name: v.Name, became: v}
	if was.Name != "" {
		r.was = was
	}
	return &v, t.audit(r)
}

// serviceAddr chooses the address of one family: the one that is wanted, the one that it has, or a free one. Free ones
// are looked for from the last quarter of the range on, where nodes come last.
func (t *tx) serviceAddr(place *tailnet.Node, f family, wanted, had []netip.Addr) error {
	for _, list := range [][]netip.Addr{wanted, had} {
		for _, a := range list {
			if a.Is4() == f.prefix.Addr().Is4() {
				return t.claimAddr(place, f, a)
			}
		}
	}
	from := netipx.PrefixLastIP(f.prefix)
	if f.prefix.Bits() < f.prefix.Addr().BitLen()-2 {
		from = lastQuarter(f.prefix)
	}
	f.next = &from
	a, err := t.freeAddr(place, f)
	if err != nil {
		return fmt.Errorf("choosing an address: %w", err)
	}
	*f.addr(place) = a
	return nil
}

// lastQuarter is where the last quarter of a prefix begins.
func lastQuarter(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for _, bit := range []int{p.Bits(), p.Bits() + 1} {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// DeleteService deletes a service. Its addresses are free again. ErrNotFound if there is none.
func (s *Store) DeleteService(ctx context.Context, id tailnet.ID, name string) error {
	err := s.write(ctx, func(t *tx) error {
		gone, err := t.exec("DELETE FROM services WHERE tailnet_id = ? AND name = ?", int64(id), name)
		if err == nil && gone == 0 {
			err = tailnet.ErrNotFound
		}
		if err != nil {
			return err
		}
		return t.audit(record{tailnet: id, action: "service.delete", kind: "service", name: name, was: map[string]string{"name": name}})
	})
	if err != nil {
		return fmt.Errorf("deleting service %q: %w", name, err)
	}
	return nil
}
