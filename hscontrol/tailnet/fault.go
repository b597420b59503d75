package tailnet

import (
	"errors"
	"strings"
)

// Facts about why something could not be done. Each border has one table that turns them into its own codes; the
// errors that wrap them carry a sentence for people.
var (
	ErrNotFound      = errors.New("not found")             // no such user, node, key, route, tailnet
	ErrExists        = errors.New("already exists")        // a name or key that is taken
	ErrInvalid       = errors.New("invalid")               // a value that can never be right
	ErrConflict      = errors.New("conflict")              // right in itself, but not in this state: user still has nodes
	ErrKeyRefused    = errors.New("pre-auth key refused")  // unknown, expired or used
	ErrAPIKeyRefused = errors.New("API key refused")       // unknown or expired
	ErrRelayRefused  = errors.New("enrolment key refused") // unknown, expired, used or of before the relay's removal
	ErrRelayRemoved  = errors.New("relay was removed")     // by an administrator
	ErrNodeKeyTaken  = errors.New("node key belongs to another machine")
	ErrTagRefused    = errors.New("tag refused")        // not permitted by tagOwners
	ErrExhausted     = errors.New("no address left")    // the prefix is used up
	ErrReadOnly      = errors.New("store cannot write") // disk full or read-only, database away
	ErrTooNew        = errors.New("database is newer than this program")
	ErrTooMany       = errors.New("too many") // a bound on counts was reached
	ErrStale         = errors.New("stale")    // an older request came after a newer one
)

// Sentence is an error as it is shown to people: an error that wraps one of the facts above as "fact: sentence" is told
// by the sentence alone where that is longer than the fact.
func Sentence(err error) string {
	text := err.Error()
	for _, fact := range []error{ErrInvalid, ErrConflict, ErrTooMany} {
		if errors.Is(err, fact) {
			if rest, ok := strings.CutPrefix(text, fact.Error()+": "); ok {
				return rest
			}
		}
	}
	return text
}
