package hstest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keelscale/keelscale/hscontrol/hooks"
	"github.com/keelscale/keelscale/hscontrol/hstest"
)

// told is what two servers told a webhook and a receiver of the audit log.
type told struct {
	mu     sync.Mutex
	events []string      // names of users, as their events came
	rows   []uint64      // IDs, as they came
	gate   chan struct{} // endpoints answer when it is closed; nil: at once
	asked  chan struct{} // one for each request that waits there
}

func (r *told) webhook(w http.ResponseWriter, req *http.Request) {
	var batch []struct {
		Type string
		Data struct {
			User string
		}
	}
	body, err := io.ReadAll(req.Body)
	if err == nil {
		err = json.Unmarshal(body, &batch)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		r.asked <- struct{}{}
		select {
		case <-gate:
		case <-req.Context().Done():
			return // the sender is gone
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range batch {
		r.events = append(r.events, e.Data.User)
	}
}

func (r *told) siem(w http.ResponseWriter, req *http.Request) {
	var rows []hooks.Row
	if err := json.NewDecoder(req.Body).Decode(&rows); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range rows {
		r.rows = append(r.rows, row.ID)
	}
}

// has reports whether all users' events and all rows up to the last came.
func (r *told) has(users []string, last uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range users {
		if !slices.ContainsFunc(r.events, func(e string) bool { return e == u }) {
			return false
		}
	}
	for id := uint64(1); id <= last; id++ {
		if !slices.Contains(r.rows, id) {
			return false
		}
	}
	return true
}

// TestKilledServerTellsOn: of two servers one tells a receiver each thing, and when it is killed the other tells the rest,
// soon, and what the first was about to tell.
func TestKilledServerTellsOn(t *testing.T) {
	receiver := &told{asked: make(chan struct{}, 100)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hook", receiver.webhook)
	mux.HandleFunc("POST /siem", receiver.siem)
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)

	db := hstest.StartPostgres(t)
	text := section(db.Database(), filepath.Join(t.TempDir(), "secrets.key")) + fmt.Sprintf("audit:\n  streams: [%q]\n", web.URL+"/siem")
	first := hstest.StartProcess(t, text)
	first.CLI("webhooks", "create", web.URL+"/hook", "--events", "userCreated")
	second := hstest.StartProgram(t, first.Program, text)

	var users []string
	add := func(at *hstest.Process, n int) {
		for range n {
			name := fmt.Sprint("user", len(users))
			at.CLI("users", "create", name)
			users = append(users, name)
		}
	}
	add(first, 3)
	add(second, 3)
	await(t, "all to be told", func() bool { return receiver.has(users, 7) })
	receiver.mu.Lock()
	if len(receiver.events) != len(users) || len(receiver.rows) != 7 {
		t.Errorf("got %d events and %d rows, want %d and 7: each is told by one of the two", len(receiver.events), len(receiver.rows), len(users))
	}
	receiver.gate = make(chan struct{})
	receiver.mu.Unlock()

	add(first, 1)
	<-receiver.asked // one of the two is just telling it
	begun := time.Now()
	first.End(syscall.SIGKILL)
	close(receiver.gate)
	add(second, 3)
	await(t, "the other to tell all", func() bool { return receiver.has(users, 11) })
	t.Logf("all is told by the other %v after the kill", time.Since(begun))
}
