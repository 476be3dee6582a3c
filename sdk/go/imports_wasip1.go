//go:build wasip1

// The functions of the interface and the hooks, by their names in core modules.

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

// The answer of configure: at 0 whether the config is refused, at 4 the message.
var refusal struct {
	refused uint32
	message span
}
var refusalText string

//go:wasmexport sluice:filter/configure@0.1.1#configure
func exportConfigure(config unsafe.Pointer, length uint32) unsafe.Pointer {
	text := string(unsafe.Slice((*byte)(config), length))
	release()
	refusalText = configure(text)
	refusal.refused = 0
	if refusalText != "" {
		refusal.refused = 1
	}
	refusal.message = spanOf(refusalText)
	return unsafe.Pointer(&refusal)
}

//go:wasmexport sluice:filter/on-request@0.1.1#on-request
func exportOnRequest() uint32 { return uint32(onRequest()) }

//go:wasmexport sluice:filter/on-request-body@0.1.1#on-request-body
func exportOnRequestBody() uint32 { return uint32(onRequestBody()) }

//go:wasmexport sluice:filter/select-upstream@0.1.1#select-upstream
func exportSelectUpstream() { selectUpstream() }

//go:wasmexport sluice:filter/on-response@0.1.1#on-response
func exportOnResponse() uint32 { return uint32(onResponse()) }

//go:wasmexport sluice:filter/on-response-body@0.1.1#on-response-body
func exportOnResponseBody() uint32 { return uint32(onResponseBody()) }

//go:wasmexport sluice:filter/on-response-trailers@0.1.1#on-response-trailers
func exportOnResponseTrailers() { onResponseTrailers() }

//go:wasmexport sluice:filter/on-complete@0.1.1#on-complete
func exportOnComplete() { onComplete() }
