package config

// WithLive is was with the keys of next that can change while the server runs.
func WithLive(was, next *Config) *Config {
	merged := *was
	for _, k := range known.keys {
		if k.live {
			k.in(&merged).Set(k.in(next))
		}
	}
	return &merged
}
