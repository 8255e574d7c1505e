package etcdtest

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

type clusterServer struct {
	pb.UnimplementedClusterServer
	*Member
}

func (s clusterServer) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	s.etcd.mu.Lock()
	defer s.etcd.mu.Unlock()
	resp := &pb.MemberListResponse{Header: s.header(0)}
	for _, m := range s.etcd.members {
		resp.Members = append(resp.Members, &pb.Member{
			ID: m.id(), Name: m.Address(), ClientURLs: []string{"http://" + m.Address()},
		})
	}
	return resp, nil
}

type maintenanceServer struct {
	pb.UnimplementedMaintenanceServer
	*Member
}

func (s maintenanceServer) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	s.etcd.mu.Lock()
	defer s.etcd.mu.Unlock()
	resp := &pb.StatusResponse{Header: s.header(s.rev()), Version: "3.7.3", RaftTerm: s.etcd.store.term}
	if !s.alone {
		resp.Leader = s.etcd.members[0].id()
	}
	return resp, nil
}
