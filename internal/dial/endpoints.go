package dial

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// member is one endpoint of etcd, as the user wrote it and taken apart.
type member struct {
	text    string
	scheme  string // http, https, unix, unixs, or empty
	address string // what grpc dials
	host    string // what a certificate is checked against
}

// parseEndpoints takes all endpoints apart. Empty ones among others are skipped:
// strings.Split leaves one behind a trailing comma.
func parseEndpoints(machines []string) ([]member, error) {
	var endpoints []member
	for i, machine := range machines {
		text := strings.TrimSpace(machine)
		if text == "" {
			continue
		}
		e, err := parseEndpoint(text)
		if err != nil {
			return nil, fmt.Errorf("machines[%d]: %w; give host:port, http://host:port or https://host:port", i, err)
		}
		endpoints = append(endpoints, e)
	}
	if len(endpoints) == 0 {
		return nil, errors.New("machines is empty: give at least one etcd endpoint, as \"10.0.0.1:2379\"")
	}
	return endpoints, nil
}

// parseEndpoint takes one endpoint apart. Its errors hold no part of an endpoint
// that could be a password.
func parseEndpoint(text string) (member, error) {
	if scheme, path, ok := strings.Cut(text, ":"); ok && (scheme == "unix" || scheme == "unixs") {
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return member{}, errors.New("the endpoint is a unix socket without a path")
		}
		return member{text: text, scheme: scheme, address: "unix:" + path, host: path[strings.LastIndex(path, "/")+1:]}, nil
	}
	if strings.Contains(text, ",") {
		return member{}, errors.New("the endpoint holds a comma: give a list of endpoints as a slice, with strings.Split(list, \",\")")
	}
	scheme, address := "", text
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		switch {
		case err != nil:
			return member{}, errors.New("the endpoint is not a URL that can be read")
		case u.User != nil:
			return member{}, errors.New("the endpoint holds a user: use ClientOptions.Username and Password")
		case u.Scheme != "http" && u.Scheme != "https":
			return member{}, fmt.Errorf("the endpoint's scheme %q is not known", u.Scheme)
		}
		scheme, address = u.Scheme, u.Host
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || strings.ContainsAny(host, " \t\r\n/@?#\\") {
		return member{}, errors.New("the endpoint is not host:port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return member{}, errors.New("the endpoint's port is not a number from 1 to 65535")
	}
	return member{text: text, scheme: scheme, address: address, host: host}, nil
}
