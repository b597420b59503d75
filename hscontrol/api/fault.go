package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelscale/keelscale/hscontrol/tailnet"
)

// codeOf is what each fact is called on the wire. Those marked plain say nothing that their sentence does not, so
// they are taken off its beginning.
var codeOf = []struct {
	fault error
	code  codes.Code
	plain bool
}{
	{tailnet.ErrNotFound, codes.NotFound, false},
	{tailnet.ErrExists, codes.AlreadyExists, false},
	{tailnet.ErrInvalid, codes.InvalidArgument, true},
	{tailnet.ErrConflict, codes.FailedPrecondition, true},
	{tailnet.ErrKeyRefused, codes.PermissionDenied, false},
	{tailnet.ErrTagRefused, codes.PermissionDenied, false},
	{tailnet.ErrNodeKeyTaken, codes.AlreadyExists, false},
	{tailnet.ErrExhausted, codes.ResourceExhausted, false},
	{tailnet.ErrTooMany, codes.ResourceExhausted, false},
	{tailnet.ErrReadOnly, codes.Unavailable, false},
	{tailnet.ErrTooNew, codes.Internal, false},
	{tailnet.ErrStale, codes.Aborted, false},
	{context.Canceled, codes.Canceled, false},
	{context.DeadlineExceeded, codes.DeadlineExceeded, false},
}

// toStatus is the error as callers get it.
func toStatus(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, row := range codeOf {
		if errors.Is(err, row.fault) {
			text := err.Error()
			if row.plain {
				text = strings.Replace(text, row.fault.Error()+": ", "", 1)
			}
			return status.Error(row.code, text)
		}
	}
	return status.Error(codes.Internal, err.Error())
}

// invalid is a refusal of something that can never be right.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", tailnet.ErrInvalid, fmt.Errorf(format, args...))
}

// unwired answers a call that this server was not built to answer.
func unwired(what string) error {
	return status.Errorf(codes.Unimplemented, "this server has no %s", what)
}
