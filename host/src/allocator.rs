//! The allocator of the programs: mimalloc, without its detour for alignments that every block of it has anyway. The crate `mimalloc`
//! takes that for most blocks of more than 1,024 bytes, a handful for each request.
#![allow(unsafe_code, reason = "an allocator is unsafe to implement; each function hands its arguments on to mimalloc")]

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{mi_free, mi_malloc, mi_malloc_aligned, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned};

/// What mimalloc's blocks of at least this size are aligned to (`MI_MAX_ALIGN_SIZE`); smaller ones to the power of two that fits in.
const ALIGNED: usize = 16;

/// To be named in `#[global_allocator]`.
pub struct Allocator;

fn is_aligned_anyway(layout: Layout) -> bool {
    layout.align() <= ALIGNED && layout.align() <= layout.size()
}

// SAFETY: mimalloc answers blocks of the size and alignment that it is asked for, or null, and never unwinds.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size and any power of two may be asked for.
        unsafe {
            match is_aligned_anyway(layout) {
                true => mi_malloc(layout.size()).cast(),
                false => mi_malloc_aligned(layout.size(), layout.align()).cast(),
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match is_aligned_anyway(layout) {
                true => mi_zalloc(layout.size()).cast(),
                false => mi_zalloc_aligned(layout.size(), layout.align()).cast(),
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller has the block from here.
        unsafe { mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller has the block from here.
        unsafe { mi_realloc_aligned(block.cast(), size, layout.align()).cast() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_keep_their_bytes() {
        for size in (1..2048).chain([4095, 4097, 100_000, 5 << 20]) {
            for align in [1, 2, 4, 8, 16, 32, 4096] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the layout has a size, and the block is used within it and freed with the layout that it has then.
                unsafe {
                    let block = Allocator.alloc_zeroed(layout);
                    assert_eq!((block.is_null(), block.addr() % align), (false, 0), "{layout:?}");
                    assert!(std::slice::from_raw_parts(block, size).iter().all(|byte| *byte == 0), "{layout:?}");
                    block.write_bytes(7, size);
                    let grown = Allocator.realloc(block, layout, size + 9);
                    assert_eq!((grown.is_null(), grown.addr() % align), (false, 0), "{layout:?}");
                    assert!(std::slice::from_raw_parts(grown, size).iter().all(|byte| *byte == 7), "{layout:?}");
                    Allocator.dealloc(grown, Layout::from_size_align(size + 9, align).unwrap());
                    let other = Allocator.alloc(layout);
                    assert_eq!((other.is_null(), other.addr() % align), (false, 0), "{layout:?}");
                    Allocator.dealloc(other, layout);
                }
            }
        }
    }
}
