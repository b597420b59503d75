package hooks

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	chatBatch  = 20    // events in one message of a chat
	maxMessage = 1_900 // letters of a message, below what the strictest of the chats takes (Discord: 2,000)
)

func batchSizeOf(w *tailnet.Webhook) int {
	if w.Provider == "" {
		return batchSize
	}
	return chatBatch
}

// format is the body of the request that tells the events.
func format(w *tailnet.Webhook, batch []tailnet.Delivery) ([]byte, error) {
	if w.Provider == "" {
		events := make([]json.RawMessage, len(batch))
		for i, d := range batch {
			events[i] = d.Event
		}
		return json.Marshal(events)
	}
	var lines []string
	for _, d := range batch {
		var e tailnet.Event
		if err := json.Unmarshal(d.Event, &e); err != nil {
			return nil, fmt.Errorf("reading event of delivery %d: %w", d.ID, err)
		}
		lines = append(lines, line(&e))
	}
	text := strings.Join(lines, "\n")
	if letters := []rune(text); len(letters) > maxMessage {
		text = string(letters[:maxMessage]) + "…"
	}
	return json.Marshal(message(w.Provider, text))
}

// line is an event as people read it.
func line(e *tailnet.Event) string {
	text := e.Message
	if e.Tailnet != "" && e.Tailnet != tailnet.DefaultName {
		text += " in tailnet " + e.Tailnet
	}
	if by := e.Data["actor"]; by != "" {
		text += " (by " + by + ")"
	}
	if why := e.Data["reason"]; why != "" {
		text += ": " + why
	}
	return text
}

// message is a text as each chat takes it. Names come from clients, so nothing in them shall be a link, a mention or a
// command.
func message(provider, text string) any {
	switch provider {
	case tailnet.WebhookDiscord:
		return struct {
			Content  string              `json:"content"`
			Mentions map[string][]string `json:"allowed_mentions"`
		}{text, map[string][]string{"parse": {}}}
	case tailnet.WebhookMattermost:
		text = strings.ReplaceAll(text, "@", "@\u200b")
	case tailnet.WebhookGoogleChat:
		text = strings.ReplaceAll(text, "<", "<\u200b")
	default: // Slack
		text = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
	}
	return struct {
		Text string `json:"text"`
	}{text}
}
