package console

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Login is a login by SSH that a person has to approve.
type Login struct {
	ID          string
	Source      string // name of the node that it comes from
	Owner       string // whose that is
	Destination string // name of the node that is logged in to
	Name        string // under which
	Verdict     tailnet.SSHVerdict
	Asked       time.Time
	Expires     time.Time
}

// waitingLogin is what the page says of a login. The name is the word of whoever logs in.
type waitingLogin struct {
	Login
	Ago  int // minutes since
	Left int // minutes until the link ends, at least 1
}

// pageOfLogin is the HTTP status, the state that the page's script reads, and the page for each verdict.
var pageOfLogin = map[tailnet.SSHVerdict]struct {
	status int
	state  string
	page   string
}{
	tailnet.SSHWaiting:  {http.StatusOK, waiting, "login"},
	tailnet.SSHApproved: {http.StatusOK, joined, "login-approved"},
	tailnet.SSHRejected: {http.StatusGone, refused, "login-rejected"},
}

// login shows a login that waits, and the commands that decide about it. It answers nothing where there is none.
func (c *Console) login(w http.ResponseWriter, r *http.Request, id string) (found bool) {
	if c.cfg.Login == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(r.Context(), lookupTimeout)
	defer cancel()
	l, err := c.cfg.Login(ctx, id)
	if errors.Is(err, tailnet.ErrNotFound) {
		return false
	}
	v := pageOfLogin[tailnet.SSHWaiting]
	if err == nil {
		v = pageOfLogin[l.Verdict]
	} else {
		c.cfg.Log.Error("looking up a login for its page", "err", err)
		v.status, v.state, v.page = verdict[broken].status, broken, verdict[broken].page
	}
	if r.Header.Get("Accept") == "application/json" {
		answerState(w, v.status, v.state)
		return true
	}
	var data any
	if err == nil {
		data = c.describeLogin(*l)
	}
	c.render(w, r, v.status, v.page, data)
	return true
}

func (c *Console) describeLogin(l Login) waitingLogin {
	now := c.cfg.Now()
	l.Name, l.Asked = plain(l.Name), l.Asked.UTC()
	return waitingLogin{
		Login: l,
		Ago:   max(0, int(now.Sub(l.Asked)/time.Minute)),
		Left:  max(1, int(l.Expires.Sub(now).Round(time.Minute)/time.Minute)),
	}
}
