package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"gorm.io/gorm"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	kindWebhook = "webhook"
	maxWebhooks = 100 // in a tailnet
	saltSize    = 16
)

type webhookFacts struct {
	Endpoint string   `json:"endpoint"` // without its path
	Provider string   `json:"provider,omitempty"`
	Events   []string `json:"events"`
}

func factsOfWebhook(w *tailnet.Webhook) webhookFacts {
	return webhookFacts{Endpoint: w.Host(), Provider: w.Provider, Events: w.Events}
}

// CreateWebhook makes an endpoint in w.TailnetID (zero: default) of w.URL, w.Provider and w.Events. Its secret is what
// hooks makes of the row.
func (s *Store) CreateWebhook(ctx context.Context, w tailnet.Webhook) (*tailnet.Webhook, error) {
	w.TailnetID, w.Events = s.orDefault(w.TailnetID), sortedOnce(w.Events)
	err := errors.Join(w.Check(), checkText(w.URL, longText*2))
	var salt []byte
	if err == nil {
		salt, err = s.salt()
	}
	if err != nil {
		return nil, fmt.Errorf("creating webhook: %w", err)
	}
	var row *tailnet.Webhook
	err = s.write(ctx, func(t *tx) error {
		if _, err := t.tailnet(w.TailnetID); err != nil {
			return err
		}
		var count int64
		if err := t.look().Model(&tailnet.Webhook{}).Where("tailnet_id = ?", int64(w.TailnetID)).Count(&count).Error; err != nil {
			return err
		}
		if count >= maxWebhooks {
			return fmt.Errorf("%w webhooks: %d, as many as a tailnet may have", tailnet.ErrTooMany, count)
		}
		fresh := w
		row = &fresh
		row.ID, row.Salt, row.CreatedAt, row.UpdatedAt = 0, salt, t.now, t.now
		if row.Creator == "" {
			row.Creator = tailnet.ActorOf(ctx).Who
		}
		row.Creator = fact(row.Creator)
		if err := t.edit().Create(row).Error; err != nil {
			return err
		}
		return t.audit(record{tailnet: row.TailnetID, action: "webhook.create", kind: kindWebhook, id: row.ID, name: row.Host(), became: factsOfWebhook(row)})
	})
	if err != nil {
		return nil, fmt.Errorf("creating webhook: %w", err)
	}
	return row, nil
}

func (s *Store) salt() ([]byte, error) {
	salt := make([]byte, saltSize)
	_, err := io.ReadFull(s.cfg.Rand, salt)
	return salt, err
}

func sortedOnce(texts []string) []string {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	return slices.Compact(texts)
}

// ListWebhooks returns the endpoints of a tailnet, or for zero of all, in the order in which they were made.
func (s *Store) ListWebhooks(ctx context.Context, id tailnet.ID) ([]*tailnet.Webhook, error) {
	q := s.orm.WithContext(ctx).Order("id")
	if id != 0 {
		q = q.Where("tailnet_id = ?", int64(id))
	}
	var hooks []*tailnet.Webhook
	if err := q.Find(&hooks).Error; err != nil {
		return nil, fmt.Errorf("listing webhooks: %w", s.engine.explain(err))
	}
	return hooks, nil
}

// GetWebhook returns the endpoint with that ID.
func (s *Store) GetWebhook(ctx context.Context, id uint64) (*tailnet.Webhook, error) {
	w, err := findWebhook(s.orm.WithContext(ctx), id)
	if err != nil {
		return nil, fmt.Errorf("reading webhook %d: %w", id, s.engine.explain(err))
	}
	return w, nil
}

func findWebhook(db *gorm.DB, id uint64) (*tailnet.Webhook, error) {
	var w tailnet.Webhook
	err := db.Take(&w, "id = ?", int64(id)).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return nil, fmt.Errorf("%w: see headscale webhooks list", tailnet.ErrNotFound)
	}
	return &w, err
}

// changeWebhook loads an endpoint, has it changed, and writes it.
func (s *Store) changeWebhook(ctx context.Context, action string, id uint64, change func(*tx, *tailnet.Webhook) error) (*tailnet.Webhook, error) {
	var w *tailnet.Webhook
	err := s.write(ctx, func(t *tx) (err error) {
		if w, err = findWebhook(t.look(), id); err != nil {
			return err
		}
		if _, err := t.tailnet(w.TailnetID); err != nil {
			return err
		}
		if w, err = findWebhook(t.look(), id); err != nil { // it may have changed before the lock was ours
			return err
		}
		r := record{tailnet: w.TailnetID, action: action, kind: kindWebhook, id: w.ID, name: w.Host()}
		was := factsOfWebhook(w)
		if err := change(t, w); err != nil {
			return err
		}
		w.UpdatedAt = t.now
		if err := t.edit().Save(w).Error; err != nil {
			return err
		}
		if action == "webhook.update" {
			r.was = was
		}
		r.became = factsOfWebhook(w)
		return t.audit(r)
	})
	if err != nil {
		return nil, fmt.Errorf("changing webhook %d: %w", id, err)
	}
	return w, nil
}

// UpdateWebhook has an endpoint be told of these events, and nothing else.
func (s *Store) UpdateWebhook(ctx context.Context, id uint64, events []string) (*tailnet.Webhook, error) {
	return s.changeWebhook(ctx, "webhook.update", id, func(_ *tx, w *tailnet.Webhook) error {
		w.Events = sortedOnce(events)
		return w.Check()
	})
}

// RotateWebhook gives an endpoint another secret, for all that is delivered from now on.
func (s *Store) RotateWebhook(ctx context.Context, id uint64) (*tailnet.Webhook, error) {
	salt, err := s.salt()
	if err != nil {
		return nil, fmt.Errorf("changing webhook %d: %w", id, err)
	}
	return s.changeWebhook(ctx, "webhook.rotate", id, func(_ *tx, w *tailnet.Webhook) error {
		w.Salt = salt
		return nil
	})
}

// TestWebhook has an endpoint be told of a test event.
func (s *Store) TestWebhook(ctx context.Context, id uint64) error {
	err := s.write(ctx, func(t *tx) error {
		w, err := findWebhook(t.look(), id)
		if err != nil {
			return err
		}
		return t.deliver(w, news{tailnet: w.TailnetID, event: tailnet.EventTest, actor: tailnet.ActorOf(ctx)})
	})
	if err != nil {
		return fmt.Errorf("testing webhook %d: %w", id, err)
	}
	return nil
}

// DeleteWebhook forgets an endpoint, and what it was not told yet.
func (s *Store) DeleteWebhook(ctx context.Context, id uint64) error {
	err := s.write(ctx, func(t *tx) error {
		w, err := findWebhook(t.look(), id)
		if err != nil {
			return err
		}
		for _, statement := range []string{"DELETE FROM webhook_deliveries WHERE webhook_id = ?", "DELETE FROM webhooks WHERE id = ?"} {
			if _, err := t.exec(statement, int64(id)); err != nil {
				return err
			}
		}
		return t.audit(record{tailnet: w.TailnetID, action: "webhook.delete", kind: kindWebhook, id: id, name: w.Host(), was: factsOfWebhook(w)})
	})
	if err != nil {
		return fmt.Errorf("deleting webhook %d: %w", id, err)
	}
	return nil
}
