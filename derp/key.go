package derp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"tailscale.com/types/key"
)

// keyFile is the file of cmd/derper: {"PrivateKey": "privkey:..."}.
type keyFile struct {
	PrivateKey key.NodePrivate
}

// LoadKey reads the relay's identity from path, or makes one there (mode 0600) when the file
// does not exist. It reads the file of cmd/derper and also the bare "privkey:..." line that
// headscale keeps for its embedded relay.
func LoadKey(path string) (key.NodePrivate, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKey(path)
	}
	if err != nil {
		return key.NodePrivate{}, fmt.Errorf("reading the relay's key: %w", err)
	}
	k, err := parseKey(raw)
	if err != nil {
		return k, fmt.Errorf("reading the relay's key from %s: %w", path, err)
	}
	return k, nil
}

func parseKey(raw []byte) (key.NodePrivate, error) {
	text := strings.TrimSpace(string(raw))
	if strings.HasPrefix(text, "privkey:") {
		var k key.NodePrivate
		err := k.UnmarshalText([]byte(text))
		return k, err
	}
	var file keyFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return key.NodePrivate{}, errors.New(`it is neither {"PrivateKey": "privkey:..."} nor a line privkey:...`)
	}
	if file.PrivateKey.IsZero() {
		return key.NodePrivate{}, errors.New("it holds no PrivateKey")
	}
	return file.PrivateKey, nil
}

func createKey(path string) (key.NodePrivate, error) {
	k := key.NewNode()
	raw, err := json.MarshalIndent(keyFile{k}, "", "\t")
	if err != nil {
		return k, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return k, fmt.Errorf("making the directory of the relay's key: %w", err)
	}
	if err := ReplaceFile(path, append(raw, '\n')); err != nil {
		return k, fmt.Errorf("storing the relay's key: %w", err)
	}
	return k, nil
}

// ReplaceFile puts a file in place as a whole or not at all, readable by its owner only.
func ReplaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // made with 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when the rename went well
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
