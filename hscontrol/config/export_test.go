package config

// LoadAs is Load as if this process were root's, or not, on a machine with the given routes.
func LoadAs(root bool, route Route, path string, env []string) (*Config, []Warning, error) {
	return loader{path: path, env: env, root: root, route: route}.load()
}

// OlderKeys has the keys of older releases with those that took their place.
func OlderKeys() map[string]string {
	keys := map[string]string{}
	for _, o := range olderKeys {
		keys[o.key] = o.now
	}
	return keys
}

// ParseRecords reads the content of a file of extra DNS records.
var ParseRecords = parseRecords
