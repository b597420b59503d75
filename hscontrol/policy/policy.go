// Package policy says what a policy means for a snapshot: who sees whom, which packets pass, who may log in by SSH,
// which capabilities nodes have, and which routes are approved. It is pure.
//
// The flow, in the order of the files: parse.go reads HuJSON into a Policy; Compile turns a Policy and a snapshot into
// a Compiled, which answers every question about nodes by their IDs.
package policy

// Policy is a policy as it was written: read, but not yet held against any tailnet.
type Policy struct {
	text string
}

// Text is the HuJSON that the policy was read from.
func (p *Policy) Text() string { return p.text }
