package policy

import (
	"github.com/tailscale/hujson"
)

// Format lays a policy out in the usual way. Comments stay. It does not check what the policy says.
func Format(text string) (string, error) {
	if _, _, r := openDocument(text); r != nil {
		return "", r
	}
	out, err := hujson.Format([]byte(text))
	if err != nil {
		return "", err
	}
	return string(out), nil
}
