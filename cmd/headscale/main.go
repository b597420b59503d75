// Command headscale runs the control server of a tailnet, and is the command line for it: every command but serve and
// the few that need no server asks a running one over gRPC.
//
// The way of a command through the files of this package:
//
//	root.go      the tree, and what to say of unknown commands and flags
//	connect.go   where the server is, and how to reach it
//	users.go, nodes.go, routes.go, ...   a file a noun
//	output.go, table.go   answers for programs, and for people
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := newCLI(os.Stdin, os.Stdout, os.Stderr, os.Environ()).run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
