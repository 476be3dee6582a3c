//! Plugins and filters of the configuration → loaded components and configured filters.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use serde_json::Value;

use super::{Errors, Snapshot, SnapshotBuilder, key, needs};
use crate::config::model::{self, Name, TrialPolicy};
use crate::config::{self, ConfigError, Loaded, nearest};
use crate::embedded;
use crate::filter::{FailurePolicy, Filter, FilterSpec, Interests, LoadError, Mode, Plugin, Step};
use crate::services::addresses::is_private_name;
use crate::services::log_limit::visible;
use crate::services::state::Place;
use crate::services::{KeySet, Services};

/// Less CPU time for a MiB is a contradiction: to copy a body in and out of a guest takes about a millisecond.
const LEAST_CPU_PER_MIB: Duration = Duration::from_millis(2);
/// Whose handling is within any `limits.cpu`.
const SMALL_BODY: u64 = 64 << 10;

/// How long the key sets of a configuration may take, all together: for the gateway to be ready after its start, and for a reload.
pub const KEY_SET_WAIT: Duration = Duration::from_secs(5);

/// The plugins that filters name.
pub(super) type Plugins = HashMap<Name, LoadedPlugin>;

pub(super) struct LoadedPlugin {
    pub(super) plugin: Arc<Plugin>,
    pub(super) source: Source,
    /// The bytes, where a filter is fresh: they are not kept for longer than the build.
    component: Option<Arc<[u8]>>,
}

/// Where the component of a plugin is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// `plugins.NAME.file`.
    Configured(PathBuf),
    /// `NAME.wasm` in the plugin folder.
    Folder(PathBuf),
    Shipped(Name),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Configured(path) | Source::Folder(path) => write!(f, "{}", path.display()),
            Source::Shipped(name) => write!(f, "the shipped plugin `{name}`"),
        }
    }
}

/// A filter as its table says, of this plugin.
pub(crate) fn filter_spec(
    filter: &model::Filter,
    plugin: Arc<Plugin>,
    services: Arc<Services>,
    component: Option<Arc<[u8]>>,
) -> FilterSpec {
    FilterSpec {
        name: filter.name.clone().into(),
        plugin,
        plugin_name: filter.plugin.clone().into(),
        config: filter.config.expose().to_owned(),
        failure: filter.on_error,
        mode: filter.mode,
        limits: filter.limits.clone(),
        grants: filter.grants.clone(),
        services,
        component,
    }
}

impl SnapshotBuilder {
    /// Loads every plugin that a filter names.
    pub(super) fn plugins(
        &self,
        loaded: &Loaded,
        before: Option<&Snapshot>,
        errors: &mut Errors,
        warnings: &mut Vec<String>,
    ) -> Plugins {
        let config = &loaded.config;
        let mut found = HashMap::new();
        for plugin in config.plugins.iter().filter(|p| config.filters.iter().any(|f| f.plugin == p.name)) {
            let loaded_plugin = bytes(loaded, plugin).and_then(|(bytes, source)| {
                let hash = sha256(&bytes);
                if plugin.sha256.is_some_and(|wanted| wanted != hash) {
                    let message =
                        format!("the file hashes to {}, another file than was configured", HEXLOWER.encode(&hash));
                    return Err(loaded.error_on(&key(&["plugins", &plugin.name, "sha256"]), message));
                }
                let hash = HEXLOWER.encode(&hash);
                let place = self.place(loaded, plugin)?;
                let is_same = |known: &&Arc<Plugin>| {
                    known.sha256() == hash && known.call_mode() == plugin.call && known.place() == place.as_ref()
                };
                let kept = before.and_then(|before| before.plugins.iter().map(|(_, known, _)| known).find(is_same));
                let made = match kept {
                    Some(kept) => Arc::clone(kept),
                    None => {
                        let name = format!("plugin `{}`", plugin.name);
                        self.runtime.load_in(&name, &bytes, plugin.call, place).map_err(|error| {
                            let message = format!("{source}: {}{}", visible(&error.to_string()), allowing(&error));
                            loaded.error_on(&where_named(config, plugin), message)
                        })?
                    }
                };
                let is_fresh = |filter: &model::Filter| filter.mode == Mode::Fresh;
                let any = config.filters.iter().any(|filter| filter.plugin == plugin.name && is_fresh(filter));
                Ok(LoadedPlugin { plugin: made, source, component: any.then(|| bytes.into()) })
            });
            match loaded_plugin {
                Ok(plugin_loaded) => {
                    let known = before.and_then(|before| before.plugins.iter().find(|(name, ..)| *name == plugin.name));
                    warn_of_source(&plugin.name, &plugin_loaded.source, known.map(|(_, _, source)| source), warnings);
                    found.insert(plugin.name.clone(), plugin_loaded);
                }
                Err(error) => errors.push(error),
            }
        }
        found
    }

    /// Where the limits and values of a plugin are, if it is not the memory of the gateway.
    fn place(&self, loaded: &Loaded, plugin: &model::Plugin) -> Result<Option<Place>, ConfigError> {
        let Some(state) = &plugin.state else { return Ok(None) };
        let spec = loaded.config.states.iter().find(|spec| *spec.name == *state.name.as_str());
        // Without it there already is an error.
        let Some(spec) = spec else { return Ok(None) };
        let store = self.services.stores.open(spec.clone());
        let store = store.map_err(|why| loaded.error_on(&key(&["state", &spec.name]), why))?;
        Ok(Some(Place { store, limits: state.limits, values: state.values }))
    }

    /// Tries every filter's config on an instance of its plugin.
    pub(super) fn filters(
        &self,
        loaded: &Loaded,
        plugins: &Plugins,
        before: Option<&Snapshot>,
        errors: &mut Errors,
        warnings: &mut Vec<String>,
    ) -> HashMap<Name, Arc<Filter>> {
        let held = self.services.key_sets.held();
        let mut found = HashMap::new();
        for filter in &loaded.config.filters {
            // Without its plugin there already is an error.
            let Some(LoadedPlugin { plugin, component, .. }) = plugins.get(&filter.plugin) else { continue };
            let at = |part: &str| key(&["filters", &filter.name, part]);
            if let Some(error) = check_waits(loaded, filter, plugin) {
                errors.push(error);
            }
            warn_of_open_door(filter, plugin, warnings);
            warn_of_private_names(filter, warnings);
            let spec = filter_spec(filter, Arc::clone(plugin), Arc::clone(&self.services), component.clone());
            match Filter::new(spec) {
                Ok(built) => {
                    warn_of_needs(filter, built.needs(), warnings);
                    warnings.extend_from_slice(built.warnings());
                    let failures = built.trial_failures();
                    match filter.on_failed_trial {
                        TrialPolicy::Warn => warnings.extend(failures.iter().map(|failure| {
                            format!("filter `{}`: {failure}, when tried on an empty message", filter.name)
                        })),
                        TrialPolicy::Refuse if failures.is_empty() => {}
                        TrialPolicy::Refuse => errors.push(loaded.error_on(&at("plugin"), failed_trial(failures))),
                    }
                    found.insert(filter.name.clone(), built);
                }
                Err(LoadError::Refused(message)) => errors.push(loaded.error_at(&filter.name, &visible(&message))),
                Err(error) => errors.push(loaded.error_on(&at("plugin"), visible(&crate::chain(&error)))),
            }
        }
        let routes = loaded.config.routes.iter();
        let pipelines: Vec<Vec<&Name>> =
            routes.map(|route| route.pipeline.iter().flat_map(Step::filters).collect()).collect();
        let interests = |name: &Name| found.get(name).map(|filter| filter.interests());
        for filter in &loaded.config.filters {
            if let Some(most) = largest_body(&filter.name, &pipelines, interests) {
                warn_of_limits(&loaded.config, filter, most, warnings);
            }
        }
        if before.is_some() && errors.is_empty() {
            wait_for_keys(loaded, &found, &held, errors);
        }
        found
    }
}

/// Refuses a reload to key sets that can't be fetched: the running configuration has those that it needs, and would lose them. All are fetched at
/// the same time. At the start there is nothing to lose, and the gateway serves what needs no keys.
fn wait_for_keys(loaded: &Loaded, found: &HashMap<Name, Arc<Filter>>, held: &[Arc<KeySet>], errors: &mut Errors) {
    let until = Instant::now() + KEY_SET_WAIT;
    for filter in &loaded.config.filters {
        let sets = found.get(&filter.name).map_or(&[][..], |filter| filter.key_sets());
        for set in sets.iter().filter(|set| !held.iter().any(|known| Arc::ptr_eq(known, set))) {
            if let Err(why) = set.wait_for_first_attempt(until) {
                errors.push(loaded.error_on(&key(&["filters", &filter.name, "config"]), why));
            }
        }
    }
}

/// The component and where it is from: the one that is configured, or one in the plugin folder, or the one that ships with the
/// gateway.
fn bytes(loaded: &Loaded, plugin: &model::Plugin) -> Result<(Vec<u8>, Source), ConfigError> {
    let config = &loaded.config;
    let at = where_named(config, plugin);
    let shown = |path: &Path| path.display().to_string();
    if let Some(path) = &plugin.file {
        let bytes = config::read_file(path, config::MAX_COMPONENT).map_err(|error| {
            loaded.error_on(&key(&["plugins", &plugin.name, "file"]), format!("{}: {error}", shown(path)))
        })?;
        return Ok((bytes, Source::Configured(path.clone())));
    }
    let path = config.gateway.plugin_dir.join(format!("{}.wasm", plugin.name));
    match config::read_file(&path, config::MAX_COMPONENT) {
        Ok(bytes) => Ok((bytes, Source::Folder(path))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let bytes = embedded::find(&plugin.name).ok_or_else(|| {
                let shipped: Vec<_> = embedded::names().collect();
                let there = in_folder(&config.gateway.plugin_dir);
                let names = there.iter().map(String::as_str).chain(shipped.iter().copied());
                let near = nearest(&plugin.name, names).map(|name| format!("; did you mean `{name}`?"));
                let message = format!(
                    "unknown plugin `{}`: there is no {} and it is none of the shipped ones ({}){}",
                    plugin.name,
                    shown(&path),
                    shipped.join(", "),
                    near.unwrap_or_default()
                );
                loaded.error_on(&at, message)
            })?;
            Ok((bytes.to_vec(), Source::Shipped(plugin.name.clone())))
        }
        Err(error) => Err(loaded.error_on(&at, format!("{}: {error}", shown(&path)))),
    }
}

/// The names of the components in the plugin folder.
fn in_folder(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".wasm")?.to_owned())).collect()
}

/// The key to blame for a plugin: its table, or the filter that names it.
fn where_named(config: &model::Config, plugin: &model::Plugin) -> Vec<config::KeyPart> {
    let named = config.filters.iter().find(|filter| filter.plugin == plugin.name);
    match named {
        Some(filter) => key(&["filters", &filter.name, "plugin"]),
        None => key(&["plugins", &plugin.name]),
    }
}

/// Says where a file stands for a shipped plugin, and where that has changed: both follow from a file being there or not.
fn warn_of_source(name: &Name, source: &Source, before: Option<&Source>, warnings: &mut Vec<String>) {
    let is_chosen = |source: &Source| matches!(source, Source::Configured(_));
    match before {
        Some(before) if before != source && !is_chosen(before) && !is_chosen(source) => {
            warnings.push(format!("plugin `{name}` is {source} from now on; it was {before}"));
        }
        Some(_) | None => {}
    }
    if matches!(source, Source::Folder(_)) && embedded::find(name).is_some() {
        warnings.push(format!(
            "plugin `{name}` is {source}, not the plugin of that name that ships with the gateway; write `file` in [plugins.{name}] if that is meant"
        ));
    }
}

/// How to allow what was refused.
fn allowing(error: &LoadError) -> &'static str {
    if matches!(error, LoadError::CompileMemory(_)) {
        "; `gateway.compile.memory` allows more"
    } else if matches!(error, LoadError::CompileTime(_)) {
        "; `gateway.compile.timeout` allows more"
    } else {
        ""
    }
}

/// Why a filter is refused whose hooks fail in the trial.
fn failed_trial(failures: &[String]) -> String {
    format!(
        "{}, when tried on an empty message: such requests would fail; mend the filter, or load it all the same with \
         `on_failed_trial = \"warn\"`",
        visible(&failures.join("; "))
    )
}

/// Refuses waits for shared state that do not fit a filter: its call would end, or its instances would be busy, before `on_unavailable` holds. A call
/// may ask several times, hence the quarter.
fn check_waits(loaded: &Loaded, filter: &model::Filter, plugin: &Plugin) -> Option<ConfigError> {
    let spec = plugin.place()?.store.spec();
    let limits = &filter.limits;
    let (part, message) = if spec.timeout * 4 > limits.wall {
        let most = limits.wall / 4;
        (
            "timeout",
            format!(
                "{:?} is more than {most:?}, a quarter of `limits.wall` of the filter `{}`",
                spec.timeout, filter.name
            ),
        )
    } else if spec.max_waiting >= limits.max_instances {
        let most = limits.max_instances;
        (
            "max_waiting",
            format!("{} is not below {most}, the `instances.max` of the filter `{}`", spec.max_waiting, filter.name),
        )
    } else {
        return None;
    };
    Some(loaded.error_on(&key(&["state", &spec.name, part]), message))
}

/// Says where authentication lets everybody in when it fails.
fn warn_of_open_door(filter: &model::Filter, plugin: &Plugin, warnings: &mut Vec<String>) {
    if plugin.description().authenticates && filter.on_error == FailurePolicy::Open {
        let name = &filter.name;
        warnings.push(format!(
            "filter `{name}` authenticates and fails open: when it fails, everybody is let in; set on_error = \"closed\""
        ));
    }
}

/// The largest body that a filter may have, if it asks for any: twice what it asks for where another filter reads the same body before it in
/// one of the pipelines, and may have replaced it.
fn largest_body<'i>(
    name: &Name,
    pipelines: &[Vec<&Name>],
    interests: impl Fn(&Name) -> Option<&'i Interests>,
) -> Option<u64> {
    let own = interests(name)?;
    let reads = |other: &Name, of: fn(&Interests) -> bool| interests(other).is_some_and(of);
    let (mut request_is_second, mut response_is_second) = (false, false);
    for pipeline in pipelines {
        let Some(at) = pipeline.iter().position(|other| *other == name) else { continue };
        let (before, from) = pipeline.split_at(at);
        request_is_second |= before.iter().any(|other| reads(other, |found| found.request_body.is_some()));
        response_is_second |= from.iter().skip(1).any(|other| reads(other, |found| found.response_body.is_some()));
    }
    let bodies = [(&own.request_body, request_is_second), (&own.response_body, response_is_second)];
    let most = bodies.into_iter().filter_map(|(body, is_second)| {
        let asked = body.as_ref()?.max_bytes;
        Some(if is_second { asked.saturating_mul(2) } else { asked })
    });
    most.max()
}

/// Says where the largest body that a filter may have can't be handled within its other limits.
fn warn_of_limits(config: &model::Config, filter: &model::Filter, most: u64, warnings: &mut Vec<String>) {
    let (name, limits) = (&filter.name, &filter.limits);
    let mut warn =
        |other: String| warnings.push(format!("filter `{name}` may have bodies of {most} bytes, but {other}"));
    // As it came, and as it is after the filter.
    let both = most.saturating_add(limits.max_set_body());
    if both > limits.memory as u64 {
        warn(format!("`limits.memory` of {} bytes does not hold one and its replacement", limits.memory));
    }
    let budget = config.gateway.max_buffered_memory.0;
    if both > budget {
        warn(format!("`gateway.max_buffered_memory` of {budget} bytes does not hold one and its replacement"));
    }
    let per_mib = limits.cpu_per_mib;
    if per_mib < LEAST_CPU_PER_MIB && most > SMALL_BODY {
        warn(format!("`limits.cpu_per_mib` of {per_mib:?} is hardly enough to read them"));
    }
}

/// Says which origins are probably at addresses that their grants do not cover. What a name leads to is only known when it is called.
fn warn_of_private_names(filter: &model::Filter, warnings: &mut Vec<String>) {
    let origins = filter.grants.services.http.iter();
    for granted in origins.filter(|granted| !granted.allow_private && is_private_name(&granted.origin.host)) {
        let (name, origin) = (&filter.name, &granted.origin);
        warnings.push(format!(
            "filter `{name}` may call {origin}, but calls to private addresses are refused; if the name leads to one, grant \
             http = [{{ origin = \"{origin}\", allow_private = true }}]"
        ));
    }
}

/// Says which grants are missing.
fn warn_of_needs(filter: &model::Filter, needed: Option<&Value>, warnings: &mut Vec<String>) {
    let Some(needed) = needed else { return };
    let (name, plugin) = (&filter.name, &filter.plugin);
    let needs::Comparison { missing, odd } = needs::compare(needed, &filter.grants);
    for what in odd {
        let line = format!("plugin `{plugin}` says what it needs, but not in a way that is understood: {what}");
        // Once for all its filters.
        if !warnings.contains(&line) {
            warnings.push(line);
        }
    }
    if !missing.is_empty() {
        let lines = missing.join(", ");
        warnings.push(format!(
            "filter `{name}` needs grants that it does not have; add to the table `grants` of [filters.{name}] or [plugins.{plugin}]: {lines}"
        ));
    }
}

/// Says which filters look for a caller that no filter before them finds.
pub(super) fn warn_of_strangers(pipeline: &[Step<Arc<Filter>>], route: &str, warnings: &mut Vec<String>) {
    let mut authenticated = false;
    for filter in pipeline.iter().flat_map(Step::filters) {
        let name = filter.name();
        let begin = format!("filter `{name}` goes by the consumer or claims of the caller");
        if !authenticated
            && needs::needs_authentication(filter.needs())
            && !warnings.iter().any(|known| known.starts_with(&begin))
        {
            warnings.push(format!(
                "{begin}, but in the pipeline of route `{route}` no filter before it authenticates: it finds none"
            ));
        }
        authenticated |= filter.plugin().description().authenticates;
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wasm::BodyInterest;

    #[test]
    fn a_filter_that_is_not_the_first_to_read_a_body_may_have_one_of_twice_the_size() {
        let asks = |request: Option<u64>, response: Option<u64>| {
            let body = |bytes| BodyInterest {
                max_bytes: bytes,
                asked_bytes: bytes,
                types: crate::wasm::MediaInterest(Vec::new()),
            };
            Interests { request_body: request.map(body), response_body: response.map(body), ..Interests::default() }
        };
        let found = [
            ("a", asks(Some(10), None)),
            ("b", asks(Some(10), Some(12))),
            ("c", asks(None, Some(10))),
            ("d", asks(None, None)),
        ];
        let interests = |name: &Name| found.iter().find(|(known, _)| **name == **known).map(|(_, interests)| interests);
        let largest = |name: &str, pipeline: &[&str]| {
            let names: Vec<Name> = pipeline.iter().map(|name| (*name).into()).collect();
            largest_body(&name.into(), &[names.iter().collect()], interests)
        };
        assert_eq!(largest("a", &["a", "b", "c"]), Some(10));
        assert_eq!(largest("b", &["b", "d"]), Some(12));
        assert_eq!(largest("b", &["a", "b"]), Some(20));
        assert_eq!(largest("b", &["b", "d", "c"]), Some(24), "responses pass in reverse");
        assert_eq!(largest("c", &["b", "c"]), Some(10));
        assert_eq!(largest("d", &["a", "d"]), None);
    }
}
