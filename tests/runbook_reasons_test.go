package tests

import (
	"errors"
	"testing"

	"github.com/kitsd/etcdv3/internal/registration"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// TestRunbook_ErrorsHaveTheReasonOfThePage compares the label of etcd's own errors
// with the row of docs/operations.md that their text leads to.
func TestRunbook_ErrorsHaveTheReasonOfThePage(t *testing.T) {
	t.Parallel()
	p := readPage(t)
	for answer, want := range map[error]string{
		rpctypes.ErrGRPCNoSpace:                    "no space",
		rpctypes.ErrGRPCPermissionDenied:           "permission",
		rpctypes.ErrGRPCAuthFailed:                 "password",
		rpctypes.ErrGRPCUserEmpty:                  "password",
		rpctypes.ErrGRPCInvalidAuthToken:           "password",
		rpctypes.ErrGRPCAuthOldRevision:            "password",
		rpctypes.ErrGRPCNoLeader:                   "no leader",
		rpctypes.ErrGRPCLeaderChanged:              "no leader",
		rpctypes.ErrGRPCRequestTooManyRequests:     "too many requests",
		rpctypes.ErrGRPCTimeout:                    "no answer",
		rpctypes.ErrGRPCTimeoutDueToLeaderFail:     "no answer",
		rpctypes.ErrGRPCTimeoutDueToConnectionLost: "no answer",
		rpctypes.ErrGRPCTimeoutWaitAppliedIndex:    "no answer",
		rpctypes.ErrGRPCDeadlineExceeded:           "no answer",
		rpctypes.ErrGRPCStopped:                    "connection lost",
		rpctypes.ErrGRPCRequestTooLarge:            "other",
		rpctypes.ErrGRPCCorrupt:                    "other",
		errors.New("whatever"):                     "other",
	} {
		err := rpctypes.Error(answer)
		if got := registration.Reason(err); got != want {
			t.Errorf("%v has the reason %q, want %q", err, got, want)
		}
		if got := p.reason(err.Error()); got != want {
			t.Errorf("%v leads to the row %q, want %q", err, got, want)
		}
	}
}
