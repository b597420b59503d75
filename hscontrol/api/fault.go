package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelscale/keelscale/hscontrol/api/access"
	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// codeOf is what each fact is called on the wire.
var codeOf = []struct {
	fault error
	code  codes.Code
}{
	{tailnet.ErrNotFound, codes.NotFound},
	{tailnet.ErrExists, codes.AlreadyExists},
	{tailnet.ErrInvalid, codes.InvalidArgument},
	{tailnet.ErrConflict, codes.FailedPrecondition},
	{tailnet.ErrKeyRefused, codes.PermissionDenied},
	{tailnet.ErrAPIKeyRefused, codes.Unauthenticated},
	{tailnet.ErrRelayRefused, codes.PermissionDenied},
	{tailnet.ErrRelayRemoved, codes.NotFound},
	{tailnet.ErrTagRefused, codes.PermissionDenied},
	{tailnet.ErrNodeKeyTaken, codes.AlreadyExists},
	{tailnet.ErrExhausted, codes.ResourceExhausted},
	{tailnet.ErrTooMany, codes.ResourceExhausted},
	{tailnet.ErrReadOnly, codes.Unavailable},
	{tailnet.ErrTooNew, codes.Internal},
	{tailnet.ErrStale, codes.Aborted},
	{access.ErrNoKey, codes.Unauthenticated},
	{access.ErrForbidden, codes.PermissionDenied},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// toStatus is the error as callers get it.
func toStatus(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, row := range codeOf {
		if errors.Is(err, row.fault) {
			return status.Error(row.code, plain(err))
		}
	}
	return status.Error(codes.Internal, err.Error())
}

// plain is the error as people read it: the words "invalid" and "conflict" say nothing that the sentence behind them
// does not.
func plain(err error) string {
	text := tailnet.Sentence(err)
	for _, fact := range []error{tailnet.ErrInvalid, tailnet.ErrConflict} {
		text = strings.ReplaceAll(text, ": "+fact.Error()+": ", ": ")
	}
	return text
}

// invalid is a refusal of something that can never be right.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", tailnet.ErrInvalid, fmt.Errorf(format, args...))
}

// unwired answers a call that this server was not built to answer.
func unwired(what string) error {
	return status.Errorf(codes.Unimplemented, "this server has no %s", what)
}
