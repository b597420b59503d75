package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	headscalev1 "github.com/keelscale/keelscale/proto/headscale/v1"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// tag says in a header which version of the policy an answer shows.
func tag(h http.Header, answer proto.Message) {
	if p, ok := answer.(interface {
		GetPolicy() string
		GetVersion() uint64
	}); ok {
		h.Set("ETag", entityTag(p.GetVersion()))
	}
}

func entityTag(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

// matches refuses to replace a policy other than the one that the caller read (If-Match).
func (g *gateway) matches(ctx context.Context, r *http.Request, m proto.Message) error {
	req, ok := m.(*headscalev1.SetPolicyRequest)
	wanted := r.Header.Values("If-Match")
	if !ok || len(wanted) == 0 {
		return nil
	}
	t, err := g.server.tailnetNamed(ctx, req.GetTailnet())
	if err != nil {
		return err
	}
	now, err := g.server.inForce(ctx, t) // which is what GET shows
	if err != nil && !errors.Is(err, tailnet.ErrNotFound) {
		return err
	}
	if err != nil {
		return status.Error(codes.Aborted, "there is no policy any more: read it again, then set it without If-Match")
	}
	for each := range strings.SplitSeq(strings.Join(wanted, ","), ",") {
		if each = strings.TrimSpace(each); each == "*" || each == entityTag(now.ID) {
			return nil
		}
	}
	return status.Errorf(codes.Aborted, "the policy was changed meanwhile, it is version %d now: read it again", now.ID)
}
