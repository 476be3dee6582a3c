//! What upstreams have done in the background while they are running: a task for each source of endpoints that is told of changes, for
//! active checks and the like. Tasks begin when a snapshot with the upstream is put in place, go on over reloads that leave it as it is,
//! and end with it.

use std::collections::HashMap;
use std::sync::Arc;

use super::spec::Upstream;
use crate::background::{Background, Task};

/// The tasks of the running upstreams.
pub struct Upkeep {
    background: Background,
    running: HashMap<Arc<str>, (Arc<Upstream>, Vec<Task>)>,
}

impl Upkeep {
    pub fn new(background: Background) -> Self {
        Upkeep { background, running: HashMap::new() }
    }

    /// These upstreams are running now, and no others.
    pub fn follow<'u>(&mut self, upstreams: impl Iterator<Item = &'u Arc<Upstream>>) {
        let mut before = std::mem::take(&mut self.running);
        for upstream in upstreams {
            let kept = before.remove(upstream.name()).filter(|(known, _)| Arc::ptr_eq(known, upstream));
            let kept = kept.unwrap_or_else(|| (upstream.clone(), upstream.tasks(&self.background)));
            self.running.insert(upstream.name().clone(), kept);
        }
    }
}
