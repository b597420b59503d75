package store

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// What every call of the API needs is kept in memory by those who need it, and is as good as the tables while its mark
// stands still. Where this process is the only one that writes, the writer moves the marks, after each commit and before
// it answers. Where there are others the mark is the number of the last row of the audit log, which no change of these
// rows goes without.

// Topic is a kind of rows that may be kept in memory.
type Topic int

const (
	TopicGrants Topic = iota // API keys, OAuth clients, their tokens, and the users that they are bound to; new ones do not count
	TopicKeys                // pre-auth keys; new ones do not count
	topicTailnets
	topics
)

// tableMarks are those of a process that has the database for itself.
type tableMarks struct {
	revisions atomic.Pointer[map[tailnet.ID]tailnet.Revision] // not to be changed; nil: not known
	topics    [topics]atomic.Uint64
}

// Mark is a number that is another one after rows of the topic have changed. Take it first, then read the rows.
func (s *Store) Mark(ctx context.Context, topic Topic) (uint64, error) {
	if !s.engine.shared() {
		return s.marks.topics[topic].Load(), nil
	}
	var last int64
	if err := s.reads.QueryRowContext(ctx, "SELECT last FROM audit_head WHERE id = 1").Scan(&last); err != nil {
		return 0, fmt.Errorf("reading the head of the audit log: %w", s.engine.explain(err))
	}
	return uint64(last), nil
}

// touch notes that rows of a topic change.
func (t *tx) touch(topic Topic) { t.touched[topic] = true }

// touchBy touches what a record of the audit log tells of.
func (t *tx) touchBy(r record) {
	switch {
	case r.kind == kindTailnet:
		t.touch(topicTailnets)
		t.touch(TopicGrants)
		t.touch(TopicKeys)
	case r.was == nil: // nobody has it in memory yet
	case r.kind == kindUser:
		t.touch(TopicGrants)
		t.touch(TopicKeys)
	case r.kind == kindAPIKey, r.kind == kindClient:
		t.touch(TopicGrants)
	case r.kind == kindAuthKey:
		t.touch(TopicKeys)
	}
}

// remember moves the marks after a commit.
func (s *Store) remember(t *tx) {
	if s.engine.shared() {
		return
	}
	for topic, touched := range t.touched {
		if touched {
			s.marks.topics[topic].Add(1)
		}
	}
	known := s.marks.revisions.Load()
	if known == nil || t.undone {
		s.recall(t.ctx)
		return
	}
	if len(t.revised)+len(t.dropped) == 0 {
		return
	}
	next := maps.Clone(*known)
	maps.Copy(next, t.revised)
	for id := range t.dropped {
		delete(next, id)
	}
	s.marks.revisions.Store(&next)
}

// doubt forgets everything after a group of which it is not known what was committed. Only the writer calls it.
func (s *Store) doubt() {
	if s.engine.shared() {
		return
	}
	s.marks.revisions.Store(nil)
	for topic := range s.marks.topics {
		s.marks.topics[topic].Add(1)
	}
}

// recall reads the revisions that the writer will keep from now on; while they cannot be read, all read them themselves.
func (s *Store) recall(ctx context.Context) {
	revisions, err := s.readRevisions(ctx)
	if err != nil {
		s.marks.revisions.Store(nil)
		return
	}
	s.marks.revisions.Store(&revisions)
}

// shelf keeps rows of a topic. The zero shelf is ready.
type shelf[K comparable, V any] struct {
	mu   sync.Mutex
	mark uint64
	rows map[K]V
}

// get are those of the rows that are kept at a mark.
func (s *shelf[K, V]) get(mark uint64, names ...K) map[K]V {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mark != mark {
		return make(map[K]V, len(names))
	}
	return s.some(names)
}

// former are those of the rows that are or were kept.
func (s *shelf[K, V]) former(names ...K) map[K]V {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.some(names)
}

func (s *shelf[K, V]) some(names []K) map[K]V {
	found := make(map[K]V, len(names))
	for _, name := range names {
		if row, there := s.rows[name]; there {
			found[name] = row
		}
	}
	return found
}

// put keeps rows that were read after the mark was taken, at most so many with those that are kept already.
func (s *shelf[K, V]) put(mark uint64, rows map[K]V, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil || s.mark != mark || len(s.rows)+len(rows) > most {
		s.rows, s.mark = map[K]V{}, mark
	}
	if len(rows) <= most {
		maps.Copy(s.rows, rows)
	}
}
