//go:build wasip1

// The memory that the gateway's results go to.
//
// The gateway asks the component for memory in the middle of a call, and the component may call nothing then: not even the clock, which Go's
// collector reads. So this memory is none of Go's: it is made before the call, or taken from the system where that was too little. Every call uses it
// anew, so it has the size of the largest call.
//
// What is asked for outside of a call is kept by others for as long as the instance lives: the adapter of WASI has its state in it.

package filter

import "unsafe"

const leastChunk = 64 << 10

var (
	calling   bool
	chunk     uintptr
	chunkSize uintptr
	chunkUsed uintptr
)

//go:linkname sbrk runtime.sbrk
func sbrk(n uintptr) unsafe.Pointer

// take is called by the gateway and by the adapter, also before Go's own start: it must not allocate, grow the stack or call anything but sbrk.
//
//go:wasmexport cabi_realloc
//go:nosplit
func take(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	var start uintptr
	if calling {
		start = aligned(chunk+chunkUsed, align)
		if start+uintptr(size) > chunk+chunkSize {
			grow(uintptr(size) + uintptr(align))
			start = aligned(chunk, align)
		}
		chunkUsed = start + uintptr(size) - chunk
	} else {
		start = aligned(fromSystem(uintptr(size)+uintptr(align)), align)
	}
	for i := uint32(0); i < oldSize && i < size; i++ {
		*(*byte)(unsafe.Add(unsafe.Pointer(start), i)) = *(*byte)(unsafe.Add(old, i))
	}
	return unsafe.Pointer(start)
}

//go:nosplit
func aligned(at uintptr, align uint32) uintptr {
	return (at + uintptr(align) - 1) &^ (uintptr(align) - 1)
}

//go:nosplit
func fromSystem(size uintptr) uintptr {
	got := uintptr(sbrk(size))
	if got == 0 {
		*(*uint32)(nil) = 0
	}
	return got
}

// grow makes a new chunk. It is at least twice the old one, so that all that were left behind have together less than it.
//
//go:nosplit
func grow(size uintptr) {
	if size < leastChunk {
		size = leastChunk
	}
	if size < 2*chunkSize {
		size = 2 * chunkSize
	}
	chunk, chunkSize, chunkUsed = fromSystem(size), size, 0
}

// reserve begins a call, with room for what it returns.
func reserve(size uintptr) {
	if size > chunkSize {
		grow(size)
	}
	calling, chunkUsed = true, 0
}

// prepare makes room for what most calls return.
func prepare() {
	if !calling {
		reserve(leastChunk / 2)
	}
}

// release ends a call. What it has returned is copied next, and then nobody needs it.
func release() { calling = false }

// Import runs a call of a function of the interface that this package lacks (`go:wasmimport`). What it returns lies in memory that the next call uses anew:
// copy it before the function returns, and call nothing of this package in between.
func Import(call func()) {
	prepare()
	call()
	release()
}
