//! Takes an instance back to what its image says, so that it serves another exchange as one that was just made. Memory and mutable
//! globals are all that an instance of an image can change: a module that changes anything else has none (`image`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use smallvec::SmallVec;
use wasmtime::{Global, ModuleExport, Store, Val};

use super::direct;
use super::instance::{Instance, Running};
use super::state::CallState;

/// An instance that has written more memory is dropped: what it had would stay resident.
const MAX_WRITTEN: usize = 1 << 20;
/// Entries of the page map that are read at once.
const ENTRIES: usize = 512;

/// The kernel's word on each page of this process (`Documentation/admin-guide/mm/pagemap.rst`).
pub(super) struct PageMap(File);

impl PageMap {
    /// None where the kernel has none, or does not let it be read.
    pub(super) fn open() -> Option<PageMap> {
        File::open("/proc/self/pagemap").ok().map(PageMap)
    }

    /// The pages of a memory that may have been written to since it was mapped.
    fn written(&self, memory: &[u8]) -> io::Result<SmallVec<[Range<usize>; 16]>> {
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

/// The state of an instance that was just made of an image.
pub(super) struct Pristine {
    /// Pages of zeros take no memory.
    memory: Vec<u8>,
    globals: Vec<(ModuleExport, Val)>,
}

impl Pristine {
    /// Reads it from such an instance, which can't be restored any more: what was read may be taken for written. The globals are all
    /// that the guest can change.
    pub(super) fn of(instance: &mut Instance, globals: &[ModuleExport]) -> Option<Pristine> {
        let (store, running) = parts(instance)?;
        let bytes = store.data().guest.memory?.data(&*store);
        let mut memory = vec![0; bytes.len()];
        for (to, from) in memory.chunks_mut(ZEROS.len()).zip(bytes.chunks(ZEROS.len())) {
            if *from != ZEROS[..from.len()] {
                to.copy_from_slice(from);
            }
        }
        let globals = globals.iter().map(|export| Some((*export, global(store, running, export)?.get(&mut *store))));
        Some(Pristine { memory, globals: globals.collect::<Option<_>>()? })
    }

    /// Whether what is written to an instance that was just made is found and taken back: not every system that has a page map keeps it
    /// as Linux does.
    pub(super) fn is_proven(&self, pages: &PageMap, instance: &mut Instance) -> bool {
        let Some(memory) = instance.store.data().guest.memory else { return false };
        let bytes = memory.data_mut(&mut instance.store);
        let places = [0, bytes.len() / 2, bytes.len().saturating_sub(1)];
        for place in places {
            let Some(byte) = bytes.get_mut(place) else { return false };
            *byte = !*byte;
        }
        self.restore(pages, instance)
            && places.iter().all(|place| memory.data(&instance.store).get(*place) == self.memory.get(*place))
    }

    /// Takes an instance of the image back to it, or says that this can't be done.
    pub(super) fn restore(&self, pages: &PageMap, instance: &mut Instance) -> bool {
        self.restored(pages, instance).is_some()
    }

    fn restored(&self, pages: &PageMap, instance: &mut Instance) -> Option<()> {
        let (store, running) = parts(instance)?;
        let counted = store.data().memory.bytes;
        let bytes = store.data().guest.memory?.data_mut(&mut *store);
        // Memory that has grown can't shrink, and what was counted for a growth that failed stays counted.
        if bytes.len() != self.memory.len() || counted != bytes.len() {
            return None;
        }
        let written = pages.written(bytes).ok()?;
        if written.iter().map(ExactSizeIterator::len).sum::<usize>() > MAX_WRITTEN {
            return None;
        }
        for page in written {
            let (now, before) = (bytes.get_mut(page.clone())?, self.memory.get(page)?);
            // A page that was written to for an exchange before stays one that may have been written to.
            if now != before {
                now.copy_from_slice(before);
            }
        }
        for (export, value) in &self.globals {
            global(store, running, export)?.set(&mut *store, *value).ok()?;
        }
        Some(())
    }
}

fn parts(instance: &mut Instance) -> Option<(&mut Store<CallState>, &direct::Running)> {
    match &instance.running {
        Running::Direct(running) => Some((&mut instance.store, running)),
        Running::Component(_) => None,
    }
}

fn global(store: &mut Store<CallState>, running: &direct::Running, export: &ModuleExport) -> Option<Global> {
    running.instance.get_module_export(store, export)?.into_global()
}

/// What most of a memory is.
static ZEROS: [u8; 4096] = [0; 4096];

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
