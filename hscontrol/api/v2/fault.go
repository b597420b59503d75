package v2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// statusOf is the HTTP status of each fact.
var statusOf = []struct {
	fault  error
	status int
}{
	{access.ErrNoKey, http.StatusUnauthorized},
	{access.ErrForbidden, http.StatusForbidden},
	{tailnet.ErrNotFound, http.StatusNotFound},
	{tailnet.ErrExists, http.StatusConflict},
	{tailnet.ErrInvalid, http.StatusBadRequest},
	{tailnet.ErrConflict, http.StatusConflict},
	{tailnet.ErrKeyRefused, http.StatusForbidden},
	{tailnet.ErrAPIKeyRefused, http.StatusUnauthorized},
	{tailnet.ErrTagRefused, http.StatusForbidden},
	{tailnet.ErrExhausted, http.StatusConflict},
	{tailnet.ErrTooMany, http.StatusTooManyRequests},
	{tailnet.ErrReadOnly, http.StatusServiceUnavailable},
	{tailnet.ErrStale, http.StatusPreconditionFailed},
	{context.Canceled, 499}, // nobody is there to read it
	{context.DeadlineExceeded, http.StatusGatewayTimeout},
}

// refusal is an error with a status of its own.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// invalid is a refusal of something that can never be right.
func invalid(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// absent is that there is no such thing, or that it is not there for the caller.
func absent(what string) error {
	return &refusal{http.StatusNotFound, what + " not found"}
}

// unsupported is what this server does not do, with the reason.
func unsupported(format string, args ...any) error {
	return &refusal{http.StatusNotImplemented, fmt.Sprintf(format, args...)}
}

// complaint is a refusal of a policy as clients of Tailscale's API read it: one message, and more in data.
type complaint struct {
	message string
	errors  []string
}

func (c *complaint) Error() string { return c.message }

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	var own *refusal
	var bad *complaint
	status, text := http.StatusInternalServerError, plain(err)
	switch {
	case errors.As(err, &own):
		status, text = own.status, own.text
	case errors.As(err, &bad):
		status, text = http.StatusBadRequest, bad.message
	default:
		for _, row := range statusOf {
			if errors.Is(err, row.fault) {
				status = row.status
				break
			}
		}
	}
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="headscale"`)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(int(access.RetryAfter.Seconds())))
	}
	answer := map[string]any{"message": text}
	if bad != nil {
		answer["data"] = bad.data()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // who hung up reads nothing
}

// data is what a policy's complaint says in detail.
func (c *complaint) data() []map[string]any {
	return []map[string]any{{"user": "", "errors": c.errors}}
}

// plain is the error as people read it: the word "invalid" says nothing that the sentence behind it does not.
func plain(err error) string {
	text := tailnet.Sentence(err)
	for _, fact := range []error{tailnet.ErrInvalid, tailnet.ErrConflict} {
		text = strings.ReplaceAll(text, ": "+fact.Error()+": ", ": ")
	}
	return text
}
