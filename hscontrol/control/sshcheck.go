package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"tailscale.com/tailcfg"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Times of a login that waits.
const (
	sshHold  = 50 * time.Second       // one request at most; then the client asks anew
	sshLook  = 5 * time.Second        // between looks at the row, if nothing moved
	sshPause = 100 * time.Millisecond // between looks at least, however much moves
)

// maxLogin bounds the name of a login, in bytes (useradd(8) allows 32).
const maxLogin = 256

// login is a login by SSH whose rule has action check, as the node that is logged in to tells of it.
type login struct {
	tailnet  tailnet.ID
	src, dst *tailnet.Node
	name     string
}

// row is what the store knows of such logins.
func (l login) row() tailnet.SSHCheck {
	return tailnet.SSHCheck{TailnetID: l.tailnet, SrcID: l.src.ID, DstID: l.dst.ID, Owner: tailnet.OwnerOf(l.src), Login: l.name}
}

// serveSSHAction answers a node that asks whether a login may go on; see policy.CheckURL. The first answer shows the
// person how the login is approved, and delegates to the same address with the ID of the login, where the client waits
// for the verdict. All verdicts have status 200: clients ask again for half an hour after any other.
func (c *Control) serveSSHAction(w http.ResponseWriter, r *http.Request) {
	l, refused := c.sshLogin(w, r)
	if l == nil {
		if refused != "" {
			writeJSON(w, rejected("%s", refused))
		}
		return
	}
	ctx, cancel := c.untilDone(r.Context())
	defer cancel()
	var action *tailcfg.SSHAction
	var err error
	if id := r.URL.Query().Get("check"); id != "" {
		action, err = c.awaitSSH(ctx, l, id)
	} else {
		action, err = c.beginSSH(ctx, l)
	}
	switch {
	case err == nil:
		writeJSON(w, action)
	case ctx.Err() != nil:
		http.Error(w, "the server is going down; try again", http.StatusServiceUnavailable)
	case errors.Is(err, tailnet.ErrTooMany) || errors.Is(err, tailnet.ErrInvalid):
		writeJSON(w, rejected("%s", tailnet.Sentence(err)))
	default:
		c.Log.Error("checking a login by SSH", "src", l.src.ID, "dst", l.dst.ID, "err", err)
		http.Error(w, "the server cannot look up logins now; try again", http.StatusServiceUnavailable)
	}
}

// rejected ends a login; the person who tried reads why.
func rejected(format string, args ...any) *tailcfg.SSHAction {
	return &tailcfg.SSHAction{Reject: true, Message: "headscale: " + fmt.Sprintf(format, args...) + "\n"}
}

// sshLogin reads which login it is about. Only the machine of the node that is logged in to may ask. Where it gives no
// login it has answered, or says why the login is refused.
func (c *Control) sshLogin(w http.ResponseWriter, r *http.Request) (l *login, refused string) {
	src, errSrc := strconv.ParseUint(r.PathValue("src"), 10, 64)
	dst, errDst := strconv.ParseUint(r.PathValue("dst"), 10, 64)
	name := r.URL.Query().Get("ssh_user")
	if errSrc != nil || errDst != nil || name == "" || len(name) > maxLogin {
		http.Error(w, "this address is not as the policy has it", http.StatusBadRequest)
		return nil, ""
	}
	for _, v := range c.State.Views() {
		n := v.Node(tailnet.NodeID(dst))
		if n == nil {
			continue
		}
		if n.MachineKey != machine(r.Context()) {
			http.Error(w, "only the node that is logged in to may ask", http.StatusForbidden)
			return nil, ""
		}
		from := v.Node(tailnet.NodeID(src))
		if from == nil || from.Lapsed || from.Barred {
			return nil, "the node that you come from is not, or no longer, in the tailnet"
		}
		return &login{v.Tailnet.ID, from, n, name}, ""
	}
	http.Error(w, "this server does not know this node yet; try again", http.StatusNotFound)
	return nil, ""
}

// ruleOf is what the policy says of the login now; false when it asks for no check of it (any more).
func (c *Control) ruleOf(l *login) (policy.SSHCheck, bool) {
	v := c.State.View(l.tailnet)
	if v == nil {
		return policy.SSHCheck{}, false
	}
	return v.Policy.SSHCheck(l.src.ID, l.dst.ID, l.name)
}

const noRule = "the policy has changed: try again"

// beginSSH answers the first request of a login: it goes on if it was approved lately, else it waits.
func (c *Control) beginSSH(ctx context.Context, l *login) (*tailcfg.SSHAction, error) {
	rule, ok := c.ruleOf(l)
	if !ok {
		return rejected(noRule), nil
	}
	if rule.Period > 0 {
		earlier, err := c.Store.FindSSHApproval(ctx, l.row(), c.Now().Add(-rule.Period))
		if err == nil {
			c.Log.Info("login by SSH approved before", "src", l.src.ID, "dst", l.dst.ID, "login", l.name, "by", earlier.DecidedBy, "check", earlier.ID)
			return rule.Accept, nil
		}
		if !errors.Is(err, tailnet.ErrNotFound) {
			return nil, err
		}
	}
	check, err := c.Store.BeginSSHCheck(ctx, l.row(), rule.Period > 0)
	if err != nil {
		return nil, err
	}
	c.Log.Info("login by SSH waits for approval", "src", l.src.ID, "dst", l.dst.ID, "login", l.name, "rule", rule.Rule, "check", check.ID)
	return &tailcfg.SSHAction{Message: c.askPerson(l, check), HoldAndDelegate: delegateTo(l, check.ID)}, nil
}

// askPerson says in the SSH session, before it begins, how the login is approved.
func (c *Control) askPerson(l *login, check *tailnet.SSHCheck) string {
	left := max(check.ExpiresAt.Sub(c.Now()).Round(time.Minute), time.Minute)
	return fmt.Sprintf(`headscale: logging in to %s as %s needs an approval, within %d minutes. Have an administrator run

    headscale auth approve --auth-id %s

or send them this page: %s/auth/%s

`, l.dst.GivenName, strconv.Quote(l.name), int(left.Minutes()), check.ID, c.Auth.ServerURL, check.ID)
}

// delegateTo is where the client waits for the verdict.
func delegateTo(l *login, id string) string {
	return fmt.Sprintf("https://unused/machine/ssh/action/%d/to/%d?%s", l.src.ID, l.dst.ID,
		url.Values{"check": {id}, "ssh_user": {l.name}}.Encode())
}

// awaitSSH waits for the verdict about a login, and if none comes for a while has the client ask anew.
func (c *Control) awaitSSH(ctx context.Context, l *login, id string) (*tailcfg.SSHAction, error) {
	hold := time.NewTimer(sshHold)
	defer hold.Stop()
	for {
		moved := c.Store.Moved()
		action, err := c.verdict(ctx, l, id)
		if action != nil || err != nil {
			return action, err
		}
		pause := time.NewTimer(sshPause)
		look := time.NewTimer(sshLook)
		select {
		case <-moved:
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		case <-look.C:
		case <-hold.C:
			return &tailcfg.SSHAction{HoldAndDelegate: delegateTo(l, id)}, nil
		case <-ctx.Done():
		}
		pause.Stop()
		look.Stop()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// verdict is the end of a login; nil while it waits.
func (c *Control) verdict(ctx context.Context, l *login, id string) (*tailcfg.SSHAction, error) {
	rule, ok := c.ruleOf(l)
	if !ok {
		return rejected(noRule), nil
	}
	check, err := c.Store.FindSSHCheck(ctx, id)
	if errors.Is(err, tailnet.ErrNotFound) {
		return rejected("nobody approved this login in time: try again"), nil
	}
	if err != nil {
		return nil, err
	}
	want := l.row()
	if check.SrcID != want.SrcID || check.DstID != want.DstID || check.Login != want.Login || check.Owner != want.Owner {
		return rejected("this approval is for another login: try again"), nil
	}
	switch check.Verdict {
	case tailnet.SSHApproved:
		c.Log.Info("login by SSH approved", "src", l.src.ID, "dst", l.dst.ID, "login", l.name, "by", check.DecidedBy, "check", id)
		return rule.Accept, nil
	case tailnet.SSHRejected:
		c.Log.Info("login by SSH rejected", "src", l.src.ID, "dst", l.dst.ID, "login", l.name, "by", check.DecidedBy, "check", id)
		return rejected("an administrator rejected this login"), nil
	}
	return nil, nil
}
