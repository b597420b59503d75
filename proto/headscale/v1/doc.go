// Package headscalev1 is what administrators speak with the server: the messages and the gRPC service of the .proto
// files beside it, and the Go that was generated from them.
package headscalev1

//go:generate ../../generate.sh headscale/v1
