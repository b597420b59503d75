package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// unknownCommand says which command was probably meant.
func unknownCommand(parent *cobra.Command, word string) error {
	var known []string
	for _, sub := range parent.Commands() {
		if !sub.Hidden || sub.Annotations[legacyNote] != "" {
			known = append(known, sub.Name())
			known = append(known, sub.Aliases...)
		}
	}
	if near := nearest(word, known); near != "" {
		return fmt.Errorf("unknown command %q for %q: did you mean %q?", word, parent.CommandPath(), near)
	}
	return fmt.Errorf("unknown command %q for %q: see %s --help", word, parent.CommandPath(), parent.CommandPath())
}

// flagError says in a sentence what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		return unknownFlag(cmd, unknown)
	case errors.As(err, &missing):
		return fmt.Errorf("the flag %s needs a value behind it", dashed(missing.GetSpecifiedName()))
	case errors.As(err, &invalid):
		return fmt.Errorf("%q is no value for --%s, which takes a %s", invalid.GetValue(), invalid.GetFlag().Name, invalid.GetFlag().Value.Type())
	}
	return err
}

func unknownFlag(cmd *cobra.Command, unknown *pflag.NotExistError) error {
	name := unknown.GetSpecifiedName()
	if unknown.GetSpecifiedShortnames() != "" {
		return fmt.Errorf("unknown flag -%s for %q: see %s --help", name, cmd.CommandPath(), cmd.CommandPath())
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, f.Name)
		}
	})
	if near := nearest(name, known); near != "" {
		return fmt.Errorf("unknown flag --%s for %q: did you mean --%s?", name, cmd.CommandPath(), near)
	}
	return fmt.Errorf("unknown flag --%s for %q: see %s --help", name, cmd.CommandPath(), cmd.CommandPath())
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// nearest is the word that is at most a third away from what was typed, or begins with it; empty for none.
func nearest(typed string, words []string) string {
	best, distance := "", len(typed)/3+2
	for _, w := range words {
		d := edits(strings.ToLower(typed), w)
		if len(typed) > 1 && strings.HasPrefix(w, typed) {
			d = 1
		}
		if d < distance && d < len(w) {
			best, distance = w, d
		}
	}
	return best
}

// edits counts the letters to insert, delete, replace or swap to make b of a.
func edits(a, b string) int {
	prev, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := row[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			next[j] = min(row[j]+1, next[j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], prev[j-2]+1)
			}
		}
		prev, row, next = row, next, prev
	}
	return row[len(b)]
}
