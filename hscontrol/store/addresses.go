package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// family is one of the two kinds of addresses: where a tailnet and a node keep theirs.
type family struct {
	column string
	prefix netip.Prefix // not valid: the tailnet has none of this family
	next   *netip.Addr
	addr   func(*tailnet.Node) *netip.Addr
}

// families are those of a tailnet, with the server's ranges where it has none of its own.
func (s *Store) families(tn *tailnet.Tailnet) []family {
	v4, v6 := tn.PrefixV4, tn.PrefixV6
	if !v4.IsValid() && !v6.IsValid() {
		v4, v6 = s.cfg.PrefixV4, s.cfg.PrefixV6
	}
	return []family{
		{"ipv4", v4, &tn.NextV4, func(n *tailnet.Node) *netip.Addr { return &n.IPv4 }},
		{"ipv6", v6, &tn.NextV6, func(n *tailnet.Node) *netip.Addr { return &n.IPv6 }},
	}
}

// assignAddrs gives a node the addresses that it lacks.
func (t *tx) assignAddrs(n *tailnet.Node) error {
	tn, err := t.tailnet(n.TailnetID)
	if err != nil {
		return err
	}
	for _, f := range t.s.families(tn) {
		addr := f.addr(n)
		if !f.prefix.IsValid() || addr.IsValid() {
			continue
		}
		if *addr, err = t.freeAddr(n, f); err != nil {
			return fmt.Errorf("choosing an address: %w", err)
		}
	}
	if !n.IPv4.IsValid() && !n.IPv6.IsValid() {
		return fmt.Errorf("choosing an address: %w: the tailnet has no prefix: set prefixes.v4 or prefixes.v6", tailnet.ErrInvalid)
	}
	return nil
}

// looksBefore is how many addresses are looked up one by one before all taken ones are read at once.
const looksBefore = 32

func (t *tx) freeAddr(n *tailnet.Node, f family) (netip.Addr, error) {
	from := *f.next
	if t.s.cfg.RandomAddresses {
		var err error
		if from, err = randomAddr(f.prefix, t.s.cfg.Rand); err != nil {
			return netip.Addr{}, err
		}
	}
	var fault error
	var all map[netip.Addr]bool
	looks := 0
	addr, err := tailnet.NextAddr(f.prefix, from, func(a netip.Addr) bool {
		if fault != nil {
			return false // ends the search
		}
		if all != nil {
			return all[a]
		}
		if looks++; looks > looksBefore {
			all, fault = t.takenAddrs(n.TailnetID, f.column)
			return all[a]
		}
		var taken bool
		taken, fault = t.taken(n, f.column, a.String())
		return taken
	})
	if err = errors.Join(fault, err); err != nil {
		return netip.Addr{}, err
	}
	if !t.s.cfg.RandomAddresses {
		*f.next = addr.Next()
	}
	return addr, nil
}

// taken reports whether another node of the tailnet has that name or address, or a service that address.
// While the transaction guesses, no other node has.
func (t *tx) taken(n *tailnet.Node, column, value string) (bool, error) {
	if strings.HasPrefix(column, "ipv") {
		if there, err := t.exists("SELECT 1 FROM services WHERE tailnet_id = ? AND "+column+" = ?", int64(n.TailnetID), value); err != nil || there {
			return there, err
		}
	}
	if t.guess {
		return false, nil
	}
	return t.exists("SELECT 1 FROM nodes WHERE tailnet_id = ? AND "+column+" = ? AND id <> ?", int64(n.TailnetID), value, int64(n.ID))
}

func (t *tx) takenAddrs(id tailnet.ID, column string) (map[netip.Addr]bool, error) {
	of := column + " FROM nodes WHERE tailnet_id = ? AND " + column + " IS NOT NULL"
	rows, err := t.query("SELECT "+of+" UNION ALL SELECT "+strings.Replace(of, "nodes", "services", 1), int64(id), int64(id))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	taken := map[netip.Addr]bool{}
	for rows.Next() {
		var a netip.Addr
		if err := rows.Scan(text(&a)); err != nil {
			return nil, err
		}
		taken[a] = true
	}
	return taken, rows.Err()
}

// randomAddr is any address of a prefix.
func randomAddr(p netip.Prefix, random io.Reader) (netip.Addr, error) {
	b := make([]byte, p.Addr().BitLen()/8)
	if _, err := io.ReadFull(random, b); err != nil {
		return netip.Addr{}, fmt.Errorf("choosing a random address: %w", err)
	}
	network := p.Addr().AsSlice()
	for i := range b {
		fixed := min(max(p.Bits()-8*i, 0), 8) // bits of this byte that belong to the network
		mask := byte(0xff) << (8 - fixed)
		b[i] = network[i]&mask | b[i]&^mask
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr, nil
}

// SetNodeAddrs gives a node these addresses, at most one of each family; a family that is not named stays as it is.
// They must lie in the tailnet's ranges. ErrExists says which node has an address.
func (s *Store) SetNodeAddrs(ctx context.Context, id tailnet.NodeID, addrs []netip.Addr) (*tailnet.Node, error) {
	return s.changeNode(ctx, "setting addresses of", id, func(t *tx, n *tailnet.Node) error {
		if len(addrs) == 0 {
			return fmt.Errorf("%w: no address is given", tailnet.ErrInvalid)
		}
		tn, err := t.tailnet(n.TailnetID)
		if err != nil {
			return err
		}
		families := s.families(tn)
		given := map[string]bool{}
		for _, a := range addrs {
			a = a.Unmap()
			f := families[0]
			if a.Is6() {
				f = families[1]
			}
			if given[f.column] {
				return fmt.Errorf("%w: %v are two of one family", tailnet.ErrInvalid, addrs)
			}
			given[f.column] = true
			if err := t.claimAddr(n, f, a); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *tx) claimAddr(n *tailnet.Node, f family, a netip.Addr) error {
	if !f.prefix.IsValid() {
		return fmt.Errorf("%w: the tailnet has no range for %s", tailnet.ErrInvalid, a)
	}
	if err := tailnet.Assignable(f.prefix, a); err != nil {
		return err
	}
	var holder int64
	var name string
	err := t.queryRow("SELECT id, given_name FROM nodes WHERE tailnet_id = ? AND "+f.column+" = ? AND id <> ?",
		int64(n.TailnetID), a.String(), int64(n.ID)).Scan(&holder, &name)
	if err == nil {
		return fmt.Errorf("address %s: %w: node %d (%s) has it", a, tailnet.ErrExists, holder, name)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if there, err := t.exists("SELECT 1 FROM services WHERE tailnet_id = ? AND "+f.column+" = ?", int64(n.TailnetID), a.String()); err != nil || there {
		return errors.Join(err, fmt.Errorf("address %s: %w: a service has it", a, tailnet.ErrExists))
	}
	*f.addr(n) = a
	return nil
}

// BackfillAddrs gives the nodes of a tailnet (zero: all tailnets) the addresses that they lack since a family was
// added, and takes away those of a family that was removed. It says in sentences what it changed.
func (s *Store) BackfillAddrs(ctx context.Context, id tailnet.ID) (changes []string, err error) {
	tailnets, err := s.ListTailnets(ctx)
	if err != nil {
		return nil, fmt.Errorf("backfilling addresses: %w", err)
	}
	err = s.write(ctx, func(t *tx) error {
		changes = nil
		for _, tn := range tailnets {
			if id != 0 && tn.ID != id {
				continue
			}
			some, err := t.backfill(tn.ID)
			if err != nil {
				return err
			}
			changes = append(changes, some...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("backfilling addresses: %w", err)
	}
	return changes, nil
}

func (t *tx) backfill(id tailnet.ID) (changes []string, err error) {
	tn, err := t.tailnet(id)
	if err != nil {
		return nil, err
	}
	nodes, err := t.nodesWhere("n.tailnet_id = ? ORDER BY n.id", int64(id))
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		before := *n
		for _, f := range t.s.families(tn) {
			if !f.prefix.IsValid() {
				*f.addr(n) = netip.Addr{}
			}
		}
		if err := t.assignAddrs(n); err != nil {
			return nil, fmt.Errorf("node %d: %w", n.ID, err)
		}
		if _, err := t.updateNode(&before, n); err != nil {
			return nil, err
		}
		for _, f := range t.s.families(tn) {
			if was, is := *f.addr(&before), *f.addr(n); was != is {
				changes = append(changes, tellAddr(n, was, is))
			}
		}
	}
	return changes, nil
}

func tellAddr(n *tailnet.Node, was, is netip.Addr) string {
	if is.IsValid() {
		return fmt.Sprintf("assigned %s to node %d (%s)", is, n.ID, n.GivenName)
	}
	return fmt.Sprintf("removed %s from node %d (%s)", was, n.ID, n.GivenName)
}
