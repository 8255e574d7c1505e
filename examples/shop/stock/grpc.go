package stock

import (
	"context"
	"io"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	kitgrpc "github.com/go-kit/kit/transport/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"
)

// The gRPC service would be generated from a .proto file as a rule. Its messages
// are protobuf's well-known Struct here, so that the example needs no protoc.
const (
	grpcService = "shop.Stock"
	takeMethod  = "Take"
)

// takeServer is what protoc would generate from
// "service Stock { rpc Take(Struct) returns (Struct); }".
type takeServer interface {
	Take(context.Context, *structpb.Struct) (*structpb.Struct, error)
}

var serviceDesc = grpc.ServiceDesc{
	ServiceName: grpcService,
	HandlerType: (*takeServer)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: takeMethod, Handler: handleTake}},
}

func handleTake(server any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	request := &structpb.Struct{}
	if err := decode(request); err != nil {
		return nil, err
	}
	handle := func(ctx context.Context, request any) (any, error) {
		return server.(takeServer).Take(ctx, request.(*structpb.Struct))
	}
	if intercept == nil {
		return handle(ctx, request)
	}
	info := &grpc.UnaryServerInfo{Server: server, FullMethod: "/" + grpcService + "/" + takeMethod}
	return intercept(ctx, request, info, handle)
}

// grpcServer serves stock with go-kit's gRPC transport.
type grpcServer struct{ take kitgrpc.Handler }

// RegisterGRPC serves stock at a gRPC server.
func RegisterGRPC(server *grpc.Server, s Service) {
	server.RegisterService(&serviceDesc, &grpcServer{
		take: kitgrpc.NewServer(takeEndpoint(s), decodeOrder, encodeReceipt),
	})
}

func (g *grpcServer) Take(ctx context.Context, request *structpb.Struct) (*structpb.Struct, error) {
	_, response, err := g.take.ServeGRPC(ctx, request)
	if err != nil {
		return nil, err
	}
	return response.(*structpb.Struct), nil
}

// TakeFactory makes endpoints that call Take by gRPC at an instance. Each has a
// connection of its own, which is closed when the instance is gone.
func TakeFactory() sd.Factory {
	return func(instance string) (endpoint.Endpoint, io.Closer, error) {
		conn, err := grpc.NewClient(instance, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, err
		}
		take := kitgrpc.NewClient(conn, grpcService, takeMethod, encodeOrder, decodeReceipt, &structpb.Struct{})
		return take.Endpoint(), conn, nil
	}
}

func encodeOrder(_ context.Context, request any) (any, error) {
	order := request.(Order)
	return structpb.NewStruct(map[string]any{"id": order.ID, "item": order.Item, "count": order.Count})
}

func decodeOrder(_ context.Context, message any) (any, error) {
	fields := message.(*structpb.Struct).GetFields()
	return Order{
		ID:    fields["id"].GetStringValue(),
		Item:  fields["item"].GetStringValue(),
		Count: int(fields["count"].GetNumberValue()),
	}, nil
}

func encodeReceipt(_ context.Context, response any) (any, error) {
	receipt := response.(Receipt)
	return structpb.NewStruct(map[string]any{"left": receipt.Left, "refused": receipt.Refused, "by": receipt.By})
}

func decodeReceipt(_ context.Context, message any) (any, error) {
	fields := message.(*structpb.Struct).GetFields()
	return Receipt{
		Left:    int(fields["left"].GetNumberValue()),
		Refused: fields["refused"].GetStringValue(),
		By:      fields["by"].GetStringValue(),
	}, nil
}
