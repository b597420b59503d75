package hstest_test

import (
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/config"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// A server that is to keep no idle connections has two left: one that writes, and one that waits for notifications.
func TestNoIdleConnections(t *testing.T) {
	db := hstest.StartPostgres(t)
	s := hstest.Start(t, db.Database(), func(c *config.Config) { c.Database.Postgres.MaxIdleConns = 0 })
	s.Node("alpha").Join(s.Key(s.User("alice")))
	const open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keelscale'"
	got := ""
	for ctx := hstest.Context(t); got != "2"; time.Sleep(20 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("got %s connections, want 2", got)
		}
		got = db.SQL("test1", open)
	}
}
