package policy

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
	"tailscale.com/tailcfg"
)

// sshFlow is an entry of ssh, resolved.
type sshFlow struct {
	rule      *sshRule
	src       bitset
	to        bitset                  // destinations other than autogroup:self
	self      map[tailnet.UserID]bool // users that may log in to their own nodes; nil: none
	recorders []netip.AddrPort
}

// recorderPort is where session recorders listen.
const recorderPort = 80

// CheckURL is where a client asks whether a login may go on; control serves its path. Clients fill in the variables.
const CheckURL = "https://unused/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?ssh_user=$SSH_USER&local_user=$LOCAL_USER"

// compileSSH resolves the rules. Checks come before accepts, otherwise the order is the policy's: the first rule that
// fits a login decides.
func (c *compiler) compileSSH() {
	for _, check := range []bool{true, false} {
		for i := range c.policy.ssh {
			if r := &c.policy.ssh[i]; r.check == check {
				c.compileSSHRule(r)
			}
		}
	}
}

func (c *compiler) compileSSHRule(r *sshRule) {
	n := len(c.x.ids)
	f := sshFlow{rule: r, src: newBitset(n), to: newBitset(n)}
	for _, s := range r.src {
		if s.kind == byDomain {
			c.checkDomain(s.name, s.line, "[ssh] ")
		}
		if s.kind == bySet {
			for _, rg := range s.ranges {
				for _, a := range c.x.addressesIn(rg) {
					f.src.set(a.node)
				}
			}
			continue
		}
		f.src.add(c.nodesOf(s))
	}
	for _, domain := range r.localparts {
		c.checkDomain(domain, r.line, "")
	}
	for _, d := range r.dst {
		if d.kind != bySelf {
			f.to.add(c.nodesOf(d))
			continue
		}
		f.self = map[tailnet.UserID]bool{}
		for _, s := range r.src {
			for _, id := range c.usersOf(s) {
				f.self[id] = true
			}
		}
	}
	for _, s := range r.recorders {
		for i := range c.nodesOf(s).all() {
			for _, a := range c.x.ownAddresses(i) {
				f.recorders = append(f.recorders, netip.AddrPortFrom(a, recorderPort))
			}
		}
	}
	c.ssh = append(c.ssh, f)
}

// SSH is the node's SSH policy, nil when the policy has no ssh section. Do not change the result.
func (c *Compiled) SSH(id tailnet.NodeID) *tailcfg.SSHPolicy {
	if c.policy == nil || !c.policy.hasSSH {
		return nil
	}
	i, ok := c.x.number[id]
	if !ok {
		return noSSH
	}
	if p := c.sshCache[i].Load(); p != nil {
		return p
	}
	p := c.buildSSH(i)
	c.sshCache[i].CompareAndSwap(nil, p)
	return c.sshCache[i].Load()
}

// noSSH lets nobody in.
var noSSH = &tailcfg.SSHPolicy{Rules: []*tailcfg.SSHRule{}}

// buildSSH writes the rules that have node i as a destination. Nodes with the same rules share the result.
func (c *Compiled) buildSSH(i int) *tailcfg.SSHPolicy {
	var key []byte
	user := tailnet.UserID(0) // whose own node it is, if that matters
	for n, f := range c.ssh {
		mine := f.self[c.x.users[i]] && c.x.member.has(i)
		if mine {
			user = c.x.users[i]
		}
		if mine || f.to.has(i) {
			key = append(binary.AppendUvarint(key, uint64(n)), byte(btoi(mine)), byte(btoi(f.to.has(i))))
		}
	}
	if len(key) == 0 {
		return noSSH
	}
	key = append(binary.AppendUvarint([]byte("ssh"), uint64(user)), key...)
	if p, ok := c.shared.Load(string(key)); ok {
		return p.(*tailcfg.SSHPolicy)
	}
	p := &tailcfg.SSHPolicy{Rules: []*tailcfg.SSHRule{}}
	for n := range c.ssh {
		p.Rules = append(p.Rules, c.sshRules(&c.ssh[n], i)...)
	}
	shared, _ := c.shared.LoadOrStore(string(key), p)
	return shared.(*tailcfg.SSHPolicy)
}

// sshRules are the rules of one entry for node i.
func (c *Compiled) sshRules(f *sshFlow, i int) []*tailcfg.SSHRule {
	var rules []*tailcfg.SSHRule
	if f.to.has(i) {
		rules = c.sshRulesFrom(f, f.src)
	}
	if u := c.x.users[i]; c.x.member.has(i) && f.self[u] {
		rules = append(rules, c.sshRulesFrom(f, c.x.byUser[u])...)
	}
	return rules
}

// sshRulesFrom are the rules for logins from the given nodes. With localpart they are one or two for each user, since
// the login name depends on the user.
func (c *Compiled) sshRulesFrom(f *sshFlow, from bitset) []*tailcfg.SSHRule {
	if from.empty() {
		return nil
	}
	users := loginMap(f.rule)
	if len(f.rule.localparts) == 0 {
		return []*tailcfg.SSHRule{f.write(c.principals(from), users)}
	}
	var rules []*tailcfg.SSHRule
	tagged := newBitset(len(c.x.ids))
	for i := range from.all() {
		if c.x.tagged.has(i) {
			tagged.set(i)
		}
	}
	for _, id := range c.people.ids {
		nodes := c.x.byUser[id]
		if nodes == nil || !nodes.meets(from) {
			continue
		}
		nodes = slices.Clone(nodes)
		nodes.keep(from)
		who := c.principals(nodes)
		rules = append(rules, f.write(who, users))
		local, domain, _ := strings.Cut(c.people.mail[id], "@")
		if slices.Contains(f.rule.localparts, domain) && local != "" {
			rules = append(rules, f.write(who, map[string]string{local: local}))
		}
	}
	if !tagged.empty() {
		rules = append(rules, f.write(c.principals(tagged), users))
	}
	return rules
}

func (c *Compiled) principals(nodes bitset) []*tailcfg.SSHPrincipal {
	var ps []*tailcfg.SSHPrincipal
	for i := range nodes.all() {
		for _, a := range c.x.ownAddresses(i) {
			ps = append(ps, &tailcfg.SSHPrincipal{NodeIP: a.String()})
		}
	}
	return ps
}

// loginMap maps login names to themselves. Root is named always, so that "*" does not let it in.
func loginMap(r *sshRule) map[string]string {
	users := map[string]string{"root": ""}
	for _, u := range r.users {
		if u == "autogroup:nonroot" {
			users["*"] = "="
			continue
		}
		users[u] = u
	}
	return users
}

func (f *sshFlow) write(who []*tailcfg.SSHPrincipal, users map[string]string) *tailcfg.SSHRule {
	rule := &tailcfg.SSHRule{Principals: who, SSHUsers: maps.Clone(users), AcceptEnv: f.rule.acceptEnv}
	if f.rule.check {
		rule.Action = &tailcfg.SSHAction{HoldAndDelegate: CheckURL}
	} else {
		rule.Action = f.accept()
	}
	return rule
}

// accept is the action of a login that goes on.
func (f *sshFlow) accept() *tailcfg.SSHAction {
	a := &tailcfg.SSHAction{
		Accept: true, AllowAgentForwarding: true, AllowLocalPortForwarding: true, AllowRemotePortForwarding: true,
		Recorders: f.recorders,
	}
	if f.rule.mustRecord {
		a.OnRecordingFailure = &tailcfg.SSHRecorderFailureAction{
			RejectSessionWithMessage:    "this session must be recorded, and no recorder can be reached",
			TerminateSessionWithMessage: "this session must be recorded, and the recorder was lost",
		}
	}
	return a
}

// SSHCheck is what the policy says of a login that must be checked.
type SSHCheck struct {
	Period time.Duration      // how long an approval lasts; 0: it is asked for at every login
	Accept *tailcfg.SSHAction // what the client is told once the login is approved
	Rule   string             // the rule, for logs: ssh[2], line 31
}

// SSHCheck finds the rule by which a login from src to dst as the given name has to be checked; false when no such
// rule is there (any more).
func (c *Compiled) SSHCheck(src, dst tailnet.NodeID, login string) (SSHCheck, bool) {
	if c.policy == nil {
		return SSHCheck{}, false
	}
	i, okSrc := c.x.number[src]
	k, okDst := c.x.number[dst]
	if !okSrc || !okDst {
		return SSHCheck{}, false
	}
	for n := range c.ssh {
		f := &c.ssh[n]
		if f.rule.check && c.sshGoes(f, i, k) && c.allowsLogin(f.rule, i, login) {
			return SSHCheck{f.rule.period, f.accept(), fmt.Sprintf("ssh[%d], line %d", f.rule.index, f.rule.line)}, true
		}
	}
	return SSHCheck{}, false
}

// sshGoes reports whether the entry is about logins from node i to node k.
func (c *Compiled) sshGoes(f *sshFlow, i, k int) bool {
	if f.to.has(k) && f.src.has(i) {
		return true
	}
	u := c.x.users[k]
	return f.self[u] && c.x.member.has(k) && c.x.member.has(i) && c.x.users[i] == u
}

// allowsLogin reports whether the entry lets node i's user log in under the name.
func (c *Compiled) allowsLogin(r *sshRule, i int, login string) bool {
	users := loginMap(r)
	if local, ok := users[login]; ok && local != "" || !ok && users["*"] != "" {
		return true
	}
	if !c.x.member.has(i) {
		return false
	}
	local, domain, _ := strings.Cut(c.people.mail[c.x.users[i]], "@")
	return local == login && slices.Contains(r.localparts, domain)
}
