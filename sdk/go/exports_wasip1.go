//go:build wasip1

// The hooks, by their names in core modules.

package filter

import "unsafe"

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

//go:wasmexport sluice:filter/on-request-chunk@0.1.1#on-request-chunk
func exportOnRequestChunk() { onRequestChunk() }

//go:wasmexport sluice:filter/on-response-chunk@0.1.1#on-response-chunk
func exportOnResponseChunk() { onResponseChunk() }

//go:wasmexport sluice:filter/on-response-event@0.1.1#on-response-event
func exportOnResponseEvent() { onResponseEvent() }
