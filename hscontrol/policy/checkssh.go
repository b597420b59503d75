package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// Bounds of checkPeriod.
const (
	maxCheckPeriod     = tailnet.SSHApprovalMost
	defaultCheckPeriod = 12 * time.Hour
)

func (p *Policy) checkSSH(w *draft) *Refusal {
	p.hasSSH = w.hasSSH
	for i, d := range w.ssh {
		rule, r := p.checkSSHRule(d)
		if r != nil {
			return r.at(fmt.Sprintf("ssh[%d]", i))
		}
		rule.index, rule.line = i, d.line
		p.ssh = append(p.ssh, rule)
	}
	return nil
}

func (p *Policy) checkSSHRule(d sshDraft) (sshRule, *Refusal) {
	var out sshRule
	line := max(d.line, d.action.line)
	switch action := strings.TrimSpace(d.action.text); action {
	case "accept":
	case "check":
		out.check = true
	case "":
		return out, refuse(line, `write "accept" or "check"`, "action must be specified")
	default:
		return out, refuse(line, `write "accept" or "check"`, "%q is not a valid action", d.action.text)
	}
	for _, part := range []func(sshDraft, *sshRule) *Refusal{p.sshUsers, p.sshEnds, sshDetails, p.sshRecorders} {
		if r := part(d, &out); r != nil {
			return out, r
		}
	}
	return out, nil
}

// sshUsers sorts the users into login names and localpart domains.
func (p *Policy) sshUsers(d sshDraft, out *sshRule) *Refusal {
	if len(d.users) == 0 {
		return refuse(d.line, `write login names, or "autogroup:nonroot"`, "users must be specified")
	}
	for _, u := range d.users {
		name := strings.TrimSpace(u.text)
		switch domain, isLocal := strings.CutPrefix(name, "localpart:*@"); {
		case name == "" || name == "*":
			return refuse(u.line, `write login names, or "autogroup:nonroot"`, "user %q is not valid", name)
		case isLocal && domain != "":
			out.localparts = append(out.localparts, domain)
		case !slices.Contains(out.users, name):
			out.users = append(out.users, name)
		}
	}
	return nil
}

func (p *Policy) sshEnds(d sshDraft, out *sshRule) (r *Refusal) {
	for _, w := range d.src {
		s, r := p.selector(w)
		if r != nil {
			return r
		}
		switch s.kind {
		case bySelf, byInternet, byDanger, byAll:
			return refuse(w.line, "name users, groups or tags", "invalid src %q", s.text)
		}
		out.src = append(out.src, s)
	}
	for _, w := range d.dst {
		s, r := p.selector(w)
		if r != nil && strings.Contains(r.What, "not found") {
			return r
		}
		const remedy = "SSH goes to tags, users and autogroup:self"
		if r != nil {
			return refuse(w.line, remedy, "invalid dst %q", strings.TrimSpace(w.text))
		}
		switch s.kind {
		case byTag, byTagged, byUser, byMember, byRole:
		case bySelf:
			for _, from := range out.src {
				if !from.isUsers() {
					return notForSelf(from)
				}
			}
		default:
			return refuse(w.line, remedy, "invalid dst %q", s.text)
		}
		out.dst = append(out.dst, s)
	}
	return nil
}

func sshDetails(d sshDraft, out *sshRule) *Refusal {
	for _, e := range d.env {
		if e.text == "" {
			return refuse(e.line, "name a variable, such as LANG or GIT_*", "acceptEnv values cannot be empty")
		}
		out.acceptEnv = append(out.acceptEnv, e.text)
	}
	out.period = defaultCheckPeriod
	switch text := strings.TrimSpace(d.period.text); text {
	case "":
	case "always":
		out.period = 0
	default:
		period, err := time.ParseDuration(text)
		switch {
		case err != nil:
			return refuse(d.period.line, `write "always" or a duration such as "12h"`, "%v", err)
		case period < 0:
			return refuse(d.period.line, `write a duration such as "12h", or "always"`, "checkPeriod %v must be a positive duration", period)
		case period > maxCheckPeriod:
			return refuse(d.period.line, `write "168h" or less`, "checkPeriod %v is above the max (168h)", period)
		}
		out.period = period
	}
	return nil
}

func (p *Policy) sshRecorders(d sshDraft, out *sshRule) *Refusal {
	for _, w := range d.recorder {
		s, r := p.selector(w)
		if r == nil && s.kind != byTag {
			r = refuse(w.line, "recorders are named by tag", "invalid recorder %q", s.text)
		}
		if r != nil {
			return r
		}
		out.recorders = append(out.recorders, s)
	}
	if out.mustRecord = d.enforceRecorder; out.mustRecord && len(out.recorders) == 0 {
		return refuse(d.line, `add recorder: ["tag:..."]`, "enforceRecorder without recorder")
	}
	return nil
}
