package policy

import (
	"fmt"

	"github.com/tailscale/hujson"
)

// Parse reads a policy in HuJSON. The error names the line.
func Parse(text string) (*Policy, error) {
	if _, err := hujson.Parse([]byte(text)); err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	return &Policy{text: text}, nil
}
