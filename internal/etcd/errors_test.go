package etcd

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Each answer of etcd has the reason in whose row of docs/operations.md it stands.
func TestReason_IsThatOfTheDocuments(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range []error{
		rpctypes.ErrGRPCNoSpace, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCAuthFailed,
		rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCNoLeader,
		rpctypes.ErrGRPCTimeout, rpctypes.ErrGRPCRequestTooManyRequests, ErrSilent, ErrNoAnswer, ErrConnectionLost, errLostAnswer,
	} {
		answer = rpctypes.Error(answer)
		reason := Reason(answer)
		row := regexp.MustCompile("(?m)^\\| `" + reason + "` .*").Find(page)
		text, _, _ := strings.Cut(answer.Error(), ": etcd answers") // what follows explains it
		text = strings.TrimPrefix(strings.TrimPrefix(text, "etcdserver: "), "auth: ")
		if !strings.Contains(string(row), text) {
			t.Errorf("the reason of %q is %q, whose row is %q", text, reason, row)
		}
	}
}
