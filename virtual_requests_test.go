package etcdv3

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// now is the header of an answer.
func (e *virtualEtcd) now() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: e.header.ClusterId, MemberId: e.header.MemberId, Revision: e.header.Revision, RaftTerm: e.header.RaftTerm}
}

func (e *virtualEtcd) Range(ctx context.Context, in *pb.RangeRequest, _ ...grpc.CallOption) (out *pb.RangeResponse, err error) {
	return out, e.request(ctx, "get", func() (err error) {
		out, err = e.rangeOf(in)
		return err
	})
}

func (e *virtualEtcd) rangeOf(in *pb.RangeRequest) (*pb.RangeResponse, error) {
	if in.Revision != 0 && in.Revision <= e.compacted {
		return nil, rpctypes.ErrGRPCCompacted
	}
	var found []*mvccpb.KeyValue
	for key, kv := range e.at(in.Revision) {
		if matches([]byte(key), in.Key, in.RangeEnd) {
			found = append(found, kv)
		}
	}
	slices.SortFunc(found, func(a, b *mvccpb.KeyValue) int { return slices.Compare(a.Key, b.Key) })
	out := &pb.RangeResponse{Header: e.now(), Count: int64(len(found))}
	if in.Limit > 0 && in.Limit < out.Count {
		found, out.More = found[:in.Limit], true
	}
	if !in.CountOnly {
		out.Kvs = found
	}
	return out, nil
}

// at is what the store held at a revision, 0 for now.
func (e *virtualEtcd) at(revision int64) map[string]*mvccpb.KeyValue {
	if revision == 0 {
		return e.keys
	}
	keys := map[string]*mvccpb.KeyValue{}
	for _, event := range e.past {
		if event.Kv.ModRevision > revision {
			break
		}
		delete(keys, string(event.Kv.Key))
		if event.Type == clientv3.EventTypePut {
			keys[string(event.Kv.Key)] = event.Kv
		}
	}
	return keys
}

func (e *virtualEtcd) Put(ctx context.Context, in *pb.PutRequest, _ ...grpc.CallOption) (out *pb.PutResponse, err error) {
	return out, e.request(ctx, "put", func() (err error) {
		out, err = e.putOf(in)
		e.commit()
		return err
	})
}

func (e *virtualEtcd) putOf(in *pb.PutRequest) (*pb.PutResponse, error) {
	if in.Lease != 0 && e.leases[in.Lease] == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	e.put(string(in.Key), string(in.Value), in.Lease)
	header := e.now()
	header.Revision++
	return &pb.PutResponse{Header: header}, nil
}

func (e *virtualEtcd) DeleteRange(ctx context.Context, in *pb.DeleteRangeRequest, _ ...grpc.CallOption) (out *pb.DeleteRangeResponse, err error) {
	return out, e.request(ctx, "delete", func() error {
		out = &pb.DeleteRangeResponse{Deleted: e.delete(in.Key, in.RangeEnd)}
		e.commit()
		out.Header = e.now()
		return nil
	})
}

func (e *virtualEtcd) Txn(ctx context.Context, in *pb.TxnRequest, _ ...grpc.CallOption) (out *pb.TxnResponse, err error) {
	return out, e.request(ctx, "txn", func() (err error) {
		out = &pb.TxnResponse{Succeeded: e.hold(in.Compare)}
		ops := in.Failure
		if out.Succeeded {
			ops = in.Success
		}
		for _, op := range ops {
			resp, err := e.do(op)
			if err != nil {
				return err
			}
			out.Responses = append(out.Responses, resp)
		}
		e.commit()
		out.Header = e.now()
		return nil
	})
}

// hold reports whether all comparisons do. Only those for "=" are known.
func (e *virtualEtcd) hold(all []*pb.Compare) bool {
	for _, cmp := range all {
		kv := e.keys[string(cmp.Key)]
		same := false
		switch cmp.Target {
		case pb.Compare_MOD:
			same = kv.GetModRevision() == cmp.GetModRevision()
		case pb.Compare_CREATE:
			same = kv.GetCreateRevision() == cmp.GetCreateRevision()
		case pb.Compare_LEASE:
			same = kv.GetLease() == cmp.GetLease()
		case pb.Compare_VALUE:
			same = kv != nil && string(kv.Value) == string(cmp.GetValue())
		}
		if !same {
			return false
		}
	}
	return true
}

func (e *virtualEtcd) do(op *pb.RequestOp) (*pb.ResponseOp, error) {
	switch op := op.Request.(type) {
	case *pb.RequestOp_RequestPut:
		resp, err := e.putOf(op.RequestPut)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: resp}}, err
	case *pb.RequestOp_RequestRange:
		resp, err := e.rangeOf(op.RequestRange)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: resp}}, err
	case *pb.RequestOp_RequestDeleteRange:
		n := e.delete(op.RequestDeleteRange.Key, op.RequestDeleteRange.RangeEnd)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Deleted: n}}}, nil
	}
	panic(fmt.Sprintf("unknown operation %v", op))
}
