package v2

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"tailscale.com/util/dnsname"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// organization is the ID of the one that all tailnets of a server belong to.
const organization = "o1"

type tailnetAnswer struct {
	ID          string        `json:"id"`
	DisplayName string        `json:"displayName"`
	OrgID       string        `json:"orgId"`
	DNSName     string        `json:"dnsName,omitempty"`
	CreatedAt   time.Time     `json:"createdAt"`
	Client      *clientSecret `json:"oauthClient,omitempty"` // when it is made
}

type clientSecret struct {
	ID     string `json:"id"`
	Secret string `json:"secret"`
}

// tailnetID is what paths may have instead of a name. No name has a capital.
func tailnetID(id tailnet.ID) string { return "T" + strconv.FormatUint(uint64(id), 10) }

func (c *call) tailnetAnswer(t *tailnet.Tailnet, set *tailnet.Settings) tailnetAnswer {
	a := tailnetAnswer{ID: tailnetID(t.ID), DisplayName: set.DisplayName, OrgID: organization, DNSName: c.domainOf(t), CreatedAt: t.CreatedAt.UTC()}
	if a.DisplayName == "" {
		a.DisplayName = t.Name
	}
	return a
}

// domainOf is the MagicDNS domain of a tailnet, if it has one.
func (c *call) domainOf(t *tailnet.Tailnet) string {
	if v := c.cfg.View(t.ID); v != nil {
		return v.Domain
	}
	return ""
}

// goesBy reports whether a tailnet has the ID or the domain.
func (c *call) goesBy(t *tailnet.Tailnet, text string) bool {
	return text == tailnetID(t.ID) || strings.Contains(text, ".") && text == c.domainOf(t)
}

func listTailnets(c *call) (any, error) {
	all, err := c.cfg.Store.ListTailnets(c.ctx)
	if err != nil {
		return nil, err
	}
	list := []tailnetAnswer{}
	for _, t := range all {
		if !c.caller.Sees(t.ID) {
			continue
		}
		set, err := c.cfg.Store.Settings(c.ctx, t.ID)
		if err != nil {
			return nil, err
		}
		list = append(list, c.tailnetAnswer(t, set))
	}
	return map[string]any{"tailnets": list}, nil
}

// createTailnet makes a tailnet and an OAuth client for all of it, which whoever asked shall use from then on.
func createTailnet(c *call) (any, error) {
	var req struct {
		DisplayName string `json:"displayName"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if c.caller.Tailnet != 0 {
		return nil, &refusal{http.StatusForbidden, "this key is for one tailnet only, and cannot make others"}
	}
	asked := tailnet.Settings{DisplayName: req.DisplayName}
	name := dnsname.SanitizeLabel(strings.ToLower(req.DisplayName))
	if name == "" {
		return nil, invalid("say displayName: what the tailnet shall be called, with some letters or digits")
	}
	if err := asked.Validate(); err != nil {
		return nil, err
	}
	made, err := c.cfg.Store.CreateTailnet(c.ctx, name, netip.Prefix{}, netip.Prefix{})
	if err != nil {
		return nil, err
	}
	client, err := c.furnish(made, req.DisplayName)
	if err != nil {
		return nil, errors.Join(err, c.cfg.Store.RemoveTailnet(context.WithoutCancel(c.ctx), made.ID))
	}
	a := c.tailnetAnswer(made, &asked)
	a.Client = client
	return a, nil
}

// furnish gives a tailnet that was just made the name that people call it by, and an OAuth client.
func (c *call) furnish(t *tailnet.Tailnet, displayName string) (*clientSecret, error) {
	if displayName != t.Name {
		if _, err := c.cfg.Store.ChangeSettings(c.ctx, t.ID, func(s *tailnet.Settings) error {
			s.DisplayName = displayName
			return nil
		}); err != nil {
			return nil, err
		}
	}
	client, secret, err := c.cfg.Store.CreateOAuthClient(c.ctx, tailnet.OAuthClient{
		TailnetID: t.ID, Kind: kindClient, Description: "made with the tailnet", Scopes: []string{tailnet.ScopeAll},
	})
	if err != nil {
		return nil, err
	}
	if _, err := c.cfg.Fresh(c.ctx, t.ID); err != nil {
		return nil, err
	}
	return &clientSecret{client.Prefix, secret.Reveal()}, nil
}

// deleteTailnet deletes a tailnet with its devices and users.
func deleteTailnet(c *call) (any, error) {
	if c.caller.User != 0 && c.caller.Role != "owner" {
		return nil, &refusal{http.StatusForbidden, fmt.Sprintf("only an owner may delete the tailnet %q", c.tailnet.Name)}
	}
	return nil, c.cfg.Store.RemoveTailnet(c.ctx, c.tailnet.ID)
}
