//! `gateway.toml` to `Config`: reading, defaults and checks. Building something to serve from it is the snapshot's job.
//!
//! The files become one tree of values that know their place (`tree`), typed readers take it apart (`read`, and a file for
//! each group of tables), and every error is collected on the way.

pub mod defaults;
mod error;
mod filters;
mod gateway;
mod item;
pub mod model;
mod read;
mod routes;
mod syntax;
mod tree;
mod units;
mod upstreams;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

pub use error::{ConfigError, ConfigErrors, Location};
pub use model::Config;
pub use read::nearest;
pub use units::size;

use read::{Reader, Table};
use tree::{Entry, Node, Place, Sources, Value, join};

/// The tables to which included files can add names.
const NAMED_SECTIONS: [&str; 7] =
    ["listeners", "certificates", "routes", "upstreams", "plugins", "filters", "pipelines"];

/// A configuration without errors, and where it was written.
pub struct Loaded {
    pub config: Config,
    /// Every file that was read, the main one first, and the directories of `include` patterns: a change in one of
    /// them can change the configuration.
    pub files: Vec<PathBuf>,
    sources: Sources,
    root: Vec<Entry>,
}

/// One step of a key path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPart {
    Key(String),
    /// From 0.
    Index(usize),
}

/// Something that is written.
struct Found {
    /// Where to point at.
    place: Place,
    /// Its key; for the item of a list the item itself.
    key: Place,
    /// The steps of the path that lead to it.
    steps: usize,
}

/// Reads a configuration with all it includes and refers to. Finds all errors at once; only a file that can't be read or
/// parsed hides those in the others, and broken TOML all that comes after it.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    let (sources, root) = Sources::load(path);
    if sources.incomplete {
        return Err(ConfigErrors::new(sources.errors));
    }
    let reader = Reader::new(sources);
    let config = read(&reader.root(&root));
    let (mut sources, _) = reader.finish();
    let errors = std::mem::take(&mut sources.errors);
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, files: sources.paths(), sources, root }),
        _ => Err(ConfigErrors::new(errors)),
    }
}

/// The path of every key there is, sorted, with `*` for a name: `routes.*.timeouts.first_byte`. The items of a list have the
/// path of the list.
pub fn keys() -> Vec<String> {
    let reader = Reader::listing(Sources::empty());
    read(&reader.root(&[]));
    let (_, mut keys) = reader.finish();
    keys.insert("include".to_owned());
    keys.into_iter().collect()
}

fn read(root: &Table<'_>) -> Option<Config> {
    let names = |section: &'static str| -> BTreeSet<String> { root.names(section) };
    let mut binds = gateway::Binds::new();
    let certificates = root.section("certificates", |name, table| gateway::certificate(name, &table));
    let gateway = gateway::gateway(&root.table("gateway"));
    let known = names("certificates");
    let listeners = root.section("listeners", |name, table| {
        gateway::listener(name, &table, gateway.max_connections, &known, &mut binds)
    });
    let admin = root.optional_table("admin").map(|table| gateway::admin(&table, &mut binds));
    let telemetry = gateway::telemetry(&root.table("telemetry"));

    let mut plugins = root.section("plugins", |name, table| Some(filters::plugin(name, &table)));
    let filters = root.section("filters", |name, table| Some(filters::filter(name, &table, &mut plugins)));
    let known_filters = names("filters");
    let pipelines = filters::pipelines(&root.table("pipelines"), &known_filters);

    let mut upstreams = root.section("upstreams", |name, table| upstreams::upstream(name, &table));
    let by_name: BTreeMap<_, _> = pipelines.iter().map(|one| (one.name.to_string(), one.filters.clone())).collect();
    let known = routes::Known {
        upstreams: &names("upstreams"),
        filters: &known_filters,
        pipelines: &by_name,
        anonymous: RefCell::default(),
    };
    let routes = root.section("routes", |name, table| routes::route(name, &table, &known));
    upstreams.append(&mut known.anonymous.into_inner());
    if !root.has("listeners") {
        root.fail("there is no listener, expected a table like `[listeners.http]`");
    }
    Some(Config {
        gateway,
        listeners,
        certificates,
        routes,
        upstreams,
        plugins: plugins.into_iter().map(|table| table.plugin).collect(),
        filters,
        pipelines,
        telemetry,
        admin: match admin {
            Some(admin) => Some(admin?),
            None => None,
        },
    })
}

impl Loaded {
    /// Where a value is written. For a table that is its name, for what is not there none.
    pub fn locate(&self, path: &[KeyPart]) -> Option<Location> {
        let found = self.find(path)?;
        (found.steps == path.len()).then(|| self.sources.locate(found.place))
    }

    /// An error at a key, or at the nearest table around it that is written.
    pub fn error_on(&self, path: &[KeyPart], message: impl Into<String>) -> ConfigError {
        let place = self.find(path).map_or(self.sources.start(), |found| found.place);
        self.sources.error(place, &render(path), message)
    }

    /// An error that a filter's plugin has found in its config: `limits[1].window: expected a duration` points at that key.
    /// A message without a key path is about the whole config, as is one that begins with a colon and a space. One that begins with `unknown
    /// key` points at the key, as for the gateway's own keys, others at the value. Secrets of the filter that occur in it are not shown.
    pub fn error_at(&self, filter: &str, message: &str) -> ConfigError {
        let mut path: Vec<KeyPart> = vec!["filters".into(), filter.into()];
        let node = self.root.iter().find(|entry| entry.key == "filters").map(|entry| &entry.node);
        let node = node.and_then(|filters| filters.entry(filter)).map(|entry| &entry.node);
        path.push("config".into());
        let (steps, message) = split(node.and_then(|filter| filter.entry("config")).map(|entry| &entry.node), message);
        path.extend(steps);
        let mut message = message.to_owned();
        for secret in node.map(Node::secrets).unwrap_or_default() {
            message = message.replace(secret, "…");
            // As plugins usually quote a value.
            let quoted = format!("{secret:?}");
            message = message.replace(quoted.trim_matches('"'), "…");
        }
        match self.find(&path) {
            Some(found) if message.starts_with("unknown key") && found.steps == path.len() => {
                self.sources.error(found.key, &render(&path), message)
            }
            _ => self.error_on(&path, message),
        }
    }

    /// The longest part of a path that is written.
    fn find(&self, path: &[KeyPart]) -> Option<Found> {
        let mut found = None;
        let mut entries: &[Entry] = &self.root;
        let mut items: &[Node] = &[];
        for (i, part) in path.iter().enumerate() {
            let node = match part {
                KeyPart::Key(key) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else { break };
                    found = Some(Found { place: entry.pointer(), key: entry.place, steps: i + 1 });
                    &entry.node
                }
                KeyPart::Index(index) => {
                    let Some(node) = items.get(*index) else { break };
                    found = Some(Found { place: node.place, key: node.place, steps: i + 1 });
                    node
                }
            };
            (entries, items) = (&[], &[]);
            match &node.value {
                Value::Table(inner) => entries = inner,
                Value::Array(inner) => items = inner,
                _ => {}
            }
        }
        found
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The tree holds secrets.
        f.debug_struct("Loaded").field("config", &self.config).field("files", &self.files).finish_non_exhaustive()
    }
}

impl From<&str> for KeyPart {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for KeyPart {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

fn render(path: &[KeyPart]) -> String {
    path.iter().fold(String::new(), |path, part| match part {
        KeyPart::Key(key) => join(&path, key),
        KeyPart::Index(index) => format!("{path}[{index}]"),
    })
}

/// Splits `limits[1].window: message`. The keys that are there may have any characters; after them only bare keys are taken
/// for a path. `: message` has none.
fn split<'m>(node: Option<&Node>, message: &'m str) -> (Vec<KeyPart>, &'m str) {
    if let Some(message) = message.strip_prefix(": ") {
        return (Vec::new(), message);
    }
    let mut steps = Vec::new();
    let mut rest = message;
    let mut node = node;
    while let Some(at) = node {
        let (step, inner, after) = match &at.value {
            Value::Table(entries) => {
                let text = if steps.is_empty() { rest } else { rest.strip_prefix('.').unwrap_or_default() };
                let ends = |after: &str| after.starts_with(['.', '[']) || after.starts_with(": ");
                let fits = entries.iter().filter(|entry| !entry.key.is_empty());
                let fits = fits.filter_map(|entry| Some((entry, text.strip_prefix(entry.key.as_str())?)));
                let longest = fits.filter(|(_, after)| ends(after)).max_by_key(|(entry, _)| entry.key.len());
                let Some((entry, after)) = longest else { break };
                (KeyPart::from(entry.key.as_str()), &entry.node, after)
            }
            Value::Array(items) => {
                let index = rest.strip_prefix('[').and_then(|text| text.split_once(']'));
                let parsed = index.and_then(|(index, after)| Some((index.parse::<usize>().ok()?, after)));
                let Some((index, after)) = parsed else { break };
                let Some(item) = items.get(index) else { break };
                (KeyPart::from(index), item, after)
            }
            _ => break,
        };
        steps.push(step);
        rest = after;
        node = Some(inner);
    }
    if let Some(message) = rest.strip_prefix(": ").filter(|_| !steps.is_empty()) {
        return (steps, message);
    }
    match rest.split_once(": ").and_then(|(key, message)| Some((parse(key.strip_prefix('.').unwrap_or(key))?, message)))
    {
        Some((more, message)) => {
            steps.extend(more);
            (steps, message)
        }
        None => (Vec::new(), message),
    }
}

/// Reads `limits[1].window`. None for what is no key path.
fn parse(text: &str) -> Option<Vec<KeyPart>> {
    let mut parts = Vec::new();
    for step in text.split('.') {
        let (key, indexes) = step.split_at(step.find('[').unwrap_or(step.len()));
        let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !key.bytes().all(bare) || key.is_empty() && (!parts.is_empty() || indexes.is_empty()) {
            return None;
        }
        if !key.is_empty() {
            parts.push(KeyPart::from(key));
        }
        if !indexes.is_empty() {
            for index in indexes.strip_prefix('[')?.strip_suffix(']')?.split("][") {
                parts.push(KeyPart::Index(index.parse().ok()?));
            }
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests;
