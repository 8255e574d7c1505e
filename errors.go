package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// explain adds to an error of etcd what to do about it, where that is known.
func explain(err error) error {
	advice := ""
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		advice = "grant a role of the user permission for it"
	case errors.Is(err, rpctypes.ErrUserEmpty):
		advice = "set ClientOptions.Username and Password"
	case errors.Is(err, rpctypes.ErrAuthFailed):
		advice = "check ClientOptions.Username and Password"
	case errors.Is(err, context.DeadlineExceeded):
		advice = "etcd did not answer within the request timeout: check that it runs, the endpoints, and the TLS options"
	case tooLarge(err):
		advice = "Value is above etcd's request limit, --max-request-bytes, 1.5 MiB by default: make it smaller"
	default:
		return err
	}
	return fmt.Errorf("%w (%s)", err, advice)
}

func tooLarge(err error) bool {
	return errors.Is(err, rpctypes.ErrRequestTooLarge) || strings.Contains(err.Error(), "message larger than max")
}

// passes reports whether an error is one of those that etcd or the network
// recover from, as opposed to a refusal.
func passes(err error) bool {
	code := codeOf(err)
	return code != codes.PermissionDenied && code != codes.Unauthenticated && code != codes.InvalidArgument
}

// transient reports whether to try the same request again at once can help:
// the member had no leader, or a new one, or the connection broke.
func transient(err error) bool {
	return codeOf(err) == codes.Unavailable || strings.Contains(err.Error(), "raft proposal dropped")
}

// broken reports whether a stream ended by itself, as opposed to a refusal.
func broken(err error) bool {
	code := codeOf(err)
	return code == codes.Unavailable || code == codes.Internal
}

// codeOf returns the gRPC code of an error, as etcd's own errors have it or as
// grpc does.
func codeOf(err error) codes.Code {
	var answer rpctypes.EtcdError
	if errors.As(err, &answer) {
		return answer.Code()
	}
	return status.Code(err)
}
