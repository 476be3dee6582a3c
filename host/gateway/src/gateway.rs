//! The process: makes the parts in order, binds before it serves, ends in order.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use sluice_cache::store::Store;

use crate::acme::Acme;
use crate::admin::{self, AdminError};
use crate::background::{Background, Task};
use crate::cache::ResponseCache;
use crate::certs::CertStore;
use crate::config::{self, Config, ConfigErrors, Loaded, model};
use crate::consumers::ConsumerFiles;
use crate::control::{Control, Replacement, RunningState, Signals, WatchedFiles, start_loader, watched_files};
use crate::filter::{Mode, Runtime};
use crate::http::buffer::MemoryBudget;
use crate::outbound::{OutboundClient, Tls};
use crate::proxy::{Flights, Proxy, Worker};
use crate::server::{ListenerSpec, ListenerTable, Overload, ResourceState, StartError, WorkerSettings, Workers};
use crate::services::Services;
use crate::services::clock::Clock;
use crate::services::log_limit::visible;
use crate::services::state::Limits;
use crate::snapshot::{KEY_SET_WAIT, Snapshot, SnapshotBuilder};
use crate::sockets::can_bind;
use crate::telemetry::{AccessLog, Metrics, OperationalLog, start_operational_log};
use crate::upstream::{EndpointRegistry, Resolver, Sources, Upkeep, Upstream};
use crate::wasm::{CompilerCommand, RuntimeError, RuntimeOptions};

/// How often the operational log tells what was dropped.
const SUMMARY: Duration = Duration::from_secs(1);
/// How long the last lines of the logs may take.
const FLUSH: Duration = Duration::from_secs(2);

/// How long the end may take to tell the state that gateways share what it does not know yet.
const TELL_STATE: Duration = Duration::from_secs(1);

/// Instances for trials.
const TRIALS: u32 = 64;
/// Instances that there is room for, however few are configured: a reload may bring more filters.
const MIN_INSTANCES: u32 = 1_000;
/// Instances that there is room for, however many are configured. Each has 4 GiB of the 128 TiB of a process, and about three of
/// its 65,530 mappings (the usual `vm.max_map_count`).
const MAX_INSTANCES: u32 = 10_000;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("the operational log can't be started: {0}")]
    Log(String),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("can't start")]
    Io(#[from] std::io::Error),
}

/// Loads, builds and tries a configuration without serving it. Answers what an operator should know.
pub fn check(path: &Path, compiler: Option<CompilerCommand>) -> Result<Checked, GatewayError> {
    let loaded = config::load(path)?;
    let metrics = Metrics::new();
    let (background, _thread) = Background::start(Arc::clone(&metrics))?;
    let builder = builder(&loaded.config, compiler, metrics, background, &budget(&loaded.config))?;
    let mut snapshot = builder.build(&loaded, None)?;
    snapshot.warnings.extend(builder.services.key_sets.wait_until_ready(KEY_SET_WAIT));
    snapshot.warnings.extend(unbindable(&loaded.config));
    Ok(Checked { warnings: snapshot.warnings, notes: leases(&loaded.config).collect() })
}

/// What is said of a configuration without errors.
pub struct Checked {
    pub warnings: Vec<String>,
    /// What follows from it, and is no mistake.
    pub notes: Vec<String>,
}

/// The bounds of leased limits.
fn leases(config: &Config) -> impl Iterator<Item = String> {
    config.plugins.iter().filter_map(|plugin| {
        let state = plugin.state.as_ref()?;
        let Limits::Leased { most } = state.limits else { return None };
        Some(format!(
            "limits of plugin `{}` are leased: each gateway lets through at most {most} of a limit before the state `{}` knows of it, \
             so N gateways together exceed a limit by at most N × {most}, and by {most} more for each that is killed",
            plugin.name, state.name
        ))
    })
}

/// The addresses that can't be bound on this machine. Not an error: a configuration may be checked on another one than it is for.
fn unbindable(config: &Config) -> impl Iterator<Item = String> {
    let listeners =
        config.listeners.iter().map(|listener| (format!("listeners.{}.bind", listener.name), &listener.bind));
    let admin = config.admin.iter().map(|admin| ("admin.bind".to_owned(), &admin.bind));
    listeners.chain(admin).filter_map(|(key, address)| {
        let error = can_bind(address).err()?;
        Some(format!("{key}: {address} can't be bound on this machine: {error}"))
    })
}

/// Serves a configuration until a signal ends it. Answers the exit code.
pub fn run(path: &Path, compiler: Option<CompilerCommand>) -> Result<u8, GatewayError> {
    // Where the machine gives huge pages to all, the first byte that is written takes 2 MiB: workers and instances would need two to
    // three times the memory. A kernel that knows no such pages gives none.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let loaded = config::load(path)?;
    let watched = loaded.config.gateway.reload.then(|| WatchedFiles::look(watched_files(&loaded)));
    let metrics = Metrics::new();
    let log =
        start_operational_log(loaded.config.telemetry.log_level, Arc::clone(&metrics)).map_err(GatewayError::Log)?;
    let log = Arc::new(log);
    let result = serve(path, loaded, watched, compiler, &metrics, &log);
    log.summarize();
    // The last lines say how it ended, also where the start has failed.
    log.flush(FLUSH);
    result
}

/// Makes the parts, in order, and waits for the end.
fn serve(
    path: &Path,
    loaded: Loaded,
    watched: Option<WatchedFiles>,
    compiler: Option<CompilerCommand>,
    metrics: &Arc<Metrics>,
    log: &Arc<OperationalLog>,
) -> Result<u8, GatewayError> {
    let started = SystemTime::now();
    let (background, background_thread) = Background::start(Arc::clone(metrics))?;
    let _summary = background.spawn("log summary", {
        let log = Arc::clone(log);
        move || async move {
            loop {
                tokio::time::sleep(SUMMARY).await;
                log.summarize();
            }
        }
    });
    let budget = budget(&loaded.config);
    let builder = builder(&loaded.config, compiler, Arc::clone(metrics), background.clone(), &budget)?;
    let snapshot = builder.build(&loaded, None)?;
    for warning in &snapshot.warnings {
        tracing::warn!("{}", visible(warning));
    }
    let config = Arc::new(loaded.config);
    snapshot.prewarm(config.gateway.workers);
    snapshot.apply_limits();
    snapshot.apply_consumers(&builder.consumers);
    if config.gateway.reload {
        builder.consumers.follow(&background)?;
    }
    verify_passwords(&builder.services)?;

    let mut acme = acme(&config, &builder, &background);
    // Before the listeners: what is on disk is shown from the first handshake on.
    acme.follow(&config, &snapshot.ordered);
    let signals = Signals::catch()?;
    let access_log = AccessLog::start(config.telemetry.access_log, Arc::clone(metrics))?;
    let table: ListenerTable = Arc::new(ArcSwap::from_pointee(snapshot.listeners.clone()));
    let running = RunningState {
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
        config: Arc::new(ArcSwap::new(Arc::clone(&config))),
        overload: Overload::new(config.gateway.overload),
        changes: Arc::default(),
    };
    running.overload.relieved_by({
        let cache = Arc::clone(&builder.cache);
        move |bytes| cache.release(bytes)
    });
    let _overload = background.spawn("overload", {
        let overload = Arc::clone(&running.overload);
        move || overload.watch()
    });
    observe_overload(metrics, &running.overload);
    observe(metrics, &builder, &running.snapshot, &budget);
    observe_cache(metrics, &builder.cache);
    metrics.collect({
        let consumers = Arc::clone(&builder.consumers);
        move |out| consumers.expose(out)
    });
    let _expiry = warn_of_expiry(&background, &running.snapshot);

    let settings = WorkerSettings {
        workers: config.gateway.workers.get(),
        listeners: specs(&config),
        table: Arc::clone(&table),
        metrics: Arc::clone(metrics),
        overload: Arc::clone(&running.overload),
    };
    let workers = Workers::start(settings, {
        let (overload, access_log) = (Arc::clone(&running.overload), Arc::clone(&access_log));
        let running = Arc::clone(&running.snapshot);
        // The empty name is none that a route can have.
        let no_route = metrics.route("");
        let flights = Arc::<Flights>::default();
        move |_, metrics| {
            let (running, access_log) = (Arc::clone(&running), access_log.worker());
            Proxy::new(Worker::new(
                running,
                metrics,
                access_log,
                no_route,
                budget.clone(),
                &overload,
                Arc::clone(&flights),
            ))
        }
    })?;

    let services = Arc::clone(&builder.services);
    let mut upkeep = Upkeep::new(background.clone());
    upkeep.follow(running.snapshot.load().upstreams.iter().map(|(upstream, _)| upstream));
    let mut replacement = Replacement {
        path: path.to_owned(),
        started_with: Arc::clone(&config),
        builder,
        running: running.clone(),
        listeners: table,
        access_log: Arc::clone(&access_log),
        log: Arc::clone(log),
        upkeep,
        refused: false,
        acme,
    };
    let interrupt = Arc::clone(replacement.builder.runtime.interrupt());
    let loader = start_loader(watched, &background, Arc::clone(metrics), interrupt, move |changed| {
        replacement.replace(changed)
    })?;
    let control = Control::new(running, loader);
    let mut admin_listener = None;
    if let Some(admin) = &config.admin {
        let (control, metrics, config_file) = (control.clone(), Arc::clone(metrics), path.to_owned());
        let context = admin::Context { control, metrics, config_file, started };
        admin_listener = Some(admin::start(&admin.bind, context, &background)?);
    }
    let upstreams = control.snapshot().upstreams.iter().map(|(upstream, _)| Arc::clone(upstream)).collect();
    serve_when_ready(&control, Arc::clone(&services), upstreams)?;
    let code = signals.run(workers, &control);
    services.stores.flush(TELL_STATE);
    // After the workers: until their last exchange key sets are kept fresh, and the admin listener says that the gateway drains.
    drop((background_thread, admin_listener));
    access_log.flush(FLUSH);
    Ok(code)
}

/// Says that the gateway serves, once it has the keys that tokens are verified with and knows the endpoints of all upstreams, or has waited
/// for them long enough. Listeners are open meanwhile: what needs neither works.
fn serve_when_ready(control: &Control, services: Arc<Services>, upstreams: Vec<Arc<Upstream>>) -> std::io::Result<()> {
    if services.key_sets.ready() && upstreams.iter().all(|upstream| upstream.has_endpoints()) {
        control.serving();
        return Ok(());
    }
    let control = control.clone();
    let wait = move || {
        let until = Instant::now() + KEY_SET_WAIT;
        for why in services.key_sets.wait_until_ready(KEY_SET_WAIT) {
            tracing::warn!("{why}");
        }
        for why in upstreams.iter().filter_map(|upstream| upstream.wait_for_endpoints(until)) {
            tracing::warn!("{}", visible(&why));
        }
        control.serving();
    };
    // It ends by itself, soon.
    std::thread::Builder::new().name("readiness".to_owned()).spawn(wait).map(drop)
}

/// Starts the threads that hash passwords: one for four processors. They have the priority of workers: a caller waits for its hash, and at low
/// priority it would wait for ever on a busy machine.
fn verify_passwords(services: &Arc<Services>) -> std::io::Result<()> {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    for _ in 0..(processors / 4).max(1) {
        let services = Arc::clone(services);
        std::thread::Builder::new().name("passwords".to_owned()).spawn(move || services.passwords.work())?;
    }
    Ok(())
}

fn specs(config: &Config) -> Vec<ListenerSpec> {
    let spec =
        |listener: &model::Listener| ListenerSpec { name: listener.name.clone().into(), bind: listener.bind.clone() };
    config.listeners.iter().map(spec).collect()
}

/// The one account of the memory that others can make the process keep.
fn budget(config: &Config) -> MemoryBudget {
    MemoryBudget::new(usize::try_from(config.gateway.max_buffered_memory.0).unwrap_or(usize::MAX))
}

fn builder(
    config: &Config,
    compiler: Option<CompilerCommand>,
    metrics: Arc<Metrics>,
    background: Background,
    budget: &MemoryBudget,
) -> Result<SnapshotBuilder, GatewayError> {
    let most = |of: fn(&model::Filter) -> usize, least| config.filters.iter().map(of).fold(least, usize::max);
    let defaults = RuntimeOptions::default();
    let options = RuntimeOptions {
        max_memory: most(|filter| filter.limits.memory, defaults.max_memory),
        max_table_elements: most(|filter| filter.limits.table_elements, defaults.max_table_elements),
        instances: instances(config),
        cache: config.gateway.cache_dir.clone().or_else(default_cache),
        compiler,
        budget: budget.clone(),
        ..defaults
    };
    let resolver = Resolver::new(&config.gateway.nameservers, Some(background.clone()));
    let runtime = Runtime::new(options)?;
    runtime.set_compile_limits(config.gateway.compile);
    let outbound = OutboundClient::new(Tls::system(), resolver, background.clone(), budget.clone());
    let state_dir = config.gateway.state_dir.clone().or_else(default_state);
    let connect = Box::new({
        let outbound = Arc::clone(&outbound);
        move |authorities| outbound.fetch(authorities)
    });
    let services = Services::new(Clock::system(), outbound.clone());
    services.stores.start_with(move |task| background.spawn("state", move || task).detach());
    Ok(SnapshotBuilder {
        runtime,
        consumers: ConsumerFiles::new(Arc::clone(&services)),
        services,
        certs: CertStore::default(),
        metrics,
        outbound,
        endpoints: EndpointRegistry::new(),
        cache: Arc::default(),
        sources: Sources::new(state_dir, connect),
    })
}

/// Who orders certificates.
fn acme(config: &Config, builder: &SnapshotBuilder, background: &Background) -> Acme {
    let (services, outbound) = (Arc::clone(&builder.services), Arc::clone(&builder.outbound));
    let state_dir = config.gateway.state_dir.clone().or_else(default_state);
    Acme::new(background.clone(), services, outbound, Arc::clone(builder.certs.challenges()), state_dir)
}

/// Instances that can exist at once: of this configuration and of the one that a reload puts in its place while exchanges of
/// the first are still on their way, and some for trials. A reload can't make more of them; what is over is the error of a call.
fn instances(config: &Config) -> u32 {
    // As many of a fresh filter's wait for the next hook of their exchange as are called at the same time.
    let most = |filter: &model::Filter| {
        let most = u32::try_from(filter.limits.max_instances).unwrap_or(u32::MAX);
        if filter.mode == Mode::Fresh { most.saturating_mul(2) } else { most }
    };
    let per_worker = config.filters.iter().fold(0_u32, |sum, filter| sum.saturating_add(most(filter)));
    let workers = u32::try_from(config.gateway.workers.get()).unwrap_or(u32::MAX);
    per_worker.saturating_mul(workers).saturating_mul(2).saturating_add(TRIALS).clamp(MIN_INSTANCES, MAX_INSTANCES)
}

/// Where the platform keeps what can be made again (XDG Base Directory Specification).
pub fn default_cache() -> Option<PathBuf> {
    user_directory("XDG_CACHE_HOME", ".cache")
}

/// Where the platform keeps what the next start needs.
fn default_state() -> Option<PathBuf> {
    user_directory("XDG_STATE_HOME", ".local/state")
}

fn user_directory(variable: &str, in_home: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let base = set(variable).or_else(|| Some(set("HOME")?.join(in_home)))?;
    Some(base.join("sluice"))
}

/// What the metrics can't count by themselves.
fn observe(metrics: &Arc<Metrics>, builder: &SnapshotBuilder, running: &Arc<ArcSwap<Snapshot>>, budget: &MemoryBudget) {
    let (running, services, budget) = (Arc::clone(running), Arc::clone(&builder.services), budget.clone());
    metrics.collect(move |out| crate::snapshot::expose(&running.load(), &services, &budget, out));
}

fn observe_overload(metrics: &Metrics, overload: &Arc<Overload>) {
    let overload = Arc::clone(overload);
    metrics.collect(move |out| {
        let states = overload.states();
        let mut family = |name: &str, kind: &str, help: &str, of: fn(&ResourceState) -> f64| {
            out.family(name, kind, help);
            for state in &states {
                out.sample(name, &[("resource", state.resource.name())], of(state));
            }
        };
        family("sluice_overload_step", "gauge", "0: no request is refused; 1 to 3: which are.", |state| {
            state.step.into()
        });
        family("sluice_overload_usage_ratio", "gauge", "What is used of the bound; 0 without one.", |state| {
            f64::from(state.percent) / 100.0
        });
        family("sluice_overload_shed_total", "counter", "Requests refused.", |state| state.shed as f64);
    });
}

fn observe_cache(metrics: &Metrics, cache: &Arc<ResponseCache>) {
    let cache = Arc::clone(cache);
    metrics.collect(move |out| {
        let of = |read: fn(&Store) -> u64| cache.store().map_or(0, read) as f64;
        out.family("sluice_cache_bytes", "gauge", "Memory of stored responses.");
        out.sample("sluice_cache_bytes", &[], of(Store::bytes));
        out.family("sluice_cache_encoded_bytes", "gauge", "Memory of the coded forms of stored responses.");
        out.sample("sluice_cache_encoded_bytes", &[], cache.encoded.bytes() as f64);
        out.family("sluice_cache_objects", "gauge", "Keys with stored responses.");
        out.sample("sluice_cache_objects", &[], of(|store| store.keys() as u64));
        out.family("sluice_cache_evictions_total", "counter", "Keys whose responses had to make room.");
        out.sample("sluice_cache_evictions_total", &[], of(Store::evicted));
        let Some(tier) = cache.tier() else { return };
        out.family("sluice_cache_shared_usable", "gauge", "Whether the tier that gateways share is used now: 1 or 0.");
        out.sample("sluice_cache_shared_usable", &[], f64::from(u8::from(tier.usable().is_some())));
        out.family("sluice_cache_purges_waiting", "gauge", "Purges that other gateways are not told of yet.");
        out.sample("sluice_cache_purges_waiting", &[], tier.waiting() as f64);
    });
}

/// Says once a day which certificates are about to expire. A start and a reload say so themselves.
fn warn_of_expiry(background: &Background, running: &Arc<ArcSwap<Snapshot>>) -> Task {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let running = Arc::clone(running);
    background.spawn("certificate expiry", move || async move {
        loop {
            tokio::time::sleep(DAY).await;
            for warning in running.load().validities.load().warnings() {
                tracing::warn!("{warning}");
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_pool_of_instances_can_be_reserved() {
        let options = RuntimeOptions { instances: MAX_INSTANCES, ..RuntimeOptions::default() };
        assert!(Runtime::new(options).is_ok());
    }
}
