//go:build wasip1

// The functions of the interface, by their names in core modules.

package filter

import (
	"runtime"
	"unsafe"
)

func keep(value any) { runtime.KeepAlive(value) }

//go:wasmimport sluice:filter/request@0.1.1 method
//go:noescape
func importMethod(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 scheme
//go:noescape
func importScheme(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 authority
//go:noescape
func importAuthority(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 path
//go:noescape
func importPath(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 client-address
//go:noescape
func importClientAddress(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 id
//go:noescape
func importID(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 query
//go:noescape
func importQuery(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 set-path
//go:noescape
func importSetPath(value string, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 set-method
//go:noescape
func importSetMethod(value string, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 header
//go:noescape
func importRequestHeader(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 headers
//go:noescape
func importRequestHeaders(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 set-header
//go:noescape
func importRequestSetHeader(name, value string, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 append-header
//go:noescape
func importRequestAppendHeader(name, value string, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 remove-header
//go:noescape
func importRequestRemoveHeader(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 want-body
//go:noescape
func importRequestWantBody(max uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 body-length
//go:noescape
func importRequestBodyLength(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 body
//go:noescape
func importRequestBody(offset, length uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 set-body
//go:noescape
func importRequestSetBody(body unsafe.Pointer, length uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 header
//go:noescape
func importResponseHeader(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 headers
//go:noescape
func importResponseHeaders(out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 set-header
//go:noescape
func importResponseSetHeader(name, value string, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 append-header
//go:noescape
func importResponseAppendHeader(name, value string, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 remove-header
//go:noescape
func importResponseRemoveHeader(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 want-body
//go:noescape
func importResponseWantBody(max uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 body-length
//go:noescape
func importResponseBodyLength(out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 body
//go:noescape
func importResponseBody(offset, length uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 set-body
//go:noescape
func importResponseSetBody(body unsafe.Pointer, length uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 status
//go:noescape
func importStatus(out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 set-status
//go:noescape
func importSetStatus(status uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 set-reason
//go:noescape
func importSetReason(reason string, out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 name
//go:noescape
func importRouteName(out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 param
//go:noescape
func importRouteParam(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/context@0.1.1 consumer
//go:noescape
func importConsumer(out unsafe.Pointer)

//go:wasmimport sluice:filter/context@0.1.1 set-consumer
//go:noescape
func importSetConsumer(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/context@0.1.1 get
//go:noescape
func importContextGet(key string, out unsafe.Pointer)

//go:wasmimport sluice:filter/context@0.1.1 set
//go:noescape
func importContextSet(key string, kind uint32, low uint64, high uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/context@0.1.1 get-path
//go:noescape
func importContextGetPath(key string, path unsafe.Pointer, count uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/context@0.1.1 writer
//go:noescape
func importContextWriter(key string, out unsafe.Pointer)

//go:wasmimport sluice:filter/state@0.1.1 get
//go:noescape
func importStateGet(out unsafe.Pointer)

//go:wasmimport sluice:filter/state@0.1.1 set
//go:noescape
func importStateSet(value unsafe.Pointer, length uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/log@0.1.1 log
//go:noescape
func importLog(level uint32, line string)

//go:wasmimport sluice:filter/log@0.1.1 fail
//go:noescape
func importFail(reason string)

//go:wasmimport sluice:filter/clock@0.1.1 now-us
//go:noescape
func importNow() uint64

//go:wasmimport sluice:filter/clock@0.1.1 monotonic-ns
//go:noescape
func importMonotonic() uint64

//go:wasmimport sluice:filter/random@0.1.1 bytes
//go:noescape
func importRandom(length uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/secrets@0.1.1 get
//go:noescape
func importSecret(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/metrics@0.1.1 count
//go:noescape
func importCount(name string, labels unsafe.Pointer, count uint32, delta uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/metrics@0.1.1 gauge
//go:noescape
func importGauge(name string, labels unsafe.Pointer, count uint32, value float64, out unsafe.Pointer)

//go:wasmimport sluice:filter/metrics@0.1.1 observe
//go:noescape
func importObserve(name string, labels unsafe.Pointer, count uint32, value float64, out unsafe.Pointer)

//go:wasmimport sluice:filter/kv@0.1.1 get
//go:noescape
func importKVGet(space, key string, out unsafe.Pointer)

//go:wasmimport sluice:filter/kv@0.1.1 delete
//go:noescape
func importKVDelete(space, key string, out unsafe.Pointer)

//go:wasmimport sluice:filter/kv@0.1.1 set
//go:noescape
func importKVSet(space, key string, value unsafe.Pointer, length uint32, some uint32, ttl uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/consumers@0.1.1 authenticate
//go:noescape
func importAuthenticate(kind, credential string, out unsafe.Pointer)

//go:wasmimport sluice:filter/interest@0.1.1 hook
//go:noescape
func importHook(name string, wanted uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/interest@0.1.1 needs
//go:noescape
func importNeeds(grants string, out unsafe.Pointer)

//go:wasmimport sluice:filter/interest@0.1.1 request-body
//go:noescape
func importWantRequestBodies(max uint64, types unsafe.Pointer, count uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/interest@0.1.1 response-body
//go:noescape
func importWantResponseBodies(max uint64, types unsafe.Pointer, count uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 protocol
//go:noescape
func importProtocol(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 client-certificate
//go:noescape
func importClientCertificate(out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 set-query
//go:noescape
func importSetQuery(some uint32, query string, out unsafe.Pointer)

//go:wasmimport sluice:filter/request@0.1.1 header-values
//go:noescape
func importRequestHeaderValues(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 header-values
//go:noescape
func importResponseHeaderValues(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 origin
//go:noescape
func importOrigin(out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 cache-status
//go:noescape
func importCacheStatus(out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 trailer
//go:noescape
func importTrailer(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 trailers
//go:noescape
func importTrailers(out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 set-trailer
//go:noescape
func importSetTrailer(name, value string, out unsafe.Pointer)

//go:wasmimport sluice:filter/response@0.1.1 remove-trailer
//go:noescape
func importRemoveTrailer(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 length
//go:noescape
func importChunkLength(out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 read
//go:noescape
func importChunkRead(offset, length uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 is-last
//go:noescape
func importChunkIsLast(out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 replace
//go:noescape
func importChunkReplace(bytes unsafe.Pointer, bytesLength uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 hold
//go:noescape
func importChunkHold(tail uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 end
//go:noescape
func importChunkEnd(out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 pass-rest
//go:noescape
func importChunkPassRest(out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 event-name
//go:noescape
func importEventName(out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 event-id
//go:noescape
func importEventID(out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 event-data
//go:noescape
func importEventData(out unsafe.Pointer)

//go:wasmimport sluice:filter/chunk@0.1.1 set-event-data
//go:noescape
func importSetEventData(data string, out unsafe.Pointer)

//go:wasmimport sluice:filter/cache@0.1.1 set-key-part
//go:noescape
func importSetKeyPart(name, value string, out unsafe.Pointer)

//go:wasmimport sluice:filter/cache@0.1.1 add-tag
//go:noescape
func importAddTag(tag string, out unsafe.Pointer)

//go:wasmimport sluice:filter/cache@0.1.1 set-freshness
//go:noescape
func importSetFreshness(ttl uint64, someRevalidate uint32, revalidate uint64, someError uint32, ifError uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/cache@0.1.1 no-store
//go:noescape
func importNoStore(out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 upstreams
//go:noescape
func importUpstreams(out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 endpoints
//go:noescape
func importEndpoints(out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 endpoint-label
//go:noescape
func importEndpointLabel(upstream, address, label string, out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 choose-upstream
//go:noescape
func importChooseUpstream(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 choose-endpoints
//go:noescape
func importChooseEndpoints(addresses unsafe.Pointer, count uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 hash-key
//go:noescape
func importHashKey(key string, out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 no-retry
//go:noescape
func importNoRetry(out unsafe.Pointer)

//go:wasmimport sluice:filter/route@0.1.1 summary
//go:noescape
func importSummary(out unsafe.Pointer)

//go:wasmimport sluice:filter/limiter@0.1.1 take
//go:noescape
func importTake(limits unsafe.Pointer, count uint32, cost uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/concurrency@0.1.1 enter
//go:noescape
func importEnter(places unsafe.Pointer, placeCount uint32, limits unsafe.Pointer, limitCount uint32, cost uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/kv@0.1.1 compare-and-swap
//go:noescape
func importKVCompareAndSwap(space, key string, some uint32, expected unsafe.Pointer, expectedLength uint32, value unsafe.Pointer, length uint32, someTTL uint32, ttl uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/kv@0.1.1 get-or-reserve
//go:noescape
func importKVGetOrReserve(space, key string, ttl uint64, out unsafe.Pointer)

//go:wasmimport sluice:filter/kv-wait@0.1.1 wait
//go:noescape
func importKVWait(space, key string, timeout uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/http@0.1.1 send
//go:noescape
func importSend(requests unsafe.Pointer, count uint32, timeout uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/passwords@0.1.1 authenticate
//go:noescape
func importAuthenticatePassword(username string, password unsafe.Pointer, length uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/consumers@0.1.1 recall-password
//go:noescape
func importRecallPassword(username string, password unsafe.Pointer, length uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/consumers@0.1.1 vouch
//go:noescape
func importVouch(name, method string, out unsafe.Pointer)

//go:wasmimport sluice:filter/consumers@0.1.1 known
//go:noescape
func importKnown(out unsafe.Pointer)

//go:wasmimport sluice:filter/consumers@0.1.1 plan
//go:noescape
func importPlan(out unsafe.Pointer)

//go:wasmimport sluice:filter/consumers@0.1.1 label
//go:noescape
func importConsumerLabel(name string, out unsafe.Pointer)

//go:wasmimport sluice:filter/consumers@0.1.1 labels
//go:noescape
func importConsumerLabels(out unsafe.Pointer)

//go:wasmimport sluice:filter/consumers@0.1.1 method
//go:noescape
func importConsumerMethod(out unsafe.Pointer)

//go:wasmimport sluice:filter/crypto@0.1.1 hash
//go:noescape
func importHash(algorithm string, data unsafe.Pointer, dataLength uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/crypto@0.1.1 hmac
//go:noescape
func importHMAC(algorithm string, key unsafe.Pointer, keyLength uint32, data unsafe.Pointer, dataLength uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/crypto@0.1.1 equal
//go:noescape
func importEqual(a unsafe.Pointer, aLength uint32, b unsafe.Pointer, bLength uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/interest@0.1.1 request-chunks
//go:noescape
func importWantRequestChunks(types unsafe.Pointer, count uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/interest@0.1.1 response-chunks
//go:noescape
func importWantResponseChunks(types unsafe.Pointer, count uint32, out unsafe.Pointer)

//go:wasmimport sluice:filter/interest@0.1.1 response-events
//go:noescape
func importWantResponseEvents(types unsafe.Pointer, count uint32, out unsafe.Pointer)
