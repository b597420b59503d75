// Package relayv1 is what an enrolled relay and its control server say to each other: the messages of the .proto file
// beside it, and the Go that was generated from them.
package relayv1

//go:generate ../../generate.sh relay/v1
