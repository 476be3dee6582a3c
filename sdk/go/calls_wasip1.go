//go:build wasip1

// The canonical ABI of the interface in wit/.

package filter

import (
	"encoding/json"
	"math"
	"unsafe"
)

// What a call returns: at 0 whether it was refused, at 8 what it has returned or why not. Not on a stack, which may move while the gateway
// writes here.
var ret [5]uint64

// One lays out the memory of ret as a value of a type.
func at[T any](offset uintptr) T { return *(*T)(unsafe.Add(unsafe.Pointer(&ret), offset)) }

// What the results point to is in the arena; a copy of it lives on.
func text(offset uintptr) string { return string(slice[byte](offset)) }

func slice[T any](offset uintptr) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(uintptr(at[uint32](offset)))), at[uint32](offset+4))
}

// done ends a call: the arena is free again.
func done(call string) error {
	release()
	if at[uint8](0) == 0 {
		return nil
	}
	err := &Error{Call: call, Kind: Kind(at[uint8](8))}
	switch err.Kind {
	case TooLarge:
		err.Limit = at[uint64](16)
	case WrongHook, Timeout:
	default:
		err.Reason = text(16)
	}
	return err
}

func out() unsafe.Pointer {
	prepare()
	return unsafe.Pointer(&ret)
}

func resultText(call string) (string, error) {
	if err := done(call); err != nil {
		return "", err
	}
	return text(8), nil
}

func resultBytes(call string) ([]byte, error) {
	got, err := resultText(call)
	return []byte(got), err
}

func resultOption(call string) (string, bool, error) {
	if err := done(call); err != nil || at[uint8](8) == 0 {
		return "", false, err
	}
	return text(12), true, nil
}

func resultOptionBytes(call string) ([]byte, error) {
	got, present, err := resultOption(call)
	if !present {
		return nil, err
	}
	return []byte(got), nil
}

func resultFields(call string) ([]Field, error) {
	if err := done(call); err != nil {
		return nil, err
	}
	var fields []Field
	for _, pair := range slice[[2]span](8) {
		fields = append(fields, Field{pair[0].text(), pair[1].text()})
	}
	return fields, nil
}

// A text or list as it lies in memory.
type span struct{ pointer, length uint32 }

func (s span) text() string {
	return string(unsafe.Slice((*byte)(unsafe.Pointer(uintptr(s.pointer))), s.length))
}

// What a span points to must be on the heap: a stack may move after its address was taken as a number.
var (
	heldText  string
	heldBytes []byte
	heldSpans []span
)

func spanOf(text string) span {
	heldText = text
	return span{uint32(uintptr(unsafe.Pointer(unsafe.StringData(text)))), uint32(len(text))}
}

// The texts stay reachable by the caller while the gateway reads the list.
func spans(texts []string) []span {
	made := make([]span, 0, len(texts)+1)
	for _, text := range texts {
		made = append(made, spanOf(text))
	}
	return made
}

func labelSpans(labels []Label) []span {
	made := make([]span, 0, 2*len(labels)+1)
	for _, label := range labels {
		made = append(made, spanOf(label.Name), spanOf(label.Value))
	}
	return made
}

func pointer[T any](list []T) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(list)) }

type message int

const (
	ofRequest message = iota
	ofResponse
)

func (m message) call(name string) string {
	if m == ofRequest {
		return "request." + name
	}
	return "response." + name
}

func requestText(which string) (string, error) {
	switch p := out(); which {
	case "method":
		importMethod(p)
	case "scheme":
		importScheme(p)
	case "authority":
		importAuthority(p)
	case "path":
		importPath(p)
	case "client-address":
		importClientAddress(p)
	case "protocol":
		importProtocol(p)
	default:
		importID(p)
	}
	return resultText("request." + which)
}

func requestQuery() (string, bool, error) { importQuery(out()); return resultOption("request.query") }

func requestSet(which, value string) error {
	if p := out(); which == "set-path" {
		importSetPath(value, p)
	} else {
		importSetMethod(value, p)
	}
	return done("request." + which)
}

func header(m message, name string) (string, bool, error) {
	if p := out(); m == ofRequest {
		importRequestHeader(name, p)
	} else {
		importResponseHeader(name, p)
	}
	return resultOption(m.call("header"))
}

func headers(m message) ([]Field, error) {
	if p := out(); m == ofRequest {
		importRequestHeaders(p)
	} else {
		importResponseHeaders(p)
	}
	return resultFields(m.call("headers"))
}

func setHeader(m message, name, value string) error {
	if p := out(); m == ofRequest {
		importRequestSetHeader(name, value, p)
	} else {
		importResponseSetHeader(name, value, p)
	}
	return done(m.call("set-header"))
}

func appendHeader(m message, name, value string) error {
	if p := out(); m == ofRequest {
		importRequestAppendHeader(name, value, p)
	} else {
		importResponseAppendHeader(name, value, p)
	}
	return done(m.call("append-header"))
}

func removeHeader(m message, name string) error {
	if p := out(); m == ofRequest {
		importRequestRemoveHeader(name, p)
	} else {
		importResponseRemoveHeader(name, p)
	}
	return done(m.call("remove-header"))
}

func wantBody(m message, max uint64) error {
	if p := out(); m == ofRequest {
		importRequestWantBody(max, p)
	} else {
		importResponseWantBody(max, p)
	}
	return done(m.call("want-body"))
}

func body(m message) ([]byte, error) {
	if p := out(); m == ofRequest {
		importRequestBodyLength(p)
	} else {
		importResponseBodyLength(p)
	}
	if err := done(m.call("body")); err != nil {
		return nil, err
	}
	length := at[uint64](8)
	reserve(uintptr(length) + 64)
	if p := out(); m == ofRequest {
		importRequestBody(0, length, p)
	} else {
		importResponseBody(0, length, p)
	}
	return resultBytes(m.call("body"))
}

func setBody(m message, body []byte) error {
	if p := out(); m == ofRequest {
		importRequestSetBody(pointer(body), uint32(len(body)), p)
	} else {
		importResponseSetBody(pointer(body), uint32(len(body)), p)
	}
	return done(m.call("set-body"))
}

func status() (uint16, error) {
	importStatus(out())
	if err := done("response.status"); err != nil {
		return 0, err
	}
	return at[uint16](8), nil
}

func setStatus(status uint16) error {
	importSetStatus(uint32(status), out())
	return done("response.set-status")
}
func setReason(reason string) error {
	importSetReason(reason, out())
	return done("response.set-reason")
}
func routeName() (string, error) { importRouteName(out()); return resultText("route.name") }
func routeParam(name string) (string, bool, error) {
	importRouteParam(name, out())
	return resultOption("route.param")
}
func contextConsumer() (string, bool, error) {
	importConsumer(out())
	return resultOption("context.consumer")
}
func contextSetConsumer(name string) error {
	importSetConsumer(name, out())
	return done("context.set-consumer")
}

// The cases of a value of the context.
const (
	valueText = iota
	valueInteger
	valueFloat
	valueBoolean
	valueTexts
	valueJSON
)

func contextGet(key string) (any, error) {
	importContextGet(key, out())
	return resultValue("context.get")
}

func contextGetPath(key string, path []string) (any, error) {
	list := spans(path)
	importContextGetPath(key, pointer(list), uint32(len(list)), out())
	keep(path)
	return resultValue("context.get-path")
}

func resultValue(call string) (any, error) {
	if err := done(call); err != nil || at[uint8](8) == 0 {
		return nil, err
	}
	switch at[uint8](16) {
	case valueInteger:
		return at[int64](24), nil
	case valueFloat:
		return at[float64](24), nil
	case valueBoolean:
		return at[uint8](24) != 0, nil
	case valueTexts:
		texts := []string{}
		for _, each := range slice[span](24) {
			texts = append(texts, each.text())
		}
		return texts, nil
	case valueJSON:
		return json.RawMessage(text(24)), nil
	}
	return text(24), nil
}

func contextSet(key string, value any) error {
	p := out()
	list := func(kind uint32, of span) { importContextSet(key, kind, uint64(of.pointer), of.length, p) }
	switch value := value.(type) {
	case string:
		list(valueText, spanOf(value))
	case int64:
		importContextSet(key, valueInteger, uint64(value), 0, p)
	case float64:
		importContextSet(key, valueFloat, math.Float64bits(value), 0, p)
	case bool:
		var bit uint64
		if value {
			bit = 1
		}
		importContextSet(key, valueBoolean, bit, 0, p)
	case []string:
		texts := spans(value)
		heldSpans = texts
		list(valueTexts, span{uint32(uintptr(pointer(texts))), uint32(len(texts))})
		keep(texts)
	case json.RawMessage:
		heldBytes = value
		list(valueJSON, span{uint32(uintptr(pointer(value))), uint32(len(value))})
	}
	keep(value)
	return done("context.set")
}

func contextWriter(key string) (string, bool, error) {
	importContextWriter(key, out())
	return resultOption("context.writer")
}

func stateGet() ([]byte, error) { importStateGet(out()); return resultOptionBytes("state.get") }
func stateSet(value []byte) error {
	importStateSet(pointer(value), uint32(len(value)), out())
	return done("state.set")
}
func logLine(level Level, line string) { importLog(uint32(level), line) }
func logFail(reason string)            { importFail(reason) }
func clockNow() uint64                 { return importNow() }
func clockMonotonic() uint64           { return importMonotonic() }
func randomBytes(length uint32) ([]byte, error) {
	reserve(uintptr(length) + 64)
	importRandom(length, out())
	return resultBytes("random.bytes")
}
func secretsGet(name string) (string, error) {
	importSecret(name, out())
	return resultText("secrets.get")
}

func metricsCount(name string, labels []Label, delta uint64) error {
	list := labelSpans(labels)
	importCount(name, pointer(list), uint32(len(labels)), delta, out())
	keep(labels)
	return done("metrics.count")
}
func metricsGauge(name string, labels []Label, value float64) error {
	list := labelSpans(labels)
	importGauge(name, pointer(list), uint32(len(labels)), value, out())
	keep(labels)
	return done("metrics.gauge")
}
func metricsObserve(name string, labels []Label, value float64) error {
	list := labelSpans(labels)
	importObserve(name, pointer(list), uint32(len(labels)), value, out())
	keep(labels)
	return done("metrics.observe")
}

func kvGet(space, key string) ([]byte, error) {
	importKVGet(space, key, out())
	return resultOptionBytes("kv.get")
}
func kvSet(space, key string, value []byte, ttl uint64) error {
	var some uint32
	if ttl != 0 {
		some = 1
	}
	importKVSet(space, key, pointer(value), uint32(len(value)), some, ttl, out())
	return done("kv.set")
}
func kvDelete(space, key string) (bool, error) {
	importKVDelete(space, key, out())
	if err := done("kv.delete"); err != nil {
		return false, err
	}
	return at[uint8](8) != 0, nil
}
func consumersAuthenticate(kind, credential string) (string, bool, error) {
	importAuthenticate(kind, credential, out())
	return resultOption("consumers.authenticate")
}

func interestHook(name string, wanted bool) error {
	var bit uint32
	if wanted {
		bit = 1
	}
	importHook(name, bit, out())
	return done("interest.hook")
}
func interestBody(which string, max uint64, types []string) error {
	list := spans(types)
	if p := out(); which == "request-body" {
		importWantRequestBodies(max, pointer(list), uint32(len(list)), p)
	} else {
		importWantResponseBodies(max, pointer(list), uint32(len(list)), p)
	}
	keep(types)
	return done("interest." + which)
}
func interestNeeds(grants string) error {
	importNeeds(grants, out())
	return done("interest.needs")
}

// Exchange.Configure looks for it.
func misnamed(any, []hook) string { return "" }
