//go:build !wasip1

package filter

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Exchange is a double of the gateway, for `go test`: one exchange in memory. It grants everything, and knows messages, context, state, metrics, log
// and a key-value store.
type Exchange struct {
	// Path may have a query. Method is GET where it is empty, Authority localhost, Scheme http, ClientAddress 127.0.0.1.
	Method, Path, Authority, Scheme, ClientAddress string
	// Names of headers count in any case, and are lower-case after In. As in the gateway, `host` is absent.
	RequestHeaders  map[string]string
	RequestBody     []byte
	Status          uint16
	ResponseHeaders map[string]string
	ResponseBody    []byte
	Route           string
	Params          map[string]string
	Consumer        string
	Context         map[string]any
	State           []byte
	Reason          string
	// Counted are counters, as `refused reason=key-missing`.
	Counted map[string]uint64
	KV      map[string][]byte
	Lines   []string
	// Endpoints that SelectUpstream has, and the upstream, addresses and hash key that it has chosen.
	Endpoints []Endpoint
	Chosen    []string
	// Answer is the other services: what it returns is what Send gets. Without it, each request fails.
	Answer func(Outgoing) Incoming
	// Standing is the limiter: it is asked for each limit. Without it, everything is allowed.
	Standing func(Limit, uint64) Standing

	piece pieceDouble
}

var current = &Exchange{}

// In makes an exchange the current one: that of all calls until the next.
func (e *Exchange) In() *Exchange {
	for _, all := range []*map[string]string{&e.RequestHeaders, &e.ResponseHeaders, &e.Params} {
		if *all == nil {
			*all = map[string]string{}
		}
	}
	for _, headers := range []map[string]string{e.RequestHeaders, e.ResponseHeaders} {
		for name, value := range headers {
			delete(headers, name)
			if name = strings.ToLower(name); name != "host" {
				headers[name] = value
			}
		}
	}
	for field, usual := range map[*string]string{&e.Method: "GET", &e.Path: "/", &e.Authority: "localhost", &e.Scheme: "http", &e.ClientAddress: "127.0.0.1"} {
		if *field == "" {
			*field = usual
		}
	}
	if e.Context == nil {
		e.Context = map[string]any{}
	}
	if e.Counted == nil {
		e.Counted = map[string]uint64{}
	}
	if e.KV == nil {
		e.KV = map[string][]byte{}
	}
	if e.Status == 0 {
		e.Status = 200
	}
	current = e
	return e
}

type message int

const (
	ofRequest message = iota
	ofResponse
)

func (m message) headers() map[string]string {
	if m == ofRequest {
		return current.RequestHeaders
	}
	return current.ResponseHeaders
}

func (m message) body() *[]byte {
	if m == ofRequest {
		return &current.RequestBody
	}
	return &current.ResponseBody
}

func requestText(which string) (string, error) {
	path, _, _ := strings.Cut(current.Path, "?")
	texts := map[string]string{
		"method": current.Method, "path": path, "scheme": current.Scheme, "authority": strings.ToLower(current.Authority),
		"client-address": current.ClientAddress, "protocol": "HTTP/1.1", "id": "0123456789abcdef0123456789abcdef",
	}
	return texts[which], nil
}

func requestQuery() (string, bool, error) {
	_, query, present := strings.Cut(current.Path, "?")
	return query, present, nil
}

func requestSet(which, value string) error {
	if which == "set-path" {
		query, present, _ := requestQuery()
		current.Path = value
		return requestSetQuery(query, present)
	}
	current.Method = value
	return nil
}

func header(m message, name string) (string, bool, error) {
	value, present := m.headers()[strings.ToLower(name)]
	return value, present, nil
}

func headers(m message) ([]Field, error) {
	var fields []Field
	for name, value := range m.headers() {
		fields = append(fields, Field{name, value})
	}
	return fields, nil
}

func setHeader(m message, name, value string) error {
	m.headers()[strings.ToLower(name)] = value
	return nil
}

func appendHeader(m message, name, value string) error {
	if old, present := m.headers()[strings.ToLower(name)]; present {
		value = old + ", " + value
	}
	return setHeader(m, name, value)
}

func removeHeader(m message, name string) error {
	delete(m.headers(), strings.ToLower(name))
	return nil
}

func wantBody(message, uint64) error    { return nil }
func body(m message) ([]byte, error)    { return *m.body(), nil }
func setBody(m message, b []byte) error { *m.body() = b; return nil }
func status() (uint16, error)           { return current.Status, nil }
func setStatus(status uint16) error     { current.Status = status; return nil }
func setReason(reason string) error     { current.Reason = reason; return nil }
func routeName() (string, error)        { return current.Route, nil }
func routeParam(name string) (string, bool, error) {
	value, present := current.Params[name]
	return value, present, nil
}
func contextConsumer() (string, bool, error)    { return current.Consumer, current.Consumer != "", nil }
func contextSetConsumer(name string) error      { current.Consumer = name; return nil }
func contextGet(key string) (any, error)        { return current.Context[key], nil }
func contextSet(key string, value any) error    { current.Context[key] = value; return nil }
func stateGet() ([]byte, error)                 { return current.State, nil }
func stateSet(value []byte) error               { current.State = value; return nil }
func logLine(_ Level, line string)              { current.Lines = append(current.Lines, line) }
func logFail(reason string)                     { current.Lines = append(current.Lines, "failed: "+reason) }
func clockNow() uint64                          { return uint64(time.Now().UnixMicro()) }
func randomBytes(length uint32) ([]byte, error) { return make([]byte, length), nil }
func secretsGet(name string) (string, error)    { return name, nil }

func metricsCount(name string, labels []Label, delta uint64) error {
	for _, label := range labels {
		name += " " + label.Name + "=" + label.Value
	}
	current.Counted[name] += delta
	return nil
}
func metricsGauge(string, []Label, float64) error   { return nil }
func metricsObserve(string, []Label, float64) error { return nil }

func kvGet(space, key string) ([]byte, error) { return current.KV[space+"/"+key], nil }
func kvSet(space, key string, value []byte, _ uint64) error {
	current.KV[space+"/"+key] = value
	return nil
}
func kvDelete(space, key string) (bool, error) {
	_, present := current.KV[space+"/"+key]
	delete(current.KV, space+"/"+key)
	return present, nil
}
func consumersAuthenticate(string, string) (string, bool, error) {
	return "", false, errors.New("the double knows no consumers")
}
func interestHook(string, bool) error             { return nil }
func interestBody(string, uint64, []string) error { return nil }
func interestNeeds(string) error                  { return nil }

// Configure makes the filter that Export was given, with this config as JSON, as the gateway does. It answers why it was refused.
func (e *Exchange) Configure(config string) (made any, err error) {
	e.In()
	if message := configure(config); message != "" {
		return nil, errors.New(strings.TrimPrefix(message, ": "))
	}
	return filter, nil
}

// A method that looks like a hook and is none. In a component that would keep all methods of all types, so it is looked for in tests.
func misnamed(made any, all []hook) string {
	of := reflect.TypeOf(made)
	for i := range of.NumMethod() {
		name := of.Method(i).Name
		looks := strings.HasPrefix(name, "On") || strings.HasPrefix(name, "Select")
		if looks && !slices.ContainsFunc(all, func(h hook) bool { return h.short() == name }) {
			return name
		}
	}
	return ""
}
