//! The process: makes the parts in order, binds before it serves, swaps configurations, ends in order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::admin::{self, AdminError};
use crate::background::Background;
use crate::config::{self, Config, ConfigErrors, Loaded, model};
use crate::filter::{Mode, Runtime};
use crate::http::buffer::MemoryBudget;
use crate::outbound::{OutboundClient, Tls};
use crate::proxy::{Proxy, Worker};
use crate::server::{
    ListenerSpec, ListenerTable, Readiness, ReloadReport, Signals, StartError, WatchedFiles, WorkerSettings, Workers,
    start_reloader,
};
use crate::services::Services;
use crate::services::clock::Clock;
use crate::snapshot::{Snapshot, SnapshotBuilder};
use crate::telemetry::{AccessLog, LogLevel, Metrics, start_operational_log};
use crate::upstream::dns;
use crate::wasm::{CompilerCommand, RuntimeError, RuntimeOptions};

/// How long the last lines of the logs may take.
const FLUSH: Duration = Duration::from_secs(2);

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
pub fn check(path: &Path, compiler: Option<CompilerCommand>) -> Result<Vec<String>, GatewayError> {
    let loaded = config::load(path)?;
    dns::use_nameservers(&loaded.config.gateway.nameservers);
    let metrics = Metrics::new();
    let (background, _thread) = Background::start(Arc::clone(&metrics))?;
    let builder = builder(&loaded.config, compiler, metrics, background)?;
    Ok(builder.build(&loaded, None)?.warnings)
}

/// Serves a configuration until a signal ends it. Answers the exit code.
pub fn run(path: &Path, compiler: Option<CompilerCommand>) -> Result<u8, GatewayError> {
    // Where the machine gives huge pages to all, the first byte that is written takes 2 MiB: workers and instances would need two to
    // three times the memory. A kernel that knows no such pages gives none.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let loaded = config::load(path)?;
    let config = &loaded.config;
    let watched = config.gateway.reload.then(|| WatchedFiles::look(watched(&loaded)));
    let metrics = Metrics::new();
    let log = start_operational_log(config.telemetry.log_level, Arc::clone(&metrics)).map_err(GatewayError::Log)?;
    dns::use_nameservers(&config.gateway.nameservers);
    let (background, background_thread) = Background::start(Arc::clone(&metrics))?;
    let builder = builder(config, compiler, Arc::clone(&metrics), background)?;
    let snapshot = builder.build(&loaded, None)?;
    say(&snapshot.warnings);

    let signals = Signals::catch()?;
    let access_log = AccessLog::start(config.telemetry.access_log, Arc::clone(&metrics))?;
    let table: ListenerTable = Arc::new(ArcSwap::from_pointee(snapshot.listeners.clone()));
    let running = Arc::new(ArcSwap::from_pointee(snapshot));
    let budget = MemoryBudget::new(usize::try_from(config.gateway.max_buffered_memory.0).unwrap_or(usize::MAX));
    observe(&metrics, &builder, &running, &budget);

    let settings = WorkerSettings {
        workers: config.gateway.workers.get(),
        listeners: binds(config).into_iter().map(|(name, bind)| ListenerSpec { name, bind }).collect(),
        table: Arc::clone(&table),
        metrics: Arc::clone(&metrics),
    };
    let workers = Workers::start(settings, {
        let (running, access_log) = (Arc::clone(&running), Arc::clone(&access_log));
        // The empty name is none that a route can have.
        let no_route = metrics.route("");
        move |_, metrics| {
            Proxy::new(Worker::new(Arc::clone(&running), metrics, access_log.worker(), no_route, budget.clone()))
        }
    })?;
    let readiness = Readiness::default();
    if let Some(admin) = &config.admin {
        admin::start(admin.bind, Arc::clone(&metrics), readiness.clone())?;
    }

    let patience = Arc::new(ArcSwap::from_pointee(config.gateway.shutdown_timeout));
    let loader = Loader {
        path: path.to_owned(),
        began: config.clone(),
        builder,
        running,
        table,
        patience: Arc::clone(&patience),
        access_log: Arc::clone(&access_log),
        set_level: Box::new({
            let log = Arc::new(log);
            move |level| log.set_level(level)
        }),
    };
    let flush = Arc::clone(&access_log);
    let reloader = start_reloader(watched, metrics, move || loader.reload())?;
    readiness.serving();
    let code = signals.run(workers, &reloader, &readiness, || **patience.load());
    // After the workers: until their last exchange its key sets are kept fresh.
    drop(background_thread);
    flush.flush(FLUSH);
    Ok(code)
}

/// Swaps configurations.
struct Loader {
    path: PathBuf,
    /// What the process was started with: some of it can't change.
    began: Config,
    builder: SnapshotBuilder,
    running: Arc<ArcSwap<Snapshot>>,
    table: ListenerTable,
    patience: Arc<ArcSwap<Duration>>,
    access_log: Arc<AccessLog>,
    set_level: Box<dyn Fn(LogLevel) + Send>,
}

impl Loader {
    fn reload(&self) -> Result<ReloadReport, ConfigErrors> {
        let loaded = config::load(&self.path)?;
        let config = &loaded.config;
        let before = self.running.load_full();
        // Key sets are fetched for the new configuration while it is built.
        let servers = dns::use_nameservers(&config.gateway.nameservers);
        let snapshot = self.builder.build(&loaded, Some(&before)).inspect_err(|_| {
            dns::use_nameservers(&servers);
        })?;
        say(&snapshot.warnings);
        let (routes, upstreams) = (snapshot.routes.len(), snapshot.upstreams.len());
        self.table.store(Arc::new(snapshot.listeners.clone()));
        self.running.store(Arc::new(snapshot));
        self.patience.store(Arc::new(config.gateway.shutdown_timeout));
        self.access_log.set_format(config.telemetry.access_log);
        (self.set_level)(config.telemetry.log_level);
        Ok(ReloadReport { routes, upstreams, restart_needed: fixed(&self.began, config), watch: watched(&loaded) })
    }
}

/// What is different and takes a restart, by key.
fn fixed(began: &Config, now: &Config) -> Vec<String> {
    let (old, new) = (&began.gateway, &now.gateway);
    let mut found = Vec::new();
    let mut compare = |key: &str, same: bool| {
        if !same {
            found.push(key.to_owned());
        }
    };
    compare("gateway.workers", old.workers == new.workers);
    compare("gateway.cache_dir", old.cache_dir == new.cache_dir);
    compare("gateway.max_buffered_memory", old.max_buffered_memory == new.max_buffered_memory);
    compare("gateway.reload", old.reload == new.reload);
    compare("admin.bind", began.admin.as_ref().map(|a| a.bind) == now.admin.as_ref().map(|a| a.bind));
    let (old, new) = (binds(began), binds(now));
    for (name, bind) in &new {
        compare(&format!("listeners.{name}.bind"), old.iter().any(|known| known == &(name.clone(), *bind)));
    }
    for (name, _) in old.iter().filter(|(name, _)| !new.iter().any(|(known, _)| known == name)) {
        compare(&format!("listeners.{name}"), false);
    }
    found
}

fn binds(config: &Config) -> Vec<(Arc<str>, SocketAddr)> {
    config.listeners.iter().map(|listener| (listener.name.clone().into(), listener.bind)).collect()
}

fn builder(
    config: &Config,
    compiler: Option<CompilerCommand>,
    metrics: Arc<Metrics>,
    background: Background,
) -> Result<SnapshotBuilder, GatewayError> {
    let most = |of: fn(&model::Filter) -> usize, least| config.filters.iter().map(of).fold(least, usize::max);
    let defaults = RuntimeOptions::default();
    let options = RuntimeOptions {
        max_memory: most(|filter| filter.limits.memory, defaults.max_memory),
        max_table_elements: most(|filter| filter.limits.table_elements, defaults.max_table_elements),
        instances: instances(config),
        cache: config.gateway.cache_dir.clone().or_else(default_cache),
        compiler,
        ..defaults
    };
    Ok(SnapshotBuilder {
        runtime: Runtime::new(options)?,
        services: Services::new(Clock::system(), OutboundClient::new(Tls::system(), background)),
        metrics,
    })
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
fn default_cache() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").filter(|dir| !dir.is_empty()).map(|home| PathBuf::from(home).join(".cache"));
    Some(base.or_else(home)?.join("sluice"))
}

/// Every file that a change of which can change the configuration.
fn watched(loaded: &Loaded) -> Vec<PathBuf> {
    let config = &loaded.config;
    let mut files = loaded.files.clone();
    for plugin in &config.plugins {
        let default = || config.gateway.plugin_dir.join(format!("{}.wasm", plugin.name));
        files.push(plugin.file.clone().unwrap_or_else(default));
    }
    files
}

/// What the metrics can't count by themselves.
fn observe(metrics: &Arc<Metrics>, builder: &SnapshotBuilder, running: &Arc<ArcSwap<Snapshot>>, budget: &MemoryBudget) {
    let (running, services, budget) = (Arc::clone(running), Arc::clone(&builder.services), budget.clone());
    metrics.collect(move |out| crate::snapshot::expose(&running.load(), &services, &budget, out));
}

fn say(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
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
