package state

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Problem is something that people should be told loudly, in the log, by `headscale health` and by every CLI answer.
type Problem struct {
	TailnetID tailnet.ID
	Tailnet   string
	Text      string

	// Stored is the version of the policy that cannot be used, and InForce the one that is used instead, 0 for none.
	// Both are 0 where the problem is another.
	Stored, InForce uint64
}

// Problems are the tailnets whose stored policy cannot be used, and what is in force instead, and those whose policy
// leaves nodes without a relay.
func (s *State) Problems() []Problem {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Problem
	for _, id := range slices.Sorted(maps.Keys(s.feeds)) {
		var found []Problem
		if p, ok := s.problems[id]; ok {
			found = append(found, p)
		}
		if text, ok := s.relayless[id]; ok {
			found = append(found, Problem{Text: text})
		}
		for _, p := range found {
			p.TailnetID = id
			if e := s.feeds[id].Load(); e != nil {
				p.Tailnet = e.Tailnet.Name
			}
			out = append(out, p)
		}
	}
	return out
}

// AwaitPolicy returns when the view of a tailnet knows this version of its policy or a later one, or when ctx ends.
func (s *State) AwaitPolicy(ctx context.Context, id tailnet.ID, version uint64) error {
	for {
		done := s.Round()
		v := s.View(id)
		if v == nil || v.Snapshot.Policy != nil && v.Snapshot.Policy.ID >= version {
			return nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for policy version %d to be in force: %w", version, ctx.Err())
		}
	}
}

// CheckPolicy says whether text would be accepted as the policy of a tailnet now: it is parsed, compiled and its tests
// are run. The warnings name users that do not exist yet and the like.
func (s *State) CheckPolicy(id tailnet.ID, text string) (warnings []string, err error) {
	v := s.View(id)
	if v == nil {
		return nil, fmt.Errorf("%w: tailnet %d", tailnet.ErrNotFound, id)
	}
	_, compiled, err := usable(text, v.Snapshot)
	if err != nil {
		return nil, err
	}
	if err := compiled.Test(v.Snapshot); err != nil {
		return nil, err
	}
	return v.checkRegions(compiled)
}

// compiledFrom remembers which version the policy in force was read from.
type compiledFrom struct {
	version *tailnet.PolicyVersion // the newest that is stored
	inForce uint64                 // the version that parsed is; 0: none
	parsed  *policy.Policy         // nil: none, so everybody sees everybody
}

// compile is the policy of prev where nothing that it can tell apart moved, else a new one. A stored policy that cannot
// be used leaves the one before it in force.
func (s *State) compile(ctx context.Context, next, prev *View) *policy.Compiled {
	had, known := s.follow.policies[next.Tailnet.ID]
	sameText := known && had.version == next.Snapshot.Policy
	if sameText && prev != nil && tailnet.SameIdentities(prev.Snapshot, next.Snapshot) && slices.Equal(prev.Prefixes, next.Prefixes) {
		return prev.Policy
	}
	if !sameText {
		read, problem := s.parseStored(ctx, next, had)
		s.setProblem(next.Tailnet.ID, problem)
		if problem.Text != "" {
			s.log.Error("the stored policy cannot be used", "tailnet", next.Tailnet.Name, "err", problem.Text)
		}
		had = read
		s.follow.policies[next.Tailnet.ID] = had
	}
	compiled, err := policy.Compile(had.parsed, next.Snapshot)
	if err == nil {
		if !sameText {
			s.logWarnings(next.Tailnet.Name, compiled.Warnings())
		}
		if prev != nil {
			compiled = compiled.Keep(prev.Policy)
		}
		return compiled
	}
	// It compiled when it was accepted, so the users or nodes changed since in a way that it does not stand. Until it is
	// mended nobody gains anything: those that it knew keep what they had.
	s.log.Error("the policy in force cannot be compiled any more", "tailnet", next.Tailnet.Name, "err", err)
	s.setProblem(next.Tailnet.ID, Problem{Text: fmt.Sprintf("the policy in force cannot be compiled any more: %v", err)})
	if prev != nil {
		return prev.Policy
	}
	compiled, err = policy.Compile(denyAll(), next.Snapshot)
	if err != nil {
		panic("the policy that denies everything does not compile: " + err.Error())
	}
	return compiled
}

// loggedWarnings bounds what a policy writes to the log when it is loaded.
const loggedWarnings = 20

func (s *State) logWarnings(name string, warnings []string) {
	for i, w := range warnings {
		if i == loggedWarnings {
			s.log.Warn("the policy has more warnings: see headscale policy check", "tailnet", name, "more", len(warnings)-i)
			return
		}
		s.log.Warn("the policy has a warning", "tailnet", name, "warning", w)
	}
}

// denyAll is the policy in force where there is no usable one.
func denyAll() *policy.Policy {
	deny, err := policy.Parse(`{"acls": []}`)
	if err != nil {
		panic("the policy that denies everything is not understood: " + err.Error())
	}
	return deny
}

// parseStored reads the newest stored policy, and where it cannot be used, the newest before it that can. The problem
// says what is wrong and what is in force instead.
func (s *State) parseStored(ctx context.Context, next *View, had compiledFrom) (compiledFrom, Problem) {
	version := next.Snapshot.Policy
	if version == nil {
		return compiledFrom{}, Problem{}
	}
	parsed, compiled, err := usable(version.Text, next.Snapshot)
	if err == nil {
		if failing := compiled.Test(next.Snapshot); failing != nil {
			s.log.Warn("the policy in force would not be accepted today", "tailnet", next.Tailnet.Name, "err", failing)
		}
		return compiledFrom{version, version.ID, parsed}, Problem{}
	}
	read, instead := s.beforeIt(ctx, version, next, had)
	read.version = version
	fault := fmt.Sprintf("policy version %d from %s cannot be used: %v; %s", version.ID, version.Source, err, instead)
	return read, Problem{Text: fault, Stored: version.ID, InForce: read.inForce}
}

// beforeIt is the policy that stays in force, or comes into force, when a version cannot be used.
func (s *State) beforeIt(ctx context.Context, version *tailnet.PolicyVersion, next *View, had compiledFrom) (read compiledFrom, instead string) {
	if had.inForce != 0 {
		return had, fmt.Sprintf("version %d stays in force", had.inForce)
	}
	versions, err := s.store.ListPolicies(ctx, next.Tailnet.ID)
	if err != nil {
		instead = fmt.Sprintf("reading the versions before it: %v; ", err)
	}
	slices.SortFunc(versions, func(a, b *tailnet.PolicyVersion) int { return cmp.Compare(b.ID, a.ID) })
	for _, v := range versions {
		if v.ID >= version.ID {
			continue
		}
		if parsed, _, err := usable(v.Text, next.Snapshot); err == nil {
			return compiledFrom{inForce: v.ID, parsed: parsed}, fmt.Sprintf("version %d is in force instead", v.ID)
		}
	}
	return compiledFrom{parsed: denyAll()}, instead + "there is no earlier one that can, so everything is denied"
}

// usable reads and compiles a policy, and reads what it says of relays.
func usable(text string, snapshot *tailnet.Snapshot) (*policy.Policy, *policy.Compiled, error) {
	parsed, err := policy.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	if _, err := PolicyDERPMap(parsed); err != nil {
		return nil, nil, err
	}
	compiled, err := policy.Compile(parsed, snapshot)
	if err != nil {
		return nil, nil, err
	}
	return parsed, compiled, nil
}

func (s *State) setProblem(id tailnet.ID, p Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Text == "" {
		delete(s.problems, id)
		return
	}
	s.problems[id] = p
}
