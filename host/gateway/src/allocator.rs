//! The allocator of the programs: mimalloc, and on a worker's thread what was just freed in front of it. mimalloc hands out the blocks
//! of a page in turn, so that each exchange would have its own in other lines of the cache than the one before: those that were freed
//! last are still there. Nor does it take mimalloc's detour for alignments that every block has anyway, as the crate `mimalloc` does.
#![allow(unsafe_code, reason = "an allocator is unsafe to implement; what is not kept is mimalloc's affair")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use libmimalloc_sys::{mi_free, mi_malloc, mi_malloc_aligned, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned};

/// What mimalloc aligns all blocks to that are at least as large (`MI_MAX_ALIGN_SIZE`). Those of up to 1 KiB are of a multiple of it, …
const STEP: usize = 16;
const SMALL: usize = 1 << 10;
/// … and those of up to 4 KiB of a multiple of this.
const WIDE_STEP: usize = 256;
const SIZES: usize = SMALL / STEP + (4 * SMALL - SMALL) / WIDE_STEP;
/// Blocks of one size that a thread keeps: one each for as many exchanges as are usually in progress on a worker. 4 MiB, if there are
/// that many of all sizes.
const MOST: u32 = 64;

/// To be named in `#[global_allocator]`.
pub struct Allocator;

/// Blocks of one size that were freed, the last one first.
struct Spare {
    last: Option<NonNull<Block>>,
    /// As many more are kept. None of threads that do not keep any.
    room: u32,
}

/// What stands in a block that was freed.
struct Block {
    before: Option<NonNull<Block>>,
}

thread_local! {
    /// Has nothing to drop, so that it is there as long as the thread.
    static SPARE: UnsafeCell<[Spare; SIZES]> = const { UnsafeCell::new([const { Spare { last: None, room: 0 } }; SIZES]) };
}

impl Spare {
    /// `then` must not allocate.
    #[inline]
    fn with<T>(index: usize, then: impl FnOnce(&mut Spare) -> T) -> T {
        // SAFETY: a thread's own, and `then` does not come back here.
        SPARE.with(|spare| then(unsafe { &mut (&mut *spare.get())[index] }))
    }

    #[inline]
    fn pop(&mut self) -> Option<NonNull<Block>> {
        let last = self.last?;
        // SAFETY: `push` has written there, and who freed the block does not use it any more.
        self.last = unsafe { last.read() }.before;
        self.room += 1;
        Some(last)
    }

    /// Whether the block is kept.
    ///
    /// # Safety
    /// The block must be of this size, and nobody else's.
    #[inline]
    unsafe fn push(&mut self, block: *mut u8) -> bool {
        let Some(block) = NonNull::new(block.cast::<Block>()).filter(|_| self.room > 0) else { return false };
        // SAFETY: by the caller; a step has room for it, and is as aligned as it has to be.
        unsafe { block.write(Block { before: self.last }) };
        self.last = Some(block);
        self.room -= 1;
        true
    }
}

/// Until it is dropped, the thread keeps blocks that were freed on it. One for a thread: the first that is dropped ends it.
pub struct Keeping(PhantomData<*const ()>);

impl Keeping {
    #[allow(clippy::new_without_default, reason = "it does something")]
    pub fn new() -> Self {
        for index in 0..SIZES {
            Spare::with(index, |spare| {
                if spare.last.is_none() {
                    spare.room = MOST;
                }
            });
        }
        Keeping(PhantomData)
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        for index in 0..SIZES {
            Spare::with(index, |spare| {
                while let Some(block) = spare.pop() {
                    // SAFETY: mimalloc's, and nobody's since it was freed.
                    unsafe { mi_free(block.as_ptr().cast()) };
                }
                spare.room = 0;
            });
        }
    }
}

/// Which blocks are taken for this, if such are kept.
#[inline]
fn index(layout: Layout) -> Option<usize> {
    let last = layout.size().wrapping_sub(1);
    let index = if last < SMALL { last / STEP } else { SMALL / STEP + (last - SMALL) / WIDE_STEP };
    (index < SIZES && layout.align() <= STEP).then_some(index)
}

/// Whether it is too large to be kept, and aligned as all blocks are.
#[inline]
fn is_large(layout: Layout) -> bool {
    layout.size() > 4 * SMALL && layout.align() <= STEP
}

/// The size of the blocks at an index.
#[inline]
fn size(index: usize) -> usize {
    match index.checked_sub(SMALL / STEP) {
        None => (index + 1) * STEP,
        Some(wide) => SMALL + (wide + 1) * WIDE_STEP,
    }
}

// SAFETY: mimalloc answers blocks of the size and alignment that it is asked for, or null, and never unwinds. Which way a block goes
// depends on its layout alone, so that one that is kept has all of its size.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match index(layout) {
            Some(index) => match Spare::with(index, Spare::pop) {
                Some(block) => block.as_ptr().cast(),
                // SAFETY: any size may be asked for.
                None => unsafe { mi_malloc(size(index)) }.cast(),
            },
            // SAFETY: the same.
            None if is_large(layout) => unsafe { mi_malloc(layout.size()) }.cast(),
            // SAFETY: the same, and any power of two.
            None => unsafe { mi_malloc_aligned(layout.size(), layout.align()) }.cast(),
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above; what was allocated may be written to.
        unsafe {
            if is_large(layout) {
                return mi_zalloc(layout.size()).cast();
            }
            if index(layout).is_none() {
                return mi_zalloc_aligned(layout.size(), layout.align()).cast();
            }
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller has the block from here, with this layout.
        unsafe {
            if !index(layout).is_some_and(|index| Spare::with(index, |spare| spare.push(block))) {
                mi_free(block.cast());
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller has the block from here, and `size` can be one with the same alignment.
        unsafe {
            let wanted = Layout::from_size_align_unchecked(size, layout.align());
            match (index(layout), index(wanted)) {
                (None, None) => mi_realloc_aligned(block.cast(), size, layout.align()).cast(),
                (had, wants) if had == wants => block,
                _ => {
                    let other = self.alloc(wanted);
                    if !other.is_null() {
                        ptr::copy_nonoverlapping(block, other, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    other
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_blocks() {
        for size in (1..2048).chain([4095, 4096, 4097, 100_000, 5 << 20]) {
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
                    grown.write_bytes(7, size + 9);
                    let grown_layout = Layout::from_size_align(size + 9, align).unwrap();
                    let shrunk = Allocator.realloc(grown, grown_layout, size.div_ceil(2));
                    assert_eq!((shrunk.is_null(), shrunk.addr() % align), (false, 0), "{layout:?}");
                    assert!(std::slice::from_raw_parts(shrunk, size.div_ceil(2)).iter().all(|byte| *byte == 7));
                    Allocator.dealloc(shrunk, Layout::from_size_align(size.div_ceil(2), align).unwrap());
                    let other = Allocator.alloc(layout);
                    assert_eq!((other.is_null(), other.addr() % align), (false, 0), "{layout:?}");
                    Allocator.dealloc(other, layout);
                }
            }
        }
    }

    #[test]
    fn every_size_has_blocks_that_it_fits_in() {
        for bytes in 1..=4096 {
            let index = index(Layout::from_size_align(bytes, 16).unwrap()).unwrap();
            assert!(size(index) >= bytes && size(index) - bytes < WIDE_STEP, "{bytes}");
            assert!(index == 0 || size(index - 1) < bytes, "{bytes}");
        }
        for (bytes, align) in [(0, 1), (4097, 16), (16, 32), (isize::MAX as usize - 15, 16)] {
            assert_eq!(index(Layout::from_size_align(bytes, align).unwrap()), None, "{bytes}");
        }
        let most: usize = (0..SIZES).map(|index| size(index) * MOST as usize).sum();
        assert_eq!(most.div_ceil(1 << 20), 4);
    }

    #[test]
    fn blocks_are_aligned_and_keep_their_bytes() {
        check_blocks();
        let _keeping = Keeping::new();
        check_blocks();
    }

    #[test]
    fn what_was_freed_last_is_handed_out_first() {
        let layout = Layout::new::<[u8; 1000]>();
        let take = |count: usize| -> Vec<usize> {
            // SAFETY: the layout has a size.
            (0..count).map(|_| unsafe { Allocator.alloc(layout) }.expose_provenance()).collect()
        };
        let free = |blocks: &[usize]| {
            for block in blocks {
                // SAFETY: all are from `take`, and freed once.
                unsafe { Allocator.dealloc(ptr::with_exposed_provenance_mut(*block), layout) };
            }
        };
        let keeping = Keeping::new();
        let blocks = take(MOST as usize + 1);
        // Blocks that another thread has freed are not kept by this one, and the other way round.
        std::thread::scope(|scope| drop(scope.spawn(|| free(&blocks[..1]))));
        free(&blocks[1..]);
        let again = take(MOST as usize);
        assert!(again.iter().eq(blocks[1..].iter().rev()), "{blocks:?} {again:?}");
        // No more than that many.
        let more = take(1);
        free(&again);
        free(&more);
        assert_eq!(Spare::with(index(layout).unwrap(), |spare| spare.room), 0);
        drop(keeping);
        let (last, room) = Spare::with(index(layout).unwrap(), |spare| (spare.last, spare.room));
        assert_eq!((last, room), (None, 0));
        // A thread that keeps none frees at once.
        free(&take(1));
        assert_eq!(Spare::with(index(layout).unwrap(), |spare| spare.last), None);
    }
}
