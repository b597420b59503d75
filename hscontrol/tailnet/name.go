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

// nearNames is how many names FreeName tries one after the other.
const nearNames = 16

// FreeName is base, or base-1, base-2 and so on, cut to fit into a label: the first that is not taken. Where a whole
// herd has the name it is one that follows a taken one, found in few steps.
func FreeName(base string, taken func(string) bool) string {
	for i := range nearNames {
		if name := numberedName(base, i); !taken(name) {
			return name
		}
	}
	low := nearNames - 1 // is taken
	high := 2 * low
	for taken(numberedName(base, high)) {
		low, high = high, 2*high
	}
	for high-low > 1 {
		if middle := (low + high) / 2; taken(numberedName(base, middle)) {
			low = middle
		} else {
			high = middle
		}
	}
	return numberedName(base, high)
}

func numberedName(base string, i int) string {
	if i == 0 {
		return base
	}
	suffix := "-" + strconv.Itoa(i)
	return strings.TrimRight(base[:min(len(base), 63-len(suffix))], "-") + suffix
}
