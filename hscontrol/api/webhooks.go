package api

import (
	"context"
	"encoding/json"
	"fmt"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// shownDeliveries is how many deliveries are shown of an endpoint.
const shownDeliveries = 20

// CreateWebhook makes an endpoint, and shows its secret for the only time.
func (s *Server) CreateWebhook(ctx context.Context, req *headscalev1.CreateWebhookRequest) (*headscalev1.CreateWebhookResponse, error) {
	if s.cfg.WebhookSecret == nil {
		return nil, unwired("webhooks")
	}
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	w, err := s.cfg.Store.CreateWebhook(ctx, tailnet.Webhook{TailnetID: t.ID, URL: req.GetUrl(), Provider: req.GetProvider(), Events: req.GetEvents()})
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	return &headscalev1.CreateWebhookResponse{Webhook: n.webhook(w), Secret: s.cfg.WebhookSecret(w)}, nil
}

// ListWebhooks lists endpoints, without their secrets.
func (s *Server) ListWebhooks(ctx context.Context, req *headscalev1.ListWebhooksRequest) (*headscalev1.ListWebhooksResponse, error) {
	id, err := s.tailnetOrAll(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	hooks, err := s.cfg.Store.ListWebhooks(ctx, id)
	if err != nil {
		return nil, err
	}
	hooks, next, err := page(req, hooks, func(w *tailnet.Webhook) place { return place{number: w.ID} })
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	resp := &headscalev1.ListWebhooksResponse{NextPageToken: next}
	for _, w := range hooks {
		resp.Webhooks = append(resp.Webhooks, n.webhook(w))
	}
	return resp, nil
}

// GetWebhook shows an endpoint, and what became of the newest deliveries to it.
func (s *Server) GetWebhook(ctx context.Context, req *headscalev1.GetWebhookRequest) (*headscalev1.GetWebhookResponse, error) {
	w, err := s.webhook(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	list, err := s.cfg.Store.ListDeliveries(ctx, w.ID, shownDeliveries)
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	m := n.webhook(w)
	for i := range list {
		m.Deliveries = append(m.Deliveries, delivery(&list[i]))
	}
	return &headscalev1.GetWebhookResponse{Webhook: m}, nil
}

// DeleteWebhook forgets an endpoint.
func (s *Server) DeleteWebhook(ctx context.Context, req *headscalev1.DeleteWebhookRequest) (*headscalev1.DeleteWebhookResponse, error) {
	w, err := s.webhook(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Store.DeleteWebhook(ctx, w.ID); err != nil {
		return nil, err
	}
	return &headscalev1.DeleteWebhookResponse{}, nil
}

// TestWebhook has a test event delivered to an endpoint.
func (s *Server) TestWebhook(ctx context.Context, req *headscalev1.TestWebhookRequest) (*headscalev1.TestWebhookResponse, error) {
	w, err := s.webhook(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Store.TestWebhook(ctx, w.ID); err != nil {
		return nil, err
	}
	return &headscalev1.TestWebhookResponse{}, nil
}

// RotateWebhook gives an endpoint another secret, and shows it for the only time.
func (s *Server) RotateWebhook(ctx context.Context, req *headscalev1.RotateWebhookRequest) (*headscalev1.RotateWebhookResponse, error) {
	if s.cfg.WebhookSecret == nil {
		return nil, unwired("webhooks")
	}
	w, err := s.webhook(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if w, err = s.cfg.Store.RotateWebhook(ctx, w.ID); err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	return &headscalev1.RotateWebhookResponse{Webhook: n.webhook(w), Secret: s.cfg.WebhookSecret(w)}, nil
}

// webhook finds an endpoint that the caller may see.
func (s *Server) webhook(ctx context.Context, id uint64) (*tailnet.Webhook, error) {
	if id == 0 {
		return nil, invalid("say which webhook: its ID is missing")
	}
	w, err := s.cfg.Store.GetWebhook(ctx, id)
	if err != nil {
		return nil, err
	}
	if !mayReach(ctx, w.TailnetID) {
		return nil, fmt.Errorf("%w: webhook %d", tailnet.ErrNotFound, id)
	}
	return w, nil
}

func (n *names) webhook(w *tailnet.Webhook) *headscalev1.Webhook {
	return &headscalev1.Webhook{
		Id: w.ID, Url: w.URL, Provider: w.Provider, Events: w.Events, Creator: w.Creator, Tailnet: n.tailnets[w.TailnetID],
		CreatedAt: timestamp(&w.CreatedAt), UpdatedAt: timestamp(&w.UpdatedAt),
	}
}

func delivery(d *tailnet.Delivery) *headscalev1.WebhookDelivery {
	var e tailnet.Event
	_ = json.Unmarshal(d.Event, &e) // the store wrote it
	return &headscalev1.WebhookDelivery{
		Id: d.ID, Event: e.Type, Message: e.Message, State: string(d.State), Attempts: uint32(d.Attempts), Status: uint32(d.Status),
		Trouble: d.Trouble, DueAt: timestamp(&d.DueAt), CreatedAt: timestamp(&d.CreatedAt),
	}
}
