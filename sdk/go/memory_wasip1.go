//go:build wasip1

// The memory that the gateway's results go to.
//
// The gateway asks the component for memory in the middle of a call, and the component may call nothing then: not even the clock, which Go's
// collector reads. So this memory is no memory of Go's: it is taken before the call, or from the system where that was too little, and none of it
// is ever given back. Every call uses it anew, so it has the size of the largest call.

package filter

import "unsafe"

const leastChunk = 64 << 10

var (
	chunk     uintptr
	chunkSize uintptr
	chunkUsed uintptr
)

//go:linkname sbrk runtime.sbrk
func sbrk(n uintptr) unsafe.Pointer

// take is called by the gateway, also before Go's own start: it must not allocate, grow the stack or call anything but sbrk.
//
//go:wasmexport cabi_realloc
//go:nosplit
func take(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	start := (chunk + chunkUsed + uintptr(align) - 1) &^ (uintptr(align) - 1)
	if chunk == 0 || start+uintptr(size) > chunk+chunkSize {
		wanted := uintptr(size) + uintptr(align)
		if wanted < leastChunk {
			wanted = leastChunk
		}
		// Twice as much, so that what is left behind is never more than what is used.
		if wanted < 2*chunkSize && chunkSize < 1<<20 {
			wanted = 2 * chunkSize
		}
		chunk = uintptr(sbrk(wanted))
		if chunk == 0 {
			*(*uint32)(nil) = 0
		}
		chunkSize = wanted
		start = (chunk + uintptr(align) - 1) &^ (uintptr(align) - 1)
	}
	chunkUsed = start + uintptr(size) - chunk
	for i := uint32(0); i < oldSize && i < size; i++ {
		*(*byte)(unsafe.Add(unsafe.Pointer(start), i)) = *(*byte)(unsafe.Add(old, i))
	}
	return unsafe.Pointer(start)
}

// prepare makes room for what most calls return.
func prepare() { reserve(leastChunk / 2) }

func reserve(size uintptr) {
	if chunk == 0 || chunkUsed+size > chunkSize {
		take(nil, 0, 1, uint32(size))
		chunkUsed = 0
	}
}

// release: what the call has returned is copied next, and then nobody needs it.
func release() { chunkUsed = 0 }
