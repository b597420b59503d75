package console

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	maxRef        = 128             // bytes of a registration key; the longest form has 72
	maxShown      = 64              // letters of any fact that a client says of itself
	maxTags       = 20              // tags that are shown
	lookupTimeout = 5 * time.Second // for the database to answer
)

// The states of a registration. The words are those that the page's script reads.
const (
	waiting = "waiting" // for an administrator
	joined  = "joined"
	refused = "refused"
	expired = "expired" // its lifetime is over
	unknown = "unknown" // never was, or is gone from the database
	broken  = "broken"  // the database does not answer
)

// verdict is the HTTP status and the page of each state.
var verdict = map[string]struct {
	status int
	page   string
}{
	waiting: {http.StatusOK, "register"},
	joined:  {http.StatusOK, "joined"},
	refused: {http.StatusGone, "refused"},
	expired: {http.StatusGone, "expired"},
	unknown: {http.StatusNotFound, "unknown"},
	broken:  {http.StatusServiceUnavailable, "broken"},
}

// machine is what the page says of a machine that waits. All of it but the key and the times is the client's own word.
type machine struct {
	ID       string
	Key      string // as in the address that was visited: what `nodes register --key` takes
	Hostname string
	System   string
	Client   string
	Tags     string
	Asked    time.Time
	Ago      int // minutes since
	Left     int // minutes until the link ends, at least 1
}

// register shows the machine behind the address and the commands that let it in. The page's script asks the same
// address for JSON, to notice when it is done.
func (c *Console) register(w http.ResponseWriter, r *http.Request) {
	text := r.PathValue("id")
	if text == "" {
		text = r.URL.Query().Get("key")
	}
	ref, ok := parse(text)
	state, reg := unknown, (*tailnet.Registration)(nil)
	if ok {
		state, reg = c.find(r.Context(), ref)
	}
	if state == unknown && ref.ID != "" && c.login(w, r, ref.ID) {
		return
	}
	v := verdict[state]
	if r.Header.Get("Accept") == "application/json" {
		answerState(w, v.status, state)
		return
	}
	var data any
	if reg != nil {
		data = c.describe(reg, ref)
	}
	c.render(w, r, v.status, v.page, data)
}

// parse reads any form of a registration key. A machine key is accepted as `?key=` of the oldest clients had it.
func parse(text string) (tailnet.RegistrationRef, bool) {
	if len(text) > maxRef {
		return tailnet.RegistrationRef{}, false
	}
	ref, err := tailnet.ParseRegistrationRef(text)
	return ref, err == nil
}

// find looks the registration up and says its state. The registration is nil where there is none to speak of.
func (c *Console) find(ctx context.Context, ref tailnet.RegistrationRef) (string, *tailnet.Registration) {
	if c.cfg.Registration == nil {
		return unknown, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	reg, err := c.cfg.Registration(ctx, ref)
	switch {
	case errors.Is(err, tailnet.ErrNotFound):
		return unknown, nil
	case err != nil:
		c.cfg.Log.Error("looking up a registration for its page", "err", err)
		return broken, nil
	case reg.NodeID != 0:
		return joined, reg
	case reg.Rejected:
		return refused, reg
	case !reg.ExpiresAt.IsZero() && !c.cfg.Now().Before(reg.ExpiresAt):
		return expired, reg
	}
	return waiting, reg
}

func answerState(w http.ResponseWriter, status int, state string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept-Language, Accept")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"state": state}) // a visitor who has left is no error
}

// describe gathers the facts of a machine for its page.
func (c *Console) describe(reg *tailnet.Registration, ref tailnet.RegistrationRef) machine {
	now := c.cfg.Now()
	m := machine{
		ID:    reg.ID,
		Key:   reg.ID,
		Asked: reg.CreatedAt.UTC(),
		Ago:   max(0, int(now.Sub(reg.CreatedAt)/time.Minute)),
		Left:  max(1, int(reg.ExpiresAt.Sub(now).Round(time.Minute)/time.Minute)),
	}
	if ref.Digits != "" {
		m.Key = ref.Digits
	}
	info := reg.Hostinfo
	if info == nil {
		return m
	}
	m.Hostname = plain(info.Hostname)
	m.System = plain(strings.Join(present(info.OS, info.Distro, info.DistroVersion, info.OSVersion, info.DeviceModel), " "))
	version, _, _ := strings.Cut(info.IPNVersion, "-")
	m.Client = plain(version)
	m.Tags = plain(strings.Join(info.RequestTags[:min(len(info.RequestTags), maxTags)], " "))
	return m
}

// present leaves out what is empty or said twice.
func present(words ...string) []string {
	var out []string
	for _, word := range words {
		if word != "" && (len(out) == 0 || out[len(out)-1] != word) {
			out = append(out, word)
		}
	}
	return out
}

// plain makes a client's word fit to be read: no control and no invisible letters, which could make one name look like
// another, and at most maxShown of the rest.
func plain(text string) string {
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n == maxShown {
			b.WriteRune('…')
			break
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '·'
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}
