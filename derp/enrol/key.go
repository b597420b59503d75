package enrol

import (
	"encoding/hex"
	"errors"
	"strings"

	"tailscale.com/types/key"
)

// An enrolment key, as the server prints it:
//
//	hskey-relay-<12 hex: prefix>-<64 hex: secret>-<64 hex: the server's public Noise key>
//
// The last part may be missing; then the server is believed who it says it is, once.

const (
	keyKind   = "hskey-relay-"
	prefixLen = 12
	secretLen = 64
	serverLen = 64
)

// enrolKey is an enrolment key.
type enrolKey struct {
	text   string            // whole
	prefix string            // which is no secret
	server key.MachinePublic // zero if the key does not tell
}

// parseKey reads an enrolment key. Its errors do not repeat the text.
func parseKey(text string) (enrolKey, error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, keyKind)
	if !ok {
		if strings.HasPrefix(text, "hskey-") {
			return enrolKey{}, errors.New("this key is of another kind: --enroll-key takes one from headscale derp enroll-keys create, which begins with " + keyKind)
		}
		return enrolKey{}, errors.New("the enrolment key must begin with " + keyKind + ": copy what headscale derp enroll-keys create prints")
	}
	parts := strings.Split(rest, "-")
	if len(parts) < 2 || len(parts) > 3 || !isHex(parts[0], prefixLen) || !isHex(parts[1], secretLen) || len(parts) == 3 && !isHex(parts[2], serverLen) {
		return enrolKey{}, errors.New("the enrolment key is cut short or too long: copy it whole, in one piece")
	}
	k := enrolKey{text: text, prefix: parts[0]}
	if len(parts) == 3 {
		if err := k.server.UnmarshalText([]byte("mkey:" + parts[2])); err != nil {
			return enrolKey{}, errors.New("the last part of the enrolment key is no public key: copy it whole")
		}
	}
	return k, nil
}

func isHex(s string, length int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == length
}
