// Command meshbench measures a control server with simulated nodes, and holds it to what is wanted of it.
//
//	runs.go     what is measured: a fresh server and a load for each
//	server.go   a server of its own directory, its users and keys
//	load.go     the simulator, and what it says
//	table.go    what was measured beside what is wanted
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

func main() {
	err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "meshbench:", err)
		os.Exit(1)
	}
}

// errMissed is that a number was not reached.
var errMissed = errors.New("not everything that is wanted was reached")

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("meshbench", flag.ContinueOnError)
	server := flags.String("server", "bin/headscale", "the server to measure")
	against := flags.String("against", "", "another server's program, measured beside; it is configured like headscale")
	load := flags.String("meshload", "", "the simulator")
	policy := flags.String("policy", "", "the policy file of the runs with a policy")
	only := flags.String("only", "all", "what to measure: all, short, or some of "+names())
	derps := flags.String("derps", "", "a file with a map of relays, for both servers; none: a small one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	programs := []string{*server}
	if *against != "" {
		programs = append(programs, *against)
	}
	columns := make([]figures, len(programs))
	for i := range columns {
		columns[i] = figures{}
	}
	for _, m := range chosen {
		for i, program := range programs { // in turn, so that both meet the same machine
			fmt.Fprintf(os.Stderr, "meshbench: %s, %s\n", m.name, program)
			b := &bench{program: program, load: *load, policy: *policy, derps: *derps, ours: i == 0, got: columns[i]}
			if err := b.measure(m); err != nil {
				fmt.Fprintf(os.Stderr, "meshbench: %s, %s: %v\n", m.name, program, err)
			}
		}
	}
	return report(out, chosen, columns)
}

func names() string {
	var all []string
	for _, m := range measurements {
		all = append(all, m.name)
	}
	return strings.Join(all, ",")
}

// choose reads a list of measurements.
func choose(list string) ([]measurement, error) {
	switch list {
	case "all", "":
		return measurements, nil
	case "short":
		list = "200,500,policy"
	}
	var chosen []measurement
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		i := slices.IndexFunc(measurements, func(m measurement) bool { return m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("%s is none of %s", name, names())
		}
		chosen = append(chosen, measurements[i])
	}
	return chosen, nil
}

// report prints the rows of what was measured.
func report(out io.Writer, chosen []measurement, columns []figures) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	other := ""
	if len(columns) > 1 {
		other = "beside\t"
	}
	fmt.Fprintf(w, "phase\theadscale main\tfloor\twanted\tours\t%s\n", other)
	missed := false
	for _, r := range rows {
		if !slices.ContainsFunc(chosen, func(m measurement) bool { return m.name == r.of }) {
			continue
		}
		got := columns[0][r.id]
		verdict := ""
		if !r.reached(got) {
			missed, verdict = true, " MISSED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s%s\t", r.phase, r.theirs, r.floor, r.show(r.wanted), r.show(got), verdict)
		if len(columns) > 1 {
			fmt.Fprintf(w, "%s\t", r.show(columns[1][r.id]))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if missed {
		return errMissed
	}
	return nil
}
