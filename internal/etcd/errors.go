package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kind says what an error of a request or a stream asks for. Nobody there,
// nobody well and nobody willing are three things, and each has its own wait.
type Kind int

const (
	// Refusal is an answer: etcd says no to this very request, and does so again.
	Refusal Kind = iota

	// Busy is an answer: etcd has too much to do.
	Busy

	// Unwell is an answer that a member gives which cannot serve at present: it
	// has no leader, or lost the one that had the request.
	Unwell

	// Away is no answer: there is no connection, or it broke, or was left.
	Away
)

// ErrSilent says that a member was left, since it does not answer while others do.
var ErrSilent = errors.New("the member does not answer, while another one does")

// ErrNoAnswer says that nobody answers.
var ErrNoAnswer = errors.New("etcd does not answer")

// ErrConnectionLost says that the last connection was lost.
var ErrConnectionLost = errors.New("the connection to etcd was lost")

// errLostAnswer says that an answer did not come, though later ones did.
var errLostAnswer = errors.New("the answer to a request was lost: etcd answers what was asked after it")

// KindOf returns the kind of an error that is not nil.
func KindOf(err error) Kind {
	text, code := err.Error(), codeOf(err)
	ofEtcd := strings.Contains(text, "etcdserver:") || strings.Contains(text, "auth: ")
	switch {
	case errors.Is(err, ErrSilent), errors.Is(err, errLostAnswer):
		return Away
	case strings.Contains(text, "too many requests"), TimedOut(err):
		return Busy
	case strings.Contains(text, "raft proposal dropped"):
		return Unwell
	case code == codes.Unavailable && !ofEtcd:
		return Away
	case code == codes.Unavailable, code == codes.Internal, code == codes.Aborted,
		code == codes.DeadlineExceeded, code == codes.Canceled, code == codes.Unknown && !ofEtcd:
		return Unwell
	}
	return Refusal
}

// TimedOut reports whether etcd gave up a request that it was not done with. A write
// is carried out all the same, sooner or later.
func TimedOut(err error) bool {
	return err != nil && strings.HasSuffix(err.Error(), "etcdserver: request timed out")
}

// Refused reports whether an error is a refusal, or belongs to no request.
func Refused(err error) bool { return err != nil && KindOf(err) == Refusal }

// TokenRefused reports whether a request was refused for its token alone. The
// next request, or stream, gets another token.
func TokenRefused(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error() // a watch is refused in words, with no code
	for _, refusal := range []error{rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrUserEmpty} {
		if strings.Contains(text, rpctypes.ErrorDesc(refusal)) {
			return true
		}
	}
	return false
}

// codeOf returns the gRPC code of an error, as etcd's own errors have it or as
// grpc does. An error of neither has the code Unknown.
func codeOf(err error) codes.Code {
	var answer rpctypes.EtcdError
	if errors.As(err, &answer) {
		return answer.Code()
	}
	var graded interface{ GRPCStatus() *status.Status }
	if errors.As(err, &graded) {
		return graded.GRPCStatus().Code()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.Unknown
}

// TooLarge reports whether the client's own limit on messages refused an answer
// or a request.
func TooLarge(err error) bool {
	return codeOf(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "larger than max")
}

// Explain adds to an error of etcd what to do about it, where that is known.
func Explain(err error) error {
	if err == nil {
		return nil
	}
	advice, text := "", err.Error()
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		advice = "grant a role of the user permission for it"
	case errors.Is(err, rpctypes.ErrUserEmpty):
		advice = "set ClientOptions.Username and Password"
	case errors.Is(err, rpctypes.ErrAuthFailed):
		advice = "check ClientOptions.Username and Password"
	case errors.Is(err, rpctypes.ErrNoSpace):
		advice = "etcd's store is full: compact and defragment it, then disarm the alarm"
	case errors.Is(err, rpctypes.ErrRequestTooLarge), strings.Contains(text, "trying to send message larger than max"):
		advice = "Value is above etcd's request limit, --max-request-bytes, 1.5 MiB by default: make it smaller"
	case strings.Contains(text, "x509:"), strings.Contains(text, "tls:"):
		advice = "check ClientOptions.CACert, Cert and Key, and the endpoints' names"
	case strings.Contains(text, "connection refused"):
		advice = "check that etcd runs, and the endpoints"
	default:
		return err
	}
	if strings.Contains(text, "("+advice+")") {
		return err
	}
	return fmt.Errorf("%w (%s)", err, advice)
}

// NoAnswer is the reason of who knows no better one.
const NoAnswer = "no answer"

// Reasons are the words that Reason returns.
var Reasons = []string{
	"no space", "permission", "password", "certificate", "connection refused",
	"no leader", "too many requests", NoAnswer, "connection lost", "other",
}

// Reason returns one of a few words for an error, as a label of metrics.
func Reason(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return "no space"
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return "permission"
	case errors.Is(err, rpctypes.ErrAuthFailed), TokenRefused(err):
		return "password"
	case strings.Contains(text, "x509:"), strings.Contains(text, "tls:"):
		return "certificate"
	case strings.Contains(text, "connection refused"):
		return "connection refused"
	case strings.Contains(text, "no leader"), strings.Contains(text, "leader changed"):
		return "no leader"
	case strings.Contains(text, "too many requests"):
		return "too many requests"
	case errors.Is(err, ErrSilent), errors.Is(err, ErrNoAnswer), errors.Is(err, context.DeadlineExceeded),
		codeOf(err) == codes.DeadlineExceeded, strings.Contains(text, "request timed out"):
		return NoAnswer
	case KindOf(err) == Away, errors.Is(err, ErrConnectionLost), strings.Contains(text, "server stopped"):
		return "connection lost"
	}
	return "other"
}

// Word tells one reason from another: details of an outage change, and are no news.
// An error without a reason has its own text.
func Word(err error) string {
	if reason := Reason(err); reason != "other" {
		return reason
	}
	return err.Error()
}

// tokenError returns what a watch was refused with as an error, nil if that is
// not its token.
func tokenError(reason string) error {
	if err := errors.New(reason); TokenRefused(err) {
		return err
	}
	return nil
}
