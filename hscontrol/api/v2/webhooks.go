package v2

import (
	"errors"
	"strconv"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// endpoint is a webhook as Tailscale's API writes it. The secret is told only where it was made just now.
type endpoint struct {
	EndpointID       string    `json:"endpointId"`
	EndpointURL      string    `json:"endpointUrl"`
	ProviderType     string    `json:"providerType"`
	CreatorLoginName string    `json:"creatorLoginName"`
	Created          time.Time `json:"created"`
	LastModified     time.Time `json:"lastModified"`
	Subscriptions    []string  `json:"subscriptions"`
	Secret           *string   `json:"secret,omitempty"`
}

func endpointAnswer(w *tailnet.Webhook) *endpoint {
	return &endpoint{
		EndpointID: idText(w.ID), EndpointURL: w.URL, ProviderType: w.Provider, CreatorLoginName: w.Creator,
		Created: w.CreatedAt.UTC(), LastModified: w.UpdatedAt.UTC(), Subscriptions: emptied(w.Events),
	}
}

func (c *call) withSecret(w *tailnet.Webhook) *endpoint {
	e, secret := endpointAnswer(w), c.cfg.WebhookSecret(w)
	e.Secret = &secret
	return e
}

func listWebhooks(c *call) (any, error) {
	all, err := c.cfg.Store.ListWebhooks(c.ctx, c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	list := []*endpoint{}
	for _, w := range all {
		list = append(list, endpointAnswer(w))
	}
	return map[string]any{"webhooks": list}, nil
}

func createWebhook(c *call) (any, error) {
	var req struct {
		EndpointURL   string   `json:"endpointUrl"`
		ProviderType  string   `json:"providerType"`
		Subscriptions []string `json:"subscriptions"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	w, err := c.cfg.Store.CreateWebhook(c.ctx, tailnet.Webhook{TailnetID: c.tailnet.ID, URL: req.EndpointURL, Provider: req.ProviderType, Events: req.Subscriptions})
	if err != nil {
		return nil, err
	}
	return c.withSecret(w), nil
}

// webhook is the one that the path names, if it is there for the caller.
func (c *call) webhook() (*tailnet.Webhook, error) {
	text := c.r.PathValue("webhook")
	id, err := strconv.ParseUint(text, 10, 63)
	if err != nil || id == 0 {
		return nil, absent("webhook " + strconv.Quote(text))
	}
	w, err := c.cfg.Store.GetWebhook(c.ctx, id)
	if errors.Is(err, tailnet.ErrNotFound) || err == nil && !c.caller.Sees(w.TailnetID) {
		return nil, absent("webhook " + strconv.Quote(text))
	}
	return w, err
}

func getWebhook(c *call) (any, error) {
	w, err := c.webhook()
	if err != nil {
		return nil, err
	}
	return endpointAnswer(w), nil
}

func updateWebhook(c *call) (any, error) {
	w, err := c.webhook()
	if err != nil {
		return nil, err
	}
	var req struct {
		Subscriptions []string `json:"subscriptions"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if w, err = c.cfg.Store.UpdateWebhook(c.ctx, w.ID, req.Subscriptions); err != nil {
		return nil, err
	}
	return endpointAnswer(w), nil
}

func deleteWebhook(c *call) (any, error) {
	w, err := c.webhook()
	if err != nil {
		return nil, err
	}
	return nil, c.cfg.Store.DeleteWebhook(c.ctx, w.ID)
}

func testWebhook(c *call) (any, error) {
	w, err := c.webhook()
	if err != nil {
		return nil, err
	}
	return nil, c.cfg.Store.TestWebhook(c.ctx, w.ID)
}

func rotateWebhook(c *call) (any, error) {
	w, err := c.webhook()
	if err != nil {
		return nil, err
	}
	if w, err = c.cfg.Store.RotateWebhook(c.ctx, w.ID); err != nil {
		return nil, err
	}
	return c.withSecret(w), nil
}
