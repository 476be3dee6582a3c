//! Reads `[plugins]`, `[filters]` and `[pipelines]`. What a filter leaves out comes from its plugin, then from the defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Number};

use super::defaults;
use super::gateway::{header_name, path};
use super::item::Item;
use super::model::*;
use super::read::Table;
use super::tree::{Node, Value};
use super::upstreams::origin;

/// What a plugin's table says; all that filters can override is as it is written.
pub(super) struct PluginTable {
    pub(super) plugin: Plugin,
    limits: Limits,
    grants: GrantsTable,
    instances: InstancesTable,
}

#[derive(Default)]
struct Limits {
    memory: Option<ByteSize>,
    cpu: Option<Duration>,
    wall: Option<Duration>,
    table_elements: Option<u32>,
    http_body: Option<ByteSize>,
    body: Option<ByteSize>,
}

#[derive(Default)]
struct GrantsTable {
    read_headers: Option<HeaderGrant>,
    write_headers: Option<HeaderGrant>,
    body: Option<bool>,
    http: Option<Vec<String>>,
    kv: Option<Vec<String>>,
    kv_quota: Option<ByteSize>,
    secrets: Option<BTreeMap<String, Secret>>,
}

#[derive(Default)]
struct InstancesTable {
    mode: Option<InstanceMode>,
    max: Option<u32>,
    queue: Option<u32>,
    uses: Option<u32>,
}

pub(super) fn plugin(name: &str, table: &Table<'_>) -> PluginTable {
    let calls = [("auto", PluginCall::Auto), ("component", PluginCall::Component)];
    PluginTable {
        plugin: Plugin {
            name: Name::from(name),
            file: table.get("file", path),
            sha256: table.get("sha256", |item| item.parse("64 hexadecimal digits", sha256)),
            call: table.or("call", defaults::PLUGIN_CALL, |item| item.choice(&calls)),
        },
        limits: limits(table),
        grants: grants(&table.table("grants"), &GrantsTable::default()),
        instances: instances(&table.table("instances")),
    }
}

/// Reads a filter. A plugin without a table is added to the list.
pub(super) fn filter(name: &str, table: &Table<'_>, plugins: &mut Vec<PluginTable>) -> Filter {
    let plugin = table.get("plugin", Item::string).unwrap_or_else(|| name.to_owned());
    let position = plugins.iter().position(|known| known.plugin.name.as_str() == plugin);
    let config = table.get("config", |item| config(&item)).unwrap_or_else(|| "{}".to_owned());
    let policies = [("closed", FailurePolicy::Closed), ("open", FailurePolicy::Open)];
    let on_error = table.or("on_error", defaults::ON_ERROR, |item| item.choice(&policies));
    let limits = limits(table);
    let instances = instances(&table.table("instances"));
    let nothing = PluginTable::bare(&plugin);
    let outer = position.and_then(|at| plugins.get(at)).unwrap_or(&nothing);
    let grants = grants(&table.table("grants"), &outer.grants);
    let filter = Filter {
        name: Name::from(name),
        plugin: Name::from(plugin.as_str()),
        config: Secret::from(config),
        on_error,
        limits: limits.over(&outer.limits),
        grants: grants.over(&outer.grants),
        instances: instances.over(&outer.instances),
    };
    if filter.limits.cpu > filter.limits.wall {
        table.fail("the limit `cpu` is above `wall`");
    }
    if position.is_none() {
        plugins.push(nothing);
    }
    filter
}

pub(super) fn pipelines(table: &Table<'_>, filters: &BTreeSet<String>) -> Vec<Pipeline> {
    let named = table.named().into_iter();
    let read = named.filter_map(|(name, item)| {
        let filters = item.list(|item| item.reference("filter", filters))?;
        Some(Pipeline { name: Name::from(name.as_str()), filters })
    });
    read.collect()
}

impl PluginTable {
    fn bare(name: &str) -> Self {
        Self {
            plugin: Plugin { name: Name::from(name), file: None, sha256: None, call: defaults::PLUGIN_CALL },
            limits: Limits::default(),
            grants: GrantsTable::default(),
            instances: InstancesTable::default(),
        }
    }
}

fn limits(table: &Table<'_>) -> Limits {
    let table = table.table("limits");
    let whole = |item: Item<'_>| item.size_within(ByteSize(0)..=ByteSize(1 << 30));
    Limits {
        memory: table.get("memory", |item| item.size_within(ByteSize(64 << 10)..=ByteSize(4 << 30))),
        cpu: table.get("cpu", |item| item.duration_up_to(Duration::from_secs(10))),
        wall: table.get("wall", |item| item.duration_up_to(Duration::from_secs(600))),
        table_elements: table.get("table_elements", |item| item.integer(1..=10_000_000)),
        http_body: table.get("http_body", whole),
        body: table.get("body", whole),
    }
}

impl Limits {
    fn over(self, outer: &Self) -> FilterLimits {
        FilterLimits {
            memory: self.memory.or(outer.memory).unwrap_or(defaults::FILTER_MEMORY),
            cpu: self.cpu.or(outer.cpu).unwrap_or(defaults::FILTER_CPU),
            wall: self.wall.or(outer.wall).unwrap_or(defaults::FILTER_WALL),
            table_elements: self.table_elements.or(outer.table_elements).unwrap_or(defaults::TABLE_ELEMENTS),
            http_body: self.http_body.or(outer.http_body).unwrap_or(defaults::HTTP_BODY),
            body: self.body.or(outer.body).unwrap_or(defaults::FILTER_BODY),
        }
    }
}

fn instances(table: &Table<'_>) -> InstancesTable {
    let modes = [("reused", InstanceMode::Reused), ("fresh", InstanceMode::Fresh)];
    InstancesTable {
        mode: table.get("mode", |item| item.choice(&modes)),
        max: table.get("max", |item| item.integer(1..=100_000)),
        queue: table.get("queue", |item| item.integer(0..=1_000_000)),
        uses: table.get("uses", |item| item.integer(1..=u32::MAX)),
    }
}

impl InstancesTable {
    fn over(self, outer: &Self) -> Instances {
        Instances {
            mode: self.mode.or(outer.mode).unwrap_or(defaults::INSTANCE_MODE),
            max: self.max.or(outer.max).unwrap_or(defaults::MAX_INSTANCES),
            queue: self.queue.or(outer.queue).unwrap_or(defaults::INSTANCE_QUEUE),
            uses: self.uses.or(outer.uses).unwrap_or(defaults::INSTANCE_USES),
        }
    }
}

/// Reads grants within those that the plugin's table names.
fn grants(table: &Table<'_>, outer: &GrantsTable) -> GrantsTable {
    let space = |item: Item<'_>| item.parse("the name of a space", |text| (!text.is_empty()).then(|| text.to_owned()));
    GrantsTable {
        read_headers: table.get("read_headers", |item| headers(item, outer.read_headers.as_ref())),
        write_headers: table.get("write_headers", |item| headers(item, outer.write_headers.as_ref())),
        body: table.get("body", |item| {
            let body = item.clone().boolean()?;
            if body && outer.body == Some(false) {
                not_granted(&item, "it");
            }
            Some(body)
        }),
        http: table.get("http", |item| list(item, outer.http.as_deref(), canonical_origin)),
        kv: table.get("kv", |item| list(item, outer.kv.as_deref(), space)),
        kv_quota: table.get("kv_quota", |item| {
            let quota = item.clone().size_within(ByteSize(1)..=ByteSize(64 << 30))?;
            if outer.kv_quota.is_some_and(|most| quota > most) {
                not_granted(&item, "so much");
            }
            Some(quota)
        }),
        secrets: table.optional_table("secrets").map(|table| {
            let mut secrets = BTreeMap::new();
            for (name, item) in table.named() {
                if outer.secrets.as_ref().is_some_and(|granted| !granted.contains_key(&name)) {
                    not_granted(&item, &format!("`{name}`"));
                }
                secrets.extend(item.secret().map(|secret| (name, secret)));
            }
            secrets
        }),
    }
}

impl GrantsTable {
    fn over(self, outer: &Self) -> Grants {
        let headers = || HeaderGrant::AllButCredentials { and: Vec::new() };
        Grants {
            read_headers: self.read_headers.or_else(|| outer.read_headers.clone()).unwrap_or_else(headers),
            write_headers: self.write_headers.or_else(|| outer.write_headers.clone()).unwrap_or_else(headers),
            body: self.body.or(outer.body).unwrap_or(defaults::BODY_GRANT),
            http: self.http.or_else(|| outer.http.clone()).unwrap_or_default(),
            kv: self.kv.or_else(|| outer.kv.clone()).unwrap_or_default(),
            kv_quota: self.kv_quota.or(outer.kv_quota).unwrap_or(defaults::KV_QUOTA),
            secrets: self.secrets.or_else(|| outer.secrets.clone()).unwrap_or_default(),
        }
    }
}

fn not_granted(item: &Item<'_>, what: &str) {
    item.fail(format!("the grants of the plugin do not include {what}"));
}

fn headers(item: Item<'_>, outer: Option<&HeaderGrant>) -> Option<HeaderGrant> {
    let mut all = false;
    let mut and = Vec::new();
    for item in item.items() {
        if item.as_str() == Some("*") {
            all = true;
            if outer.is_some_and(|outer| *outer != HeaderGrant::All) {
                not_granted(&item, "`*`");
            }
        } else if let Some(name) = header_name(item.clone()) {
            if outer.is_some_and(|outer| !outer.allows(&name)) {
                not_granted(&item, &format!("`{name}`"));
            }
            and.push(name);
        }
    }
    Some(if all { HeaderGrant::All } else { HeaderGrant::AllButCredentials { and } })
}

fn list(item: Item<'_>, outer: Option<&[String]>, read: impl Fn(Item<'_>) -> Option<String>) -> Option<Vec<String>> {
    item.list(|item| {
        let value = read(item.clone())?;
        if outer.is_some_and(|granted| !granted.contains(&value)) {
            not_granted(&item, &format!("`{}`", item.shown(&value)));
        }
        Some(value)
    })
}

fn canonical_origin(item: Item<'_>) -> Option<String> {
    let (scheme, host, port) = item.check(origin)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Some(if port == scheme.default_port() { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") })
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit =
            |at: usize| pair.get(at).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(hash)
}

/// The JSON text of a filter's config table.
fn config(item: &Item<'_>) -> Option<String> {
    if !item.is_table() {
        item.expected("a table");
        return None;
    }
    Some(item.node.map_or_else(|| "{}".to_owned(), |node| json(node).to_string()))
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::String(text) | Value::Datetime(text) => text.as_str().into(),
        Value::Integer(number) => (*number).into(),
        // JSON has no infinity; a plugin that wants a number refuses the null at its key.
        Value::Float(number) => Number::from_f64(*number).map_or(serde_json::Value::Null, serde_json::Value::Number),
        Value::Boolean(value) => (*value).into(),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Table(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), json(&entry.node))).collect::<Map<_, _>>().into()
        }
        Value::Broken => serde_json::Value::Null,
    }
}
