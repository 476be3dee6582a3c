//! Which pages of a memory were written to, as Linux tells it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use smallvec::SmallVec;

/// Entries of the page map that are read at once.
const ENTRIES: usize = 512;

/// The kernel's word on each page of this process (`Documentation/admin-guide/mm/pagemap.rst`).
pub(crate) struct PageMap(File);

impl PageMap {
    /// None where the kernel has none, or does not let it be read.
    pub(crate) fn open() -> Option<PageMap> {
        File::open("/proc/self/pagemap").ok().map(PageMap)
    }

    /// The pages of a memory that may have been written to since it was mapped.
    pub(crate) fn written(&self, memory: &[u8]) -> io::Result<SmallVec<[Range<usize>; 16]>> {
        let page = rustix::param::page_size();
        let (first, pages) = (memory.as_ptr().addr() / page, memory.len().div_ceil(page));
        let mut room = [0; 8 * ENTRIES];
        let mut written = SmallVec::new();
        for start in (0..pages).step_by(ENTRIES) {
            let entries = &mut room[..8 * ENTRIES.min(pages - start)];
            self.0.read_exact_at(entries, 8 * (first + start) as u64)?;
            for (at, entry) in (start..).zip(entries.as_chunks().0) {
                if is_written(u64::from_ne_bytes(*entry)) {
                    written.push(at * page..memory.len().min((at + 1) * page));
                }
            }
        }
        Ok(written)
    }
}

/// Whether a page is of this process alone, in memory or swapped out, and so may differ from what was mapped. One that was only read
/// is one of the image's file; or the page of zeros, which has no bit of its own and is taken for written.
fn is_written(entry: u64) -> bool {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_this_process_alone_may_have_been_written_to() {
        let (present, swapped, of_file) = (1 << 63, 1 << 62, 1 << 61);
        assert!(is_written(present) && is_written(swapped) && is_written(present | 0x1234));
        assert!(!is_written(0) && !is_written(present | of_file) && !is_written(of_file));
    }

    #[test]
    fn what_was_written_is_found() {
        let pages = PageMap::open().expect("Linux has a page map");
        let page = rustix::param::page_size();
        // More than is read at once.
        let mut memory = vec![0; (ENTRIES + 20) * page];
        let aligned = memory.as_ptr().align_offset(page);
        let memory = &mut memory[aligned..][..(ENTRIES + 10) * page];
        let places = [5 * page + 7, (ENTRIES + 3) * page];
        places.iter().for_each(|place| memory[*place] = 1);
        let written = pages.written(memory).unwrap();
        assert!(places.iter().all(|place| written.contains(&(place / page * page..(place / page + 1) * page))));
        memory.fill(1);
        assert_eq!(pages.written(memory).unwrap().len(), ENTRIES + 10);
    }
}
