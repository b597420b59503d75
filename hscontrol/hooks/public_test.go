package hooks_test

import (
	"strings"
	"testing"

	"github.com/keelscale/keelscale/hscontrol/hooks"
)

// TestOnlyPublicStreams: who runs the server sends the log where they like; through the API it goes to no private
// network.
func TestOnlyPublicStreams(t *testing.T) {
	s, own, set := newSite(t), newReceiver(t), newReceiver(t)
	u := s.user("anna")
	s.runAs(hooks.Config{OnlyPublic: true, Streams: []hooks.Stream{{Name: own.URL, Type: hooks.StreamHTTP, URL: own.URL, Format: hooks.FormatLines}}})
	inOrder(t, lines(own.next(t).body), 0)
	if err := s.hooks.SetStream(s.ctx, u.TailnetID, hooks.Stream{Type: hooks.StreamHTTP, URL: set.URL}); err != nil {
		t.Fatal(err)
	}
	s.user("bob")
	s.until("the stream of the API is refused", func() bool {
		row, err := s.store.GetAuditStream(s.ctx, hooks.APIStream(u.TailnetID))
		return err == nil && strings.Contains(row.Trouble, "not open to webhooks")
	})
	if len(set.told) != 0 {
		t.Error("the receiver that was set through the API was told")
	}
}
