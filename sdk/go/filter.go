// Package filter makes filters for the Sluice gateway in Go.
//
// A filter is a type with any of the methods of the hooks (OnRequest, OnResponseBody, …), and a function that makes it from its config:
//
//	type stamp struct {
//		Header string `json:"header"`
//		Value  string `json:"value"`
//	}
//
//	func (s stamp) OnRequest(request filter.Request) (filter.Verdict, error) {
//		return filter.Continue, request.SetHeader(s.Header, s.Value)
//	}
//
//	func init() {
//		filter.Export(func(config stamp, _ *filter.Setup) (stamp, error) { return config, nil })
//	}
//
//	func main() {}
//
// An error of a hook, and a panic, undoes the edits of the call; the text goes to the gateway's log, and the filter's failure policy decides. An
// instance serves many exchanges in turn: what belongs to one is kept with SetState, never in the filter.
package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Verdict is what a hook decides.
type Verdict int32

const (
	// Continue goes on to the next filter.
	Continue Verdict = iota
	// Respond answers now, with the response as it was drafted. An answer of a request hook passes OnResponse of the filters before this one in the
	// pipeline, and not its own.
	Respond
)

// Kind says why a call was refused.
type Kind uint8

const (
	WrongHook Kind = iota
	NotGranted
	Invalid
	TooLarge
	Unavailable
	Timeout
	Other
)

func (k Kind) String() string {
	names := [...]string{"wrong hook", "not granted", "invalid", "too large", "unavailable", "timeout", "other"}
	if int(k) < len(names) {
		return names[k]
	}
	return names[Other]
}

// Error is a call that the gateway has refused. Nothing has changed.
type Error struct {
	// Call is the function of the interface, such as `request.set-header`.
	Call string
	Kind Kind
	// Reason is the gateway's. For NotGranted it names the missing grant as it is written in gateway.toml.
	Reason string
	// Limit is what TooLarge is about.
	Limit uint64
}

func (e *Error) Error() string {
	switch {
	case e.Kind == TooLarge:
		return fmt.Sprintf("%s: %s: the limit is %d", e.Call, e.Kind, e.Limit)
	case e.Reason == "":
		return e.Call + ": " + e.Kind.String()
	}
	return e.Call + ": " + e.Kind.String() + ": " + e.Reason
}

// ConfigError refuses a config. Key is the path of the value: `limits[1].window`.
type ConfigError struct{ Key, Message string }

func (e *ConfigError) Error() string { return e.Key + ": " + e.Message }

// The hooks. A filter has the methods of those that it wants to be called for.
type (
	OnRequester interface {
		OnRequest(Request) (Verdict, error)
	}
	OnRequestBodier interface {
		OnRequestBody(Request) (Verdict, error)
	}
	UpstreamSelector interface{ SelectUpstream(Route) error }
	OnResponder      interface {
		OnResponse(Response) (Verdict, error)
	}
	OnResponseBodier interface {
		OnResponseBody(Response) (Verdict, error)
	}
	OnRequestChunker     interface{ OnRequestChunk(Chunk) error }
	OnResponseChunker    interface{ OnResponseChunk(Chunk) error }
	OnResponseEventer    interface{ OnResponseEvent(Event) error }
	OnResponseTrailerser interface{ OnResponseTrailers(Response) error }
	OnCompleter          interface{ OnComplete() error }
)

// The filter of this instance, and what makes it.
var (
	filter any
	make_  func(config string) (any, error)
)

// Export says how the filter is made. To be called from init, once. A hook of another type refuses the config, as does one for bodies that nothing asks for;
// in `go test` (Exchange.Configure), also a method that begins with On or Select and is no hook.
func Export[Config, Filter any](new func(Config, *Setup) (Filter, error)) {
	make_ = func(text string) (any, error) {
		var config Config
		if err := decode(text, &config); err != nil {
			return nil, err
		}
		setup := &Setup{}
		made, err := new(config, setup)
		if err != nil {
			return nil, err
		}
		return checked(made, &made, setup)
	}
}

// configure makes the filter; the message refuses the config.
func configure(text string) (message string) {
	defer func() {
		if cause := recover(); cause != nil {
			message = ": " + panicked(cause)
		}
	}()
	if make_ == nil {
		return ": the filter does not call filter.Export"
	}
	made, err := make_(text)
	if err != nil {
		var config *ConfigError
		if errors.As(err, &config) {
			return config.Error()
		}
		return ": " + err.Error()
	}
	filter = made
	// The component has all hooks: those that the filter lacks are never called.
	for _, hook := range hooks(made) {
		if err := interestHook(hook.name, hook.has); err != nil {
			return ": " + err.Error()
		}
	}
	return ""
}

// decode reads the config, and names the key of what is wrong.
func decode(text string, config any) error {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(config)
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return &ConfigError{kind.Field, fmt.Sprintf("expected %s, found %s", expected(kind.Type), kind.Value)}
	}
	if err != nil {
		if _, name, unknown := strings.Cut(err.Error(), "unknown field "); unknown {
			return &ConfigError{strings.Trim(name, `"`), "unknown key"}
		}
	}
	return err
}

// expected is a type in the words of a config.
func expected(of reflect.Type) string {
	switch of.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number that is not negative"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a table"
	}
	return of.String()
}

// call runs a hook: what goes wrong in it is told to the gateway.
func call(hook func() (Verdict, error)) (verdict Verdict) {
	defer func() {
		if cause := recover(); cause != nil {
			logFail(panicked(cause))
			verdict = Continue
		}
	}()
	verdict, err := hook()
	if err != nil {
		logFail(err.Error())
		return Continue
	}
	return verdict
}

func plain(err error) (Verdict, error) { return Continue, err }

func onRequest() Verdict {
	return call(func() (Verdict, error) { return filter.(OnRequester).OnRequest(Request{}) })
}
func onRequestBody() Verdict {
	return call(func() (Verdict, error) { return filter.(OnRequestBodier).OnRequestBody(Request{}) })
}
func selectUpstream() {
	call(func() (Verdict, error) { return plain(filter.(UpstreamSelector).SelectUpstream(Route{})) })
}
func onResponse() Verdict {
	return call(func() (Verdict, error) { return filter.(OnResponder).OnResponse(Response{}) })
}
func onResponseBody() Verdict {
	return call(func() (Verdict, error) { return filter.(OnResponseBodier).OnResponseBody(Response{}) })
}
func onRequestChunk() {
	call(func() (Verdict, error) { return plain(filter.(OnRequestChunker).OnRequestChunk(Chunk{})) })
}
func onResponseChunk() {
	call(func() (Verdict, error) { return plain(filter.(OnResponseChunker).OnResponseChunk(Chunk{})) })
}
func onResponseEvent() {
	call(func() (Verdict, error) { return plain(filter.(OnResponseEventer).OnResponseEvent(Event{})) })
}
func onResponseTrailers() {
	call(func() (Verdict, error) { return plain(filter.(OnResponseTrailerser).OnResponseTrailers(Response{})) })
}
func onComplete() { call(func() (Verdict, error) { return plain(filter.(OnCompleter).OnComplete()) }) }

// Setup is what a filter can ask for while it is made.
//
// Media types are `application/json`, `text/*` for every subtype, or `*/*+json` for every type with a suffix. No type means all.
type Setup struct {
	// The hooks for bodies that were asked for.
	asked map[string]bool
}

func (s *Setup) ask(hook string) {
	if s.asked == nil {
		s.asked = map[string]bool{}
	}
	s.asked[hook] = true
}

// RequestBody asks for request bodies of these media types up to a size in bytes, for OnRequestBody. A larger one is answered with 413. A size over the
// operator's `limits.body` (1 MiB by default) counts as that limit.
func (s *Setup) RequestBody(max uint64, types ...string) error {
	s.ask("on-request-body")
	return interestBody("request-body", max, types)
}

// ResponseBody asks for response bodies, for OnResponseBody. A larger one is answered with 500, or passed on unseen where the filter's `on_error` is
// "open".
func (s *Setup) ResponseBody(max uint64, types ...string) error {
	s.ask("on-response-body")
	return interestBody("response-body", max, types)
}

// RequestChunks asks for request bodies of these media types piece by piece, for OnRequestChunk.
func (s *Setup) RequestChunks(types ...string) error {
	s.ask("on-request-chunk")
	return interestPieces("request-chunks", types)
}

// ResponseChunks asks for response bodies piece by piece, for OnResponseChunk.
func (s *Setup) ResponseChunks(types ...string) error {
	s.ask("on-response-chunk")
	return interestPieces("response-chunks", types)
}

// ResponseEvents asks for responses event by event, for OnResponseEvent. `text/event-stream` has server-sent events; in any other type, each line is
// an event. Without types: `text/event-stream` and NDJSON.
func (s *Setup) ResponseEvents(types ...string) error {
	s.ask("on-response-event")
	return interestPieces("response-events", types)
}

// Needs says what this config needs to have been granted, shaped like the grants table of gateway.toml: `setup.Needs(map[string]any{"kv":
// []string{"sessions"}})`. The gateway warns of what is missing when it loads the filter.
func (*Setup) Needs(grants any) error {
	text, err := json.Marshal(grants)
	if err != nil {
		return err
	}
	return interestNeeds(string(text))
}

// ParseJSON reads a body for a filter that changes it: numbers stay as they are written. Members of objects lose their order, since they become a map.
func ParseJSON(body []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return value, nil
}

// FormatJSON writes a body without escapes that only HTML needs.
func FormatJSON(value any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}
