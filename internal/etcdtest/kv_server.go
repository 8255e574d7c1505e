package etcdtest

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

type kvServer struct {
	pb.UnimplementedKVServer
	*Member
}

func (s kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	if !r.Serializable {
		if err := s.linearize(ctx); err != nil {
			return nil, err
		}
	}
	rate := s.etcd.now().RangeBytesPerSecond
	if rate <= 0 {
		resp, _, err := s.rangeNow(ctx, r)
		return resp, err
	}
	if !s.etcd.wire.enter(s.etcd.closed) {
		return nil, rpctypes.ErrGRPCStopped
	}
	defer s.etcd.wire.leave()
	resp, size, err := s.rangeNow(ctx, r)
	s.etcd.sleep(time.Duration(size) * time.Second / time.Duration(rate))
	return resp, err
}

// rangeNow returns an answer and its size.
func (s kvServer) rangeNow(ctx context.Context, r *pb.RangeRequest) (resp *pb.RangeResponse, size int, err error) {
	by, err := s.callerOf(ctx)
	if err != nil {
		return nil, 0, err
	}
	if resp, err = s.rangeLocked(by, r); err != nil {
		return nil, 0, err
	}
	size = proto.Size(resp)
	s.etcd.journal.wrote(size)
	return resp, size, nil
}

func (s kvServer) rangeLocked(by caller, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	e := s.etcd
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.auth.mayRead(by, r.Key, r.RangeEnd); err != nil {
		return nil, err
	}
	resp, err := e.store.read(r, s.rev())
	if err == nil {
		resp.Header = s.header(resp.Header.Revision)
	}
	return resp, err
}

func (s kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	return propose(ctx, s.Member, r, func(c *change, by caller) (*pb.PutResponse, error) {
		if err := s.etcd.mayPut(by, r); err != nil {
			return nil, err
		}
		if err := c.puttable(r); err != nil {
			return nil, err
		}
		resp := c.putKey(r)
		resp.Header = s.header(resp.Header.Revision)
		return resp, nil
	})
}

func (s kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	return propose(ctx, s.Member, r, func(c *change, by caller) (*pb.DeleteRangeResponse, error) {
		if err := s.etcd.mayDelete(by, r); err != nil {
			return nil, err
		}
		resp := c.deleteKeys(r)
		resp.Header = s.header(resp.Header.Revision)
		return resp, nil
	})
}

func (s kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxn(r, maxTxnOps); err != nil {
		return nil, err
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := overlaps(branch); err != nil {
			return nil, err
		}
	}
	if isReadOnly(r) {
		return s.readTxn(ctx, r)
	}
	return propose(ctx, s.Member, r, func(c *change, by caller) (*pb.TxnResponse, error) {
		return s.txnLocked(c, by, r)
	})
}

func (s kvServer) readTxn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if !isSerializable(r) {
		if err := s.linearize(ctx); err != nil {
			return nil, err
		}
	}
	by, err := s.callerOf(ctx)
	if err != nil {
		return nil, err
	}
	s.etcd.mu.Lock()
	defer s.etcd.mu.Unlock()
	return s.txnLocked(s.etcd.store.change(), by, r)
}

func (s kvServer) txnLocked(c *change, by caller, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := s.etcd.mayTxn(by, r); err != nil {
		return nil, err
	}
	resp, err := c.txn(r)
	if err == nil {
		resp.Header = s.header(resp.Header.Revision)
	}
	return resp, err
}

func (s kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return propose(ctx, s.Member, r, func(c *change, _ caller) (*pb.CompactionResponse, error) {
		if err := c.compact(r.Revision); err != nil {
			return nil, err
		}
		s.etcd.sync.arm()
		return &pb.CompactionResponse{Header: s.header(c.rev)}, nil
	})
}

func (s *store) compact(rev int64) error {
	switch {
	case rev <= s.compacted:
		return rpctypes.ErrGRPCCompacted
	case rev > s.rev:
		return rpctypes.ErrGRPCFutureRev
	}
	s.compacted = rev
	return nil
}

// propose carries a write out under the rules of etcd's log. What it changes is
// committed and told to watches before it is answered.
func propose[R proto.Message](ctx context.Context, m *Member, r proto.Message, do func(*change, caller) (R, error)) (none R, err error) {
	if err := m.acceptable(r); err != nil {
		return none, err
	}
	by, err := m.callerOf(ctx)
	if err != nil {
		return none, err
	}
	resp, err := m.propose(ctx, func() (proto.Message, error) {
		c := m.etcd.store.change()
		resp, err := do(c, by)
		m.etcd.commit(c)
		return resp, err
	})
	if err != nil {
		return none, err
	}
	return resp.(R), nil
}

// acceptable returns why a write is not even proposed.
func (m *Member) acceptable(r proto.Message) error {
	if m.etcd.now().NoSpace && grows(r) {
		return rpctypes.ErrGRPCNoSpace
	}
	return checkSize(r)
}

// grows reports whether a request may make the store larger.
func grows(r proto.Message) bool {
	switch r := r.(type) {
	case *pb.PutRequest, *pb.LeaseGrantRequest:
		return true
	case *pb.TxnRequest:
		for _, op := range append(append([]*pb.RequestOp(nil), r.Success...), r.Failure...) {
			if op.GetRequestPut() != nil || op.GetRequestTxn() != nil && grows(op.GetRequestTxn()) {
				return true
			}
		}
	}
	return false
}

// rev is the revision that the member's store has reached.
func (m *Member) rev() int64 {
	if m.stalled || m.alone {
		return min(m.at, m.etcd.store.rev)
	}
	return m.etcd.store.rev
}

func (m *Member) id() uint64 { return 0x8e9e05c52164694d + uint64(m.index) }

// header is that of an answer. The cluster's mutex is held.
func (m *Member) header(rev int64) *pb.ResponseHeader {
	s := m.etcd.store
	return &pb.ResponseHeader{ClusterId: s.cluster, MemberId: m.id(), Revision: rev, RaftTerm: s.term}
}
