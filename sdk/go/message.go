package filter

import "encoding/json"

// Field is a header field.
type Field struct{ Name, Value string }

// Request is the request of the current exchange.
type Request struct{}

func (Request) Method() (string, error)        { return requestText("method") }
func (Request) Scheme() (string, error)        { return requestText("scheme") }
func (Request) Authority() (string, error)     { return requestText("authority") }
func (Request) Path() (string, error)          { return requestText("path") }
func (Request) ClientAddress() (string, error) { return requestText("client-address") }
func (Request) ID() (string, error)            { return requestText("id") }

// Query is without `?`; present is false where there is none.
func (Request) Query() (query string, present bool, err error) { return requestQuery() }
func (Request) SetMethod(method string) error                  { return requestSet("set-method", method) }
func (Request) SetPath(path string) error                      { return requestSet("set-path", path) }

// Header is the first value of a header; present is false where there is none.
func (Request) Header(name string) (value string, present bool, err error) {
	return header(ofRequest, name)
}
func (Request) Headers() ([]Field, error)             { return headers(ofRequest) }
func (Request) SetHeader(name, value string) error    { return setHeader(ofRequest, name, value) }
func (Request) AppendHeader(name, value string) error { return appendHeader(ofRequest, name, value) }
func (Request) RemoveHeader(name string) error        { return removeHeader(ofRequest, name) }

// WantBody asks for the body of this request.
func (Request) WantBody(max uint64) error { return wantBody(ofRequest, max) }
func (Request) Body() ([]byte, error)     { return body(ofRequest) }
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
func (Response) Headers() ([]Field, error)             { return headers(ofResponse) }
func (Response) SetHeader(name, value string) error    { return setHeader(ofResponse, name, value) }
func (Response) AppendHeader(name, value string) error { return appendHeader(ofResponse, name, value) }
func (Response) RemoveHeader(name string) error        { return removeHeader(ofResponse, name) }
func (Response) WantBody(max uint64) error             { return wantBody(ofResponse, max) }
func (Response) Body() ([]byte, error)                 { return body(ofResponse) }
func (Response) SetBody(body []byte) error             { return setBody(ofResponse, body) }
func (Response) Request() Request                      { return Request{} }

// Route is the route of the current exchange.
type Route struct{}

func (Route) Name() (string, error)                                     { return routeName() }
func (Route) Param(name string) (value string, present bool, err error) { return routeParam(name) }

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
	text, err := json.Marshal(map[string]any{"type": "about:blank", "title": p.Title, "status": p.Status, "detail": p.Detail, "request_id": id})
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
