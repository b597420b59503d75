package tailnet

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"time"
)

// Webhook is an endpoint that is told of events of its tailnet. What its secret is follows from ID and Salt and a key
// that only the servers have.
type Webhook struct {
	ID        uint64   `gorm:"primaryKey"`
	TailnetID ID       `gorm:"not null;index"`
	URL       string   `gorm:"not null"`
	Provider  string   `gorm:"not null"` // one of Webhook...; empty: Tailscale's own format
	Events    []string `gorm:"serializer:doc"`
	Creator   string   `gorm:"not null"` // who made it, as the audit log has them
	Salt      []byte   `gorm:"not null"`
	CreatedAt time.Time
	UpdatedAt time.Time
}

// What else than Tailscale's own format an endpoint may want.
const (
	WebhookSlack      = "slack"
	WebhookMattermost = "mattermost"
	WebhookDiscord    = "discord"
	WebhookGoogleChat = "googlechat"
)

// The events that are no plain consequence of a change by somebody. EventTest is sent when somebody asks for it.
const (
	EventNodeOnline         = "nodeOnline"
	EventNodeOffline        = "nodeOffline"
	EventRelayUp            = "relayUp"
	EventRelayDown          = "relayDown"
	EventNodeKeyExpiring    = "nodeKeyExpiringInOneDay"
	EventNodeKeyExpired     = "nodeKeyExpired"
	EventNodeNeedsApproval  = "nodeNeedsApproval"
	EventUserNeedsApproval  = "userNeedsApproval"
	EventTest               = "test"
	CategoryManagement      = "categoryTailnetManagement"
	CategoryMisconfigured   = "categoryDeviceMisconfigurations"
	EventWebhookUpdated     = "webhookUpdated"
	EventWebhookDeleted     = "webhookDeleted"
	maxWebhookURL           = 2048
	maxWebhookSubscriptions = 64
)

// managementEvents are those of CategoryManagement, misconfigurations those of CategoryMisconfigured, liveEvents those
// that Tailscale does not have: nothing but their own names chooses them. They never change.
var (
	managementEvents = []string{
		"nodeCreated", EventNodeNeedsApproval, "nodeApproved", EventNodeKeyExpiring, EventNodeKeyExpired, "nodeDeleted", "nodeSigned",
		"nodeNeedsSignature", "policyUpdate", "userCreated", EventUserNeedsApproval, "userSuspended", "userRestored", "userDeleted",
		"userApproved", "userRoleUpdated",
	}
	misconfigurations = []string{"subnetIPForwardingNotEnabled", "exitNodeIPForwardingNotEnabled"}
	liveEvents        = []string{EventNodeOnline, EventNodeOffline, EventRelayUp, EventRelayDown}
)

// WebhookEvents are the names that an endpoint may subscribe to, the categories last.
func WebhookEvents() []string {
	return slices.Concat(managementEvents, misconfigurations, liveEvents, []string{CategoryManagement, CategoryMisconfigured})
}

// Wants reports whether the endpoint subscribed to the event. Of what happens to itself each is told.
func (w *Webhook) Wants(event string) bool {
	switch {
	case event == EventTest || event == EventWebhookUpdated || event == EventWebhookDeleted:
		return true
	case slices.Contains(w.Events, event):
		return true
	case slices.Contains(managementEvents, event):
		return slices.Contains(w.Events, CategoryManagement)
	case slices.Contains(misconfigurations, event):
		return slices.Contains(w.Events, CategoryMisconfigured)
	}
	return false
}

// Check reports why this cannot be an endpoint.
func (w *Webhook) Check() error {
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || len(w.URL) > maxWebhookURL:
		return fmt.Errorf("%w: the endpoint is no URL of %d bytes at most", ErrInvalid, maxWebhookURL)
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf("%w: the endpoint has to be an https:// or http:// URL", ErrInvalid)
	case u.User != nil:
		return fmt.Errorf("%w: the endpoint's URL may have no user and password", ErrInvalid)
	case !slices.Contains([]string{"", WebhookSlack, WebhookMattermost, WebhookDiscord, WebhookGoogleChat}, w.Provider):
		return fmt.Errorf("%w: provider %q is not known: write slack, mattermost, discord or googlechat, or none", ErrInvalid, w.Provider)
	case len(w.Events) == 0:
		return fmt.Errorf("%w: say of which events the endpoint shall be told: %v", ErrInvalid, WebhookEvents())
	case len(w.Events) > maxWebhookSubscriptions:
		return fmt.Errorf("%w subscriptions: %d, at most %d", ErrTooMany, len(w.Events), maxWebhookSubscriptions)
	}
	for _, e := range w.Events {
		if !slices.Contains(WebhookEvents(), e) {
			return fmt.Errorf("%w: event %q is not known: write some of %v", ErrInvalid, e, WebhookEvents())
		}
	}
	return nil
}

// Host is the endpoint without its path, which may be a secret of its own.
func (w *Webhook) Host() string {
	u, err := url.Parse(w.URL)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// Event is what an endpoint is told, as Tailscale writes it.
type Event struct {
	Timestamp time.Time         `json:"timestamp"`
	Version   int               `json:"version"` // 1
	Type      string            `json:"type"`
	Tailnet   string            `json:"tailnet"`
	Message   string            `json:"message"`
	Data      map[string]string `json:"data,omitempty"`
}

// DeliveryState says how far a delivery is.
type DeliveryState string

const (
	DeliveryWaiting   DeliveryState = "waiting"
	DeliveryDone      DeliveryState = "delivered"
	DeliveryAbandoned DeliveryState = "abandoned"
)

// Delivery is one event on its way to one endpoint.
type Delivery struct {
	ID        uint64
	WebhookID uint64
	Event     json.RawMessage // an Event
	State     DeliveryState
	Attempts  int
	Status    int    // HTTP status of the last attempt; zero: there was no answer
	Trouble   string // of the last attempt
	DueAt     time.Time
	CreatedAt time.Time
	EndedAt   *time.Time
}
