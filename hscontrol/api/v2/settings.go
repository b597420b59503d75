package v2

import (
	"cmp"
	"slices"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// settings are those of a tailnet as Tailscale's API writes them.
type settings struct {
	ACLsExternallyManagedOn     bool   `json:"aclsExternallyManagedOn"`
	ACLsExternalLink            string `json:"aclsExternalLink"`
	DevicesApprovalOn           bool   `json:"devicesApprovalOn"`
	DevicesAutoUpdatesOn        bool   `json:"devicesAutoUpdatesOn"`
	DevicesKeyDurationDays      int    `json:"devicesKeyDurationDays"`
	UsersApprovalOn             bool   `json:"usersApprovalOn"`
	UsersRoleAllowedToJoin      string `json:"usersRoleAllowedToJoinExternalTailnets"`
	NetworkFlowLoggingOn        bool   `json:"networkFlowLoggingOn"`
	RegionalRoutingOn           bool   `json:"regionalRoutingOn"`
	PostureIdentityCollectionOn bool   `json:"postureIdentityCollectionOn"`
	HTTPSEnabled                bool   `json:"httpsEnabled"`
}

// settingsPatch is what a PATCH may say; nil: leave it as it is.
type settingsPatch struct {
	ACLsExternallyManagedOn     *bool   `json:"aclsExternallyManagedOn"`
	ACLsExternalLink            *string `json:"aclsExternalLink"`
	DevicesApprovalOn           *bool   `json:"devicesApprovalOn"`
	DevicesAutoUpdatesOn        *bool   `json:"devicesAutoUpdatesOn"`
	DevicesKeyDurationDays      *int    `json:"devicesKeyDurationDays"`
	UsersApprovalOn             *bool   `json:"usersApprovalOn"`
	UsersRoleAllowedToJoin      *string `json:"usersRoleAllowedToJoinExternalTailnets"`
	NetworkFlowLoggingOn        *bool   `json:"networkFlowLoggingOn"`
	RegionalRoutingOn           *bool   `json:"regionalRoutingOn"`
	PostureIdentityCollectionOn *bool   `json:"postureIdentityCollectionOn"`
	HTTPSEnabled                *bool   `json:"httpsEnabled"`
}

// keyDays is for how many days the keys of users' nodes are good; 0: for ever.
func (c *call) keyDays(id tailnet.ID) (int, error) {
	set, err := c.cfg.Store.Settings(c.ctx, id)
	if err != nil {
		return 0, err
	}
	return c.daysOf(set), nil
}

func (c *call) daysOf(set *tailnet.Settings) int {
	if set.KeyDays > 0 {
		return set.KeyDays
	}
	return int(c.cfg.NodeExpiry / (24 * time.Hour))
}

func getSettings(c *call) (any, error) {
	set, err := c.cfg.Store.Settings(c.ctx, c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	return c.settingsAnswer(set)
}

func (c *call) settingsAnswer(set *tailnet.Settings) (any, error) {
	v, err := c.cfg.Fresh(c.ctx, c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	return &settings{
		ACLsExternallyManagedOn: set.PolicyElsewhere, ACLsExternalLink: set.PolicyLink,
		DevicesApprovalOn: set.DevicesApproval, DevicesAutoUpdatesOn: v != nil && v.Settings.AutoUpdate, DevicesKeyDurationDays: c.daysOf(set),
		UsersApprovalOn: set.UsersApproval, UsersRoleAllowedToJoin: cmp.Or(set.JoinElsewhere, tailnet.JoinNone),
		PostureIdentityCollectionOn: set.PostureIdentities, HTTPSEnabled: set.HTTPS,
	}, nil
}

// patchSettings changes those that the body names, all or none.
func patchSettings(c *call) (any, error) {
	var req settingsPatch
	if err := c.read(&req); err != nil {
		return nil, err
	}
	if err := req.refused(); err != nil {
		return nil, err
	}
	if d := req.DevicesKeyDurationDays; d != nil && (*d < 1 || *d > tailnet.MaxKeyDays) {
		return nil, invalid("devicesKeyDurationDays has to be from 1 to %d", tailnet.MaxKeyDays)
	}
	set, err := c.cfg.Store.ChangeSettings(c.ctx, c.tailnet.ID, func(set *tailnet.Settings) error {
		put(&set.PolicyElsewhere, req.ACLsExternallyManagedOn)
		put(&set.PolicyLink, req.ACLsExternalLink)
		put(&set.DevicesApproval, req.DevicesApprovalOn)
		put(&set.KeyDays, req.DevicesKeyDurationDays)
		put(&set.UsersApproval, req.UsersApprovalOn)
		put(&set.JoinElsewhere, req.UsersRoleAllowedToJoin)
		put(&set.PostureIdentities, req.PostureIdentityCollectionOn)
		put(&set.HTTPS, req.HTTPSEnabled)
		if req.DevicesAutoUpdatesOn != nil {
			set.AutoUpdates = req.DevicesAutoUpdatesOn
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.settingsAnswer(set)
}

func put[T any](into *T, v *T) {
	if v != nil {
		*into = *v
	}
}

// refused says why a setting cannot be switched on. That it is off is true, and may be said.
func (p *settingsPatch) refused() error {
	for _, s := range []struct {
		name, because string
		on            *bool
	}{
		{"networkFlowLoggingOn", "clients send flow logs to Tailscale's log service only, where this server cannot read them", p.NetworkFlowLoggingOn},
		{"regionalRoutingOn", "of several subnet routers this server takes the first that is online, wherever it is", p.RegionalRoutingOn},
	} {
		if s.on != nil && *s.on {
			return unsupported("%s cannot be switched on: %s", s.name, s.because)
		}
	}
	return nil
}

// The contacts that there are.
var contactTypes = [...]string{"account", "support", "security"}

type contact struct {
	Email             string `json:"email"`
	NeedsVerification bool   `json:"needsVerification"`
}

func getContacts(c *call) (any, error) {
	set, err := c.cfg.Store.Settings(c.ctx, c.tailnet.ID)
	if err != nil {
		return nil, err
	}
	out := map[string]contact{}
	for _, kind := range contactTypes {
		out[kind] = contact{Email: set.Contacts[kind]}
	}
	return out, nil
}

func patchContact(c *call) (any, error) {
	kind := c.r.PathValue("contact")
	if !slices.Contains(contactTypes[:], kind) {
		return nil, absent("contact \"" + kind + "\"")
	}
	var req struct {
		Email *string `json:"email"`
	}
	if err := c.read(&req); err != nil {
		return nil, err
	}
	_, err := c.cfg.Store.ChangeSettings(c.ctx, c.tailnet.ID, func(set *tailnet.Settings) error {
		if req.Email == nil {
			return nil
		}
		if set.Contacts == nil {
			set.Contacts = map[string]string{}
		}
		set.Contacts[kind] = *req.Email
		return nil
	})
	return nil, err
}

func verifyContact(*call) (any, error) {
	return nil, unsupported("this server sends no mail, so contacts are taken as they are written and need no verification")
}
