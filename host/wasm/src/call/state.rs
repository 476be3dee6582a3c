//! What a store carries: the exchange of the call in progress, and what is known of the filter it belongs to.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;

use super::guest::Guest;
use super::services::FilterServices;
use crate::bindings::Error;
use crate::call::cpu::CpuMeter;
use crate::call::names::Names;
use crate::exchange::Exchange;
use crate::exchange::kept::OWN_CHARGE;
use crate::filter::observer::Observer;
use crate::filter::{FilterError, FilterLimits, Grants, Hook, HookSet, Interests, Mode};
use crate::load::ticker::Ticker;
use sluice_http::http::buffer::MemoryBudget;
use sluice_services::consumers::ConsumerTokenVerifier;
use sluice_services::log_limit::{self, LogLimit};
use sluice_services::{Clock, KeySet, Random, TokenVerifier};

/// Standard output beyond this many bytes without a line end becomes a line.
const MAX_LINE: usize = log_limit::LINE_BYTES;
/// How much of standard error is kept to explain a trap.
const MAX_LAST_WORDS: usize = 2048;

/// What all instances of a filter have in common.
pub(crate) struct FilterShared {
    pub(crate) name: Arc<str>,
    /// JSON text.
    pub(crate) config: String,
    pub(crate) mode: Mode,
    pub(crate) limits: FilterLimits,
    pub(crate) grants: Grants,
    /// None while a plugin only describes itself.
    pub(crate) services: Option<FilterServices>,
    /// What the host keeps for its exchanges is charged to it.
    pub(crate) budget: MemoryBudget,
    pub(crate) exports: HookSet,
    pub(crate) log: Arc<LogLimit>,
    /// Whether its hooks are called on a fiber: it imports functions that can wait, or a plain call once overran a tick.
    pub(crate) on_fiber: AtomicBool,
    /// Set once it asked for larger bodies than it may have, and that was said.
    pub(crate) was_cut: AtomicBool,
    /// Who sees what its calls do, instead of the log: a test. None in a gateway.
    pub(crate) observer: Option<Arc<Observer>>,
}

/// What the instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Start,
    Describe,
    Configure,
    Hook(Hook),
}

/// What the host keeps for a configured filter from call to call: never anything of an exchange, so that it can be handed from one
/// instance to the next.
#[derive(Default)]
pub(crate) struct HostResources {
    pub(crate) key_sets: Vec<Arc<KeySet>>,
    pub(crate) verifiers: Vec<TokenVerifier>,
    pub(crate) consumer_verifiers: Vec<ConsumerTokenVerifier>,
    /// Borrowed for one look-up at a time.
    pub(crate) names: RefCell<Names>,
}

impl HostResources {
    /// Another one of the same filter.
    pub(crate) fn anew(&self) -> HostResources {
        HostResources {
            key_sets: self.key_sets.clone(),
            verifiers: self.verifiers.iter().map(TokenVerifier::anew).collect(),
            consumer_verifiers: self.consumer_verifiers.iter().map(ConsumerTokenVerifier::anew).collect(),
            names: RefCell::default(),
        }
    }
}

/// The data of a store.
pub(crate) struct CallState {
    pub(crate) shared: Arc<FilterShared>,
    pub(crate) stage: Stage,
    /// The exchange of the call in progress.
    pub(crate) exchange: Option<Box<Exchange>>,
    /// The position of the filter in the pipeline of that exchange.
    pub(crate) index: usize,
    /// What `log.fail` said in this call.
    pub(crate) failed: Option<String>,
    /// What `configure` declares.
    pub(crate) interests: Interests,
    pub(crate) resources: Box<HostResources>,
    /// Whether the hook is only tried: no service is in reach and nothing is logged.
    pub(crate) is_rehearsal: bool,
    /// Whether a service was refused because of that.
    pub(crate) was_refused: Cell<bool>,
    pub(crate) memory: MemoryUse,
    /// How the guest is reached by functions that it calls.
    pub(crate) guest: Guest,
    /// Bytes that the guest may hand over in one call of a function.
    pub(crate) transfer: usize,
    pub(crate) meter: Arc<CpuMeter>,
    /// Whether this call was refused memory of the host.
    pub(crate) lacked_memory: bool,
    /// Whether this call was stopped for its CPU time.
    pub(crate) overspent: bool,
    /// Whether this call runs on a fiber, and so can yield.
    pub(crate) on_fiber: bool,
    pub(crate) cpu_limit: Duration,
    /// When the call in progress has to be over.
    pub(crate) wall_end: Option<Instant>,
    /// Bytes of header fields that this call has set.
    pub(crate) field_bytes: usize,
    /// Resources of ours that the guest holds: they are not part of its memory.
    pub(crate) handles: usize,
    /// Whether the guest was given random numbers, other than the seed of its hash maps.
    pub(crate) drew: bool,
    out: Vec<u8>,
    err: Vec<u8>,
    last_words: Vec<u8>,
}

impl CallState {
    pub(crate) fn new(shared: Arc<FilterShared>, ticker: Arc<Ticker>, resources: Box<HostResources>) -> CallState {
        let memory = MemoryUse::new(&shared.limits);
        CallState {
            shared,
            stage: Stage::Start,
            exchange: None,
            index: 0,
            failed: None,
            interests: Interests::default(),
            resources,
            is_rehearsal: false,
            was_refused: Cell::new(false),
            memory,
            guest: Guest::default(),
            transfer: 0,
            meter: Arc::new(CpuMeter::new(ticker)),
            lacked_memory: false,
            overspent: false,
            on_fiber: false,
            cpu_limit: Duration::ZERO,
            wall_end: None,
            field_bytes: 0,
            handles: 0,
            drew: false,
            out: Vec::new(),
            err: Vec::new(),
            last_words: Vec::new(),
        }
    }

    /// A call begins.
    #[inline]
    pub(crate) fn begin(&mut self, stage: Stage, on_fiber: bool, cpu_limit: Duration) {
        self.stage = stage;
        self.on_fiber = on_fiber;
        self.cpu_limit = cpu_limit;
        self.failed = None;
        self.lacked_memory = false;
        self.overspent = false;
        self.guest.may_not_call = false;
        self.guest.is_within = false;
        self.field_bytes = 0;
        self.memory.refused = None;
        self.meter.reset();
        if !self.last_words.is_empty() {
            self.last_words.clear();
        }
    }

    /// The hook in progress, if it is one of these.
    pub(crate) fn hook(&self, allowed: HookSet) -> Result<Hook, Error> {
        match self.stage {
            Stage::Hook(hook) if allowed.contains(hook) => Ok(hook),
            _ => Err(Error::WrongHook),
        }
    }

    /// The exchange, in one of these hooks.
    pub(crate) fn exchange(&self, allowed: HookSet) -> Result<&Exchange, Error> {
        self.hook(allowed)?;
        self.exchange.as_deref().ok_or(Error::WrongHook)
    }

    /// The same, to edit it.
    pub(crate) fn exchange_mut(&mut self, allowed: HookSet) -> Result<&mut Exchange, Error> {
        self.hook(allowed)?;
        self.exchange.as_deref_mut().ok_or(Error::WrongHook)
    }

    /// Accounts for an edit that has the exchange keep `bytes`, before it is made.
    #[inline]
    pub(crate) fn keep(&mut self, bytes: usize) -> Result<(), Error> {
        let exchange = self.exchange.as_deref_mut().ok_or(Error::WrongHook)?;
        exchange.keep(bytes, &self.shared.budget).map_err(|_| self.lack_memory())
    }

    /// Copies a body that the filter has set. It may outlive the exchange.
    pub(crate) fn keep_body(&mut self, body: &[u8]) -> Result<bytes::Bytes, Error> {
        if body.len() < OWN_CHARGE {
            self.keep(body.len())?;
            return Ok(bytes::Bytes::copy_from_slice(body));
        }
        self.keep(0)?;
        let charge = self.shared.budget.reserve(body.len()).map_err(|_| self.lack_memory())?;
        Ok(MemoryBudget::hold(bytes::Bytes::copy_from_slice(body), charge))
    }

    /// The call is refused memory: if it fails, that is why.
    #[cold]
    pub(crate) fn lack_memory(&mut self) -> Error {
        self.lacked_memory = true;
        Error::Unavailable("the memory that the gateway keeps for filters is used up".into())
    }

    /// Takes what the guest writes to standard output or error: whole lines go to the log.
    pub(crate) fn write_output(&mut self, is_err: bool, mut bytes: &[u8]) {
        if is_err {
            let room = MAX_LAST_WORDS.saturating_sub(self.last_words.len());
            self.last_words.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        }
        while !bytes.is_empty() {
            let buffer = if is_err { &mut self.err } else { &mut self.out };
            let room = MAX_LINE.saturating_sub(buffer.len());
            let line_end = memchr::memchr(b'\n', bytes);
            let take = line_end.map_or(bytes.len(), |at| at + 1).min(room.max(1));
            let (now, later) = bytes.split_at(take);
            buffer.extend_from_slice(now);
            bytes = later;
            if buffer.last() == Some(&b'\n') || buffer.len() >= MAX_LINE {
                let line = std::mem::take(buffer);
                self.log(tracing::Level::INFO, String::from_utf8_lossy(&line).trim_end());
            }
        }
    }

    /// Logs what is left of a line: the call that wrote it is over, and the next one belongs to another exchange.
    #[inline]
    pub(crate) fn flush_output(&mut self) {
        if !self.out.is_empty() || !self.err.is_empty() {
            self.log_rest();
        }
    }

    #[cold]
    fn log_rest(&mut self) {
        for buffer in [&mut self.out, &mut self.err].map(std::mem::take) {
            if !buffer.is_empty() {
                self.log(tracing::Level::INFO, String::from_utf8_lossy(&buffer).trim_end());
            }
        }
    }

    /// What the guest last wrote to standard error in this call: the text of a panic.
    pub(crate) fn last_words(&self) -> String {
        String::from_utf8_lossy(&self.last_words).trim().replace('\n', " | ")
    }

    /// The clock that a test moves, or that of the machine.
    fn clock(&self) -> Option<&Clock> {
        self.shared.services.as_ref().map(|services| &services.services.clock)
    }

    pub(crate) fn since_epoch(&self) -> Duration {
        super::clock::since_epoch(self.clock())
    }

    pub(crate) fn monotonic_ns(&self) -> u64 {
        super::clock::monotonic_ns(self.clock())
    }

    /// What the guest draws random numbers from.
    pub(crate) fn random(&self) -> &Random {
        static SYSTEM: Random = Random::System;
        self.shared.services.as_ref().map_or(&SYSTEM, |services| &services.services.random)
    }

    /// Writes a line for the filter, if its budget allows.
    pub(crate) fn log(&self, level: tracing::Level, line: &str) {
        // A blank line tells nothing; the text of a panic begins with one.
        if line.trim().is_empty() {
            return;
        }
        if self.is_rehearsal {
            return;
        }
        if let Some(observer) = &self.shared.observer {
            return observer.log(level, log_limit::cut(line));
        }
        if !self.shared.log.allow(super::clock::since_epoch(None).as_micros() as u64) {
            return;
        }
        let line = log_limit::cut(line);
        let filter = &*self.shared.name;
        let request_id = self.exchange.as_ref().and_then(|x| x.id.to_str().ok()).unwrap_or_default();
        match level {
            tracing::Level::TRACE => tracing::trace!(target: "sluice::filter", filter, request_id, "{line}"),
            tracing::Level::DEBUG => tracing::debug!(target: "sluice::filter", filter, request_id, "{line}"),
            tracing::Level::INFO => tracing::info!(target: "sluice::filter", filter, request_id, "{line}"),
            tracing::Level::WARN => tracing::warn!(target: "sluice::filter", filter, request_id, "{line}"),
            tracing::Level::ERROR => tracing::error!(target: "sluice::filter", filter, request_id, "{line}"),
        }
    }
}

/// The memory of one instance: its limits, what it has, and whether it asked for more.
pub(crate) struct MemoryUse {
    limit: usize,
    table_elements: usize,
    /// Bytes of all linear memories; they never shrink, so this is the peak as well.
    pub(crate) bytes: usize,
    /// What was refused during this call.
    pub(crate) refused: Option<FilterError>,
}

impl MemoryUse {
    fn new(limits: &FilterLimits) -> MemoryUse {
        MemoryUse { limit: limits.memory, table_elements: limits.table_elements, bytes: 0, refused: None }
    }
}

impl ResourceLimiter for MemoryUse {
    fn memory_growing(&mut self, current: usize, desired: usize, most: Option<usize>) -> wasmtime::Result<bool> {
        // The engine looks at the memory's own maximum afterwards.
        if most.is_some_and(|most| desired > most) {
            return Ok(false);
        }
        let total = self.bytes.saturating_add(desired.saturating_sub(current));
        if total > self.limit {
            self.refused = Some(FilterError::Memory(self.limit));
            return Ok(false);
        }
        self.bytes = total;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = Some(FilterError::Memory(self.limit));
        Ok(())
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.table_elements;
        if !fits {
            self.refused = Some(FilterError::Table(self.table_elements));
        }
        Ok(fits)
    }
}
