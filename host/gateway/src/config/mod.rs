//! `gateway.toml` to `Config`: reading, defaults and checks. Building something to serve from it is the snapshot's job.
//!
//! The files become one tree of values that know their place (`tree`), typed readers take it apart (`read`, and a file for
//! each group of tables), and every error is collected on the way. A key is one call (`key`): it reads the value and is what the
//! reference says of the key.

mod acme;
mod cases;
mod consumers;
pub mod defaults;
mod edit;
mod error;
mod explain;
mod file;
mod filters;
mod gateway;
mod item;
mod key;
mod levels;
mod listener_tls;
pub mod model;
mod overload;
mod path;
mod pipelines;
mod read;
mod routes;
mod sockets;
mod state;
mod syntax;
mod tree;
mod units;
mod upstreams;
mod uses;
mod words;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

pub use cases::{case_keys, load_cases};
pub use edit::EditError;
pub use error::{ConfigError, ConfigErrors, Location};
pub use explain::{ExplainError, explain};
pub use file::{MAX_COMPONENT, read_file, read_text};
pub use key::{Absent, KeyDoc};
pub use model::Config;
pub use path::KeyPart;
pub use read::{Explained, ValueSource, nearest};
pub use units::size;

use item::Item;
use path::{render, split};
use read::{Reader, Table};
use tree::{KeyValue, Node, Place, Sources, Value};

/// The tables to which included files can add names.
const NAMED_SECTIONS: [&str; 11] = [
    "listeners",
    "certificates",
    "acme",
    "routes",
    "upstreams",
    "plugins",
    "filters",
    "pipelines",
    "consumers",
    "state",
    "groups",
];

/// A configuration without errors, and where it was written.
pub struct Loaded {
    pub config: Config,
    /// Every file that was read, the main one first, and the directories of `include` patterns: a change in one of
    /// them can change the configuration.
    pub files: Vec<PathBuf>,
    sources: Sources,
    root: Vec<KeyValue>,
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
    let mut sources = reader.into_sources();
    let errors = std::mem::take(&mut sources.errors);
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, files: sources.paths(), sources, root }),
        _ => Err(ConfigErrors::new(errors)),
    }
}

/// Every key there is, in the order of reading, with what is known of it.
pub fn keys() -> Vec<KeyDoc> {
    let reader = Reader::listing();
    read(&reader.root(&[]));
    reader.into_keys()
}

fn read(root: &Table<'_>) -> Option<Config> {
    // The files are read already; in a reading it is a key as others are.
    if root.reader.is_listing() {
        root.key(
            "include",
            "Other files to read, each by a path from the directory of this file; the file name can have a `*`. Their tables are added to these.",
            r#"["conf.d/*.toml"]"#,
        )
        .or(Vec::<String>::new(), |item| item.taking("a list: a path").list(Item::string));
    }
    let names = |section: &'static str| -> BTreeSet<String> { root.names(section) };
    let mut binds = sockets::Binds::default();
    let gateway = gateway::gateway(&root.table("gateway"));
    let known = names("certificates");
    let with_tls = root.names_with("listeners", "tls");
    let listeners = root.section("listeners", |name, table| {
        gateway::listener(name, &table, gateway.max_connections, &known, &with_tls, &mut binds)
    });
    let (known_states, known_authorities) = (names("state"), names("acme"));
    let mut acme_certificates = Vec::new();
    let certificates = root.section("certificates", |name, table| {
        acme_certificates.extend(acme::certificate(name, &table, &known_authorities));
        gateway::certificate(name, &table)
    });
    let authorities =
        root.section("acme", |name, table| acme::authority(name, &table, &known_states, &known_authorities));
    acme::check_wildcards(root, &acme_certificates, &authorities);
    let admin = root.optional_table("admin").map(|table| gateway::admin(&table, &mut binds));
    let telemetry = gateway::telemetry(&root.table("telemetry"));
    routes::compression::defaults(&root.table("compression"));
    let consumers = root.section("consumers", |name, table| consumers::consumer(name, &table));

    let states = root.section("state", |name, table| state::state(name, &table));

    let known_upstreams = names("upstreams");
    let cache = routes::cache::process(&root.table("cache"), &known_states);
    let mut plugins =
        root.section("plugins", |name, table| Some(filters::plugin(name, &table, &known_upstreams, &known_states)));
    let filters = root.section("filters", |name, mut table| {
        let plugin = filters::plugin_of(name, &table);
        table.inherit(root.level(&["plugins", &plugin]));
        Some(filters::filter(name, &plugin, &table, &mut plugins, &known_upstreams))
    });
    let known_filters = names("filters");
    let pipelines = pipelines::named(&root.table("pipelines"), &known_filters);

    let by_name: BTreeMap<_, _> = pipelines.iter().map(|one| (one.name.to_string(), one.steps.clone())).collect();
    let known = routes::Known {
        listeners: &names("listeners"),
        upstreams: &known_upstreams,
        filters: &known_filters,
        pipelines: &by_name,
        upstream_defaults: root.level(&["defaults", "upstream"]),
        compression_defaults: root.level(&["compression"]),
        anonymous: RefCell::default(),
    };
    let calls = levels::check(root, &known);
    let mut upstreams = root.section("upstreams", |name, mut table| {
        levels::inherit(root, &mut table, "upstream");
        upstreams::upstream(name, &table)
    });
    let routes = root.section("routes", |name, mut table| {
        levels::inherit(root, &mut table, "route");
        routes::route(name, &table, &known)
    });
    upstreams.append(&mut known.anonymous.into_inner());
    if !root.has("listeners") {
        root.fail("there is no listener, expected a table like `[listeners.http]`");
    }
    Some(Config {
        gateway,
        listeners,
        certificates,
        acme_certificates,
        authorities,
        routes,
        calls,
        upstreams,
        plugins: plugins.into_iter().map(|table| table.plugin).collect(),
        filters,
        pipelines,
        consumers,
        states,
        telemetry,
        cache,
        admin: match admin {
            Some(admin) => Some(admin?),
            None => None,
        },
        only_of_listeners: root.reader.sources.borrow().only_of_listeners(),
        revision: root.reader.sources.borrow().revision(),
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
        let mut entries: &[KeyValue] = &self.root;
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

#[cfg(test)]
mod tests;
