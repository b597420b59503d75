package policy

import (
	"fmt"
	"strings"
)

// draft is a policy as it was written, before its words are understood.
type draft struct {
	groups, hosts, ipsets, tagOwners []entry
	acls, grants                     []ruleDraft
	hasACLs, hasGrants               bool
	ssh                              []sshDraft
	hasSSH                           bool
	approveRoutes                    []entry
	approveExit                      []word
	attrs                            []attrDraft
	regions                          []regionDraft
	tests                            []test
	sshTests                         []sshTest

	randomizeClientPort, disableIPv4 bool
	oneCGNAT                         word
}

// entry is a name with what it stands for.
type entry struct {
	key     word
	members []word
}

type ruleDraft struct {
	line          int
	action, proto word
	src, dst, ip  []word
	via           []word
	app           []capability
}

// capability is a name with its values, as JSON.
type capability struct {
	name   word
	values []string
}

type sshDraft struct {
	line                 int
	action, period       word
	src, dst, users, env []word
	recorder             []word
	enforceRecorder      bool
}

type attrDraft struct {
	line          int
	target, attrs []word
	app           []capability
	pools         []word
}

// Parse reads a policy in HuJSON and checks what can be checked without a tailnet. The error is a *Refusal that names
// the line and the remedy.
func Parse(text string) (*Policy, error) {
	d, root, refusal := openDocument(text)
	if refusal != nil {
		return nil, refusal
	}
	p := &Policy{text: text}
	var w draft
	if refusal := readDraft(d, root, &w, p); refusal != nil {
		return nil, refusal
	}
	if refusal := p.check(&w); refusal != nil {
		return nil, refusal
	}
	return p, nil
}

// readDraft reads the whole document. Members that this server has no data for are refused by name.
func readDraft(d *document, root value, w *draft, p *Policy) *Refusal {
	return d.fields(root, map[string]func(value) *Refusal{
		"groups":    d.entriesInto(&w.groups),
		"hosts":     d.entriesInto(&w.hosts),
		"ipsets":    d.entriesInto(&w.ipsets),
		"tagOwners": d.entriesInto(&w.tagOwners),
		"acls": func(v value) *Refusal {
			w.hasACLs = true
			return d.list(v, func(_ int, e value) *Refusal { return readACL(d, e, w, p) })
		},
		"grants": func(v value) *Refusal {
			w.hasGrants = true
			return d.list(v, func(_ int, e value) *Refusal { return readGrant(d, e, w) })
		},
		"ssh": func(v value) *Refusal {
			w.hasSSH = true
			return d.list(v, func(_ int, e value) *Refusal { return readSSH(d, e, w) })
		},
		"autoApprovers": func(v value) *Refusal {
			return d.fields(v, map[string]func(value) *Refusal{
				"routes":   d.entriesInto(&w.approveRoutes),
				"exitNode": d.wordsInto(&w.approveExit),
				"services": d.unlessEmpty("services are not offered by this server yet"),
			})
		},
		"nodeAttrs": func(v value) *Refusal {
			return d.list(v, func(_ int, e value) *Refusal { return readAttrs(d, e, w) })
		},
		"tests": func(v value) *Refusal { return d.list(v, func(_ int, e value) *Refusal { return readTest(d, e, w) }) },
		"sshTests": func(v value) *Refusal {
			return d.list(v, func(_ int, e value) *Refusal { return readSSHTest(d, e, w) })
		},

		"randomizeClientPort": d.boolInto(&w.randomizeClientPort),
		"disableIPv4":         d.boolInto(&w.disableIPv4),
		"OneCGNATRoute":       d.wordInto(&w.oneCGNAT),

		"postures":          func(v value) *Refusal { return readPostures(d, v) },
		"defaultSrcPosture": d.unlessEmpty(noPostures),
		"derpMap":           func(v value) *Refusal { return readDERPMap(d, v, w, p) },
		"extraDNSRecords": func(v value) *Refusal {
			return d.list(v, func(_ int, e value) *Refusal { return readRecord(d, e, p) })
		},
	})
}

const noPostures = "this server knows no posture of its nodes yet, so the condition could not be kept"

// unlessEmpty refuses a member that would have an effect which this server cannot give.
func (d *document) unlessEmpty(why string) func(value) *Refusal {
	return func(v value) *Refusal {
		switch d.raw(v) {
		case "{}", "[]", `""`, "false":
			return nil
		}
		return refuse(d.line(v), "take it out", "%s", why).at(v.place)
	}
}

// entriesInto reads an object of names, each with a text or a list of texts.
func (d *document) entriesInto(es *[]entry) func(value) *Refusal {
	return func(v value) *Refusal {
		return d.members(v, func(name string, line int, m value) *Refusal {
			e := entry{key: word{name, line}}
			var r *Refusal
			switch m.Value.Value.Kind() {
			case 'n':
			case '"':
				var w word
				w, r = d.word(m)
				e.members = []word{w}
			default:
				r = d.wordsInto(&e.members)(m)
			}
			*es = append(*es, e)
			return r
		})
	}
}

func readACL(d *document, v value, w *draft, p *Policy) *Refusal {
	rule := ruleDraft{line: d.line(v)}
	// The spelling of headscale 0.15 and of Tailscale in its first year.
	old := func(now string, ws *[]word) func(value) *Refusal {
		return func(v value) *Refusal {
			p.warn(d.line(v), "%s is the old name of %q", v.place, now)
			return d.wordsInto(ws)(v)
		}
	}
	r := d.fields(value{withoutNotes(v.Value), v.place}, map[string]func(value) *Refusal{
		"action":     d.wordInto(&rule.action),
		"proto":      d.wordInto(&rule.proto),
		"src":        d.wordsInto(&rule.src),
		"dst":        d.wordsInto(&rule.dst),
		"users":      old("src", &rule.src),
		"ports":      old("dst", &rule.dst),
		"srcPosture": d.unlessEmpty(noPostures),
	})
	w.acls = append(w.acls, rule)
	return r
}

func readGrant(d *document, v value, w *draft) *Refusal {
	rule := ruleDraft{line: d.line(v)}
	r := d.fields(v, map[string]func(value) *Refusal{
		"src":        d.wordsInto(&rule.src),
		"dst":        d.wordsInto(&rule.dst),
		"ip":         d.wordsInto(&rule.ip),
		"via":        d.wordsInto(&rule.via),
		"app":        d.capabilitiesInto(&rule.app),
		"srcPosture": d.unlessEmpty(noPostures),
	})
	w.grants = append(w.grants, rule)
	return r
}

// capabilitiesInto reads an object of capability names, each with a list of values of any kind.
func (d *document) capabilitiesInto(caps *[]capability) func(value) *Refusal {
	return func(v value) *Refusal {
		return d.members(v, func(name string, line int, m value) *Refusal {
			c := capability{name: word{name, line}}
			var r *Refusal
			if !isNull(m) {
				r = d.list(m, func(_ int, e value) *Refusal {
					c.values = append(c.values, d.raw(e))
					return nil
				})
			}
			*caps = append(*caps, c)
			return r
		})
	}
}

func readSSH(d *document, v value, w *draft) *Refusal {
	rule := sshDraft{line: d.line(v)}
	r := d.fields(v, map[string]func(value) *Refusal{
		"action":          d.wordInto(&rule.action),
		"src":             d.wordsInto(&rule.src),
		"dst":             d.wordsInto(&rule.dst),
		"users":           d.wordsInto(&rule.users),
		"checkPeriod":     d.wordInto(&rule.period),
		"acceptEnv":       d.wordsInto(&rule.env),
		"recorder":        d.wordsInto(&rule.recorder),
		"enforceRecorder": d.boolInto(&rule.enforceRecorder),
		"srcPosture":      d.unlessEmpty(noPostures),
	})
	w.ssh = append(w.ssh, rule)
	return r
}

func readAttrs(d *document, v value, w *draft) *Refusal {
	rule := attrDraft{line: d.line(v)}
	r := d.fields(v, map[string]func(value) *Refusal{
		"target": d.wordsInto(&rule.target),
		"attr":   d.wordsInto(&rule.attrs),
		"app":    d.capabilitiesInto(&rule.app),
		"ipPool": d.wordsInto(&rule.pools),
	})
	w.attrs = append(w.attrs, rule)
	return r
}

func readTest(d *document, v value, w *draft) *Refusal {
	t := test{line: d.line(v)}
	r := d.fields(v, map[string]func(value) *Refusal{
		"src":             d.wordInto(&t.src),
		"user":            d.wordInto(&t.src),
		"proto":           d.wordInto(&t.proto),
		"accept":          d.wordsInto(&t.accept),
		"allow":           d.wordsInto(&t.accept),
		"deny":            d.wordsInto(&t.deny),
		"srcPostureAttrs": d.unlessEmpty(noPostures),
	})
	w.tests = append(w.tests, t)
	return r
}

func readSSHTest(d *document, v value, w *draft) *Refusal {
	t := sshTest{line: d.line(v)}
	r := d.fields(v, map[string]func(value) *Refusal{
		"src":             d.wordInto(&t.src),
		"dst":             d.wordsInto(&t.dst),
		"accept":          d.wordsInto(&t.accept),
		"deny":            d.wordsInto(&t.deny),
		"check":           d.wordsInto(&t.check),
		"srcPostureAttrs": d.unlessEmpty(noPostures),
	})
	w.sshTests = append(w.sshTests, t)
	return r
}

// readPostures checks definitions of postures, which may stand there as long as no rule depends on one.
func readPostures(d *document, v value) *Refusal {
	return d.members(v, func(name string, line int, m value) *Refusal {
		if !strings.HasPrefix(name, "posture:") {
			return refuse(line, fmt.Sprintf("write %q", "posture:"+name), "posture names must start with 'posture:'").at(m.place)
		}
		return d.list(m, func(_ int, e value) *Refusal {
			w, r := d.word(e)
			if r != nil {
				return r
			}
			return checkAssertion(w).at(e.place)
		})
	})
}

func (p *Policy) warn(line int, format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf("line %d: ", line)+fmt.Sprintf(format, args...))
}
