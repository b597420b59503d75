package state

import (
	"context"
	"fmt"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Fresh is the view of a tailnet once it shows all that the store has when this is called, or nil where there is no such
// tailnet. It is for those who decide by the view right after they, or others, wrote.
func (s *State) Fresh(ctx context.Context, id tailnet.ID) (*View, error) {
	revisions, err := s.store.Revisions(ctx)
	if err != nil {
		return nil, err
	}
	rev, there := revisions[id]
	if !there {
		return nil, nil
	}
	for {
		done := s.Round()
		if v := s.View(id); v != nil && v.Rev >= rev {
			return v, nil
		}
		s.Wake()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for revision %d of tailnet %d to be published: %w", rev, id, ctx.Err())
		}
	}
}
