package config

import (
	"slices"
	"strings"
)

// didYouMean finishes the sentence about an unknown key: what was probably meant, or where it belongs.
// It is empty when nothing is near.
func (s *schema) didYouMean(path string) string {
	if k, ok := s.byPath[path]; ok { // written flat: `dns.magic_dns: true`
		return "; write its sections one below the other: " + strings.ReplaceAll(k.path, ".", ": ")
	}
	parent, name := split(path)
	if near := nearest(name, s.children[parent]); near != "" {
		return "; did you mean " + quote(join(parent, near)) + "?"
	}
	if s.isSection(name) && parent != "" {
		return "; " + quote(name) + " stands at the top of the file"
	}
	for _, k := range s.keys {
		if _, leaf := split(k.path); leaf == name {
			return "; it belongs below another section: " + quote(k.path)
		}
	}
	paths := make([]string, 0, len(s.keys))
	for _, k := range s.keys {
		paths = append(paths, k.path)
	}
	if near := nearest(path, paths); near != "" {
		return "; did you mean " + quote(near) + "?"
	}
	if parent != "" && len(s.children[parent]) > 0 {
		return "; " + quote(parent) + " knows " + strings.Join(s.children[parent], ", ")
	}
	return ""
}

func quote(s string) string { return `"` + s + `"` }

// nearest is the name with the fewest typing errors between it and the one given, if those are few.
func nearest(name string, names []string) string {
	lower := strings.ToLower(name)
	best, least := "", max(1, min(max(2, len(lower)/3), len(lower)/2))+1
	for _, n := range names {
		if d := distance(lower, strings.ToLower(n), least); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance is the number of letters to add, drop, change or swap with their neighbour between a and b;
// limit stands for it and everything above.
func distance(a, b string, limit int) int {
	if abs(len(a)-len(b)) >= limit {
		return limit
	}
	older, old := []int(nil), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(old[j+1]+1, row[j]+1, old[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], older[j-1]+1)
			}
		}
		if slices.Min(row) >= limit {
			return limit
		}
		older, old = old, row
	}
	return min(old[len(b)], limit)
}

func abs(n int) int { return max(n, -n) }
