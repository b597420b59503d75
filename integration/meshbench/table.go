package main

import "fmt"

// figures are what was measured, by row. A row that is missing could not be measured.
type figures map[string][]float64

// row is a line of the table.
type row struct {
	id, of        string // its figures, and the measurement that they come from
	phase         string
	theirs, floor string
	wanted        []float64 // at most
	format        []string  // of each figure
}

// rows are what is wanted. headscale's figures and the floor were taken with the same simulator in the same way, on two
// cores; the floor is a throw-away server without policy, database or key check.
var rows = []row{
	{"register-200", "200", "register 200, no policy: wall, CPU", "17.8 s, 22 s", "0.4 s, 0.4 s", []float64{1.5, 1.0}, seconds},
	{"register-500", "500", "register 500", "126 s, 138 s", "1.3 s, 1.1 s", []float64{3.5, 3}, seconds},
	{"register-1000", "1000", "register 1,000", "493 s, 636 s", "4.0 s, 3.1 s", []float64{8, 6}, seconds},
	{"register-2000", "2000", "register 2,000", "never (1,162 after 500 s)", "16.4 s, 11.7 s", []float64{25, 18}, seconds},
	{"register-5000", "5000", "register 5,000 (several simulators)", "-", "-", []float64{120, 80}, seconds},
	{"change-200", "200", "one endpoint change at 200: watcher p50, p99; CPU a change", "579, 685 ms; 41 ms", "14, 17 ms; 5 ms", []float64{8, 25, 8}, milliseconds},
	{"change-1000", "1000", "the same at 1,000", "1,107, 1,471 ms; 567 ms", "23, 33 ms; 24 ms", []float64{20, 60, 30}, milliseconds},
	{"bytes-200", "200", "bytes to a watcher for it", "955", "180", []float64{200}, []string{"%.0f"}},
	{"all-500", "500", "all 500 change at once: wall, CPU, messages a node", "39.8 s, 53.7 s, 500", "0.23 s, 0.23 s, 5", []float64{0.8, 0.6, 15}, []string{"%.2f s", "%.2f s", "%.1f"}},
	{"join-500", "500", "a node joins 500: has its map (p50), CPU a join, records to each", "5.2 s; 6.2 s; 501", "7 ms; 0.018 s; 2", []float64{50, 0.04, 2}, []string{"%.1f ms", "%.3f s", "%.1f"}},
	{"reconnect-500", "500", "500 reconnect at once: all have maps, CPU until quiet", "7.9 s, 104 s", "1.45 s, 1.2 s", []float64{2.0, 1.8}, seconds},
	{"reconnect-2000", "2000", "2,000 reconnect at once", "-", "13.5 s, 11.7 s", []float64{14, 12}, seconds},
	{"register-policy", "policy", "policy of 50 rules, autogroup:self: register 200", "77 s, 90 s", "-", []float64{2.0, 1.6}, seconds},
	{"change-policy", "policy", "... one change, a join, 200 reconnect: CPU", "1.0 s; 22.5 s; 53 s", "-", []float64{0.01, 0.05, 1.0}, []string{"%.4f s", "%.3f s", "%.2f s"}},
	{"hidden-policy", "policy", "... messages to a node that may not see what changed", "1 each", "-", []float64{0}, []string{"%.2f"}},
	{"register-tailnets", "tailnets", "100 tailnets of 50 register", "one tailnet only", "-", []float64{30, 20}, seconds},
	{"beside-storm", "beside", "a storm in a tailnet of 1,000: p99 of changes in one of 50, to its quiet p99", "-", "-", []float64{2}, []string{"%.1f times"}},
	{"memory-1000", "1000", "memory at 1,000 connected: end, peak", "558, 989 MB", "161, 232 MB", []float64{150, 230}, []string{"%.0f MB", "%.0f MB"}},
	{"received-1000", "1000", "bytes that a node received while 1,000 register", "1,555 KB", "200 KB", []float64{300}, []string{"%.0f KB"}},
	{"churn-1000", "1000", "100 changes a second at 1,000: p99", "about 2 a second below 1 s", "-", []float64{1000}, milliseconds},
	{"lost-200", "200", "polls that the server ended, at 200", "41 to 72", "0", []float64{0}, count},
	{"lost-500", "500", "... at 500", "", "0", []float64{0}, count},
	{"lost-1000", "1000", "... at 1,000", "", "0", []float64{0}, count},
	{"lost-2000", "2000", "... at 2,000", "", "0", []float64{0}, count},
	{"lost-policy", "policy", "... with the policy", "", "-", []float64{0}, count},
}

// Formats of rows.
var (
	seconds      = []string{"%.2f s", "%.2f s"}
	milliseconds = []string{"%.1f ms", "%.1f ms", "%.1f ms"}
	count        = []string{"%.0f"}
)

// reached reports whether no figure is more than is wanted.
func (r row) reached(got []float64) bool {
	if len(got) != len(r.wanted) {
		return false
	}
	for i, v := range got {
		if v > r.wanted[i] {
			return false
		}
	}
	return true
}

func (r row) show(figures []float64) string {
	if len(figures) != len(r.wanted) {
		return "-"
	}
	text := ""
	for i, v := range figures {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf(r.format[i], v)
	}
	return text
}
