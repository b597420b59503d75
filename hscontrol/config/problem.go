package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrInvalid is in the chain of every error about what a configuration says, as opposed to a file that cannot be read.
var ErrInvalid = errors.New("invalid configuration")

// Position is where a value was set. The zero Position is nowhere: a default, or a value made by code.
type Position struct {
	// File is set for what a file says, with Line and Column counted from 1.
	File         string
	Line, Column int
	// Env is set for what an environment variable says.
	Env string
}

func (p Position) String() string {
	switch {
	case p.Env != "":
		return "environment variable " + p.Env
	case p.Line > 0:
		return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	default:
		return p.File
	}
}

// Problem is one reason why a configuration cannot be used.
type Problem struct {
	Pos  Position
	Text string
}

func (p Problem) String() string { return at(p.Pos, p.Text) }

// Error is all that is wrong with a configuration, in the order of the file where that is known.
// It unwraps to [ErrInvalid].
type Error struct {
	Problems []Problem
}

func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems in the configuration:", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + strings.ReplaceAll(p.String(), "\n", "\n  "))
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrInvalid) hold.
func (e *Error) Unwrap() error { return ErrInvalid }

// Warning is something that works, and that somebody should know or mend.
type Warning struct {
	Pos Position
	// Key is the key in question, as it was written.
	Key  string
	Text string
	// YAML is what to write instead; empty when there is nothing to write.
	YAML string
}

func (w Warning) String() string {
	s := at(w.Pos, w.Text)
	if w.YAML == "" {
		return s
	}
	return s + ":\n    " + strings.ReplaceAll(strings.TrimRight(w.YAML, "\n"), "\n", "\n    ")
}

func at(pos Position, text string) string {
	if where := pos.String(); where != "" {
		return where + ": " + text
	}
	return text
}

// report gathers what is found on the way, so that everything is said at once.
type report struct {
	problems []Problem
	warnings []Warning
}

func (r *report) problem(pos Position, format string, args ...any) {
	r.problems = append(r.problems, Problem{Pos: pos, Text: fmt.Sprintf(format, args...)})
}

func (r *report) warn(pos Position, key, format string, args ...any) {
	r.warnings = append(r.warnings, Warning{Pos: pos, Key: key, Text: fmt.Sprintf(format, args...)})
}

// err is nil when there was no problem.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Pos.compare(b.Pos) })
	return &Error{Problems: r.problems}
}

func (r *report) sortedWarnings() []Warning {
	slices.SortStableFunc(r.warnings, func(a, b Warning) int { return a.Pos.compare(b.Pos) })
	return r.warnings
}

// compare orders positions like the file, then what has no line, then the environment.
func (p Position) compare(q Position) int {
	return cmp.Or(
		cmp.Compare(p.Env, q.Env),
		-cmp.Compare(min(p.Line, 1), min(q.Line, 1)),
		cmp.Compare(p.Line, q.Line),
		cmp.Compare(p.Column, q.Column),
	)
}
