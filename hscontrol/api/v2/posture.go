package v2

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// noPosture is what came of asking a device management service.
const noPosture = "this server asks no device management service: set attributes of devices with a program of your own (POST device/ID/attributes/custom:NAME)"

// integration is a device management service as Tailscale's API writes it. The secret is never told.
type integration struct {
	ID            string        `json:"id"`
	Provider      string        `json:"provider"`
	CloudID       string        `json:"cloudId,omitempty"`
	ClientID      string        `json:"clientId,omitempty"`
	TenantID      string        `json:"tenantId,omitempty"`
	ConfigUpdated time.Time     `json:"configUpdated,omitzero"`
	Status        postureStatus `json:"status"`
}

// postureStatus is what came of the last time that the service was asked.
type postureStatus struct {
	Error                string `json:"error"`
	ProviderHostCount    int    `json:"providerHostCount"`
	MatchedCount         int    `json:"matchedCount"`
	PossibleMatchedCount int    `json:"possibleMatchedCount"`
}

// integrationRequest is one to write a service down, or to change what is written. Its secret is taken and not kept, as
// nothing is done with it.
type integrationRequest struct {
	Provider     string  `json:"provider"`
	CloudID      string  `json:"cloudId"`
	ClientID     string  `json:"clientId"`
	TenantID     string  `json:"tenantId"`
	ClientSecret *string `json:"clientSecret"`
}

func integrationAnswer(p *tailnet.PostureService) *integration {
	return &integration{
		ID: p.ID, Provider: p.Provider, CloudID: p.CloudID, ClientID: p.ClientID, TenantID: p.TenantID,
		ConfigUpdated: p.ChangedAt.UTC(), Status: postureStatus{Error: noPosture},
	}
}

func listPosture(c *call) (any, error) {
	set, err := c.cfg.Store.Settings(c.ctx, c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	list := []*integration{}
	for i := range set.Posture {
		list = append(list, integrationAnswer(&set.Posture[i]))
	}
	return map[string]any{"integrations": list}, nil
}

func createPosture(c *call) (any, error) {
	var req integrationRequest
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if req.ClientSecret == nil || *req.ClientSecret == "" {
		return nil, invalid("say clientSecret: what the service knows its clients by")
	}
	p := tailnet.PostureService{
		ID: idText(c.tailnet.ID) + "-" + strings.ToLower(rand.Text()[:16]), Provider: req.Provider,
		CloudID: req.CloudID, ClientID: req.ClientID, TenantID: req.TenantID, ChangedAt: c.cfg.Now().UTC(),
	}
	_, err := c.cfg.Store.ChangeSettings(c.ctx, c.tailnet.ID, func(set *tailnet.Settings) error {
		set.Posture = append(set.Posture, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return integrationAnswer(&p), nil
}

// postureTailnet is the tailnet of the service that the path names, which its ID tells.
func (c *call) postureTailnet() (tailnet.ID, error) {
	text, _, _ := strings.Cut(c.r.PathValue("integration"), "-")
	id, err := strconv.ParseUint(text, 10, 63)
	if err != nil || id == 0 || !c.caller.Sees(tailnet.ID(id)) {
		return 0, c.noIntegration()
	}
	return tailnet.ID(id), nil
}

func (c *call) noIntegration() error {
	return absent("posture integration " + strconv.Quote(c.r.PathValue("integration")))
}

func (c *call) postureAt(set *tailnet.Settings) int {
	id := c.r.PathValue("integration")
	return slices.IndexFunc(set.Posture, func(p tailnet.PostureService) bool { return p.ID == id })
}

func getPosture(c *call) (any, error) {
	id, err := c.postureTailnet()
	if err != nil {
		return nil, err
	}
	set, err := c.cfg.Store.Settings(c.ctx, id)
	if err != nil {
		return nil, err
	}
	i := c.postureAt(set)
	if i < 0 {
		return nil, c.noIntegration()
	}
	return integrationAnswer(&set.Posture[i]), nil
}

// changePosture alters the services of a tailnet where the one that the path names is at i, and gives it as it is then.
func (c *call) changePosture(change func(set *tailnet.Settings, i int) error) (*tailnet.PostureService, error) {
	id, err := c.postureTailnet()
	if err != nil {
		return nil, err
	}
	set, err := c.cfg.Store.ChangeSettings(c.ctx, id, func(set *tailnet.Settings) error {
		i := c.postureAt(set)
		if i < 0 {
			return fmt.Errorf("%w: the posture integration", tailnet.ErrNotFound)
		}
		return change(set, i)
	})
	if errors.Is(err, tailnet.ErrNotFound) {
		return nil, c.noIntegration()
	}
	if err != nil {
		return nil, err
	}
	if i := c.postureAt(set); i >= 0 {
		return &set.Posture[i], nil
	}
	return nil, nil
}

func updatePosture(c *call) (any, error) {
	var req integrationRequest
	if err := c.read(&req); err != nil {
		return nil, err
	}
	now := c.cfg.Now().UTC()
	p, err := c.changePosture(func(set *tailnet.Settings, i int) error {
		p := &set.Posture[i]
		if req.Provider != "" && req.Provider != p.Provider {
			return invalid("the provider cannot be changed from %s to %s: delete the integration and make another", p.Provider, req.Provider)
		}
		p.CloudID, p.ClientID, p.TenantID, p.ChangedAt = req.CloudID, req.ClientID, req.TenantID, now
		return nil
	})
	if err != nil {
		return nil, err
	}
	return integrationAnswer(p), nil
}

func deletePosture(c *call) (any, error) {
	_, err := c.changePosture(func(set *tailnet.Settings, i int) error {
		set.Posture = slices.Delete(set.Posture, i, i+1)
		return nil
	})
	return nil, err
}
