package tailnet

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"tailscale.com/util/dnsname"
)

var tagName = regexp.MustCompile(`^tag:[a-zA-Z][a-zA-Z0-9-]*$`)

// ValidateTag reports why tag is no tag: "tag:", a letter, then letters, digits and dashes.
func ValidateTag(tag string) error {
	if len(tag) > 64 || !tagName.MatchString(tag) {
		return fmt.Errorf("%w: tag %q: write tag:NAME, a letter first, then letters, digits and dashes", ErrInvalid, tag)
	}
	return nil
}

// ValidateGivenName reports why name cannot be a node's name: it must be one DNS label (RFC 1123).
func ValidateGivenName(name string) error {
	if err := dnsname.ValidLabel(name); err != nil {
		return fmt.Errorf("%w: node name %q: use lower-case letters, digits and dashes, 63 at most: %w", ErrInvalid, name, err)
	}
	if name != strings.ToLower(name) {
		return fmt.Errorf("%w: node name %q: use lower case, %q", ErrInvalid, name, strings.ToLower(name))
	}
	return nil
}

// ValidateTailnetName reports why name cannot name a tailnet: it becomes a DNS label too.
func ValidateTailnetName(name string) error {
	if dnsname.ValidLabel(name) != nil || name != strings.ToLower(name) {
		return fmt.Errorf("%w: tailnet name %q: use lower-case letters, digits and dashes, 63 at most", ErrInvalid, name)
	}
	return nil
}

// BaseName makes a DNS label of what a client calls itself; "node" where nothing is left of it.
func BaseName(hostname string) string {
	if name := dnsname.SanitizeHostname(hostname); name != "" {
		return name
	}
	return "node"
}

// FreeName is base, or base-1, base-2 and so on: the first that is not taken, cut to fit into a label.
func FreeName(base string, taken func(string) bool) string {
	for i := 0; ; i++ {
		name := base
		if i > 0 {
			suffix := "-" + strconv.Itoa(i)
			name = strings.TrimRight(base[:min(len(base), 63-len(suffix))], "-") + suffix
		}
		if !taken(name) {
			return name
		}
	}
}
