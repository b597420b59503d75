package v2

import (
	"time"

	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// person is a user as Tailscale's API writes it.
type person struct {
	ID                 string    `json:"id"`
	DisplayName        string    `json:"displayName"`
	LoginName          string    `json:"loginName"`
	ProfilePicURL      string    `json:"profilePicUrl"`
	TailnetID          string    `json:"tailnetId"`
	Created            time.Time `json:"created"`
	Type               string    `json:"type"`
	Role               string    `json:"role"`
	Status             string    `json:"status"`
	DeviceCount        int       `json:"deviceCount"`
	LastSeen           time.Time `json:"lastSeen"`
	CurrentlyConnected bool      `json:"currentlyConnected"`
}

// idleAfter is after how long without a connection a user counts as idle.
const idleAfter = 28 * 24 * time.Hour

// person is a user with what their nodes tell of them.
func (c *call) person(u *tailnet.User, nodes []*tailnet.Node) *person {
	p := &person{
		ID: idText(u.ID), DisplayName: u.Display(), LoginName: u.LoginName(), ProfilePicURL: u.ProfilePicURL, TailnetID: idText(u.TailnetID),
		Created: u.CreatedAt.UTC(), Type: "member", Role: u.Role, Status: u.Status,
	}
	if p.Role == "" {
		p.Role = "member"
	}
	for _, n := range nodes {
		if n.UserID != u.ID || n.IsTagged() {
			continue
		}
		p.DeviceCount++
		p.CurrentlyConnected = p.CurrentlyConnected || n.Online
		if n.LastSeen != nil && n.LastSeen.After(p.LastSeen) {
			p.LastSeen = n.LastSeen.UTC()
		}
	}
	now := c.cfg.Now()
	if p.CurrentlyConnected {
		p.LastSeen = now.UTC()
	}
	if p.Status == tailnet.UserActive {
		p.Status = "active"
		if seen := later(p.LastSeen, p.Created); now.Sub(seen) > idleAfter {
			p.Status = "idle"
		}
	}
	return p
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func listUsers(c *call) (any, error) {
	users, err := c.cfg.Store.ListUsers(c.ctx, store.UserFilter{TailnetID: c.tailnet.ID})
	if err != nil {
		return nil, err
	}
	nodes, err := c.cfg.Store.ListNodes(c.ctx, store.NodeFilter{TailnetID: c.tailnet.ID})
	if err != nil {
		return nil, err
	}
	q := c.r.URL.Query()
	kind, role := q.Get("type"), q.Get("role")
	switch kind {
	case "", "all", "member", "shared":
	default:
		return nil, invalid("type can be member, shared or all, not %q", kind)
	}
	if role != "" && role != "all" {
		if err := tailnet.ValidateRole(role); err != nil {
			return nil, err
		}
	}
	list := []*person{}
	for _, u := range users {
		p := c.person(u, nodes)
		if kind == "shared" || role != "" && role != "all" && p.Role != role || !c.caller.Owns(u.ID) {
			continue // nobody shares devices with another tailnet here
		}
		list = append(list, p)
	}
	return map[string]any{"users": list}, nil
}

func getUser(c *call) (any, error) {
	u, err := c.user()
	if err != nil {
		return nil, err
	}
	nodes, err := c.cfg.Store.ListNodes(c.ctx, store.NodeFilter{TailnetID: u.TailnetID, UserID: u.ID})
	if err != nil {
		return nil, err
	}
	return c.person(u, nodes), nil
}

// changePerson makes a change of a user, and answers nothing.
func changePerson(change func(*call, *tailnet.User) error) func(*call) (any, error) {
	return func(c *call) (any, error) {
		u, err := c.user()
		if err != nil {
			return nil, err
		}
		if err := c.caller.CheckRole(u.Role); err != nil {
			return nil, err
		}
		return nil, change(c, u)
	}
}

func approveUser(c *call, u *tailnet.User) error {
	_, err := c.cfg.Store.SetUserStatus(c.ctx, u.ID, tailnet.UserActive, tailnet.UserNeedsApproval, tailnet.UserActive)
	return err
}

// suspendUser cuts off the nodes of a user. The last owner cannot be: nobody could undo it.
func suspendUser(c *call, u *tailnet.User) error {
	_, err := c.cfg.Store.SetUserStatus(c.ctx, u.ID, tailnet.UserSuspended)
	return err
}

func restoreUser(c *call, u *tailnet.User) error {
	_, err := c.cfg.Store.SetUserStatus(c.ctx, u.ID, tailnet.UserActive, tailnet.UserSuspended, tailnet.UserActive)
	return err
}

// deleteUser deletes a user with all their nodes and keys.
func deleteUser(c *call, u *tailnet.User) error { return c.cfg.Store.RemoveUser(c.ctx, u.ID) }

func setUserRole(c *call, u *tailnet.User) error {
	var req struct {
		Role string `json:"role"`
	}
	if err := c.read(&req); err != nil {
		return err
	}
	if err := c.caller.CheckRole(req.Role); err != nil {
		return err
	}
	_, err := c.cfg.Store.SetUserRole(c.ctx, u.ID, req.Role)
	return err
}
