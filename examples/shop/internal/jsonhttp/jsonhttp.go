// Package jsonhttp is JSON over HTTP for go-kit's HTTP transport.
package jsonhttp

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	kithttp "github.com/go-kit/kit/transport/http"
)

// maxError is how much of an error's text is read.
const maxError = 1000

// DecodeRequest reads a T from a request.
func DecodeRequest[T any](_ context.Context, request *http.Request) (any, error) {
	var t T
	if err := json.NewDecoder(request.Body).Decode(&t); err != nil {
		return nil, badRequest{err}
	}
	return t, nil
}

// badRequest is answered with status 400.
type badRequest struct{ error }

func (badRequest) StatusCode() int { return http.StatusBadRequest }

// Factory makes endpoints that call an instance, whose address is host:port,
// and return a T.
func Factory[T any](method, path string) sd.Factory {
	encode := kithttp.EncodeJSONRequest
	if method == http.MethodGet {
		encode = func(context.Context, *http.Request, any) error { return nil }
	}
	return func(instance string) (endpoint.Endpoint, io.Closer, error) {
		target := &url.URL{Scheme: "http", Host: instance, Path: path}
		return kithttp.NewClient(method, target, encode, decodeResponse[T]).Endpoint(), nil, nil
	}
}

func decodeResponse[T any](_ context.Context, response *http.Response) (any, error) {
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxError))
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	var t T
	err := json.NewDecoder(response.Body).Decode(&t)
	return t, err
}
