package config

import "reflect"

// Changes compares what is running with what was loaded again and names the keys that differ, in the order of
// Config: live ones are applied by SIGHUP, the others wait for a restart. A file that a key names may have changed
// without its key: policy, certificates and DERP map files are to be read again in any case.
func Changes(old, new *Config) (live, restart []string) {
	for _, k := range known.keys {
		if equal(k.in(old), k.in(new)) {
			continue
		}
		if k.live {
			live = append(live, k.path)
		} else {
			restart = append(restart, k.path)
		}
	}
	return live, restart
}

// equal does not tell an empty list from none.
func equal(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}
