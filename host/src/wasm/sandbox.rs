//! A fresh instance between two hooks of its exchange, which owns it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::engine::Runtime;
use super::instance::Instance;
use super::state::Kit;

/// Of so many instances that the engine can hold, one may wait: they must not take the place of those that are called.
const SHARE: usize = 4;

/// Instances of all filters that wait for a further hook of their exchange.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

/// The kits of a pool that no instance has.
#[derive(Clone)]
pub(super) struct Kits {
    #[expect(clippy::vec_box, reason = "a kit moves in and out of its instance as a box")]
    idle: Arc<Mutex<Vec<Box<Kit>>>>,
    most: usize,
}

impl Kits {
    pub(super) fn new(most: usize) -> Kits {
        Kits { idle: Arc::default(), most }
    }

    pub(super) fn take(&self) -> Option<Box<Kit>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(super) fn put(&self, kit: Box<Kit>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.most {
            idle.push(kit);
        }
    }
}

/// An instance that waits.
pub(super) struct Sandbox {
    instance: Option<Box<Instance>>,
    /// Where its kit goes when it is not needed any more; none without an image.
    kits: Option<Kits>,
    waiting: Waiting,
}

impl Sandbox {
    /// Gives the instance back where too many wait already.
    pub(super) fn new(
        runtime: &Runtime,
        instance: Box<Instance>,
        kits: Option<&Kits>,
    ) -> Result<Box<Sandbox>, Box<Instance>> {
        let waiting = runtime.waiting.clone();
        if waiting.0.fetch_add(1, Ordering::Relaxed) >= runtime.options.instances as usize / SHARE {
            waiting.0.fetch_sub(1, Ordering::Relaxed);
            return Err(instance);
        }
        Ok(Box::new(Sandbox { instance: Some(instance), kits: kits.cloned(), waiting }))
    }

    /// The instance, for the next hook.
    pub(super) fn open(mut self) -> Option<Box<Instance>> {
        self.instance.take()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.waiting.0.fetch_sub(1, Ordering::Relaxed);
        if let (Some(instance), Some(kits)) = (self.instance.take(), &self.kits) {
            kits.put(instance.into_kit());
        }
    }
}
