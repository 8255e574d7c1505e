package stock

import (
	"net/http"

	"github.com/go-kit/kit/sd"
	kithttp "github.com/go-kit/kit/transport/http"
	"github.com/kitsd/etcdv3/examples/shop/internal/jsonhttp"
)

const listPath = "/stock"

// Handler serves stock by HTTP: POST /take and GET /stock.
func Handler(s Service) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("POST /take", kithttp.NewServer(takeEndpoint(s), jsonhttp.DecodeRequest[Order], kithttp.EncodeJSONResponse))
	mux.Handle("GET "+listPath, kithttp.NewServer(listEndpoint(s), kithttp.NopRequestDecoder, kithttp.EncodeJSONResponse))
	return mux
}

// ListFactory makes endpoints that call List by HTTP at an instance.
func ListFactory() sd.Factory {
	return jsonhttp.Factory[map[string]int](http.MethodGet, listPath)
}
