// Command bench measures this relay against cmd/derper, side by side on the loopback interface,
// and fails when it is not as much better as it has to be (make bench-derp).
//
// Each round runs every case once for each program, with a fresh start before each, and the
// order changes from round to round; what is judged are medians over the rounds. The clients
// run in this process, with the client code of real nodes (tailscale.com/derp). Processor time
// and memory are those of the relay's process alone, as the system accounts them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"syscall"
	"time"
)

// reference is the program that ours is compared with.
const reference = "tailscale.com/cmd/derper@v1.102.5"

// options are what the command line says.
type options struct {
	rounds       int
	duration     time.Duration
	clients      int
	only         *regexp.Regexp
	ours, derper string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "floor" {
		fatal(serveFloor(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	fatal(err)
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// errMissed says that a number is not what it has to be.
var errMissed = errors.New("a number was missed")

func run(ctx context.Context) error {
	o := options{}
	flag.IntVar(&o.rounds, "rounds", 5, "how often each case is run")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "how long a case is measured")
	flag.IntVar(&o.clients, "clients", 5000, "how many clients are idle, or connect at once")
	only := flag.String("only", "", "run the cases whose name matches this `regexp`")
	flag.StringVar(&o.ours, "ours", "", "a built `program` of ours; built from this tree if empty")
	flag.StringVar(&o.derper, "derper", "", "a built `program` cmd/derper; "+reference+" is built if empty")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	debug.SetGCPercent(300) // the clients' share of the machine is not what is measured
	dir, err := os.MkdirTemp("", "bench-derp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := o.build(ctx, dir); err != nil {
		return err
	}
	hall, err := newHall(dir, o)
	if err != nil {
		return err
	}
	rep := newReport()
	for round := range o.rounds {
		for _, c := range cases {
			if !o.only.MatchString(c.name) {
				continue
			}
			c.round(ctx, hall, round, rep)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		fmt.Fprintf(os.Stderr, "bench: round %d of %d done\n", round+1, o.rounds)
	}
	if !rep.print(os.Stdout) {
		return errMissed
	}
	return nil
}

// build builds what was not given.
func (o *options) build(ctx context.Context, dir string) error {
	for _, b := range []struct {
		what *string
		name string
		args []string
	}{
		{&o.ours, "ours", []string{"build", "-trimpath", "-o", filepath.Join(dir, "ours"), "github.com/keelscale/keelscale/cmd/derper"}},
		{&o.derper, "derper", []string{"install", "-trimpath", reference}},
	} {
		if *b.what != "" {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: building %s\n", b.args[len(b.args)-1])
		cmd := exec.CommandContext(ctx, "go", b.args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", b.name, err, out)
		}
		*b.what = filepath.Join(dir, b.name)
	}
	return nil
}
