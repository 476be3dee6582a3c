//! Pipelines, and what a worker keeps to run them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::pieces::Pending;
use super::turns::BodyTurns;
use super::{Filter, Step};
use crate::config::model::AnyOf;
use crate::exchange::Exchange;
use crate::wasm::{Hook, Pool, Program};

/// The most filters of one pipeline.
const MAX_FILTERS: usize = 64;

/// An ordered list of filters. Shared by all workers.
pub struct Pipeline {
    filters: Vec<Arc<Filter>>,
    /// For each hook, the filters that have it, by their index.
    masks: [u64; Hook::COUNT],
    /// Those with a request hook, or a hook for the pieces of a request.
    request_mask: u64,
    /// The same for responses.
    response_mask: u64,
    /// The way of a request, of indices, where there are groups.
    groups: Option<Vec<Step<usize>>>,
    /// Whether a filter may tell the cache something of a response.
    tells_cache: bool,
}

/// Why there can be no such pipeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PipelineError {
    #[error("{0} filters in one pipeline, more than {MAX_FILTERS}")]
    TooManyFilters(usize),
    #[error("a member of `any_of` never refuses, as `{0}` has no hook for requests: every request would pass")]
    NeverRefuses(String),
}

impl Pipeline {
    /// A pipeline of these steps in this order.
    pub fn new(steps: &[Step<Arc<Filter>>]) -> Result<Arc<Pipeline>, PipelineError> {
        let filters: Vec<Arc<Filter>> = steps.iter().flat_map(Step::filters).cloned().collect();
        if filters.len() > MAX_FILTERS {
            return Err(PipelineError::TooManyFilters(filters.len()));
        }
        steps.iter().try_for_each(check)?;
        let mut masks = [0; Hook::COUNT];
        for (index, filter) in filters.iter().enumerate() {
            for hook in filter.hooks().iter() {
                masks[hook as usize] |= 1 << index;
            }
        }
        let request_hooks = [Hook::OnRequest, Hook::OnRequestBody, Hook::OnRequestChunk];
        let request_mask = request_hooks.into_iter().fold(0, |mask, hook| mask | masks[hook as usize]);
        let response_hooks = [Hook::OnResponse, Hook::OnResponseBody, Hook::OnResponseChunk, Hook::OnResponseEvent];
        let response_mask = response_hooks.into_iter().fold(0, |mask, hook| mask | masks[hook as usize]);
        let mut indices = 0..;
        let by_index = steps.iter().map(|step| step.try_map(&mut |_| indices.next())).collect::<Option<Vec<_>>>();
        let groups = by_index.filter(|steps| steps.iter().any(|step| !matches!(step, Step::Filter(_))));
        let sees_responses = |filter: &Arc<Filter>| {
            [Hook::OnResponse, Hook::OnResponseBody].iter().any(|hook| filter.hooks().contains(*hook))
        };
        let tells_cache = filters.iter().any(|filter| sees_responses(filter) && filter.plugin().tells_cache());
        Ok(Arc::new(Pipeline { filters, masks, request_mask, response_mask, groups, tells_cache }))
    }

    /// A pipeline without filters.
    pub fn empty() -> Arc<Pipeline> {
        Arc::new(Pipeline {
            filters: Vec::new(),
            masks: [0; Hook::COUNT],
            request_mask: 0,
            response_mask: 0,
            groups: None,
            tells_cache: false,
        })
    }

    pub fn filters(&self) -> &[Arc<Filter>] {
        &self.filters
    }

    /// Whether a filter of it has this hook.
    pub fn has(&self, hook: Hook) -> bool {
        self.mask(hook) != 0
    }

    /// Whether a response hook of it may tell the cache of the route something.
    pub fn tells_cache(&self) -> bool {
        self.tells_cache
    }

    pub(super) fn groups(&self) -> Option<&[Step<usize>]> {
        self.groups.as_deref()
    }

    pub(super) fn request_mask(&self) -> u64 {
        self.request_mask
    }

    /// Those with a hook that is called before the response is sent, or one for its pieces.
    pub(super) fn response_mask(&self) -> u64 {
        self.response_mask
    }

    pub(super) fn mask(&self, hook: Hook) -> u64 {
        self.masks[hook as usize]
    }
}

/// Refuses a group that lets every request pass: that is an open door, and surely not meant.
fn check(step: &Step<Arc<Filter>>) -> Result<(), PipelineError> {
    let members = match step {
        Step::Filter(_) => return Ok(()),
        Step::AllOf(members) | Step::AnyOf(AnyOf { members, .. }) => members,
    };
    if matches!(step, Step::AnyOf(_)) {
        let asks = |filter: &&Arc<Filter>| filter.hooks().iter().any(Hook::is_request);
        if let Some(member) = members.iter().find(|member| !member.filters().iter().any(asks)) {
            let names: Vec<&str> = member.filters().into_iter().map(|filter| &**filter.name()).collect();
            return Err(PipelineError::NeverRefuses(names.join("`, `")));
        }
    }
    members.iter().try_for_each(check)
}

/// The instances of one worker for one snapshot. A filter that is used in several pipelines has one pool.
pub struct WorkerFilters {
    /// By the address of the program, which the pool keeps alive.
    pools: RefCell<HashMap<*const Program, Rc<Pool>>>,
    turns: Rc<BodyTurns>,
}

impl WorkerFilters {
    /// Without instances: they are made when they are first needed. They work on at most `bodies` bytes of bodies at once.
    pub fn new(bodies: u64) -> WorkerFilters {
        WorkerFilters { pools: RefCell::default(), turns: BodyTurns::new(bodies) }
    }

    /// The pipeline as this worker runs it. To be made once for each snapshot, and kept.
    pub fn pipeline(&self, pipeline: &Arc<Pipeline>) -> Rc<LocalPipeline> {
        let mut pools = self.pools.borrow_mut();
        let pool = |filter: &Arc<Filter>| {
            let pool = pools.entry(Arc::as_ptr(&filter.program));
            pool.or_insert_with(|| Rc::new(Pool::new(filter.program.clone()))).clone()
        };
        let pools = pipeline.filters.iter().map(pool).collect();
        Rc::new(LocalPipeline { pipeline: pipeline.clone(), pools, turns: Rc::clone(&self.turns) })
    }
}

/// A pipeline with this worker's instances.
pub struct LocalPipeline {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) pools: Vec<Rc<Pool>>,
    pub(super) turns: Rc<BodyTurns>,
}

impl LocalPipeline {
    /// What all workers share.
    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }
}

/// How far an exchange has come in its pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The filters before this index saw the request; on-complete is for them.
    pub(super) seen: usize,
    /// The filters before this index see the response: those before the one that answered or failed.
    pub(super) behind: usize,
    /// The filters before this index have still to see the response.
    pub(super) left: usize,
    /// The filter that has replaced the response last, of those that were called together.
    pub(super) replaced_by: Option<usize>,
    /// Those that see a body piece by piece.
    pub(super) pending: Pending,
    /// Filters that failed open and are out for this exchange, as a mask.
    pub(super) absent: u64,
    /// When the last call ended, as long as nothing else has happened: the next call begins then. Reading the clock costs as much
    /// as a call of the gateway by a filter.
    pub(super) now: Option<Instant>,
}

/// An exchange on its way through its pipeline: the exchange and the cursor. It owns the exchange for its whole life; a call
/// borrows the box, which moves into the instance's store and back.
#[derive(Debug, Default)]
pub struct Traversal {
    /// Empty before the route is known, while a call has it, and after [`Traversal::take`].
    pub(super) exchange: Option<Box<Exchange>>,
    pub(super) cursor: Cursor,
}

impl Traversal {
    /// At the start of the pipeline.
    pub fn new(exchange: Box<Exchange>) -> Self {
        Traversal { exchange: Some(exchange), cursor: Cursor::default() }
    }

    /// The exchange, which is here whenever no call is in progress.
    pub fn exchange(&mut self) -> &mut Exchange {
        self.exchange.as_deref_mut().expect("an exchange is only away during a call")
    }

    /// The exchange, unless it was taken or a call that was dropped has kept it.
    pub fn exchange_if_present(&mut self) -> Option<&mut Exchange> {
        self.exchange.as_deref_mut()
    }

    /// Moves the exchange and its cursor on and leaves an empty traversal.
    pub fn take(&mut self) -> Traversal {
        std::mem::take(self)
    }

    /// Drops the exchange: no hook will need it any more.
    pub fn clear(&mut self) {
        self.exchange = None;
    }

    /// Whether this filter has failed and was passed over.
    pub fn is_absent(&self, index: usize) -> bool {
        index < MAX_FILTERS && self.cursor.absent & (1 << index) != 0
    }

    /// The last filter that has answered in a response hook; after response hooks that ended well.
    pub fn response_replaced_by(&self) -> Option<usize> {
        self.cursor.replaced_by
    }

    pub(super) fn request_ends(&mut self, seen: usize, behind: usize) {
        self.cursor = Cursor { seen, behind, left: behind, ..self.cursor };
    }

    /// The time when the hooks that were called together have ended.
    pub fn ended(&mut self) -> Instant {
        self.cursor.now.take().unwrap_or_else(Instant::now)
    }
}

/// A mask of the filters before an index.
pub(super) fn before(index: usize) -> u64 {
    if index >= MAX_FILTERS { u64::MAX } else { (1 << index) - 1 }
}

/// The indices in a mask, lowest first.
pub(super) fn upward(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let index = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            index
        })
    })
}

/// The indices in a mask, highest first.
pub(super) fn downward(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let index = 63 - mask.leading_zeros() as usize;
            mask &= !(1 << index);
            index
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_walked_both_ways() {
        let mask = 1 | 1 << 5 | 1 << 63;
        assert_eq!(upward(mask).collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!(downward(mask).collect::<Vec<_>>(), [63, 5, 0]);
        assert_eq!((before(0), before(3), before(64)), (0, 7, u64::MAX));
        assert_eq!(upward(0).count() + downward(0).count(), 0);
    }
}
