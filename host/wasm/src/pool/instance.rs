//! One live sandbox. It is usable only while its last call ended well: whoever makes a call takes it out of the pool first and
//! puts it back only then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wasmtime::{Error, Result as Outcome, Store, StoreContextMut, UpdateDeadline};

use super::plugin::Description;
use crate::abi::NoSuchCase;
use crate::backend::direct::DirectCode;
use crate::backend::{Code, GuestInstance};
use crate::bindings::Verdict as GuestVerdict;
use crate::call::state::{CallState, FilterShared, HostResources, Stage};
use crate::exchange::Exchange;
use crate::filter::observer::{FUEL, Observer};
use crate::filter::stats::Live;
use crate::filter::{FilterError, FilterLimits, Hook, LoadError, Phase, Verdict};
use crate::load::Runtime;
use crate::load::quota::QuotaPermit;
use sluice_services::log_limit;

/// CPU time of starting an instance: its start functions and `configure`. It runs on a fiber, so neighbours go on meanwhile.
const START_CPU: Duration = Duration::from_secs(1);

/// Bytes that a guest may hand over at once whatever its limits are: of cryptography's 1 MiB, and as much again.
const TRANSFER_BESIDE: usize = 2 << 20;

pub(crate) struct Instance {
    pub(crate) store: Store<CallState>,
    pub(crate) guest: GuestInstance,
    pub(crate) uses: u64,
    /// Bytes of its memory when it was configured.
    pub(crate) memory_at_first: usize,
    /// Counts it in its pool; none in a trial.
    pub(crate) live: Option<Live>,
    /// While a fresh one waits for the next hook of its exchange.
    pub(crate) waiting: Option<QuotaPermit>,
    /// Has a fresh one kept from exchange to exchange.
    pub(crate) kept: Option<QuotaPermit>,
}

impl Instance {
    /// Instantiates, on a fiber.
    pub(crate) async fn create(
        runtime: &Runtime,
        code: &Code,
        shared: &Arc<FilterShared>,
        resources: Box<HostResources>,
    ) -> Result<Instance, FilterError> {
        let mut store = new_store(runtime, shared, resources, true);
        let guest = code.instantiate(&mut store).await;
        Instance::finish(store, guest)
    }

    /// The same for a module that is called directly.
    pub(crate) async fn create_direct(
        runtime: &Runtime,
        code: &DirectCode,
        shared: &Arc<FilterShared>,
        resources: Box<HostResources>,
    ) -> Result<Instance, FilterError> {
        let mut store = new_store(runtime, shared, resources, true);
        let guest = code.instantiate(&mut store).await.map(GuestInstance::Direct);
        Instance::finish(store, guest)
    }

    /// Instantiates a module whose start function has run, and holds the thread until that is done.
    pub(crate) fn create_now(
        runtime: &Runtime,
        code: &DirectCode,
        shared: &Arc<FilterShared>,
        resources: Box<HostResources>,
    ) -> Result<Instance, FilterError> {
        let mut store = new_store(runtime, shared, resources, false);
        let guest = code.instantiate_now(&mut store).map(GuestInstance::Direct);
        Instance::finish(store, guest)
    }

    fn finish(store: Store<CallState>, guest: Outcome<GuestInstance>) -> Result<Instance, FilterError> {
        let guest = guest.map_err(|error| match classify(store.data(), error) {
            FilterError::Trap(text) => FilterError::Instantiate(text),
            other => other,
        })?;
        Ok(Instance { store, guest, uses: 0, memory_at_first: 0, live: None, waiting: None, kept: None })
    }

    /// Bytes that its memory has grown by since it was configured.
    pub(crate) fn grown(&self) -> usize {
        self.store.data().memory.bytes.saturating_sub(self.memory_at_first)
    }

    /// What the host has kept for it, for another instance of the same filter.
    pub(crate) fn into_resources(self) -> Box<HostResources> {
        self.store.into_data().resources
    }

    /// Hands the filter its config. A refusal is `FilterError::Refused`.
    pub(crate) async fn configure(&mut self) -> Result<(), FilterError> {
        begin(&mut self.store, Stage::Configure, true, START_CPU);
        let shared = self.store.data().shared.clone();
        let answer = self.guest.configure(&mut self.store, &shared.config).await;
        match answer {
            Ok(Ok(())) => match self.store.data_mut().failed.take() {
                Some(reason) => Err(FilterError::Declared(reason)),
                None => Ok(()),
            },
            Ok(Err(reason)) => Err(FilterError::Refused(log_limit::cut(&reason).to_owned())),
            Err(error) => Err(classify(self.store.data(), error)),
        }
    }

    /// Asks the component about itself.
    pub(crate) async fn describe(&mut self) -> Result<Description, LoadError> {
        begin(&mut self.store, Stage::Describe, true, START_CPU);
        let answer = self.guest.describe(&mut self.store).await;
        let text = answer.map_err(|error| LoadError::Describe(classify(self.store.data(), error).to_string()))?;
        let Some(text) = text else { return Ok(Description::default()) };
        serde_json::from_str(&text)
            .map_err(|e| LoadError::Describe(format!("its answer is not the expected JSON: {e}")))
    }

    /// Looks up every exported hook, so that one of another type is found at load.
    pub(crate) fn resolve(&mut self) -> Result<(), LoadError> {
        for hook in self.store.data().shared.exports.iter() {
            let found = self.guest.find(&mut self.store, hook);
            found.map_err(|e| LoadError::Export { export: hook.to_string(), reason: format!("{e:#}") })?;
        }
        Ok(())
    }

    /// Calls a hook and holds the thread until it returns or is stopped.
    pub(crate) fn call(&mut self, hook: Hook, exchange: Box<Exchange>, index: usize) -> Result<Verdict, FilterError> {
        self.prepare(hook, exchange, index, false, None);
        let answer = self.guest.call(&mut self.store, hook);
        self.conclude(answer)
    }

    /// Calls a hook on a fiber: it yields at each tick and where it waits.
    pub(crate) async fn call_on_fiber(
        &mut self,
        hook: Hook,
        exchange: Box<Exchange>,
        index: usize,
    ) -> Result<Verdict, FilterError> {
        self.prepare(hook, exchange, index, true, None);
        let answer = self.guest.call_on_fiber(&mut self.store, hook).await;
        self.conclude(answer)
    }

    /// Calls a hook in the trial at load, with this CPU time.
    pub(crate) async fn rehearse(
        &mut self,
        hook: Hook,
        exchange: Box<Exchange>,
        cpu: Duration,
    ) -> Result<Verdict, FilterError> {
        self.prepare(hook, exchange, 0, true, Some(cpu));
        let answer = self.guest.call_on_fiber(&mut self.store, hook).await;
        self.conclude(answer)
    }

    /// Takes the exchange back, also from a call that was abandoned.
    pub(crate) fn take_exchange(&mut self) -> Option<Box<Exchange>> {
        let state = self.store.data_mut();
        state.flush_output();
        state.exchange.take()
    }

    #[inline]
    fn prepare(&mut self, hook: Hook, exchange: Box<Exchange>, index: usize, on_fiber: bool, cpu: Option<Duration>) {
        let state = self.store.data_mut();
        // Of `configure`, for no exchange.
        state.flush_output();
        let cpu = cpu.unwrap_or_else(|| match hook.has_body() {
            true => cpu_with_body(&state.shared.limits, hook, &exchange),
            false => state.shared.limits.cpu,
        });
        state.exchange = Some(exchange);
        state.index = index;
        begin(&mut self.store, Stage::Hook(hook), on_fiber, cpu);
        self.uses += 1;
        if self.store.data().shared.observer.is_some() {
            self.observe_begin(hook);
        }
    }

    #[inline]
    fn conclude(&mut self, answer: Result<GuestVerdict, Error>) -> Result<Verdict, FilterError> {
        let state = self.store.data_mut();
        let result = match answer {
            Err(error) => Err(classify(state, error)),
            Ok(verdict) => match (state.failed.take(), verdict) {
                (Some(reason), _) if state.lacked_memory => Err(FilterError::OutOfMemory { declared: Some(reason) }),
                (Some(reason), _) => Err(FilterError::Declared(reason)),
                (None, GuestVerdict::Continue) => Ok(Verdict::Continue),
                (None, GuestVerdict::Respond) => Ok(Verdict::Respond),
            },
        };
        if self.store.data().shared.observer.is_some() {
            self.observe_end(result.as_ref().err());
        }
        result
    }

    #[cold]
    fn observe_begin(&self, hook: Hook) {
        if let Some(observer) = self.observer() {
            observer.begins(hook, self.store.get_fuel().unwrap_or_default());
        }
    }

    #[cold]
    fn observe_end(&self, error: Option<&FilterError>) {
        if let Some(observer) = self.observer() {
            observer.ends(self.store.get_fuel().unwrap_or_default(), self.store.data().memory.bytes, error);
        }
    }

    /// Who sees this call, if anybody does: nobody is to see the trial at load.
    fn observer(&self) -> Option<&Observer> {
        let state = self.store.data();
        state.shared.observer.as_deref().filter(|_| !state.is_rehearsal)
    }
}

/// The CPU time of a hook that is called with a body.
#[inline(never)]
fn cpu_with_body(limits: &FilterLimits, hook: Hook, exchange: &Exchange) -> Duration {
    limits.cpu + limits.time_for_body(body_len(hook, exchange))
}

/// The length of the body that a hook is called with.
pub(crate) fn body_len(hook: Hook, exchange: &Exchange) -> usize {
    match hook.phase() {
        Phase::RequestBody => exchange.request_body_len(),
        Phase::ResponseBody => exchange.response_body_len(),
        Phase::RequestPiece | Phase::ResponsePiece | Phase::ResponseEvent => {
            exchange.piece.as_ref().map_or(0, |piece| piece.bytes.len())
        }
        Phase::RequestHead | Phase::Selection | Phase::ResponseHead | Phase::ResponseTrailers | Phase::Completion => 0,
    }
}

/// What a guest may hand over in one call of a host function: enough for the largest body or value that it may set, and for all
/// else beside it. The engine's own limit is the same for every filter, and large.
fn transfer_limit(shared: &FilterShared) -> usize {
    let limits = &shared.limits;
    let services = &shared.grants.services;
    let body = usize::try_from(limits.max_set_body()).unwrap_or(usize::MAX);
    let quota = if services.kv.is_empty() { 0 } else { usize::try_from(services.kv_quota).unwrap_or(usize::MAX) };
    body.max(quota.min(limits.memory)).saturating_add(TRANSFER_BESIDE)
}

fn new_store(
    runtime: &Runtime,
    shared: &Arc<FilterShared>,
    resources: Box<HostResources>,
    on_fiber: bool,
) -> Store<CallState> {
    let mut state = CallState::new(shared.clone(), runtime.ticker.clone(), resources);
    state.transfer = transfer_limit(shared);
    let mut store = Store::new(&runtime.engine, state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(transfer_limit(shared));
    let tick = runtime.options.tick;
    if runtime.options.observer.is_some() {
        store.set_fuel(FUEL).expect("an engine with an observer counts instructions");
    }
    store.epoch_deadline_callback(move |cx| Ok(on_tick(cx, tick)));
    begin(&mut store, Stage::Start, on_fiber, START_CPU);
    store
}

/// A call begins: the state is cleared and the clock starts.
#[inline]
fn begin(store: &mut Store<CallState>, stage: Stage, on_fiber: bool, cpu: Duration) {
    store.data_mut().begin(stage, on_fiber, cpu);
    store.set_epoch_deadline(1);
}

/// The epoch has advanced while the guest ran.
fn on_tick(mut cx: StoreContextMut<'_, CallState>, tick: Duration) -> UpdateDeadline {
    let state = cx.data_mut();
    let spent = state.meter.tick();
    if spent >= state.cpu_limit {
        state.overspent = true;
        return UpdateDeadline::Interrupt;
    }
    if state.on_fiber && !state.guest.is_within {
        let meter = state.meter.clone();
        return UpdateDeadline::YieldCustom(
            1,
            Box::pin(async move {
                tokio::task::yield_now().await;
                meter.resume();
            }),
        );
    }
    // The first tick of a call may come at any time; only from it on is the guest's own time known.
    if spent > tick / 2 {
        state.shared.on_fiber.store(true, Ordering::Relaxed);
    }
    UpdateDeadline::Continue(1)
}

/// Why a call ended without an answer.
fn classify(state: &CallState, error: Error) -> FilterError {
    if state.overspent {
        return FilterError::Deadline(state.cpu_limit);
    }
    if let Some(refused) = &state.memory.refused {
        return refused.clone();
    }
    if state.lacked_memory {
        return FilterError::OutOfMemory { declared: None };
    }
    // It may quote names of the guest.
    let cause = log_limit::cut(&error.root_cause().to_string()).to_owned();
    if error.is::<NoSuchCase>() {
        return FilterError::BadAnswer(cause);
    }
    let words = state.last_words();
    FilterError::Trap(if words.is_empty() { cause } else { format!("{cause}: {words}") })
}
