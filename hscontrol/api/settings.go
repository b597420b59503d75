package api

import (
	"context"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// GetSettings shows what was set for a tailnet.
func (s *Server) GetSettings(ctx context.Context, req *headscalev1.GetSettingsRequest) (*headscalev1.GetSettingsResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	set, err := s.cfg.Store.Settings(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	return &headscalev1.GetSettingsResponse{Settings: settingsMessage(t, set)}, nil
}

// SetSettings changes the settings that the request has, all or none.
func (s *Server) SetSettings(ctx context.Context, req *headscalev1.SetSettingsRequest) (*headscalev1.SetSettingsResponse, error) {
	t, err := s.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return nil, err
	}
	updates, err := autoUpdates(req.GetAutoUpdates())
	if err != nil {
		return nil, err
	}
	if req.GetKeyDays() > tailnet.MaxKeyDays {
		return nil, invalid("a key is good for 1 to %d days, or for 0 as the configuration says", tailnet.MaxKeyDays)
	}
	set, err := s.cfg.Store.ChangeSettings(ctx, t.ID, func(set *tailnet.Settings) error {
		assign(&set.DisplayName, req.DisplayName)
		assign(&set.DevicesApproval, req.DevicesApproval)
		assign(&set.UsersApproval, req.UsersApproval)
		assign(&set.PolicyElsewhere, req.PolicyElsewhere)
		assign(&set.PolicyLink, req.PolicyLink)
		if req.KeyDays != nil {
			set.KeyDays = int(req.GetKeyDays())
		}
		if req.AutoUpdates != nil {
			set.AutoUpdates = updates
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &headscalev1.SetSettingsResponse{Settings: settingsMessage(t, set)}, nil
}

// assign writes what is there.
func assign[T any](into *T, v *T) {
	if v != nil {
		*into = *v
	}
}

// autoUpdates reads on, off and, for nothing that is set, nothing.
func autoUpdates(word string) (*bool, error) {
	on := word == "on"
	switch word {
	case "":
		return nil, nil
	case "on", "off":
		return &on, nil
	}
	return nil, invalid("auto_updates is on, off, or empty for what the configuration says")
}

func settingsMessage(t *tailnet.Tailnet, set *tailnet.Settings) *headscalev1.Settings {
	m := &headscalev1.Settings{
		Tailnet: t.Name, DisplayName: set.DisplayName, DevicesApproval: set.DevicesApproval, UsersApproval: set.UsersApproval,
		KeyDays: uint32(set.KeyDays), PolicyElsewhere: set.PolicyElsewhere, PolicyLink: set.PolicyLink,
	}
	if set.AutoUpdates != nil {
		if m.AutoUpdates = "off"; *set.AutoUpdates {
			m.AutoUpdates = "on"
		}
	}
	return m
}
