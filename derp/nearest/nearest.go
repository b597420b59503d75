// Package nearest finds the word that somebody meant who typed another.
package nearest

import "strings"

// Word returns the one of known that differs least from typed, ignoring letter case, or ""
// when none is near enough to be meant.
func Word(typed string, known []string) string {
	low := strings.ToLower(typed)
	best, bestCost := "", 1+min(3, len(low)/3)
	for _, k := range known {
		if cost := distance(low, strings.ToLower(k)); cost < bestCost {
			best, bestCost = k, cost
		}
	}
	return best
}

// Hint is Word as the end of a sentence: ` (did you mean "x"?)`, or "".
func Hint(typed string, known []string) string {
	if w := Word(typed, known); w != "" {
		return ` (did you mean "` + w + `"?)`
	}
	return ""
}

// maxLen bounds the words compared; longer ones were not typed by anybody.
const maxLen = 64

// distance counts the letters to insert, remove, change or swap with their neighbour that
// make a from b.
func distance(a, b string) int {
	if len(a) > maxLen || len(b) > maxLen {
		return maxLen
	}
	var rows [3][maxLen + 1]int // two back, one back, this one
	for j := range len(b) + 1 {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		rows[2][0] = i
		for j := 1; j <= len(b); j++ {
			change := rows[1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[2][j] = min(change, rows[1][j]+1, rows[2][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[2][j] = min(rows[2][j], rows[0][j-2]+1)
			}
		}
		rows[0], rows[1] = rows[1], rows[2]
	}
	return rows[1][len(b)]
}
