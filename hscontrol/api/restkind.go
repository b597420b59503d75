package api

import (
	"net/http"
	"strings"
)

// problemType is as what an error is told. Clients that were generated for headscale's API accept JSON and nothing else,
// and read no other answer.
func problemType(r *http.Request) string {
	accept := strings.ToLower(strings.Join(r.Header.Values("Accept"), ","))
	switch {
	case strings.Contains(accept, "problem+json"), strings.Contains(accept, "application/*"), strings.Contains(accept, "*/*"):
	case strings.Contains(accept, "application/json"):
		return "application/json"
	}
	return "application/problem+json"
}
