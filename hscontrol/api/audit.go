package api

import (
	"context"
	"encoding/hex"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/store"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// auditLimit is how many rows of the audit log are listed where the request says no number.
const auditLimit = 100

// ListAudit lists rows of the audit log: the newest, or those after one.
func (s *Server) ListAudit(ctx context.Context, req *headscalev1.ListAuditRequest) (*headscalev1.ListAuditResponse, error) {
	f := store.AuditFilter{
		TailnetID: access.Of(ctx).Tailnet, Actor: req.GetActor(), Target: req.GetTarget(), Action: req.GetAction(),
		After: req.GetAfter(), Newest: req.GetAfter() == 0, Limit: int(req.GetLimit()),
	}
	if f.Limit == 0 {
		f.Limit = auditLimit
	}
	var err error
	if f.Since, err = optionalTime("since", req.GetSince()); err != nil {
		return nil, err
	}
	if f.Until, err = optionalTime("until", req.GetUntil()); err != nil {
		return nil, err
	}
	if name := req.GetTailnet(); name != "" {
		if f.TailnetID, err = s.tailnetOrAll(ctx, name); err != nil {
			return nil, err
		}
	}
	question, err := auditPage(req, &f)
	if err != nil {
		return nil, err
	}
	entries, err := s.cfg.Store.ListAudit(ctx, f)
	if err != nil {
		return nil, err
	}
	n, err := s.tailnetNames(ctx)
	if err != nil {
		return nil, err
	}
	resp := &headscalev1.ListAuditResponse{}
	if question != 0 && len(entries) == f.Limit {
		entries = entries[:f.Limit-1]
		resp.NextPageToken = writeCursor(question, place{number: entries[len(entries)-1].ID})
	}
	for i := range entries {
		resp.Entries = append(resp.Entries, n.auditEntry(&entries[i]))
	}
	return resp, nil
}

// auditPage has the filter choose a page, if the request asks for pages, and one row more, to see whether another page
// follows. The question is 0 where no pages are asked for. It is page for a list that is too long to be read.
func auditPage(req *headscalev1.ListAuditRequest, f *store.AuditFilter) (question uint64, err error) {
	size := int(req.GetPageSize())
	switch {
	case size == 0 && req.GetPageToken() == "":
		return 0, nil
	case size > maxPage:
		return 0, invalid("a page of %d is too large: pageSize is %d at most", size, maxPage)
	case size == 0:
		size = usualPage
	}
	if question, err = questionOf(req); err != nil {
		return 0, err
	}
	f.Newest, f.Limit = false, size+1
	if token := req.GetPageToken(); token != "" {
		last, err := readCursor(token, question)
		if err != nil {
			return 0, err
		}
		f.After = max(f.After, last.number)
	}
	return question, nil
}

// optionalTime is the zero time for none.
func optionalTime(name string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, invalid("%s is no time: %w", name, err)
	}
	return t.AsTime(), nil
}

func (n *names) auditEntry(e *tailnet.AuditEntry) *headscalev1.AuditEntry {
	place := n.tailnets[e.TailnetID]
	if place == "" && e.TailnetID != 0 {
		place = strconv.FormatUint(uint64(e.TailnetID), 10)
	}
	return &headscalev1.AuditEntry{
		Id: e.ID, Time: timestamp(&e.At), Tailnet: place, Via: e.Actor.Via, Who: e.Actor.Who, From: e.Actor.From,
		Action: e.Action, Kind: e.Kind, TargetId: e.TargetID, TargetName: e.TargetName,
		Before: string(e.Before), After: string(e.After), Hash: e.Hash.String(),
	}
}

// VerifyAudit walks the chain of the audit log, some rows further than the request says that it holds.
func (s *Server) VerifyAudit(ctx context.Context, req *headscalev1.VerifyAuditRequest) (*headscalev1.VerifyAuditResponse, error) {
	if err := everything(ctx); err != nil {
		return nil, err
	}
	from := store.AuditMark{ID: req.GetAfter()}
	if from.ID != 0 {
		hash, err := hex.DecodeString(req.GetHash())
		if err != nil || len(hash) != len(from.Hash) {
			return nil, invalid("the hash of row %d is missing: it is 64 hex digits", from.ID)
		}
		copy(from.Hash[:], hash)
	}
	at, end, broken, err := s.cfg.Store.VerifyAudit(ctx, from, 0)
	if err != nil {
		return nil, err
	}
	resp := &headscalev1.VerifyAuditResponse{Last: at.ID, Hash: at.Hash.String(), End: end}
	anchor, err := s.cfg.Store.AuditAnchor(ctx)
	if err != nil {
		return nil, err
	}
	if anchor.ID != 0 {
		resp.Pruned, resp.PrunedHash = anchor.ID, anchor.Hash.String()
	}
	if broken != nil {
		resp.Broken, resp.Why = broken.ID, broken.Why
	}
	return resp, nil
}
