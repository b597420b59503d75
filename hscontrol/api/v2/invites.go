package v2

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// maxInvited is how many may be invited at once.
const maxInvited = 100

// invitation is one of a user as Tailscale's API writes it. Its address is where users log in: an invitation is taken up
// by whoever logs in with its mail address.
type invitation struct {
	ID        string    `json:"id"`
	Role      string    `json:"role"`
	TailnetID string    `json:"tailnetId"`
	InviterID string    `json:"inviterId,omitempty"`
	Email     string    `json:"email"`
	Created   time.Time `json:"created"`
}

func invitationAnswer(i *tailnet.UserInvite) *invitation {
	out := &invitation{ID: idText(i.ID), Role: i.Role, TailnetID: idText(i.TailnetID), Email: i.Email, Created: i.CreatedAt.UTC()}
	if i.InviterID != 0 {
		out.InviterID = idText(i.InviterID)
	}
	return out
}

func listUserInvites(c *call) (any, error) {
	all, err := c.cfg.Store.ListUserInvites(c.ctx, c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	list := []*invitation{}
	for _, i := range all {
		list = append(list, invitationAnswer(i))
	}
	return list, nil
}

func inviteUsers(c *call) (any, error) {
	var req []struct {
		Role  string `json:"role"`
		Email string `json:"email"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if len(req) == 0 || len(req) > maxInvited {
		return nil, invalid("say whom to invite: a list of 1 to %d", maxInvited)
	}
	for i := range req {
		if req[i].Role == "" {
			req[i].Role = "member"
		}
		switch {
		case req[i].Role == "owner":
			return nil, invalid("nobody can be invited as an owner")
		case !strings.Contains(req[i].Email, "@"):
			return nil, invalid("an invitation needs an email: whoever logs in with it takes it up")
		}
		if err := errors.Join(tailnet.ValidateRole(req[i].Role), c.caller.CheckRole(req[i].Role)); err != nil {
			return nil, err
		}
	}
	list := []*invitation{}
	for _, one := range req {
		i, err := c.cfg.Store.InviteUser(c.ctx, tailnet.UserInvite{TailnetID: c.tailnet.ID, Email: one.Email, Role: one.Role, InviterID: c.caller.User})
		if err != nil {
			return nil, err
		}
		list = append(list, invitationAnswer(i))
	}
	return list, nil
}

// invite is the one that the path names, if it is there for the caller.
func (c *call) invite() (*tailnet.UserInvite, error) {
	text := c.r.PathValue("invite")
	id, err := strconv.ParseUint(text, 10, 63)
	if err != nil || id == 0 {
		return nil, absent("invitation " + strconv.Quote(text))
	}
	i, err := c.cfg.Store.GetUserInvite(c.ctx, id)
	if errors.Is(err, tailnet.ErrNotFound) || err == nil && !c.caller.Sees(i.TailnetID) {
		return nil, absent("invitation " + strconv.Quote(text))
	}
	return i, err
}

func getUserInvite(c *call) (any, error) {
	i, err := c.invite()
	if err != nil {
		return nil, err
	}
	return invitationAnswer(i), nil
}

func deleteUserInvite(c *call) (any, error) {
	i, err := c.invite()
	if err != nil {
		return nil, err
	}
	return nil, c.cfg.Store.DeleteUserInvite(c.ctx, i.ID)
}

func resendUserInvite(c *call) (any, error) {
	if _, err := c.invite(); err != nil {
		return nil, err
	}
	return nil, unsupported("this server sends no mail: tell the person to log in with the invited address")
}

func shareDevice(c *call) (any, error) {
	return nil, unsupported("a device belongs to one tailnet of this server and cannot be shared with another")
}

func noDeviceInvite(c *call) (any, error) {
	return nil, absent("device invite " + strconv.Quote(c.r.PathValue("invite")))
}

// listDeviceInvites says the truth: there are none.
func listDeviceInvites(c *call) (any, error) {
	if _, err := c.node(); err != nil {
		return nil, err
	}
	return []string{}, nil
}
