package filter

import (
	"encoding/json"
	"strings"
)

// Field is a header field.
type Field struct{ Name, Value string }

// Request is the request of the current exchange.
type Request struct{}

// Method is such as GET.
func (Request) Method() (string, error) { return requestText("method") }

// Scheme is http or https, as the client reached the gateway.
func (Request) Scheme() (string, error) { return requestText("scheme") }

// Authority is the `Host` or `:authority` that the client sent, lower-case, with the port if there was one. Header("host") is always absent.
func (Request) Authority() (string, error) { return requestText("authority") }

// Host is the authority without the port.
func (r Request) Host() (string, error) {
	authority, err := r.Authority()
	if colon := strings.LastIndexByte(authority, ':'); colon > strings.LastIndexByte(authority, ']') {
		authority = authority[:colon]
	}
	return authority, err
}

// Path is without the query, as the client or the filters before this one have left it; a `rewrite` of the route comes after the filters.
func (Request) Path() (string, error) { return requestText("path") }

// ClientAddress is that of the connection, or what a trusted proxy said.
func (Request) ClientAddress() (string, error) { return requestText("client-address") }

// ID of the request, as in the access log and in error answers.
func (Request) ID() (string, error) { return requestText("id") }

// Protocol is HTTP/1.0, HTTP/1.1 or HTTP/2.
func (Request) Protocol() (string, error) { return requestText("protocol") }

// ClientCertificate is JSON about the certificate that the client has shown; present is false where it has shown none.
func (Request) ClientCertificate() (certificate string, present bool, err error) {
	return requestClientCertificate()
}

// Query is without `?`; present is false where there is none.
func (Request) Query() (query string, present bool, err error) { return requestQuery() }

// SetQuery is without `?`; RemoveQuery leaves none.
func (Request) SetQuery(query string) error   { return requestSetQuery(query, true) }
func (Request) RemoveQuery() error            { return requestSetQuery("", false) }
func (Request) SetMethod(method string) error { return requestSet("set-method", method) }
func (Request) SetPath(path string) error     { return requestSet("set-path", path) }

// Header is the first value of a header; present is false where there is none.
func (Request) Header(name string) (value string, present bool, err error) {
	return header(ofRequest, name)
}

// HeaderValues are all values of a header, in order.
func (Request) HeaderValues(name string) ([]string, error) { return headerValues(ofRequest, name) }
func (Request) Headers() ([]Field, error)                  { return headers(ofRequest) }
func (Request) SetHeader(name, value string) error         { return setHeader(ofRequest, name, value) }
func (Request) AppendHeader(name, value string) error      { return appendHeader(ofRequest, name, value) }
func (Request) RemoveHeader(name string) error             { return removeHeader(ofRequest, name) }

// WantBody asks for the body of this request, in OnRequest: OnRequestBody is then called.
func (Request) WantBody(max uint64) error { return wantBody(ofRequest, max) }

// Body is there in OnRequestBody.
func (Request) Body() ([]byte, error) {
	got, err := body(ofRequest)
	return got, explained(err, "the body is there in OnRequestBody, for which Setup.RequestBody or WantBody asks")
}
func (Request) SetBody(body []byte) error { return setBody(ofRequest, body) }
func (Request) Route() Route              { return Route{} }

// Response is the response of the current exchange. In a request hook it is the answer that Respond sends.
type Response struct{}

func (Response) Status() (uint16, error)       { return status() }
func (Response) SetStatus(status uint16) error { return setStatus(status) }

// SetReason says why, for the operator: the access log and a metric have it.
func (Response) SetReason(reason string) error { return setReason(reason) }
func (Response) Header(name string) (value string, present bool, err error) {
	return header(ofResponse, name)
}
func (Response) HeaderValues(name string) ([]string, error) { return headerValues(ofResponse, name) }
func (Response) Headers() ([]Field, error)                  { return headers(ofResponse) }
func (Response) SetHeader(name, value string) error         { return setHeader(ofResponse, name, value) }
func (Response) AppendHeader(name, value string) error      { return appendHeader(ofResponse, name, value) }
func (Response) RemoveHeader(name string) error             { return removeHeader(ofResponse, name) }

// WantBody asks for the body of this response, in a request hook or OnResponse: OnResponseBody is then called.
func (Response) WantBody(max uint64) error { return wantBody(ofResponse, max) }

// Body is there in OnResponseBody.
func (Response) Body() ([]byte, error) {
	got, err := body(ofResponse)
	return got, explained(err, "the body is there in OnResponseBody, for which Setup.ResponseBody or WantBody asks")
}
func (Response) SetBody(body []byte) error { return setBody(ofResponse, body) }
func (Response) Request() Request          { return Request{} }

// CacheStatus is what the cache of the route has done, such as `hit`; present is false in a request hook and without a cache.
func (Response) CacheStatus() (status string, present bool, err error) { return cacheStatus() }

// Origin says who made this response.
func (Response) Origin() (Origin, error) { return responseOrigin() }

// Trailer is the first value of a trailer, in OnResponseTrailers.
func (Response) Trailer(name string) (value string, present bool, err error) { return trailer(name) }
func (Response) Trailers() ([]Field, error)                                  { return trailers() }
func (Response) SetTrailer(name, value string) error                         { return setTrailer(name, value) }
func (Response) RemoveTrailer(name string) error                             { return removeTrailer(name) }

// Origin is who made a response.
type Origin uint8

const (
	FromUpstream Origin = iota
	FromFilter
	FromGateway
)

// A call in a hook where it has no meaning, with the way out.
func explained(err error, way string) error {
	if refused, is := err.(*Error); is && refused.Kind == WrongHook {
		refused.Reason = way
	}
	return err
}

// Route is the route of the current exchange.
type Route struct{}

func (Route) Name() (string, error)                                     { return routeName() }
func (Route) Param(name string) (value string, present bool, err error) { return routeParam(name) }

// Upstreams are the names of those that the route lists.
func (Route) Upstreams() ([]string, error) { return routeUpstreams() }

// Endpoints of these upstreams, in SelectUpstream and later.
func (Route) Endpoints() ([]Endpoint, error) { return routeEndpoints() }

// EndpointLabel is a label of an endpoint, from gateway.toml.
func (Route) EndpointLabel(upstream, address, label string) (value string, present bool, err error) {
	return routeEndpointLabel(upstream, address, label)
}

// ChooseUpstream sends the request to this upstream of the route, in SelectUpstream.
func (Route) ChooseUpstream(name string) error { return routeChoose("choose-upstream", name) }

// ChooseEndpoints sends the request to the first of these endpoints that accepts a connection.
func (Route) ChooseEndpoints(addresses ...string) error { return routeChooseEndpoints(addresses) }

// HashKey: requests with the same key go to the same endpoint while the set of endpoints is the same.
func (Route) HashKey(key string) error { return routeChoose("hash-key", key) }

// NoRetry: if the next attempt fails, its error is the answer.
func (Route) NoRetry() error { return routeNoRetry() }

// Summary is the finished exchange as a JSON object, in OnComplete: the members of the access log.
func (Route) Summary() (string, error) { return routeSummary() }

// Endpoint is one that could serve the request.
type Endpoint struct {
	Upstream string
	// Address is host:port.
	Address string
	Weight  uint32
	Healthy bool
	// Active are the requests that the gateway has with it now.
	Active uint32
	// LatencyMicros is the time to the first byte, an average; 0 when not known.
	LatencyMicros uint64
}

// Problem is a problem document (RFC 9457).
type Problem struct {
	Status uint16
	Title  string
	Detail string
	// Reason is for the operator, not for the client.
	Reason string
	// Headers of the answer besides its content type.
	Headers []Field
}

// Send drafts the answer.
func (p Problem) Send() (Verdict, error) {
	id, err := Request{}.ID()
	if err != nil {
		return Continue, err
	}
	document := map[string]any{"type": "about:blank", "title": p.Title, "status": p.Status, "request_id": id}
	if p.Detail != "" {
		document["detail"] = p.Detail
	}
	text, err := json.Marshal(document)
	response := Response{}
	steps := []func() error{
		func() error { return err },
		func() error { return response.SetStatus(p.Status) },
		func() error { return response.SetHeader("content-type", "application/problem+json") },
		func() error { return response.SetBody(text) },
	}
	if p.Reason != "" {
		steps = append(steps, func() error { return response.SetReason(p.Reason) })
	}
	for _, field := range p.Headers {
		steps = append(steps, func() error { return response.SetHeader(field.Name, field.Value) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return Continue, err
		}
	}
	return Respond, nil
}
