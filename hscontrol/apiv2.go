package hscontrol

import v2 "github.com/keelscale/keelscale/hscontrol/api/v2"

// apiV2Config is what Tailscale's API is answered from: what REST v1 is, too.
func (s *Server) apiV2Config() v2.Config {
	cfg := s.config()
	return v2.Config{
		Store:       s.store,
		Guard:       s.api.Guard(),
		View:        s.state.View,
		Fresh:       s.state.Fresh,
		CheckPolicy: s.checkPolicy,
		AwaitPolicy: s.state.AwaitPolicy,
		PolicyFile:  s.policyFile,
		NodeExpiry:  cfg.Node.Expiry,

		WebhookSecret: s.hookKey.Secret,
		Hooks:         s.hooks,

		Log: s.log,
	}
}
