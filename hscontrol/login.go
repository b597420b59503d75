package hscontrol

import (
	"context"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/console"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// waitingLogin is a login by SSH as its page tells of it.
func (s *Server) waitingLogin(ctx context.Context, id string) (*console.Login, error) {
	c, err := s.store.FindSSHCheck(ctx, id)
	if err != nil {
		return nil, err
	}
	l := &console.Login{ID: c.ID, Name: c.Login, Verdict: c.Verdict, Asked: c.CreatedAt, Expires: c.ExpiresAt}
	v := s.state.View(c.TailnetID)
	if v == nil {
		return nil, tailnet.ErrNotFound
	}
	if n := v.Node(c.SrcID); n != nil {
		l.Source, l.Owner = n.GivenName, strings.Join(n.Tags, ", ")
		if u := v.Users[n.UserID]; u != nil && !n.IsTagged() {
			l.Owner = u.LoginName()
		}
	}
	if n := v.Node(c.DstID); n != nil {
		l.Destination = n.GivenName
	}
	return l, nil
}
