package state

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Problem is something that people should be told loudly, in the log, by `headscale health` and by every CLI answer.
type Problem struct {
	Tailnet string
	Text    string
}

// Problems are the tailnets whose stored policy cannot be used, and what is in force instead.
func (s *State) Problems() []Problem {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Problem
	for _, id := range slices.Sorted(maps.Keys(s.problems)) {
		name := ""
		if f := s.feeds[id]; f != nil {
			if e := f.Load(); e != nil {
				name = e.Tailnet.Name
			}
		}
		out = append(out, Problem{Tailnet: name, Text: s.problems[id]})
	}
	return out
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
	return compiled.Warnings(), nil
}

// compiledFrom remembers which version the policy in force was read from.
type compiledFrom struct {
	version *tailnet.PolicyVersion
	parsed  *policy.Policy // nil: none, so everybody sees everybody
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
		parsed, fault := s.parseStored(ctx, next, had)
		s.setProblem(next.Tailnet.ID, fault)
		if fault != "" {
			s.log.Error("the stored policy cannot be used", "tailnet", next.Tailnet.Name, "err", fault)
		}
		had = compiledFrom{version: next.Snapshot.Policy, parsed: parsed}
		s.follow.policies[next.Tailnet.ID] = had
	}
	compiled, err := policy.Compile(had.parsed, next.Snapshot)
	if err == nil {
		return compiled
	}
	// It compiled when it was accepted, so the users or nodes changed since in a way that it does not stand. Until it is
	// mended nobody gains anything: those that it knew keep what they had.
	s.log.Error("the policy in force cannot be compiled any more", "tailnet", next.Tailnet.Name, "err", err)
	s.setProblem(next.Tailnet.ID, fmt.Sprintf("the policy in force cannot be compiled any more: %v", err))
	if prev != nil {
		return prev.Policy
	}
	compiled, err = policy.Compile(denyAll(), next.Snapshot)
	if err != nil {
		panic("the policy that denies everything does not compile: " + err.Error())
	}
	return compiled
}

// denyAll is the policy in force where there is no usable one.
func denyAll() *policy.Policy {
	deny, err := policy.Parse(`{"acls": []}`)
	if err != nil {
		panic("the policy that denies everything is not understood: " + err.Error())
	}
	return deny
}

// parseStored reads the newest stored policy, and where it cannot be used, the newest before it that can. The fault
// says what is wrong and what is in force instead.
func (s *State) parseStored(ctx context.Context, next *View, had compiledFrom) (parsed *policy.Policy, fault string) {
	version := next.Snapshot.Policy
	if version == nil {
		return nil, ""
	}
	parsed, compiled, err := usable(version.Text, next.Snapshot)
	if err == nil {
		if failing := compiled.Test(next.Snapshot); failing != nil {
			s.log.Warn("the policy in force would not be accepted today", "tailnet", next.Tailnet.Name, "err", failing)
		}
		return parsed, ""
	}
	fault = fmt.Sprintf("policy version %d from %s cannot be used: %v", version.ID, version.Source, err)
	if had.version != nil {
		return had.parsed, fmt.Sprintf("%s; version %d stays in force", fault, had.version.ID)
	}
	versions, err := s.store.ListPolicies(ctx, next.Tailnet.ID)
	if err != nil {
		fault += fmt.Sprintf("; reading the versions before it: %v", err)
	}
	slices.SortFunc(versions, func(a, b *tailnet.PolicyVersion) int { return int(b.ID) - int(a.ID) })
	for _, v := range versions {
		if v.ID >= version.ID {
			continue
		}
		if parsed, _, err := usable(v.Text, next.Snapshot); err == nil {
			return parsed, fmt.Sprintf("%s; version %d is in force instead", fault, v.ID)
		}
	}
	return denyAll(), fault + "; there is no earlier one that can, so everything is denied"
}

// usable reads and compiles a policy, and refuses what this server cannot do yet although the language has it.
func usable(text string, snapshot *tailnet.Snapshot) (*policy.Policy, *policy.Compiled, error) {
	parsed, err := policy.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	compiled, err := policy.Compile(parsed, snapshot)
	if err != nil {
		return nil, nil, err
	}
	if checksSSH(text) {
		return nil, nil, fmt.Errorf(`%w: ssh: action "check" is not supported by this version of the server: use "accept", or leave the rule out`, tailnet.ErrInvalid)
	}
	return parsed, compiled, nil
}

// checksSSH reports whether a policy that was understood has an SSH rule that asks for a check.
func checksSSH(text string) bool {
	plain, err := hujson.Standardize([]byte(text))
	if err != nil {
		return false
	}
	var p struct{ SSH []struct{ Action string } }
	return json.Unmarshal(plain, &p) == nil && slices.ContainsFunc(p.SSH, func(r struct{ Action string }) bool { return strings.TrimSpace(r.Action) == "check" })
}

func (s *State) setProblem(id tailnet.ID, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == "" {
		delete(s.problems, id)
		return
	}
	s.problems[id] = text
}
