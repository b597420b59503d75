package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// PostgreSQL begins a new timeline whenever a standby becomes the primary. One that lagged has not the last changes of
// the one before, and gives their revisions out anew, to other changes: a follower that had seen the lost ones would
// take itself for up to date. So the server that notices a new timeline first raises the revisions far above all that
// may have been lost, and all followers read everything.
var timelines = []string{
	`CREATE TABLE database_timelines (id {int} PRIMARY KEY, timeline text NOT NULL)`,
}

const (
	// readTimeline may be asked of a primary only. The name of a file of the log begins with the timeline.
	readTimeline = `SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`
	// lookEvery is how often it is asked for; besides at each new connection that listens.
	lookEvery = 5 * time.Second
	// lostAtMost is more revisions of a tailnet than a standby lags.
	lostAtMost = 1_000_000
)

// lookAtTimeline finds out whether another server of PostgreSQL has become the primary, and whether anybody saw to it.
// What is not PostgreSQL itself may not know timelines: then there is nothing to find out.
func (s *Store) lookAtTimeline(ctx context.Context) error {
	var now string
	err := s.reads.QueryRowContext(ctx, readTimeline).Scan(&now)
	if known := s.follower.timeline.Load(); err != nil || known != nil && *known == now {
		return nil // whoever waits for an answer learns why there is none
	}
	if err := s.write(ctx, (*tx).noteTimeline); err != nil {
		return fmt.Errorf("noting the timeline of the database: %w", err)
	}
	s.follower.timeline.Store(&now)
	return nil
}

// noteTimeline writes down the timeline of the primary, and raises all revisions if it is not the one that was noted.
func (t *tx) noteTimeline() error {
	var now, noted string
	if err := t.queryRow(readTimeline).Scan(&now); err != nil {
		return err
	}
	err := t.queryRow("SELECT timeline FROM database_timelines WHERE id = 1").Scan(&noted)
	if errors.Is(err, sql.ErrNoRows) {
		_, err := t.exec("INSERT INTO database_timelines (id, timeline) VALUES (1, ?)"+orNothing, now)
		return err
	}
	if err != nil || noted == now {
		return err
	}
	first, err := t.exec("UPDATE database_timelines SET timeline = ? WHERE id = 1 AND timeline = ?", now, noted)
	if err != nil || first == 0 {
		return err
	}
	return t.raiseRevisions()
}

// raiseRevisions has the followers of all tailnets read everything: the log will not have what came after the revision
// that they know.
func (t *tx) raiseRevisions() error {
	var ids []tailnet.ID
	if err := t.look().Model(&tailnet.Tailnet{}).Order("id").Pluck("id", &ids).Error; err != nil {
		return fmt.Errorf("listing tailnets: %w", err)
	}
	for _, id := range ids {
		row, err := t.tailnet(id)
		if err != nil {
			return err
		}
		row.Revision += lostAtMost
		t.changed(id, kindTailnet, uint64(id))
	}
	return nil
}
