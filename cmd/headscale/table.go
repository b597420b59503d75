package main

import (
	"bufio"
	"io"
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// table is rows for people: aligned, one line each.
type table struct {
	head []string
	rows [][]string
}

func newTable(head ...string) *table { return &table{head: head} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

const columnGap = " | "

// write writes the table. The head is bold where that may be.
func (t *table) write(w io.Writer, colour bool) error {
	all := append([][]string{t.head}, t.rows...)
	widths := make([]int, len(t.head))
	for _, row := range all {
		for i, cell := range row {
			row[i] = oneLine(cell)
			widths[i] = max(widths[i], columns(row[i]))
		}
	}
	out := bufio.NewWriter(w)
	for n, row := range all {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString(columnGap)
			}
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-columns(cell)))
		}
		text := strings.TrimRight(line.String(), " ")
		if n == 0 && colour {
			text = "\x1b[1m" + text + "\x1b[0m"
		}
		out.WriteString(text + "\n") // Flush tells the error
	}
	return out.Flush()
}

// oneLine takes what a terminal would obey out of a cell: host names come from clients.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// columns is how wide a terminal shows s: two columns for a CJK letter, none for a combining mark.
func columns(s string) int {
	n := 0
	for _, r := range s {
		switch kind := width.LookupRune(r).Kind(); {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case kind == width.EastAsianWide || kind == width.EastAsianFullwidth:
			n += 2
		default:
			n++
		}
	}
	return n
}
