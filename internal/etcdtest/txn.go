package etcdtest

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// putKey carries a Put out that was checked.
func (c *change) putKey(r *pb.PutRequest) *pb.PutResponse {
	old := c.get(r.Key)
	value, lease := r.Value, r.Lease
	if r.IgnoreValue {
		value = old.GetValue()
	}
	if r.IgnoreLease {
		lease = old.GetLease()
	}
	c.put(r.Key, value, lease)
	resp := &pb.PutResponse{Header: &pb.ResponseHeader{Revision: c.revision()}}
	if r.PrevKv {
		resp.PrevKv = old
	}
	return resp
}

// puttable returns why a Put cannot be carried out.
func (c *change) puttable(r *pb.PutRequest) error {
	if r.Lease != 0 && c.leases[r.Lease] == nil {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	if (r.IgnoreValue || r.IgnoreLease) && c.get(r.Key) == nil {
		return rpctypes.ErrGRPCKeyNotFound
	}
	return nil
}

func (c *change) deleteKeys(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	gone := c.delete(r.Key, r.RangeEnd)
	resp := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{Revision: c.revision()}, Deleted: int64(len(gone))}
	if r.PrevKv {
		resp.PrevKvs = gone
	}
	return resp
}

// txn carries a transaction out. All compares, those of nested ones too, look
// at what was there before it.
func (c *change) txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	path := c.decide(r)
	if err := c.possible(path); err != nil {
		return nil, err
	}
	resp, err := c.execute(path)
	if err == nil {
		resp.Header.Revision = c.revision() // that of nested ones is not set
	}
	return resp, err
}

// decided is a transaction whose compares were made.
type decided struct {
	succeeded bool
	ops       []*pb.RequestOp
	nested    map[*pb.TxnRequest]*decided
}

func (c *change) decide(r *pb.TxnRequest) *decided {
	d := &decided{succeeded: c.compare(r.Compare), ops: r.Failure, nested: map[*pb.TxnRequest]*decided{}}
	if d.succeeded {
		d.ops = r.Success
	}
	for _, op := range d.ops {
		if inner := op.GetRequestTxn(); inner != nil {
			d.nested[inner] = c.decide(inner)
		}
	}
	return d
}

// possible returns why a transaction cannot be carried out: nothing of it is then.
func (c *change) possible(d *decided) (err error) {
	for _, op := range d.ops {
		switch u := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			err = c.readable(u.RequestRange.Revision, c.rev)
		case *pb.RequestOp_RequestPut:
			err = c.puttable(u.RequestPut)
		case *pb.RequestOp_RequestTxn:
			err = c.possible(d.nested[u.RequestTxn])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *change) execute(d *decided) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{
		Header: &pb.ResponseHeader{}, Succeeded: d.succeeded, Responses: make([]*pb.ResponseOp, len(d.ops)),
	}
	for i, op := range d.ops {
		resp.Responses[i] = &pb.ResponseOp{}
		switch u := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			read, err := c.read(u.RequestRange, c.revision())
			if err != nil {
				return nil, err
			}
			resp.Responses[i].Response = &pb.ResponseOp_ResponseRange{ResponseRange: read}
		case *pb.RequestOp_RequestPut:
			resp.Responses[i].Response = &pb.ResponseOp_ResponsePut{ResponsePut: c.putKey(u.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			resp.Responses[i].Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: c.deleteKeys(u.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			inner, err := c.execute(d.nested[u.RequestTxn])
			if err != nil {
				return nil, err
			}
			resp.Responses[i].Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: inner}
		}
	}
	return resp, nil
}

func (c *change) compare(all []*pb.Compare) bool {
	for _, compare := range all {
		if !c.holds(compare) {
			return false
		}
	}
	return true
}

// holds reports whether a compare holds for every key in its range. If there is
// none, it looks at a key of zeros, and never holds for a value.
func (c *change) holds(compare *pb.Compare) bool {
	found := false
	for _, h := range c.keys(compare.Key, compare.RangeEnd) {
		if kv := h.at(c.revision()); kv != nil {
			found = true
			if !holdsFor(compare, kv) {
				return false
			}
		}
	}
	return found || compare.Target != pb.Compare_VALUE && holdsFor(compare, &mvccpb.KeyValue{})
}

func holdsFor(compare *pb.Compare, kv *mvccpb.KeyValue) bool {
	result := 0
	switch compare.Target {
	case pb.Compare_VALUE:
		result = bytes.Compare(kv.Value, compare.GetValue())
	case pb.Compare_CREATE:
		result = cmp.Compare(kv.CreateRevision, compare.GetCreateRevision())
	case pb.Compare_MOD:
		result = cmp.Compare(kv.ModRevision, compare.GetModRevision())
	case pb.Compare_VERSION:
		result = cmp.Compare(kv.Version, compare.GetVersion())
	case pb.Compare_LEASE:
		result = cmp.Compare(kv.Lease, compare.GetLease())
	}
	switch compare.Result {
	case pb.Compare_EQUAL:
		return result == 0
	case pb.Compare_NOT_EQUAL:
		return result != 0
	case pb.Compare_GREATER:
		return result > 0
	}
	return result < 0
}
