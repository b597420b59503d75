package hooks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Key is what the secrets of endpoints follow from, and what seals the tokens of receivers. The database has neither.
type Key [32]byte

// KeyFrom makes a key of a secret that all servers of a database have, and nobody else.
func KeyFrom(secret []byte) (Key, error) {
	raw, err := hkdf.Key(sha256.New, secret, nil, "keelscale hooks", len(Key{}))
	if err != nil {
		return Key{}, fmt.Errorf("deriving the key of webhooks: %w", err)
	}
	return Key(raw), nil
}

// Secret is what requests to an endpoint are signed with, and their receiver checks.
func (k Key) Secret(w *tailnet.Webhook) string {
	mac := hmac.New(sha256.New, k[:])
	mac.Write([]byte("webhook " + strconv.FormatUint(w.ID, 10) + " "))
	mac.Write(w.Salt)
	sum := mac.Sum(nil)
	return "tskey-webhook-" + hex.EncodeToString(sum[:6]) + "-" + hex.EncodeToString(sum[6:])
}

var errNotSealed = errors.New("another key sealed it, or it is damaged")

func (k Key) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal hides a text that belongs to a name: a nonce of 12 bytes, then AES-256-GCM.
func (k Key) Seal(name, text string) ([]byte, error) {
	aead, err := k.aead()
	if err != nil {
		return nil, fmt.Errorf("sealing %s: %w", name, err)
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("sealing %s: %w", name, err)
	}
	return aead.Seal(nonce, nonce, []byte(text), []byte(name)), nil
}

// Open is the text that was sealed for that name.
func (k Key) Open(name string, sealed []byte) (string, error) {
	aead, err := k.aead()
	if err == nil && len(sealed) < aead.NonceSize() {
		err = errNotSealed
	}
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", name, err)
	}
	text, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(name))
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", name, errNotSealed)
	}
	return string(text), nil
}

// withoutURL is the error of a request without its URL: those of chats are secrets.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
