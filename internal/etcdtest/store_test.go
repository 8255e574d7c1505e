package etcdtest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if rpctypes.Error(err) != rpctypes.Error(want) && !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestRange(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		for i := range 5 {
			etcd.Put(fmt.Sprintf("s/%d", i), fmt.Sprint(9-i))
		}
		etcd.Put("s/1", "new")
		etcd.Delete("s/2")
		read := func(opts ...clientv3.OpOption) string {
			got, err := cli.Get(t.Context(), "s/", append(opts, clientv3.WithPrefix())...)
			if err != nil {
				return err.Error()
			}
			all := []string{}
			for _, kv := range got.Kvs {
				all = append(all, fmt.Sprintf("%s=%s", kv.Key[2:], kv.Value))
			}
			return fmt.Sprint(strings.Join(all, " "), " of ", got.Count, " more ", got.More, " at ", got.Header.Revision)
		}
		same(t, "all", read(), "0=9 1=new 3=6 4=5 of 4 more false at 8")
		same(t, "some", read(clientv3.WithLimit(2)), "0=9 1=new of 4 more true at 8")
		same(t, "as many", read(clientv3.WithLimit(4)), "0=9 1=new 3=6 4=5 of 4 more false at 8")
		same(t, "of old", read(clientv3.WithRev(6)), "0=9 1=8 2=7 3=6 4=5 of 5 more false at 8")
		same(t, "counted", read(clientv3.WithCountOnly()), " of 4 more false at 8")
		same(t, "keys", read(clientv3.WithKeysOnly()), "0= 1= 3= 4= of 4 more false at 8")
		same(t, "backwards", read(clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(1)), "4=5 of 4 more true at 8")
		same(t, "by value", read(clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend)), "4=5 3=6 0=9 1=new of 4 more false at 8")
		same(t, "newer", read(clientv3.WithMinModRev(6)), "1=new 4=5 of 4 more false at 8")
		same(t, "of the future", read(clientv3.WithRev(9)), rpctypes.ErrFutureRev.Error())
		must(t, etcd.Compact(7))
		same(t, "compacted", read(clientv3.WithRev(6)), rpctypes.ErrCompacted.Error())
		same(t, "not compacted", read(clientv3.WithRev(7)), "0=9 1=new 2=7 3=6 4=5 of 5 more false at 8")
	})
}

func TestPutAndDelete(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		_, err := cli.Put(t.Context(), "a", "1", clientv3.WithLease(77))
		wantError(t, "put under no lease", err, rpctypes.ErrLeaseNotFound)
		_, err = cli.Put(t.Context(), "a", "", clientv3.WithIgnoreValue())
		wantError(t, "keep no value", err, rpctypes.ErrKeyNotFound)
		_, err = cli.Put(t.Context(), "", "1")
		wantError(t, "put no key", err, rpctypes.ErrEmptyKey)
		etcd.Put("a", "1")
		put, err := cli.Put(t.Context(), "a", "2", clientv3.WithPrevKV())
		must(t, err)
		same(t, "previous", string(put.PrevKv.Value), "1")
		gone, err := cli.Delete(t.Context(), "a", clientv3.WithPrevKV())
		must(t, err)
		same(t, "deleted", gone.Deleted, 1)
		same(t, "previous", string(gone.PrevKvs[0].Value), "2")
		gone, err = cli.Delete(t.Context(), "a")
		must(t, err)
		same(t, "deleted again", gone.Deleted, 0)
		same(t, "revision of nothing", gone.Header.Revision, 4)
		versions := []int64{}
		for _, kv := range etcd.History("a") {
			versions = append(versions, kv.Version)
		}
		sameAll(t, "history", versions, []int64{1, 2, 0})
	})
}

func TestTxn(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		lease, err := cli.Grant(t.Context(), 10)
		must(t, err)
		_, err = cli.Put(t.Context(), "a", "1", clientv3.WithLease(lease.ID))
		must(t, err)
		for what, holds := range map[string]clientv3.Cmp{
			"value": clientv3.Compare(clientv3.Value("a"), "=", "1"), "mod": clientv3.Compare(clientv3.ModRevision("a"), "=", 2),
			"create": clientv3.Compare(clientv3.CreateRevision("a"), "<", 3), "version": clientv3.Compare(clientv3.Version("a"), ">", 0),
			"lease": clientv3.Compare(clientv3.LeaseValue("a"), "=", lease.ID), "other": clientv3.Compare(clientv3.Value("a"), "!=", "2"),
			"none":  clientv3.Compare(clientv3.CreateRevision("b"), "=", 0),
			"range": clientv3.Compare(clientv3.LeaseValue("a"), ">", 0).WithPrefix(),
		} {
			resp, err := cli.Txn(t.Context()).If(holds).Then(clientv3.OpGet("a")).Commit()
			must(t, err)
			same(t, what, resp.Succeeded, true)
		}
		resp, err := cli.Txn(t.Context()).If(clientv3.Compare(clientv3.Value("b"), "!=", "1")).Commit()
		must(t, err)
		same(t, "the value of no key", resp.Succeeded, false)
		resp, err = cli.Txn(t.Context()).Then(
			clientv3.OpPut("b", "1"),
			clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpDelete("a"), clientv3.OpPut("c", "1")}, nil),
			clientv3.OpGet("", clientv3.WithPrefix()),
		).Commit()
		must(t, err)
		same(t, "revision of all", resp.Header.Revision, 3)
		same(t, "sees its own writes", resp.Responses[2].GetResponseRange().Count, 2)
		sameAll(t, "keys", etcd.Keys(""), []string{"b", "c"})
	})
}

func TestTxnIsAllOrNothing(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		_, err := cli.Txn(t.Context()).Then(clientv3.OpPut("a", "1"), clientv3.OpPut("b", "1", clientv3.WithLease(7))).Commit()
		wantError(t, "half of it", err, rpctypes.ErrLeaseNotFound)
		_, err = cli.Txn(t.Context()).Then(clientv3.OpPut("a", "1"), clientv3.OpDelete("a", clientv3.WithPrefix())).Commit()
		wantError(t, "one key twice", err, rpctypes.ErrDuplicateKey)
		many := make([]clientv3.Op, 129)
		for i := range many {
			many[i] = clientv3.OpPut(fmt.Sprint(i), "")
		}
		_, err = cli.Txn(t.Context()).Then(many...).Commit()
		wantError(t, "too many", err, rpctypes.ErrTooManyOps)
		_, err = cli.Put(t.Context(), "a", strings.Repeat("x", 1600<<10))
		wantError(t, "too large", err, rpctypes.ErrRequestTooLarge)
		sameAll(t, "keys", etcd.Keys(""), nil)
	})
}

func TestHeadersAndMinorServices(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		ids := map[uint64]bool{}
		for range 6 {
			got, err := cli.Get(t.Context(), "a", clientv3.WithSerializable())
			must(t, err)
			ids[got.Header.MemberId] = true
		}
		same(t, "members that answered", len(ids), 3)
		members, err := cli.MemberList(t.Context())
		must(t, err)
		same(t, "members", len(members.Members), 3)
		status, err := cli.Status(t.Context(), etcd.Endpoints()[1])
		must(t, err)
		same(t, "version", status.Version, "3.7.3")
	})
}

func TestCompactRequest(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		kv := pb.NewKVClient(connect(t, etcd).ActiveConnection())
		etcd.Put("a", "1")
		_, err := kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 2})
		must(t, err)
		_, err = kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 2})
		wantError(t, "again", err, rpctypes.ErrCompacted)
		_, err = kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 3})
		wantError(t, "the future", err, rpctypes.ErrFutureRev)
	})
}

func TestStoreWithoutSpace(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{NoSpace: true}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		_, err := cli.Put(t.Context(), "a", "1")
		wantError(t, "put", err, rpctypes.ErrNoSpace)
		_, err = cli.Delete(t.Context(), "a")
		must(t, err)
		_, err = cli.Grant(t.Context(), 10)
		wantError(t, "grant", err, rpctypes.ErrNoSpace)
	})
}
