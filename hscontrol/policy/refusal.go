package policy

import (
	"fmt"
	"strings"
)

// Refusal says why a policy is not accepted: where, what, and what to do about it.
type Refusal struct {
	Line   int    // counted from 1; 0 when it is about the whole policy
	Place  string // such as grants[2].src; may be empty
	What   string // in Tailscale's words, where it has some
	Remedy string // may be empty
}

func (r *Refusal) Error() string {
	var b strings.Builder
	if r.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", r.Line)
	}
	if r.Place != "" {
		b.WriteString(r.Place + ": ")
	}
	b.WriteString(r.What)
	if r.Remedy != "" {
		b.WriteString(": " + r.Remedy)
	}
	return b.String()
}

// refuse makes a Refusal; its place is filled in by the caller that knows it.
func refuse(line int, remedy, format string, args ...any) *Refusal {
	return &Refusal{Line: line, What: fmt.Sprintf(format, args...), Remedy: remedy}
}

// at fills in where the refusal arose, unless that is known already.
func (r *Refusal) at(place string) *Refusal {
	if r != nil && r.Place == "" {
		r.Place = place
	}
	return r
}

// nearest is the known word most like word, for a "did you mean"; empty if none is alike.
func nearest(word string, known []string) string {
	word = strings.ToLower(word)
	best, least := "", len(word)/3+2
	for _, k := range known {
		if d := distance(word, strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to insert, delete or change to get from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
