package policy

import (
	"regexp"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

var (
	assertion    = regexp.MustCompile(`^([a-zA-Z]+:[a-zA-Z0-9_.-]+)\s+(==|!=|<=|>=|<|>|IN|NOT IN|IS SET|NOT SET)(?:\s+(.+))?$`)
	postureValue = regexp.MustCompile(`^('[^']*'|"[^"]*"|true|false|-?[0-9]+(\.[0-9]+)*)$`)
)

// checkAssertion says what is wrong with one condition of a posture, such as "node:os IN ['macos', 'linux']".
func checkAssertion(w word) *Refusal {
	const form = `write ATTRIBUTE OPERATOR VALUE, such as node:tsVersion >= '1.60', with == != < <= > >= IN, NOT IN, IS SET or NOT SET`
	m := assertion.FindStringSubmatch(strings.TrimSpace(w.text))
	if m == nil {
		return refuse(w.line, form, "%q is not a condition", w.text)
	}
	operator, operand := m[2], strings.TrimSpace(m[3])
	var ok bool
	switch operator {
	case "IS SET", "NOT SET":
		ok = operand == ""
	case "IN", "NOT IN":
		list, isList := strings.CutPrefix(operand, "[")
		list, isClosed := strings.CutSuffix(list, "]")
		ok = isList && isClosed
		for v := range strings.SplitSeq(list, ",") {
			ok = ok && postureValue.MatchString(strings.TrimSpace(v))
		}
	default:
		ok = postureValue.MatchString(operand)
	}
	if !ok {
		return refuse(w.line, form, "%q is not a condition", w.text)
	}
	return nil
}

// withoutNotes is v less the members that begin with "#": headscale-admin keeps its notes there.
func withoutNotes(v *hujson.Value) *hujson.Value {
	obj, ok := v.Value.(*hujson.Object)
	if !ok {
		return v
	}
	isNote := func(m hujson.ObjectMember) bool {
		lit, _ := m.Name.Value.(hujson.Literal)
		return strings.HasPrefix(lit.String(), "#")
	}
	if !slices.ContainsFunc(obj.Members, isNote) {
		return v
	}
	c := *v
	c.Value = &hujson.Object{Members: slices.DeleteFunc(slices.Clone(obj.Members), isNote)}
	return &c
}
