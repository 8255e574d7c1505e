package etcdtest

import (
	"bytes"
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// read answers a Range of a store whose newest revision is rev.
func (s *store) read(r *pb.RangeRequest, rev int64) (*pb.RangeResponse, error) {
	if err := s.readable(r.Revision, rev); err != nil {
		return nil, err
	}
	at := rev
	if r.Revision > 0 {
		at = r.Revision
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: rev}}
	limit := limitOf(r)
	for _, h := range s.keys(r.Key, r.RangeEnd) {
		if kv := h.at(at); kv != nil {
			resp.Count++
			if !r.CountOnly && (limit == 0 || resp.Count <= limit) {
				resp.Kvs = append(resp.Kvs, kv)
			}
		}
	}
	finish(resp, r)
	return resp, nil
}

func (s *store) readable(wanted, rev int64) error {
	switch {
	case wanted > rev:
		return rpctypes.ErrGRPCFutureRev
	case wanted > 0 && wanted < s.compacted:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// limitOf is how many keys have to be read. One more than asked for tells
// whether there are more. If no order is asked for, etcd reads no more than
// these, and sorts them.
func limitOf(r *pb.RangeRequest) int64 {
	if r.Limit <= 0 || isSorted(r) && r.SortOrder != pb.RangeRequest_NONE || isFiltered(r) {
		return 0
	}
	return r.Limit + 1
}

func isSorted(r *pb.RangeRequest) bool {
	if r.SortOrder == pb.RangeRequest_NONE {
		return r.SortTarget != pb.RangeRequest_KEY
	}
	return r.SortTarget != pb.RangeRequest_KEY || r.SortOrder != pb.RangeRequest_ASCEND
}

func isFiltered(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

// finish filters, sorts and cuts what was read, as etcd does: in this order.
func finish(resp *pb.RangeResponse, r *pb.RangeRequest) {
	if isFiltered(r) {
		resp.Kvs = slices.DeleteFunc(resp.Kvs, func(kv *mvccpb.KeyValue) bool {
			return outside(kv.ModRevision, r.MinModRevision, r.MaxModRevision) ||
				outside(kv.CreateRevision, r.MinCreateRevision, r.MaxCreateRevision)
		})
	}
	if isSorted(r) {
		slices.SortStableFunc(resp.Kvs, orderOf(r))
	}
	if r.Limit > 0 && int64(len(resp.Kvs)) > r.Limit {
		resp.Kvs, resp.More = resp.Kvs[:r.Limit], true
	}
	if r.KeysOnly {
		for i, kv := range resp.Kvs {
			resp.Kvs[i] = keyOnly(kv, r.SortTarget)
		}
	}
}

// keyOnly is a key without its value. Its lease is there only if etcd had to
// read the value to sort by it.
func keyOnly(kv *mvccpb.KeyValue, by pb.RangeRequest_SortTarget) *mvccpb.KeyValue {
	key := &mvccpb.KeyValue{Key: kv.Key, Version: kv.Version, ModRevision: kv.ModRevision, CreateRevision: kv.CreateRevision}
	if by == pb.RangeRequest_VALUE {
		key.Lease = kv.Lease
	}
	return key
}

func outside(rev, least, most int64) bool {
	return least != 0 && rev < least || most != 0 && rev > most
}

func orderOf(r *pb.RangeRequest) func(a, b *mvccpb.KeyValue) int {
	sign := 1
	if r.SortOrder == pb.RangeRequest_DESCEND {
		sign = -1
	}
	return func(a, b *mvccpb.KeyValue) int { return sign * compareBy(r.SortTarget, a, b) }
}

func compareBy(target pb.RangeRequest_SortTarget, a, b *mvccpb.KeyValue) int {
	switch target {
	case pb.RangeRequest_VERSION:
		return cmp.Compare(a.Version, b.Version)
	case pb.RangeRequest_CREATE:
		return cmp.Compare(a.CreateRevision, b.CreateRevision)
	case pb.RangeRequest_MOD:
		return cmp.Compare(a.ModRevision, b.ModRevision)
	case pb.RangeRequest_VALUE:
		return bytes.Compare(a.Value, b.Value)
	}
	return bytes.Compare(a.Key, b.Key)
}
