//go:build wasip1

// The canonical ABI of services, choices and pieces: records and lists of them.

package filter

import (
	"errors"
	"time"
	"unsafe"
)

// Lists of records, for as long as a call has their place as a number.
var (
	heldLimits   []limitRecord
	heldPlaces   []placeRecord
	heldRequests []outgoingRecord
)

func option(present bool) uint32 {
	if present {
		return 1
	}
	return 0
}

func resultBool(call string) (bool, error) {
	if err := done(call); err != nil {
		return false, err
	}
	return at[uint8](8) != 0, nil
}

func resultNumber(call string) (uint64, error) {
	if err := done(call); err != nil {
		return 0, err
	}
	return at[uint64](8), nil
}

func resultTexts(call string) ([]string, error) {
	if err := done(call); err != nil {
		return nil, err
	}
	texts := []string{}
	for _, each := range slice[span](8) {
		texts = append(texts, each.text())
	}
	return texts, nil
}

// Messages.

func requestClientCertificate() (string, bool, error) {
	importClientCertificate(out())
	return resultOption("request.client-certificate")
}
func requestSetQuery(query string, present bool) error {
	importSetQuery(option(present), query, out())
	return done("request.set-query")
}
func headerValues(m message, name string) ([]string, error) {
	if p := out(); m == ofRequest {
		importRequestHeaderValues(name, p)
	} else {
		importResponseHeaderValues(name, p)
	}
	return resultTexts(m.call("header-values"))
}
func responseOrigin() (Origin, error) {
	importOrigin(out())
	if err := done("response.origin"); err != nil {
		return 0, err
	}
	return Origin(at[uint8](8)), nil
}
func cacheStatus() (string, bool, error) {
	importCacheStatus(out())
	return resultOption("response.cache-status")
}
func trailer(name string) (string, bool, error) {
	importTrailer(name, out())
	return resultOption("response.trailer")
}
func trailers() ([]Field, error) { importTrailers(out()); return resultFields("response.trailers") }
func setTrailer(name, value string) error {
	importSetTrailer(name, value, out())
	return done("response.set-trailer")
}
func removeTrailer(name string) error {
	importRemoveTrailer(name, out())
	return done("response.remove-trailer")
}

// Pieces.

func chunkLength() (uint64, error) {
	importChunkLength(out())
	return resultNumber("chunk.length")
}
func chunkBytes() ([]byte, error) {
	length, err := chunkLength()
	if err != nil {
		return nil, err
	}
	reserve(uintptr(length) + 64)
	importChunkRead(0, length, out())
	return resultBytes("chunk.read")
}
func chunkIsLast() (bool, error) { importChunkIsLast(out()); return resultBool("chunk.is-last") }
func chunkReplace(bytes []byte) error {
	importChunkReplace(pointer(bytes), uint32(len(bytes)), out())
	return done("chunk.replace")
}
func chunkHold(tail int) error {
	if tail < 0 {
		return &Error{Call: "chunk.hold", Kind: Invalid, Reason: "less than nothing"}
	}
	importChunkHold(uint64(tail), out())
	return done("chunk.hold")
}
func chunkEnd() error      { importChunkEnd(out()); return done("chunk.end") }
func chunkPassRest() error { importChunkPassRest(out()); return done("chunk.pass-rest") }
func eventText(which string) (string, bool, error) {
	switch p := out(); which {
	case "event-name":
		importEventName(p)
	case "event-id":
		importEventID(p)
	default:
		importEventData(p)
	}
	return resultOption("chunk." + which)
}
func eventSetData(data string) error {
	importSetEventData(data, out())
	return done("chunk.set-event-data")
}
func interestPieces(which string, types []string) error {
	list := spans(types)
	at, count, p := pointer(list), uint32(len(list)), out()
	switch which {
	case "request-chunks":
		importWantRequestChunks(at, count, p)
	case "response-chunks":
		importWantResponseChunks(at, count, p)
	default:
		importWantResponseEvents(at, count, p)
	}
	keep(types)
	return done("interest." + which)
}

// The cache.

func cacheSetKeyPart(name, value string) error {
	importSetKeyPart(name, value, out())
	return done("cache.set-key-part")
}
func cacheAddTag(tag string) error { importAddTag(tag, out()); return done("cache.add-tag") }
func cacheSetFreshness(f Freshness) error {
	millis := func(d time.Duration) uint64 { return uint64(max(0, d.Milliseconds())) }
	importSetFreshness(millis(f.TTL), option(f.StaleWhileRevalidate != 0), millis(f.StaleWhileRevalidate),
		option(f.StaleIfError != 0), millis(f.StaleIfError), out())
	return done("cache.set-freshness")
}
func cacheNoStore() error { importNoStore(out()); return done("cache.no-store") }

// The route.

type endpointRecord struct {
	upstream, address span
	weight            uint32
	healthy           uint8
	active            uint32
	latency           uint64
}

func routeUpstreams() ([]string, error) {
	importUpstreams(out())
	return resultTexts("route.upstreams")
}
func routeEndpoints() ([]Endpoint, error) {
	importEndpoints(out())
	if err := done("route.endpoints"); err != nil {
		return nil, err
	}
	endpoints := []Endpoint{}
	for _, each := range slice[endpointRecord](8) {
		endpoints = append(endpoints, Endpoint{each.upstream.text(), each.address.text(), each.weight, each.healthy != 0, each.active, each.latency})
	}
	return endpoints, nil
}
func routeEndpointLabel(upstream, address, label string) (string, bool, error) {
	importEndpointLabel(upstream, address, label, out())
	return resultOption("route.endpoint-label")
}
func routeChoose(which, value string) error {
	if p := out(); which == "hash-key" {
		importHashKey(value, p)
	} else {
		importChooseUpstream(value, p)
	}
	return done("route." + which)
}
func routeChooseEndpoints(addresses []string) error {
	list := spans(addresses)
	importChooseEndpoints(pointer(list), uint32(len(list)), out())
	keep(addresses)
	return done("route.choose-endpoints")
}
func routeNoRetry() error           { importNoRetry(out()); return done("route.no-retry") }
func routeSummary() (string, error) { importSummary(out()); return resultText("route.summary") }

// Limits.

type limitRecord struct {
	key       span
	algorithm uint8
	amount    uint64
	window    uint64
	burst     uint64
}

type placeRecord struct {
	key    span
	amount uint32
}

type standingRecord struct {
	allowed    uint8
	remaining  uint64
	reset      uint64
	retryAfter uint64
}

func limitRecords(limits []Limit) []limitRecord {
	records := make([]limitRecord, 0, len(limits)+1)
	for _, l := range limits {
		window := uint64(max(0, l.Window.Milliseconds()))
		records = append(records, limitRecord{spanOf(l.Key), uint8(l.Algorithm), l.Amount, window, l.Burst})
	}
	heldLimits = records
	return records
}

func standings(offset uintptr) []Standing {
	millis := func(ms uint64) time.Duration {
		const longest = uint64(1<<63-1) / uint64(time.Millisecond)
		return time.Duration(min(ms, longest)) * time.Millisecond
	}
	made := []Standing{}
	for _, each := range slice[standingRecord](offset) {
		made = append(made, Standing{each.allowed != 0, each.remaining, millis(each.reset), millis(each.retryAfter)})
	}
	return made
}

func limiterTake(limits []Limit, cost uint64) ([]Standing, error) {
	records := limitRecords(limits)
	importTake(pointer(records), uint32(len(records)), cost, out())
	keep(limits)
	if err := done("limiter.take"); err != nil {
		return nil, err
	}
	return standings(8), nil
}

func concurrencyEnter(places []PlaceLimit, limits []Limit, cost uint64) (Admission, error) {
	placed := make([]placeRecord, 0, len(places)+1)
	for _, place := range places {
		placed = append(placed, placeRecord{spanOf(place.Key), place.Amount})
	}
	heldPlaces = placed
	records := limitRecords(limits)
	importEnter(pointer(placed), uint32(len(placed)), pointer(records), uint32(len(records)), cost, out())
	keep(places)
	keep(limits)
	if err := done("concurrency.enter"); err != nil {
		return Admission{}, err
	}
	full := -1
	if at[uint8](8) != 0 {
		full = int(at[uint32](12))
	}
	return Admission{full, standings(16)}, nil
}

// Stores.

func kvCompareAndSwap(space, key string, expected, value []byte, ttl uint64) (bool, error) {
	importKVCompareAndSwap(space, key, option(expected != nil), pointer(expected), uint32(len(expected)),
		pointer(value), uint32(len(value)), option(ttl != 0), ttl, out())
	return resultBool("kv.compare-and-swap")
}
func kvGetOrReserve(space, key string, ttl uint64) (Reservation, []byte, error) {
	importKVGetOrReserve(space, key, ttl, out())
	if err := done("kv.get-or-reserve"); err != nil {
		return Pending, nil, err
	}
	switch at[uint8](8) {
	case 0:
		return Found, []byte(text(12)), nil
	case 1:
		return Reserved, nil, nil
	}
	return Pending, nil, nil
}
func kvWait(space, key string, timeout uint32) ([]byte, error) {
	importKVWait(space, key, timeout, out())
	return resultOptionBytes("kv-wait.wait")
}

// Consumers.

func passwordsAuthenticate(username string, password []byte) (string, bool, error) {
	importAuthenticatePassword(username, pointer(password), uint32(len(password)), out())
	return resultOption("passwords.authenticate")
}
func consumersRecallPassword(username string, password []byte) (string, bool, error) {
	importRecallPassword(username, pointer(password), uint32(len(password)), out())
	return resultOption("consumers.recall-password")
}
func consumersVouch(name, method string) (bool, error) {
	importVouch(name, method, out())
	return resultBool("consumers.vouch")
}
func consumersKnown() (bool, error) { importKnown(out()); return resultBool("consumers.known") }
func consumersLabels() ([]Label, error) {
	importConsumerLabels(out())
	fields, err := resultFields("consumers.labels")
	var labels []Label
	for _, field := range fields {
		labels = append(labels, Label(field))
	}
	return labels, err
}
func consumersText(which, name string) (string, bool, error) {
	switch p := out(); which {
	case "plan":
		importPlan(p)
	case "method":
		importConsumerMethod(p)
	default:
		importConsumerLabel(name, p)
	}
	return resultOption("consumers." + which)
}

// Cryptography.

func cryptoHash(algorithm string, data []byte) ([]byte, error) {
	importHash(algorithm, pointer(data), uint32(len(data)), out())
	return resultBytes("crypto.hash")
}
func cryptoHMAC(algorithm string, key, data []byte) ([]byte, error) {
	importHMAC(algorithm, pointer(key), uint32(len(key)), pointer(data), uint32(len(data)), out())
	return resultBytes("crypto.hmac")
}
func cryptoEqual(a, b []byte) (bool, error) {
	importEqual(pointer(a), uint32(len(a)), pointer(b), uint32(len(b)), out())
	return resultBool("crypto.equal")
}

// Calls to other services.

type outgoingRecord struct{ method, url, headers, body span }

// One answer: an incoming, or an error in its place.
type answerRecord struct {
	refused uint8
	payload [3]uint64
}

type incomingRecord struct {
	status        uint16
	headers, body span
}

type errorRecord struct {
	kind  uint8
	limit uint64
}

func (a *answerRecord) incoming() Incoming {
	payload := unsafe.Pointer(&a.payload)
	if a.refused != 0 {
		record := (*errorRecord)(payload)
		err := &Error{Call: "http.send", Kind: Kind(record.kind)}
		switch err.Kind {
		case TooLarge:
			err.Limit = record.limit
		case WrongHook, Timeout:
		default:
			err.Reason = (*span)(unsafe.Pointer(&record.limit)).text()
		}
		return Incoming{Err: err}
	}
	record := (*incomingRecord)(payload)
	headers := []Field{}
	for _, pair := range unsafe.Slice((*[2]span)(unsafe.Pointer(uintptr(record.headers.pointer))), record.headers.length) {
		headers = append(headers, Field{pair[0].text(), pair[1].text()})
	}
	return Incoming{Status: record.status, Headers: headers, Body: []byte(record.body.text())}
}

func bytesSpan(bytes []byte) span {
	heldBytes = bytes
	return span{uint32(uintptr(pointer(bytes))), uint32(len(bytes))}
}

func httpSend(requests []Outgoing, timeout uint32) ([]Incoming, error) {
	records := make([]outgoingRecord, 0, len(requests)+1)
	lists := make([][]span, 0, len(requests))
	for _, request := range requests {
		headers := make([]span, 0, 2*len(request.Headers)+1)
		for _, field := range request.Headers {
			headers = append(headers, spanOf(field.Name), spanOf(field.Value))
		}
		heldSpans = headers
		lists = append(lists, headers)
		list := span{uint32(uintptr(pointer(headers))), uint32(len(request.Headers))}
		records = append(records, outgoingRecord{spanOf(request.Method), spanOf(request.URL), list, bytesSpan(request.Body)})
	}
	heldRequests = records
	importSend(pointer(records), uint32(len(records)), timeout, out())
	keep(lists)
	keep(requests)
	if err := done("http.send"); err != nil {
		return nil, err
	}
	if len(slice[answerRecord](8)) != len(requests) {
		return nil, errors.New("http.send: not an answer for each request")
	}
	answers := make([]Incoming, 0, len(requests))
	for i := range slice[answerRecord](8) {
		answers = append(answers, slice[answerRecord](8)[i].incoming())
	}
	return answers, nil
}
