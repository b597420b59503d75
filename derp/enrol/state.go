package enrol

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tailscale.com/types/key"

	"github.com/keelscale/keelscale/derp"
)

// state is what survives a restart.
type state struct {
	MachineKey key.MachinePrivate `json:"machine_key"`
	ServerKey  key.MachinePublic  `json:"server_key"` // zero until one is known
	Control    string             `json:"control"`
	Enrolment  *Enrolment         `json:"enrolment,omitempty"` // nil while not enrolled
	KeyPrefix  string             `json:"key,omitempty"`       // of the enrolment key, which is no secret
	Contact    time.Time          `json:"contact"`             // with the server, the last
	Settings   []byte             `json:"settings,omitempty"`  // relayv1.Settings
	Month      string             `json:"month,omitempty"`     // that Sent counts, 2006-01 (UTC)
	Sent       uint64             `json:"sent,omitempty"`      // bytes
	List       *nodeList          `json:"list,omitempty"`      // nil if none was ever received
}

// Enrolment is what the server knows the relay by.
type Enrolment struct {
	ID         uint64 `json:"id"`
	Name       string `json:"name"`
	RegionID   uint32 `json:"region_id"`
	RegionCode string `json:"region_code"`
	RegionName string `json:"region_name"`
}

// nodeList is the last admission, complete.
type nodeList struct {
	Number  uint64      `json:"number"`
	At      time.Time   `json:"at"`
	Classes []nodeClass `json:"classes"`
}

// nodeClass are the nodes of one class.
type nodeClass struct {
	Class uint32 `json:"class"`
	Keys  []byte `json:"keys"` // 32 bytes each, sorted
}

const (
	stateFormat = 1
	stateMax    = 256 << 20 // bytes of the file
)

// envelope is the file: the sum tells a damaged one, and one that was changed by hand.
type envelope struct {
	Format int             `json:"format"`
	Sum    string          `json:"sum"` // SHA-256 of State, compact
	State  json.RawMessage `json:"state"`
}

// stateFile is where the state is kept.
type stateFile struct {
	path string
	mu   sync.Mutex // held while writing
}

// load reads the file; found is false if there is none.
func (f *stateFile) load() (s state, found bool, err error) {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("reading the enrolment: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, stateMax+1))
	if err != nil {
		return s, false, fmt.Errorf("reading the enrolment: %w", err)
	}
	if s, err = parseState(raw); err != nil {
		return s, false, fmt.Errorf("reading the enrolment from %s: %w; put back a copy of it, or move it away and enrol with a new key", f.path, err)
	}
	return s, true, nil
}

// parseState reads what appendState wrote.
func parseState(raw []byte) (s state, err error) {
	if len(raw) > stateMax {
		return s, errors.New("it is too large")
	}
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return s, errors.New("it is damaged")
	}
	if e.Format > stateFormat {
		return s, errors.New("it was written by a newer derper")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, e.State); err != nil || e.Format < 1 || e.Sum != sum(compact.Bytes()) {
		return s, errors.New("it is damaged, or was changed by hand")
	}
	if err := json.Unmarshal(e.State, &s); err != nil {
		return s, fmt.Errorf("it is damaged: %w", err)
	}
	if s.MachineKey.IsZero() {
		return s, errors.New("it has no machine key")
	}
	if s.List != nil {
		for _, c := range s.List.Classes {
			if len(c.Keys)%keyLen != 0 {
				return s, errors.New("its list of nodes is damaged")
			}
		}
	}
	return s, nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// formatState is the content of the file.
func formatState(s *state) ([]byte, error) {
	inner, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	out, err := json.Marshal(envelope{stateFormat, sum(inner), inner})
	return append(out, '\n'), err
}

// write replaces the file as a whole, or not at all.
func (f *stateFile) write(s *state) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	raw, err := formatState(s)
	if err != nil {
		return fmt.Errorf("storing the enrolment: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fmt.Errorf("making the directory of the enrolment: %w", err)
	}
	if err := derp.ReplaceFile(f.path, raw); err != nil {
		return fmt.Errorf("storing the enrolment in %s: %w", f.path, err)
	}
	return nil
}

// save writes what the Agent knows now.
func (a *Agent) save() error {
	list, contact := a.roster.stored()
	a.mu.Lock()
	s := a.mu.state
	a.mu.Unlock()
	s.List, s.Contact = list, contact
	if s.Enrolment == nil {
		s.List, s.Settings, s.Contact = nil, nil, time.Time{}
	}
	err := a.file.write(&s)
	if err != nil {
		a.roster.touch()
	}
	return err
}
