package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// report gathers what the rounds found.
type report struct {
	order  []figure
	values map[figure]*[3][]float64 // by program, one for each round

	failures []string // rounds that did not come to an end
}

func newReport() *report { return &report{values: map[figure]*[3][]float64{}} }

func (r *report) add(figures []figure, p program, values []float64) {
	for i, f := range figures {
		v, ok := r.values[f]
		if !ok {
			v = &[3][]float64{}
			r.values[f] = v
			r.order = append(r.order, f)
		}
		v[p] = append(v[p], values[i])
	}
}

// ratio is the median of the rounds' ratios: what disturbed a round disturbed both.
func ratio(v *[3][]float64) float64 {
	each := make([]float64, len(v[ours]))
	for i := range each {
		each[i] = v[ours][i] / v[derper][i]
	}
	return median(each)
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(list))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// judge reports what counts, what it has to be, and whether it is that.
func (f figure) judge(v *[3][]float64) (got float64, want string, ok bool) {
	switch f.is {
	case ratioAtMost:
		got = ratio(v)
		return got, fmt.Sprintf("ratio at most %.2f", f.want), got <= f.want
	case ratioAtLeast:
		got = ratio(v)
		return got, fmt.Sprintf("ratio at least %.2f", f.want), got >= f.want
	case atMost:
		got = median(v[ours])
		return got, fmt.Sprintf("at most %g", f.want), got <= f.want
	}
	got = median(v[ours])
	return got, fmt.Sprintf("at least %g", f.want), got >= f.want
}

// print writes the table and reports whether every number is what it has to be.
func (r *report) print(w io.Writer) bool {
	all := len(r.failures) == 0
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "medians\t\tderper\tours\tratio\tfloor\twanted\t")
	for _, f := range r.order {
		v := r.values[f]
		_, want, ok := f.judge(v)
		verdict := "ok"
		if !ok {
			verdict, all = "MISSED", false
		}
		floor := "-"
		if len(v[bare]) > 0 {
			floor = number(median(v[bare]))
		}
		of := "-" // nothing
		if median(v[derper]) > 0 {
			of = fmt.Sprintf("%.2f", ratio(v))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			f.name, f.unit, number(median(v[derper])), number(median(v[ours])), of, floor, want, verdict)
	}
	t.Flush()
	for _, f := range r.failures {
		fmt.Fprintln(w, "FAILED:", f)
	}
	fmt.Fprintln(w, "\nfloor: the same bytes through bare crypto/tls and write(2), with no queue, limit or count")
	return all
}

func number(x float64) string {
	if x >= 1000 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}
