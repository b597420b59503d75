package tailnet

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash"
	"strings"
	"time"
)

// AuditEntry is a row of the audit log: who changed what, when and from where. Rows are never changed; each has the
// hash of all before it in its own.
type AuditEntry struct {
	ID        uint64 // from 1, without gaps over the whole database
	At        time.Time
	TailnetID ID // zero: it is about no one tailnet
	Actor     Actor

	Action     string // noun.verb: "node.rename", "policy.set"
	Kind       string // of the target: "node", "user", "authkey", ...
	TargetID   string // empty: it has none
	TargetName string // at that time

	// Before and After are JSON objects with what differed, without secrets; nil: it was, or is, not there.
	Before, After json.RawMessage

	Hash AuditHash
}

// AuditHash is the hash of a row of the audit log and, through its predecessor's, of all before it. The zero value is
// that of the empty log.
type AuditHash [sha256.Size]byte

func (h AuditHash) String() string { return hex.EncodeToString(h[:]) }

// Sum is what Hash has to be after a row of hash prev: SHA-256 over prev and the fields in the order in which they are
// declared, each behind its length (8 bytes, big endian), numbers as 8 bytes, the time in microseconds since 1970.
func (e *AuditEntry) Sum(prev AuditHash) AuditHash {
	h := sha256.New()
	h.Write(prev[:])
	sumNumber(h, e.ID)
	sumNumber(h, uint64(e.At.UnixMicro()))
	sumNumber(h, uint64(e.TailnetID))
	for _, text := range []string{e.Actor.Via, e.Actor.Who, e.Actor.From, e.Action, e.Kind, e.TargetID, e.TargetName} {
		sumNumber(h, uint64(len(text)))
		h.Write([]byte(text))
	}
	for _, doc := range []json.RawMessage{e.Before, e.After} {
		sumNumber(h, uint64(len(doc)))
		h.Write(doc)
	}
	return AuditHash(h.Sum(nil))
}

func sumNumber(h hash.Hash, n uint64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	h.Write(b[:])
}

// AuditBreak says where the chain of the audit log does not hold. ID is the first row that is wrong.
type AuditBreak struct {
	ID  uint64
	Why string
}

// TailscaleAction is the action as Tailscale's API has it in its configuration log: CREATE, UPDATE, DELETE, LOGIN and
// so on, with the type of the target and, of an update, the property.
func (e *AuditEntry) TailscaleAction() (action, targetType, property string) {
	_, verb, _ := strings.Cut(e.Action, ".")
	if targetType = tailscaleTargets[e.Kind]; targetType == "" {
		targetType = strings.ToUpper(e.Kind)
	}
	switch verb {
	case "create", "enrol":
		return "CREATE", targetType, ""
	case "delete", "remove":
		return "DELETE", targetType, ""
	case "expire":
		if e.Kind == "node" {
			return "UPDATE", targetType, "KEY_EXPIRY"
		}
		return "REVOKE", targetType, ""
	case "login", "logout", "test", "approve", "reject":
		return strings.ToUpper(verb), targetType, ""
	}
	if property = tailscaleProperties[e.Action]; property == "" {
		property = strings.ToUpper(verb)
	}
	return "UPDATE", targetType, property
}

// Neither table changes.
var (
	tailscaleTargets = map[string]string{
		"node": "NODE", "user": "USER", "tailnet": "TAILNET", "policy": "TAILNET", "authkey": "API_KEY", "apikey": "API_KEY",
		"oauthclient": "API_KEY", "webhook": "WEBHOOK_ENDPOINT", "stream": "LOGSTREAM_ENDPOINT", "settings": "TAILNET", "dns": "TAILNET",
	}
	tailscaleProperties = map[string]string{
		"node.rename": "MACHINE_NAME", "node.tags": "ACL_TAGS", "node.move": "USER", "node.routes": "ALLOWED_IPS",
		"node.addresses": "IP_ADDRESSES", "user.role": "USER_ROLE", "policy.set": "ACL", "webhook.rotate": "SECRET",
	}
)
