package tailnet

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// SecretKind is the word that begins a secret and says what it opens.
type SecretKind string

const (
	AuthKeySecret SecretKind = "hskey-auth"     // a pre-auth key
	APIKeySecret  SecretKind = "hskey-api"      // an API key
	ClientSecret  SecretKind = "hskey-client"   // of an OAuth client; its prefix is the client's ID
	TokenSecret   SecretKind = "hskey-oauthtok" // an access token

	RelayKeySecret SecretKind = "hskey-relay" // an enrolment key of relays; see RelayKeyText
)

// Lengths of the two random parts of a secret, in hexadecimal digits.
const (
	secretPrefixLen = 12
	secretBodyLen   = 64
)

// Secret is a random text that opens something: "hskey-auth-<12 digits>-<64 digits>". The prefix finds its row; of the
// rest only the SHA-256 is kept. 256 random bits need no slow hash.
type Secret struct {
	Kind   SecretKind
	Prefix string
	body   string
}

// NewSecret makes a secret from 38 bytes of random.
func NewSecret(kind SecretKind, random io.Reader) (Secret, error) {
	var b [(secretPrefixLen + secretBodyLen) / 2]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return Secret{}, fmt.Errorf("making a key: %w", err)
	}
	digits := hex.EncodeToString(b[:])
	return Secret{Kind: kind, Prefix: digits[:secretPrefixLen], body: digits[secretPrefixLen:]}, nil
}

// ParseSecret reads a secret of the given kind. The error never repeats the text.
func ParseSecret(kind SecretKind, text string) (Secret, error) {
	rest, ok := strings.CutPrefix(text, string(kind)+"-")
	if !ok {
		return Secret{}, fmt.Errorf("this is not a key of the form %s-…", kind)
	}
	if len(rest) != secretPrefixLen+1+secretBodyLen || rest[secretPrefixLen] != '-' || !urlSafe(rest) {
		return Secret{}, fmt.Errorf("this key of the form %s-… is cut short or too long: copy it whole", kind)
	}
	return Secret{Kind: kind, Prefix: rest[:secretPrefixLen], body: rest[secretPrefixLen+1:]}, nil
}

// oldKind is that of API keys as headscale made them before 0.28: "prefix.secret".
const oldKind SecretKind = ""

// NewShortAPIKey makes the secret of an API key as headscale made them up to 0.22, of 54 letters: some user interfaces
// take no longer ones. It takes 37 bytes of random.
func NewShortAPIKey(random io.Reader) (Secret, error) {
	const prefixBytes = 5
	var b [prefixBytes + 32]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return Secret{}, fmt.Errorf("making a key: %w", err)
	}
	return Secret{Kind: oldKind, Prefix: hex.EncodeToString(b[:prefixBytes]), body: base64.RawURLEncoding.EncodeToString(b[prefixBytes:])}, nil
}

// ParseAPIKey reads the secret of an API key, also of one as headscale made it before 0.28. The error never repeats the
// text.
func ParseAPIKey(text string) (Secret, error) {
	prefix, body, old := strings.Cut(text, ".")
	if !old || strings.HasPrefix(text, "hskey-") || prefix == "" || len(prefix) > secretPrefixLen || body == "" || len(body) > secretBodyLen || !urlSafe(prefix) {
		return ParseSecret(APIKeySecret, text)
	}
	return Secret{Kind: oldKind, Prefix: prefix, body: body}, nil
}

// urlSafe reports whether a text has only the letters of base64 for URLs, as all secrets have.
func urlSafe(text string) bool {
	for i := range len(text) {
		if c := text[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// SecretPrefix is the prefix in a text that may be a whole secret, what is shown of one, or the prefix alone.
func SecretPrefix(kind SecretKind, text string) string {
	rest, whole := strings.CutPrefix(strings.TrimSpace(text), string(kind)+"-")
	if !whole {
		rest, _, _ = strings.Cut(rest, ".") // see ParseAPIKey
		return rest
	}
	return rest[:min(len(rest), secretPrefixLen)]
}

// Reveal is the whole text, to be shown once.
func (s Secret) Reveal() string { return s.shown(s.body) }

func (s Secret) shown(body string) string {
	if s.Kind == oldKind {
		return s.Prefix + "." + body
	}
	return string(s.Kind) + "-" + s.Prefix + "-" + body
}

// KeyStart is what the whole API key of that prefix begins with. Prefixes of the keys that headscale made before 0.28 are
// shorter than ours, and stand alone.
func KeyStart(prefix string) string {
	if len(prefix) < secretPrefixLen {
		return prefix
	}
	return string(APIKeySecret) + "-" + prefix
}

// String hides the secret part, so that it may be logged.
func (s Secret) String() string { return s.shown("***") }

// Hash is what is stored: the SHA-256 of the whole text.
func (s Secret) Hash() []byte {
	sum := sha256.Sum256([]byte(s.Reveal()))
	return sum[:]
}

// Matches compares with a stored hash, in constant time.
func (s Secret) Matches(hash []byte) bool { return subtle.ConstantTimeCompare(s.Hash(), hash) == 1 }

// MatchesOld compares with what headscale stored of its API keys: the bcrypt hash of what follows the prefix. It takes
// a tenth of a second.
func (s Secret) MatchesOld(hash []byte) bool {
	return bytes.HasPrefix(hash, []byte("$2")) && bcrypt.CompareHashAndPassword(hash, []byte(s.body)) == nil
}

// PreAuthKey lets nodes join without a person. It belongs to a user, or has tags, or both (then the tags win).
type PreAuthKey struct {
	ID          KeyID  `gorm:"primaryKey"`
	TailnetID   ID     `gorm:"not null;index"`
	UserID      UserID `gorm:"serializer:ref;index"` // zero (NULL) for a key that has only tags
	Prefix      string `gorm:"not null;uniqueIndex"`
	Hash        []byte `gorm:"not null"`
	Description string
	Reusable    bool
	Ephemeral   bool
	// Preauthorized lets nodes in where they need an administrator's approval otherwise; see Settings.DevicesApproval.
	Preauthorized bool
	Used          bool
	Tags          []string   `gorm:"serializer:doc"`
	Expiration    *time.Time // nil: never
	CreatedAt     time.Time
}

// Usable says why the key lets nobody in at the given time, or nil. The text is shown by the client.
func (k *PreAuthKey) Usable(at time.Time) error {
	switch {
	case k.Expiration != nil && !k.Expiration.After(at):
		return fmt.Errorf("%w: it expired at %s; ask for a new one", ErrKeyRefused, k.Expiration.UTC().Format(time.RFC3339))
	case k.Used && !k.Reusable:
		return fmt.Errorf("%w: it was for one use and has been used; ask for a new one", ErrKeyRefused)
	}
	return nil
}
