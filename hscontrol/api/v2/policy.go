package v2

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/tailscale/hujson"

	"github.com/keelscale/keelscale/hscontrol/policy"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

const (
	asJSON   = "application/json"
	asHuJSON = "application/hujson"
)

// unsetTag is the entity tag by which clients say that they mean the policy that nobody has set.
const unsetTag = `"ts-default"`

// settleTime is how long a caller waits for a policy that is stored to be in force here.
const settleTime = 3 * time.Second

// stored is the text of the policy and its version; 0 where nobody has set one.
func (c *call) stored() (text string, version uint64, err error) {
	p, err := c.cfg.Store.GetPolicy(c.ctx, c.tailnet.ID)
	if err != nil || p == nil {
		return policy.Unset, 0, err
	}
	return p.Text, p.ID, nil
}

// entityTag is the hash of the text as hujson.Format would have it, which tailscale.com/cmd/gitops-pusher compares with
// that of its file.
func entityTag(text string) string {
	formatted, err := hujson.Format([]byte(text))
	if err != nil {
		formatted = []byte(text)
	}
	sum := sha256.Sum256(formatted)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func getPolicy(c *call) (any, error) {
	text, _, err := c.stored()
	if err != nil {
		return nil, err
	}
	if c.r.URL.Query().Get("details") != "" {
		warnings, err := c.cfg.CheckPolicy(c.ctx, c.tailnet.ID, text)
		problems := []string{}
		if err != nil {
			problems = append(problems, plain(err))
		}
		c.w.Header().Set("ETag", entityTag(text))
		return map[string]any{"acl": []byte(text), "warnings": emptied(warnings), "errors": problems}, nil
	}
	return policyAnswer(c.r, text)
}

// policyAnswer is a policy as HuJSON where the client asks for that, else as JSON.
func policyAnswer(r *http.Request, text string) (any, error) {
	if wants(r, asHuJSON) {
		return raw{asHuJSON, entityTag(text), []byte(text)}, nil
	}
	body, err := hujson.Standardize([]byte(text))
	if err != nil {
		return nil, err
	}
	return raw{asJSON, entityTag(text), body}, nil
}

func setPolicy(c *call) (any, error) {
	if path, filed := c.cfg.PolicyFile(c.tailnet); filed {
		return nil, &refusal{http.StatusConflict, "the policy is kept in a file (" + cmp.Or(path, "policy.mode: file") + "): edit it there, or set policy.mode to database"}
	}
	text, err := c.policyText()
	if err != nil {
		return nil, err
	}
	_, version, err := c.mayReplace()
	if err != nil {
		return nil, err
	}
	if err := c.check(text); err != nil {
		return nil, err
	}
	v := tailnet.PolicyVersion{TailnetID: c.tailnet.ID, Text: text, Source: c.caller.Via, Author: c.caller.Who, Origin: c.caller.From}
	var put *tailnet.PolicyVersion
	if len(c.r.Header.Values("If-Match")) > 0 {
		put, err = c.cfg.Store.ReplacePolicy(c.ctx, v, version)
	} else {
		put, err = c.cfg.Store.PutPolicyVersion(c.ctx, v)
	}
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(c.ctx, settleTime)
	defer cancel()
	_ = c.cfg.AwaitPolicy(wait, c.tailnet.ID, put.ID) // it is stored, and comes into force in a moment
	return policyAnswer(c.r, text)
}

// policyText is the body as it shall be kept: JSON that a program made is laid out for people.
func (c *call) policyText() (string, error) {
	text, err := c.readText()
	if err != nil {
		return "", err
	}
	if text == "" {
		return policy.Unset, nil // so programs take back what they have set
	}
	if strings.TrimSpace(text) == "" {
		return "", invalid("the body is blank: send a policy, or nothing at all for the one that holds where nobody has set any")
	}
	if kind, _, _ := mime.ParseMediaType(c.r.Header.Get("Content-Type")); kind == asJSON {
		if laidOut, err := policy.Format(text); err == nil {
			return laidOut, nil
		}
	}
	return text, nil
}

// mayReplace refuses to replace a policy other than the one that the caller read (If-Match).
func (c *call) mayReplace() (text string, version uint64, err error) {
	if text, version, err = c.stored(); err != nil {
		return "", 0, err
	}
	wanted := c.r.Header.Values("If-Match")
	if len(wanted) == 0 {
		return text, version, nil
	}
	for each := range strings.SplitSeq(strings.Join(wanted, ","), ",") {
		each = `"` + strings.Trim(strings.TrimPrefix(strings.TrimSpace(each), "W/"), `"`) + `"`
		if each == `"*"` || each == entityTag(text) || each == unsetTag && text == policy.Unset {
			return text, version, nil
		}
	}
	return "", 0, &refusal{http.StatusPreconditionFailed, "precondition failed, invalid old hash: the policy was changed meanwhile, read it again"}
}

// check refuses a text that cannot be the tailnet's policy.
func (c *call) check(text string) error {
	_, err := c.cfg.CheckPolicy(c.ctx, c.tailnet.ID, text)
	if err == nil || c.ctx.Err() != nil || errors.Is(err, tailnet.ErrReadOnly) || errors.Is(err, tailnet.ErrNotFound) {
		return err
	}
	return &complaint{plain(err), []string{plain(err)}}
}

// validatePolicy says whether a text could be the policy, or whether tests pass with the policy in force. What does not
// hold is told with status 200, as by Tailscale's.
func validatePolicy(c *call) (any, error) {
	text, err := c.readText()
	if err != nil {
		return nil, err
	}
	if text, err = c.withTests(text); err != nil {
		return nil, err
	}
	if _, err := policy.Parse(text); err != nil {
		return nil, &complaint{plain(err), []string{plain(err)}}
	}
	err = c.check(text)
	var bad *complaint
	if errors.As(err, &bad) {
		return map[string]any{"message": bad.message, "data": bad.data()}, nil
	}
	return nil, err
}

// withTests is the policy in force with the tests of a body that is a list of them; another body as it is.
func (c *call) withTests(text string) (string, error) {
	plainText, err := hujson.Standardize([]byte(text))
	if err != nil {
		return "", invalid("the body is no policy: %s", err)
	}
	var tests []json.RawMessage
	if json.Unmarshal(plainText, &tests) != nil {
		return text, nil
	}
	now, _, err := c.stored()
	if err != nil {
		return "", err
	}
	plainText, err = hujson.Standardize([]byte(now))
	if err != nil {
		return "", err
	}
	var document map[string]json.RawMessage
	if err := json.Unmarshal(plainText, &document); err != nil {
		return "", err
	}
	delete(document, "sshTests")
	if document["tests"], err = json.Marshal(tests); err != nil {
		return "", err
	}
	body, err := json.Marshal(document)
	return string(body), err
}

// emptied is a list that is never null.
func emptied[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
