package etcdtest

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

const (
	maxRequestBytes = 1.5 * 1024 * 1024
	maxTxnOps       = 128
)

func checkSize(r proto.Message) error {
	if proto.Size(r) > maxRequestBytes {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

func checkRange(r *pb.RangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	_, order := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]
	_, target := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]
	if !order || !target {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn returns what is wrong with a transaction that may have so many
// operations.
func checkTxn(r *pb.TxnRequest, ops int) error {
	most := max(len(r.Compare), len(r.Success), len(r.Failure))
	if most > ops {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if err := checkOp(op, ops-most); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, ops int) error {
	switch u := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(u.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(u.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(u.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxn(u.RequestTxn, ops)
	}
	return rpctypes.ErrGRPCKeyNotFound
}

// touched is what the operations of a branch write.
type touched struct {
	puts    map[string]bool
	deletes []*pb.DeleteRangeRequest
}

// overlaps returns an error if operations that may run together write a key twice.
func overlaps(ops []*pb.RequestOp) (touched, error) {
	all := touched{puts: map[string]bool{}}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			all.deletes = append(all.deletes, d)
		}
	}
	for _, op := range ops {
		if inner := op.GetRequestTxn(); inner != nil {
			if err := all.nest(inner); err != nil {
				return all, err
			}
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if err := all.put(string(p.Key), false); err != nil {
				return all, err
			}
		}
	}
	return all, nil
}

// nest adds a nested transaction. Of its branches one runs, so that both may
// put the same key.
func (t *touched) nest(r *pb.TxnRequest) error {
	then, err := overlaps(r.Success)
	if err != nil {
		return err
	}
	otherwise, err := overlaps(r.Failure)
	if err != nil {
		return err
	}
	for key := range then.puts {
		if err := t.put(key, false); err != nil {
			return err
		}
	}
	for key := range otherwise.puts {
		if err := t.put(key, then.puts[key]); err != nil {
			return err
		}
	}
	t.deletes = append(append(t.deletes, then.deletes...), otherwise.deletes...)
	return nil
}

// put adds a key that is put. etcd does not notice that a range without an end
// is deleted beside it, nor does this.
func (t *touched) put(key string, again bool) error {
	if t.puts[key] && !again {
		return rpctypes.ErrGRPCDuplicateKey
	}
	for _, d := range t.deletes {
		if !isOpen(d.RangeEnd) && contains([]byte(key), d.Key, d.RangeEnd) {
			return rpctypes.ErrGRPCDuplicateKey
		}
	}
	t.puts[key] = true
	return nil
}

// isReadOnly reports whether a transaction writes nothing, nor could.
func isReadOnly(r *pb.TxnRequest) bool { return every(r, func(*pb.RangeRequest) bool { return true }) }

func isSerializable(r *pb.TxnRequest) bool {
	return every(r, func(r *pb.RangeRequest) bool { return r.Serializable })
}

func every(r *pb.TxnRequest, is func(*pb.RangeRequest) bool) bool {
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if read := op.GetRequestRange(); read == nil || !is(read) {
				return false
			}
		}
	}
	return true
}
