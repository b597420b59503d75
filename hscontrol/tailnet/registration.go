package tailnet

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Registration is a client that waits for a person to let it in. It is a row with a lifetime, so that the person's
// browser may reach another server than the client did.
type Registration struct {
	ID         string            `gorm:"primaryKey"` // "hskey-authreq-" and 24 hexadecimal digits
	MachineKey key.MachinePublic `gorm:"serializer:text;not null;index"`
	NodeKey    key.NodePublic    `gorm:"serializer:text;not null;uniqueIndex"`
	OldNodeKey key.NodePublic    `gorm:"serializer:text"`
	NLKey      key.NLPublic      `gorm:"serializer:text"`
	Hostinfo   *tailcfg.Hostinfo `gorm:"serializer:doc"`
	CapVersion tailcfg.CapabilityVersion
	Ephemeral  bool

	// NodeID is set once it was approved; Rejected once it was refused.
	NodeID   NodeID `gorm:"serializer:ref"`
	Rejected bool

	CreatedAt time.Time
	ExpiresAt time.Time `gorm:"not null;index"`
}

// RegistrationPrefix begins the ID of a registration.
const RegistrationPrefix = "hskey-authreq-"

const registrationDigits = 24

// NewRegistrationID makes an ID from 12 bytes of random.
func NewRegistrationID(random io.Reader) (string, error) {
	var b [registrationDigits / 2]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("making a registration ID: %w", err)
	}
	return RegistrationPrefix + hex.EncodeToString(b[:]), nil
}

// RegistrationRef is how people name a registration: by its ID, or by the machine key or node key that older servers
// printed. Exactly one of ID and Digits is set.
type RegistrationRef struct {
	ID     string
	Digits string // 64 hexadecimal digits of a machine key or a node key
}

// ParseRegistrationRef reads any form of 0.15 to today: hskey-authreq-…, hskey-reg-…, its 24 digits alone, 64 digits,
// mkey:…, nodekey:…. Older headscale-admin writes nodekey: before whatever it is given.
func ParseRegistrationRef(text string) (RegistrationRef, error) {
	bad := fmt.Errorf("%q is not a registration key: copy the one that the register page shows, like %s…", text, RegistrationPrefix)
	rest := strings.TrimSpace(text)
	for _, p := range []string{"mkey:", "nodekey:", RegistrationPrefix, "hskey-reg-"} {
		rest = strings.TrimPrefix(rest, p)
	}
	if _, err := hex.DecodeString(rest); err != nil {
		return RegistrationRef{}, bad
	}
	switch len(rest) {
	case registrationDigits:
		return RegistrationRef{ID: RegistrationPrefix + rest}, nil
	case 64:
		return RegistrationRef{Digits: strings.ToLower(rest)}, nil
	}
	return RegistrationRef{}, bad
}
