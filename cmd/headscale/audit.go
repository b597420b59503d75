package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"
)

func (c *cli) auditCommand() *cobra.Command {
	a := &audit{cli: c}
	cmd := group(&cobra.Command{
		Use:   "audit",
		Short: "who changed what, when and from where",
	})
	cmd.AddCommand(a.list(), a.tail(), a.verify())
	return cmd
}

// audit are the commands of the group with what their flags said.
type audit struct {
	*cli
	actor, target, action string
}

func (a *audit) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.actor, "actor", "", "only what was done by this one: a part of the `name`")
	cmd.Flags().StringVar(&a.target, "target", "", "only what was done to this: a `kind`, kind:ID, ID or name (node, node:7, web)")
	cmd.Flags().StringVar(&a.action, "action", "", "only this `action`, or all of a noun (node.rename, node)")
	a.withTailnet(cmd, " (default: all)")
}

func (a *audit) request() *headscalev1.ListAuditRequest {
	return &headscalev1.ListAuditRequest{Tailnet: a.tailnet, Actor: a.actor, Target: a.target, Action: a.action}
}

func (a *audit) list() *cobra.Command {
	var since, until string
	var limit uint32
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "show"},
		Short:   "list changes, the newest last",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			req := a.request()
			req.Limit = limit
			if req.Since, err = parsePast(since, time.Now()); err != nil {
				return err
			}
			if req.Until, err = parsePast(until, time.Now()); err != nil {
				return err
			}
			return a.ask(cmd.Context(), func(ctx context.Context, server client) error {
				resp, err := server.ListAudit(ctx, req)
				if err != nil {
					return err
				}
				return showList(a.cli, resp.GetEntries(), auditTable(resp.GetEntries()))
			})
		},
	}
	a.flags(cmd)
	cmd.Flags().StringVar(&since, "since", "", "from this `time` on: 2026-03-01, 2026-03-01T12:00:00Z, or 24h ago as 24h")
	cmd.Flags().StringVar(&until, "until", "", "before this `time`")
	cmd.Flags().Uint32Var(&limit, "limit", 100, "at most `this many`, the newest ones")
	return cmd
}

// parsePast reads a time, or a duration as that long ago. The empty text is no time.
func parsePast(text string, now time.Time) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return timestamppb.New(t), nil
		}
	}
	d, err := parseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no time: write 2026-03-01, 2026-03-01T12:00:00Z, or 24h for a day ago", text)
	}
	return timestamppb.New(now.Add(-d)), nil
}

func auditTable(entries []*headscalev1.AuditEntry) *table {
	t := newTable("ID", "Time", "Who", "From", "Action", "Target", "Change")
	for _, e := range entries {
		t.add(auditCells(e)...)
	}
	return t
}

func auditCells(e *headscalev1.AuditEntry) []string {
	who := firstOf(e.GetWho(), "-")
	if e.GetVia() != "" {
		who += " (" + e.GetVia() + ")"
	}
	target := e.GetKind()
	if id := e.GetTargetId(); id != "" {
		target += ":" + id
	}
	if name := e.GetTargetName(); name != "" {
		target += " " + name
	}
	return []string{strconv.FormatUint(e.GetId(), 10), when(e.GetTime(), ""), who, firstOf(e.GetFrom(), "-"), e.GetAction(), target, changeOf(e)}
}

// maxChange is how many letters of a change a table shows.
const maxChange = 120

// changeOf is what a row says of before and after, on one line.
func changeOf(e *headscalev1.AuditEntry) string {
	text := e.GetBefore() + " -> " + e.GetAfter()
	switch {
	case e.GetBefore() == "" && e.GetAfter() == "":
		text = ""
	case e.GetBefore() == "":
		text = e.GetAfter()
	case e.GetAfter() == "":
		text = "was " + e.GetBefore()
	}
	if letters := []rune(text); len(letters) > maxChange {
		text = string(letters[:maxChange-1]) + "…"
	}
	return text
}

// tailEvery is how often tail looks.
const tailEvery = time.Second

func (a *audit) tail() *cobra.Command {
	var lines uint32
	cmd := &cobra.Command{
		Use:     "tail",
		Aliases: []string{"follow"},
		Short:   "show changes as they are made, until Ctrl-C",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.follow(cmd.Context(), lines)
		},
	}
	a.flags(cmd)
	cmd.Flags().Uint32VarP(&lines, "lines", "n", 10, "begin with `this many` that were made before")
	return cmd
}

func (a *audit) follow(ctx context.Context, lines uint32) error {
	req := a.request()
	req.Limit = max(lines, 1)
	first := true
	for {
		var entries []*headscalev1.AuditEntry
		err := a.ask(ctx, func(ctx context.Context, server client) error {
			resp, err := server.ListAudit(ctx, req)
			entries = resp.GetEntries()
			return err
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for i, e := range entries {
			req.After = e.GetId()
			if first && (lines == 0 || i < len(entries)-int(lines)) {
				continue
			}
			if err := a.tell(e); err != nil {
				return err
			}
		}
		if req.GetAfter() != 0 {
			req.Limit = 1000
		}
		first = false
		select {
		case <-time.After(tailEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// tell writes one row on one line.
func (a *audit) tell(e *headscalev1.AuditEntry) error {
	if a.output == "" {
		cells := auditCells(e)
		for i, cell := range cells {
			cells[i] = oneLine(cell)
		}
		return a.say("%s", strings.Join(cells, "  "))
	}
	data, err := shape.Marshal(e)
	if err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	if a.output == "json" {
		a.output = "json-line" // a stream has no end that would close an array
	}
	return a.write(data)
}

func (a *audit) verify() *cobra.Command {
	var known string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "walk the log's chain of hashes, and say where it was tampered with",
		Long: `Each row of the audit log has in its hash the hash of the row before it. verify computes them all anew, and names the
first row that is not as it was written. Who can write to the database could make a new chain from there on: keep the
last line of this command elsewhere, and give it back with --known some day.

Where the configuration has old rows pruned (audit.retention), the chain is walked from the first that is kept; the log
says itself where it was pruned, so rows that somebody else took away are missed.`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.walk(cmd.Context(), known)
		},
	}
	cmd.Flags().StringVar(&known, "known", "", "a row and its hash that are known from before, `ID:HASH`")
	return cmd
}

// verified is what verify says to programs.
type verified struct {
	Rows  uint64 `json:"rows"` // up to which the chain holds
	Hash  string `json:"hash"`
	Whole bool   `json:"whole"`

	Pruned uint64 `json:"pruned,omitempty"` // up to which rows are not kept any more
}

func (a *audit) walk(ctx context.Context, known string) error {
	at := &headscalev1.VerifyAuditResponse{}
	for !at.GetEnd() {
		req := &headscalev1.VerifyAuditRequest{After: at.GetLast(), Hash: at.GetHash()}
		err := a.ask(ctx, func(ctx context.Context, server client) (err error) {
			at, err = server.VerifyAudit(ctx, req)
			return err
		})
		if err != nil {
			return err
		}
		if at.GetBroken() != 0 {
			return fmt.Errorf("row %d: %s; the rows before it are as they were written", at.GetBroken(), at.GetWhy())
		}
	}
	if err := a.remembers(ctx, known, at); err != nil {
		return err
	}
	text := fmt.Sprintf("%d rows are as they were written", at.GetLast())
	if at.GetPruned() != 0 {
		text = fmt.Sprintf("rows %d to %d are as they were written, those before were pruned (audit.retention)", at.GetPruned()+1, at.GetLast())
	}
	return a.showAny(fmt.Sprintf("%s\n%d:%s", text, at.GetLast(), at.GetHash()),
		verified{at.GetLast(), at.GetHash(), true, at.GetPruned()})
}

// remembers reports whether the log has a row that is known from before; at is what became of verifying it.
func (a *audit) remembers(ctx context.Context, known string, at *headscalev1.VerifyAuditResponse) error {
	if known == "" {
		return nil
	}
	number, hash, ok := strings.Cut(known, ":")
	id, err := strconv.ParseUint(number, 10, 63)
	if !ok || err != nil || id == 0 {
		return errors.New("--known is ID:HASH, as headscale audit verify printed it")
	}
	anew := fmt.Errorf("row %d is not the one that was known: the log was made anew", id)
	switch {
	case id < at.GetPruned():
		return fmt.Errorf("row %d was pruned (audit.retention), so it cannot be compared: give a later one", id)
	case id == at.GetPruned() && strings.EqualFold(at.GetPrunedHash(), hash):
		return nil
	case id == at.GetPruned():
		return anew
	}
	return a.ask(ctx, func(ctx context.Context, server client) error {
		req := &headscalev1.ListAuditRequest{After: id - 1, Limit: 1}
		if id == 1 {
			req = &headscalev1.ListAuditRequest{PageSize: 1}
		}
		resp, err := server.ListAudit(ctx, req)
		if err != nil {
			return err
		}
		if len(resp.GetEntries()) != 1 || resp.GetEntries()[0].GetId() != id || !strings.EqualFold(resp.GetEntries()[0].GetHash(), hash) {
			return anew
		}
		return nil
	})
}
