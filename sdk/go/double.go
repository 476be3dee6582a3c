//go:build !wasip1

package filter

import (
	"errors"
	"strings"
	"time"
)

// Exchange is a double of the gateway, for `go test`: one exchange in memory. It grants everything, and knows messages, context, state, metrics, log
// and a key-value store. Names of headers are lower-case.
type Exchange struct {
	Method, Path    string
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
}

var current = &Exchange{}

// In makes an exchange the current one: that of all calls until the next.
func (e *Exchange) In() *Exchange {
	for _, all := range []*map[string]string{&e.RequestHeaders, &e.ResponseHeaders, &e.Params} {
		if *all == nil {
			*all = map[string]string{}
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
	texts := map[string]string{"method": current.Method, "path": current.Path, "scheme": "http", "authority": "localhost", "client-address": "127.0.0.1"}
	if text, known := texts[which]; known {
		return text, nil
	}
	return "test", nil
}

func requestQuery() (string, bool, error) { return "", false, nil }

func requestSet(which, value string) error {
	if which == "set-path" {
		current.Path = value
	} else {
		current.Method = value
	}
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
