//! Takes an instance back to what its image says, so that it serves another exchange as one that was just made. Memory and mutable
//! globals are all that an instance of an image can change: a module that changes anything else has none (`image`).

use wasmtime::{Global, ModuleExport, Store, Val};

use super::instance::Instance;
use crate::backend::direct::DirectInstance;
use crate::call::state::CallState;
use crate::load::pages::PageMap;

/// An instance that has written more memory is dropped: what it had would stay resident.
const MAX_WRITTEN: usize = 1 << 20;

/// The state of an instance that was just made of an image.
pub(crate) struct Pristine {
    /// Pages of zeros take no memory.
    memory: Vec<u8>,
    globals: Vec<(ModuleExport, Val)>,
}

impl Pristine {
    /// Reads it from such an instance, which can't be restored any more: what was read may be taken for written. The globals are all
    /// that the guest can change.
    pub(crate) fn of(instance: &mut Instance, globals: &[ModuleExport]) -> Option<Pristine> {
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
    pub(crate) fn is_proven(&self, pages: &PageMap, instance: &mut Instance) -> bool {
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
    pub(crate) fn restore(&self, pages: &PageMap, instance: &mut Instance) -> bool {
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

fn parts(instance: &mut Instance) -> Option<(&mut Store<CallState>, &DirectInstance)> {
    Some((&mut instance.store, instance.guest.as_direct()?))
}

fn global(store: &mut Store<CallState>, running: &DirectInstance, export: &ModuleExport) -> Option<Global> {
    running.instance.get_module_export(store, export)?.into_global()
}

/// What most of a memory is.
static ZEROS: [u8; 4096] = [0; 4096];
