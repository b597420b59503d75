package api

import (
	"crypto/sha256"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

// Up to headscale 0.27 lists had pre-auth keys whole, and user interfaces of that time show of a key that they had made
// only what the next list says. So whoever made a key over REST is told it in lists for a while.
const (
	freshTime = 10 * time.Minute
	freshKeys = 256 // at once
)

// fresh are the pre-auth keys that were made here within freshTime, by ID.
type fresh struct {
	mu   sync.Mutex
	keys map[uint64]freshKey
}

type freshKey struct {
	text  string
	by    [sha256.Size]byte // the Authorization header of who made it
	until time.Time
}

func maker(r *http.Request) [sha256.Size]byte {
	return sha256.Sum256([]byte(r.Header.Get("Authorization")))
}

// note keeps a key that was made, or completes those that are listed.
func (f *fresh) note(r *http.Request, resp proto.Message, now time.Time) {
	switch resp := resp.(type) {
	case *headscalev1.CreatePreAuthKeyResponse:
		f.keep(resp.GetPreAuthKey(), maker(r), now)
	case *headscalev1.ListPreAuthKeysResponse:
		f.complete(resp.GetPreAuthKeys(), maker(r), now)
	}
}

func (f *fresh) keep(k *headscalev1.PreAuthKey, by [sha256.Size]byte, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(now)
	if len(f.keys) >= freshKeys {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(f.keys)), func(a, b uint64) int { return f.keys[a].until.Compare(f.keys[b].until) })
		delete(f.keys, oldest)
	}
	f.keys[k.GetId()] = freshKey{text: k.GetKey(), by: by, until: now.Add(freshTime)}
}

// forget drops what is too old.
func (f *fresh) forget(now time.Time) {
	maps.DeleteFunc(f.keys, func(_ uint64, k freshKey) bool { return !k.until.After(now) })
}

func (f *fresh) complete(keys []*headscalev1.PreAuthKey, by [sha256.Size]byte, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(now)
	if len(f.keys) == 0 {
		return
	}
	for _, k := range keys {
		if made, ok := f.keys[k.GetId()]; ok && made.by == by {
			k.Key = made.text
		}
	}
}
