package v2

import (
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// keyDays is for how many days the keys of users' nodes are good; 0: for ever.
func (c *call) keyDays(id tailnet.ID) (int, error) {
	set, err := c.cfg.Store.Settings(c.ctx, id)
	if err != nil {
		return 0, err
	}
	if set.KeyDays > 0 {
		return set.KeyDays, nil
	}
	return int(c.cfg.NodeExpiry / (24 * time.Hour)), nil
}
