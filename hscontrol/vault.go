package hscontrol

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/keelscale/keelscale/hscontrol/config"
)

// vault seals what the servers of one database share there: AES-256-GCM, the name of the secret authenticated with it.
// Sealed is one byte of version, a nonce of 12 bytes and the ciphertext with its tag of 16.
type vault struct {
	aead cipher.AEAD
	made string // the file of the key, if it was made just now
}

const (
	vaultVersion = 1
	vaultKeySize = 32
)

var (
	errNoVault  = errors.New("the key is not here")
	errNotOpens = errors.New("another key sealed it, or it is damaged")
)

// openVault reads the key of database.secrets_key or database.secrets_key_path. Where there is none it makes the file,
// or if it may not, says errNoVault.
func openVault(db *config.Database, mayMake bool) (*vault, error) {
	text, made := []byte(db.SecretsKey), ""
	if len(text) == 0 {
		var err error
		text, err = os.ReadFile(db.SecretsKeyPath)
		if errors.Is(err, os.ErrNotExist) {
			if !mayMake {
				return nil, errNoVault
			}
			made = db.SecretsKeyPath
			text, err = makeVaultKey(made)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the key of the database's secrets: %w; set database.secrets_key_path to a file that can be read", err)
		}
	}
	raw, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(raw) != vaultKeySize {
		return nil, fmt.Errorf("reading the key of the database's secrets %s: it is no key (64 hex digits); copy the file of another server, or restore it from a backup", db.SecretsKeyPath)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("preparing the key of the database's secrets: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("preparing the key of the database's secrets: %w", err)
	}
	return &vault{aead, made}, nil
}

func makeVaultKey(path string) ([]byte, error) {
	raw := make([]byte, vaultKeySize)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	text := []byte(hex.EncodeToString(raw) + "\n")
	return text, writeNewFile(path, text)
}

func (v *vault) seal(name string, secret []byte) ([]byte, error) {
	out := make([]byte, 1+v.aead.NonceSize(), 1+v.aead.NonceSize()+len(secret)+v.aead.Overhead())
	out[0] = vaultVersion
	nonce := out[1:]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("sealing %s: %w", name, err)
	}
	return v.aead.Seal(out, nonce, secret, []byte(name)), nil
}

func (v *vault) open(name string, sealed []byte) ([]byte, error) {
	head := 1 + v.aead.NonceSize()
	if len(sealed) < head || sealed[0] != vaultVersion {
		return nil, errNotOpens
	}
	secret, err := v.aead.Open(nil, sealed[1:head], sealed[head:], []byte(name))
	if err != nil {
		return nil, errNotOpens
	}
	return secret, nil
}

// forget takes back a key file that was made just now and has sealed nothing that was kept.
func (v *vault) forget() error {
	if v.made == "" {
		return nil
	}
	return os.Remove(v.made)
}
