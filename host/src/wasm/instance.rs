//! One live sandbox. It is usable only while its last call ended well: whoever makes a call takes it out of the pool first and
//! puts it back only then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wasmtime::component::{ComponentNamedList, Lift, Lower, TypedFunc};
use wasmtime::{Error, Store, StoreContextMut, Trap, UpdateDeadline};

use super::bindings::Verdict as GuestVerdict;
use super::component::{Description, Plugin};
use super::state::{CallState, FilterShared, Kit, Stage};
use super::stats::Live;
use super::{FilterError, Hook, LoadError, Verdict};
use crate::exchange::Exchange;
use crate::services::log_limit;

/// CPU time of starting an instance: its start functions and `configure`. It runs on a fiber, so neighbours go on meanwhile.
const START_CPU: Duration = Duration::from_secs(1);

/// Bytes that a guest may hand over at once whatever its limits are: of cryptography's 1 MiB, and as much again.
const TRANSFER_BESIDE: usize = 2 << 20;

pub(super) struct Instance {
    pub(super) store: Store<CallState>,
    instance: wasmtime::component::Instance,
    plugin: Arc<Plugin>,
    funcs: [Option<HookFunc>; Hook::COUNT],
    pub(super) uses: u64,
    /// Counts it in its pool; none in a trial.
    pub(super) live: Option<Live>,
}

#[derive(Clone, Copy)]
enum HookFunc {
    Verdict(TypedFunc<(), (GuestVerdict,)>),
    Plain(TypedFunc<(), ()>),
}

impl Instance {
    /// Instantiates.
    pub(super) async fn create(
        plugin: &Arc<Plugin>,
        shared: &Arc<FilterShared>,
        kit: Box<Kit>,
    ) -> Result<Instance, FilterError> {
        let mut store = Instance::store(plugin, shared, kit, true);
        let instance = plugin.pre.instantiate_async(&mut store).await;
        Instance::finish(plugin, store, instance)
    }

    /// Instantiates a component that imports nothing that waits, and holds the thread until that is done.
    pub(super) fn create_now(
        plugin: &Arc<Plugin>,
        shared: &Arc<FilterShared>,
        kit: Box<Kit>,
    ) -> Result<Instance, FilterError> {
        let mut store = Instance::store(plugin, shared, kit, false);
        let instance = plugin.pre.instantiate(&mut store);
        Instance::finish(plugin, store, instance)
    }

    fn store(plugin: &Arc<Plugin>, shared: &Arc<FilterShared>, kit: Box<Kit>, on_fiber: bool) -> Store<CallState> {
        let state = CallState::new(shared.clone(), plugin.runtime.ticker.clone(), kit);
        let mut store = Store::new(&plugin.runtime.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(transfer_limit(shared));
        let tick = plugin.runtime.options.tick;
        store.epoch_deadline_callback(move |cx| Ok(on_tick(cx, tick)));
        begin(&mut store, Stage::Start, on_fiber, START_CPU);
        store
    }

    fn finish(
        plugin: &Arc<Plugin>,
        store: Store<CallState>,
        instance: wasmtime::Result<wasmtime::component::Instance>,
    ) -> Result<Instance, FilterError> {
        let instance = instance.map_err(|error| match classify(store.data(), error) {
            FilterError::Trap(text) => FilterError::Instantiate(text),
            other => other,
        })?;
        Ok(Instance { store, instance, plugin: plugin.clone(), funcs: [None; Hook::COUNT], uses: 0, live: None })
    }

    /// What the host has kept for it, for another instance of the same filter.
    pub(super) fn into_kit(self) -> Box<Kit> {
        self.store.into_data().kit
    }

    /// Hands the filter its config. A refusal is `FilterError::Refused`.
    pub(super) async fn configure(&mut self) -> Result<(), FilterError> {
        let Some(index) = &self.plugin.exports.configure else { return Ok(()) };
        let func: TypedFunc<(String,), (Result<(), String>,)> = typed(&self.instance, &mut self.store, index)?;
        begin(&mut self.store, Stage::Configure, true, START_CPU);
        let config = self.store.data().shared.config.clone();
        match func.call_async(&mut self.store, (config,)).await {
            Ok((Ok(()),)) => match self.store.data_mut().failed.take() {
                Some(reason) => Err(FilterError::Declared(reason)),
                None => Ok(()),
            },
            Ok((Err(reason),)) => Err(FilterError::Refused(log_limit::cut(&reason).to_owned())),
            Err(error) => Err(classify(self.store.data(), error)),
        }
    }

    /// Asks the component about itself.
    pub(super) async fn describe(&mut self) -> Result<Description, LoadError> {
        let Some(index) = &self.plugin.exports.describe else { return Ok(Description::default()) };
        let failed = |e: FilterError| LoadError::Describe(e.to_string());
        let func: TypedFunc<(), (String,)> = typed(&self.instance, &mut self.store, index).map_err(failed)?;
        begin(&mut self.store, Stage::Describe, true, START_CPU);
        let (text,) =
            func.call_async(&mut self.store, ()).await.map_err(|error| failed(classify(self.store.data(), error)))?;
        serde_json::from_str(&text)
            .map_err(|e| LoadError::Describe(format!("its answer is not the expected JSON: {e}")))
    }

    /// Calls a function of an instance that the component exports besides: one that only reads what the guest has left.
    pub(super) async fn inspect<Return>(&mut self, instance: &str, func: &str) -> wasmtime::Result<Return>
    where
        Return: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        let missing = || Error::msg(format!("there is no `{instance}` `{func}`"));
        let at = self.instance.get_export_index(&mut self.store, None, instance).ok_or_else(missing)?;
        let index = self.instance.get_export_index(&mut self.store, Some(&at), func).ok_or_else(missing)?;
        let func: TypedFunc<(), Return> = self.instance.get_typed_func(&mut self.store, index)?;
        begin(&mut self.store, Stage::Describe, true, START_CPU);
        func.call_async(&mut self.store, ()).await
    }

    /// Looks up every exported hook, so that one of another type is found at load.
    pub(super) fn resolve(&mut self) -> Result<(), LoadError> {
        for hook in self.plugin.exports.set().iter() {
            self.func(hook).map_err(|e| LoadError::Export { export: hook.to_string(), reason: e.to_string() })?;
        }
        Ok(())
    }

    /// Calls a hook and holds the thread until it returns or is stopped.
    pub(super) fn call(&mut self, hook: Hook, exchange: Box<Exchange>, index: usize) -> Result<Verdict, FilterError> {
        let func = self.prepare(hook, exchange, index, false)?;
        let answer = match func {
            HookFunc::Verdict(func) => func.call(&mut self.store, ()).map(|(verdict,)| verdict),
            HookFunc::Plain(func) => func.call(&mut self.store, ()).map(|()| GuestVerdict::Continue),
        };
        self.conclude(answer)
    }

    /// Calls a hook on a fiber: it yields at each tick and where it waits.
    pub(super) async fn call_on_fiber(
        &mut self,
        hook: Hook,
        exchange: Box<Exchange>,
        index: usize,
    ) -> Result<Verdict, FilterError> {
        let func = self.prepare(hook, exchange, index, true)?;
        let answer = match func {
            HookFunc::Verdict(func) => func.call_async(&mut self.store, ()).await.map(|(verdict,)| verdict),
            HookFunc::Plain(func) => func.call_async(&mut self.store, ()).await.map(|()| GuestVerdict::Continue),
        };
        self.conclude(answer)
    }

    /// Takes the exchange back, also from a call that was abandoned.
    pub(super) fn take_exchange(&mut self) -> Option<Box<Exchange>> {
        let state = self.store.data_mut();
        state.flush_output();
        state.exchange.take()
    }

    fn prepare(
        &mut self,
        hook: Hook,
        exchange: Box<Exchange>,
        index: usize,
        on_fiber: bool,
    ) -> Result<HookFunc, FilterError> {
        let state = self.store.data_mut();
        // Of `configure`, for no exchange.
        state.flush_output();
        state.exchange = Some(exchange);
        state.index = index;
        let func = self.func(hook)?;
        let cpu = self.store.data().shared.limits.cpu;
        begin(&mut self.store, Stage::Hook(hook), on_fiber, cpu);
        self.uses += 1;
        Ok(func)
    }

    fn conclude(&mut self, answer: Result<GuestVerdict, Error>) -> Result<Verdict, FilterError> {
        let state = self.store.data_mut();
        match answer {
            Err(error) => Err(classify(state, error)),
            Ok(verdict) => match (state.failed.take(), verdict) {
                (Some(reason), _) => Err(FilterError::Declared(reason)),
                (None, GuestVerdict::Continue) => Ok(Verdict::Continue),
                (None, GuestVerdict::Respond) => Ok(Verdict::Respond),
            },
        }
    }

    fn func(&mut self, hook: Hook) -> Result<HookFunc, FilterError> {
        if let Some(func) = self.funcs[hook.index()] {
            return Ok(func);
        }
        let index = self.plugin.exports.hooks[hook.index()].as_ref();
        let index = index.ok_or_else(|| FilterError::BadAnswer(format!("{hook} is not exported")))?;
        let func = if hook.has_verdict() {
            HookFunc::Verdict(typed(&self.instance, &mut self.store, index)?)
        } else {
            HookFunc::Plain(typed(&self.instance, &mut self.store, index)?)
        };
        self.funcs[hook.index()] = Some(func);
        Ok(func)
    }
}

/// What a guest may hand over in one call of a host function: enough for the largest body or value that it may set, and for all
/// else beside it. The engine's own limit is the same for every filter, and large.
fn transfer_limit(shared: &FilterShared) -> usize {
    let limits = &shared.limits;
    let services = &shared.grants.services;
    let body = usize::try_from(limits.max_body).unwrap_or(usize::MAX);
    let quota = if services.kv.is_empty() { 0 } else { usize::try_from(services.kv_quota).unwrap_or(usize::MAX) };
    body.max(quota.min(limits.memory)).saturating_add(TRANSFER_BESIDE)
}

/// A call begins: the state is cleared and the clock starts.
fn begin(store: &mut Store<CallState>, stage: Stage, on_fiber: bool, cpu: Duration) {
    store.data_mut().begin(stage, on_fiber, cpu);
    store.set_epoch_deadline(1);
}

fn typed<Params, Return>(
    instance: &wasmtime::component::Instance,
    store: &mut Store<CallState>,
    index: &wasmtime::component::ComponentExportIndex,
) -> Result<TypedFunc<Params, Return>, FilterError>
where
    Params: ComponentNamedList + Lower,
    Return: ComponentNamedList + Lift,
{
    instance.get_typed_func(store, index).map_err(|e| FilterError::BadAnswer(format!("{e:#}")))
}

/// The epoch has advanced while the guest ran.
fn on_tick(mut cx: StoreContextMut<'_, CallState>, tick: Duration) -> UpdateDeadline {
    let state = cx.data_mut();
    let spent = state.meter.tick();
    if spent >= state.cpu_limit {
        state.overspent = true;
        return UpdateDeadline::Interrupt;
    }
    if state.on_fiber {
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
        state.shared.overran.store(true, Ordering::Relaxed);
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
    // It may quote names of the guest.
    let cause = log_limit::cut(&error.root_cause().to_string()).to_owned();
    if error.downcast_ref::<Trap>().is_none() && cause.contains("discriminant") {
        return FilterError::BadAnswer(cause);
    }
    let words = state.last_words();
    FilterError::Trap(if words.is_empty() { cause } else { format!("{cause}: {words}") })
}
