//! A reload: loads the configuration again, builds a snapshot beside the running one and puts it in its place. It runs on the loader
//! thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::weights::tell_what_ended;
use super::{Refused, ReloadReport, ReloadScope, RunningState};
use crate::acme::Acme;
use crate::config::model::BindAddress;
use crate::config::{self, Config, ConfigErrors, Loaded, read_text};
use crate::server::ListenerTable;
use crate::services::log_limit::visible;
use crate::snapshot::{ListenerError, Snapshot, SnapshotBuilder, Validities, check_read_again, listener_settings};
use crate::telemetry::{AccessLog, OperationalLog};
use crate::upstream::Upkeep;

/// What a reload needs.
pub struct Replacement {
    /// The configuration file.
    pub path: PathBuf,
    /// What the process was started with: some of it can't change.
    pub started_with: Arc<Config>,
    pub builder: SnapshotBuilder,
    pub running: RunningState,
    pub listeners: ListenerTable,
    pub access_log: Arc<AccessLog>,
    pub log: Arc<OperationalLog>,
    pub upkeep: Upkeep,
    /// The last configuration that was read was refused, so that the running one is not that of the files.
    pub refused: bool,
    pub acme: Acme,
}

impl Replacement {
    /// Puts the configuration of the file in place of the running one. Answers what was done and which files to watch, or leaves
    /// everything as it is. Files that have changed and say only what listeners show and verify come first: a certificate is renewed also
    /// while the configuration file or a plugin can't be loaded. If nothing else has changed, nothing else is read or built.
    pub fn replace(&mut self, changed: &[PathBuf]) -> Result<(ReloadReport, Vec<PathBuf>), Refused> {
        let before = self.running.config.load_full();
        let is_of_tls = |file: &PathBuf| before.tls_files().any(|known| known == file);
        if changed.iter().any(is_of_tls) {
            let replaced = self.replace_certificates();
            // Others may use the file, too, and a configuration that was refused may have been so because of it.
            if !self.refused && changed.iter().all(|file| before.only_of_listeners.contains(file)) {
                return replaced.map(|report| (report, Vec::new()));
            }
        }
        let replaced = self.replace_all();
        self.refused = replaced.is_err();
        replaced
    }

    /// Reads the certificates, authorities and revocation lists of the running configuration again. Connections keep what they began with.
    /// One that is broken does not hold up the others: it stays as it was, and is what the refusal names.
    fn replace_certificates(&self) -> Result<ReloadReport, Refused> {
        let changes = Arc::clone(&self.running.changes);
        let _one = changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = Config::clone(&self.running.config.load());
        let read = |file: &Path| read_text(file).map_err(|error| format!("cannot read `{}`: {error}", file.display()));
        let mut refused = config.read_tls_files(read, check_read_again);
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let snapshot = self.running.snapshot.load();
        let places = (&self.builder.certs, &snapshot.ordered[..]);
        let listeners = listener_settings(&config, places, &mut errors, &mut warnings);
        if !errors.is_empty() {
            let line = |error: ListenerError| format!("listeners.{}.tls: {}", error.listener, error.message);
            refused.extend(errors.into_iter().map(line));
            return Err(Refused(refused));
        }
        let validities = Validities::of(&config, &snapshot.ordered);
        for warning in warnings.into_iter().chain(validities.warnings()) {
            tracing::warn!("{}", visible(&warning));
        }
        self.listeners.store(Arc::new(listeners));
        snapshot.validities.store(Arc::new(validities));
        let (routes, upstreams) = (snapshot.routes.len(), snapshot.upstreams.len());
        self.running.config.store(Arc::new(config));
        if !refused.is_empty() {
            let stays = |why| format!("{why} (what was there before stays in use; what else has changed is loaded)");
            return Err(Refused(refused.into_iter().map(stays).collect()));
        }
        Ok(ReloadReport { scope: ReloadScope::Certificates, routes, upstreams, restart_needed: Vec::new() })
    }

    fn replace_all(&mut self) -> Result<(ReloadReport, Vec<PathBuf>), Refused> {
        loop {
            let before = self.running.config.load_full();
            let loaded = config::load(&self.path).map_err(lines)?;
            let snapshot = self.build(&loaded)?;
            snapshot.prewarm(self.started_with.gateway.workers);
            // Building may take long, and weights can be changed meanwhile.
            let changes = Arc::clone(&self.running.changes);
            let _one = changes.lock().unwrap_or_else(PoisonError::into_inner);
            // They were saved: the file is another one than was read.
            if !Arc::ptr_eq(&before, &self.running.config.load()) {
                continue;
            }
            return Ok(self.put_in_place(loaded, snapshot));
        }
    }

    fn build(&self, loaded: &Loaded) -> Result<Snapshot, Refused> {
        let runtime = &self.builder.runtime;
        runtime.set_compile_limits(loaded.config.gateway.compile);
        let before = self.running.snapshot.load_full();
        // Key sets are fetched for the new configuration while it is built.
        let outbound = &self.builder.outbound;
        let resolver = outbound.resolver();
        outbound.use_resolver(resolver.with_servers(&loaded.config.gateway.nameservers));
        let snapshot = self.builder.build(loaded, Some(&before)).map_err(|errors| {
            outbound.use_resolver(resolver);
            if !runtime.interrupt().was_heeded() {
                runtime.end_left_compilation();
            }
            lines(errors)
        })?;
        // Nothing of this configuration needs it.
        runtime.end_left_compilation();
        Ok(snapshot)
    }

    fn put_in_place(&mut self, loaded: Loaded, snapshot: Snapshot) -> (ReloadReport, Vec<PathBuf>) {
        for warning in &snapshot.warnings {
            tracing::warn!("{}", visible(warning));
        }
        // Their names are free for metrics of other kinds, and their series end.
        self.builder.services.metrics.retain(|name| loaded.config.filters.iter().any(|filter| *filter.name == *name));
        let report = ReloadReport {
            scope: ReloadScope::Configuration,
            routes: snapshot.routes.len(),
            upstreams: snapshot.upstreams.len(),
            restart_needed: restart_needed(&self.started_with, &loaded.config),
        };
        let watch = watched_files(&loaded);
        tell_what_ended(&self.running, &snapshot);
        // Before the listeners: what is on disk is shown from the first handshake on.
        self.acme.follow(&loaded.config, &snapshot.ordered);
        self.listeners.store(Arc::new(snapshot.listeners.clone()));
        let snapshot = Arc::new(snapshot);
        snapshot.apply_limits();
        snapshot.apply_consumers(&self.builder.consumers);
        self.running.snapshot.store(Arc::clone(&snapshot));
        self.running.overload.set(loaded.config.gateway.overload);
        self.upkeep.follow(snapshot.upstreams.iter().map(|(upstream, _)| upstream));
        self.access_log.set_format(loaded.config.telemetry.access_log);
        self.log.set_level(loaded.config.telemetry.log_level);
        self.running.config.store(Arc::new(loaded.config));
        (report, watch)
    }
}

fn lines(errors: ConfigErrors) -> Refused {
    Refused(errors.iter().map(ToString::to_string).collect())
}

/// Every file that a change of which can change the configuration.
pub fn watched_files(loaded: &Loaded) -> Vec<PathBuf> {
    let config = &loaded.config;
    let mut files = loaded.files.clone();
    for plugin in &config.plugins {
        let default = || config.gateway.plugin_dir.join(format!("{}.wasm", plugin.name));
        files.push(plugin.file.clone().unwrap_or_else(default));
    }
    files
}

/// The keys that differ and take effect only after a restart.
fn restart_needed(started_with: &Config, now: &Config) -> Vec<String> {
    let (old, new) = (&started_with.gateway, &now.gateway);
    let mut found = Vec::new();
    let mut compare = |key: &str, same: bool| {
        if !same {
            found.push(key.to_owned());
        }
    };
    compare("gateway.workers", old.workers == new.workers);
    compare("gateway.cache_dir", old.cache_dir == new.cache_dir);
    compare("gateway.state_dir", old.state_dir == new.state_dir);
    compare("gateway.max_buffered_memory", old.max_buffered_memory == new.max_buffered_memory);
    compare("gateway.reload", old.reload == new.reload);
    compare("admin.bind", started_with.admin.as_ref().map(|a| &a.bind) == now.admin.as_ref().map(|a| &a.bind));
    let (old, new) = (binds(started_with), binds(now));
    for bind in &new {
        compare(&format!("listeners.{}.bind", bind.0), old.contains(bind));
    }
    for (name, _) in old.iter().filter(|(name, _)| !new.iter().any(|(known, _)| known == name)) {
        compare(&format!("listeners.{name}"), false);
    }
    found
}

fn binds(config: &Config) -> Vec<(Arc<str>, BindAddress)> {
    config.listeners.iter().map(|listener| (listener.name.clone().into(), listener.bind.clone())).collect()
}
