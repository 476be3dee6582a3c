//! Reads `[plugins]` and `[filters]`. What a filter leaves out comes from its plugin, then from the defaults.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Number};

use super::defaults;
use super::gateway::{header_name, path};
use super::item::Item;
use super::model::*;
use super::read::Table;
use super::tree::{Node, Value};
use super::upstreams::origin;
use crate::services::crypto::from_hex;
use crate::services::grants::GrantedOrigin;
use crate::services::{self, Origins, Reach, Secrets};
use crate::wasm::{FilterLimits, Grants, HeaderGrant, Mode};

/// A plugin's table, with the grants that its filters stay within.
pub(super) struct PluginTable {
    pub(super) plugin: Plugin,
    grants: Grants,
}

pub(super) fn plugin(
    name: &str,
    table: &Table<'_>,
    upstreams: &BTreeSet<String>,
    states: &BTreeSet<String>,
) -> PluginTable {
    let file = table
        .key("file", "The component.", r#""build/my_plugin.wasm""#)
        .get("`NAME.wasm` in `gateway.plugin_dir`, or the plugin of that name that ships with the gateway", path);
    let hash = table
        .key(
            "sha256",
            "What the file has to hash to.",
            r#""9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08""#,
        )
        .get("any", |item| item.parse("64 hexadecimal digits", from_hex));
    instances(table);
    let grants = grants(&table.table("grants"), None, upstreams);
    let call = table
        .key(
            "call",
            "How its hooks are called: directly where the component allows it (`auto`), or always by the engine's component runtime (`component`).",
            r#""component""#,
        )
        .word_or(defaults::PLUGIN_CALL);
    let state = super::state::of_plugin(table, states);
    PluginTable { plugin: Plugin { name: Name::from(name), file, sha256: hash, call, state }, grants }
}

/// The plugin that a filter is a use of, if that is written.
pub(super) fn plugin_of(name: &str, table: &Table<'_>) -> String {
    let plugin = table.key("plugin", "The plugin that it is a use of.", r#""my-plugin""#);
    plugin.get("the plugin of the filter's name", Item::string).unwrap_or_else(|| name.to_owned())
}

/// Reads a filter, here with the table of its plugin to inherit from. A plugin without a table is added to the list.
pub(super) fn filter(
    name: &str,
    plugin: &str,
    table: &Table<'_>,
    plugins: &mut Vec<PluginTable>,
    upstreams: &BTreeSet<String>,
) -> Filter {
    let config = table
        .key(
            "config",
            "The config of the filter. Its plugin says which keys it has.",
            r#"{ origins = ["https://a.example"] }"#,
        )
        .get("`{}`", |item| json_of(&item));
    let on_error = table
        .key(
            "on_error",
            "What becomes of a request when the filter fails: an error (`closed`), or what it would get without the filter (`open`).",
            r#""open""#,
        )
        .word_or(defaults::ON_ERROR);
    let on_failed_trial = table
        .key(
            "on_failed_trial",
            "What becomes of the configuration when a hook of the filter fails on the empty message of the trial at load: it is refused (`refuse`), or loaded with a warning (`warn`).",
            r#""warn""#,
        )
        .word_or(defaults::ON_FAILED_TRIAL);
    let (mode, limits) = instances(table);
    if limits.cpu > limits.wall {
        table.fail("the limit `cpu` is above `wall`");
    }
    let outer = plugins.iter().find(|known| known.plugin.name.as_str() == plugin);
    let is_known = outer.is_some();
    let grants = grants(&table.table("grants"), outer.map(|outer| &outer.grants), upstreams);
    let plugin = Name::from(plugin);
    if !is_known {
        let bare = Plugin { name: plugin.clone(), file: None, sha256: None, call: defaults::PLUGIN_CALL, state: None };
        plugins.push(PluginTable { plugin: bare, grants: Grants::default() });
    }
    let config = Secret::from(config.unwrap_or_else(|| "{}".to_owned()));
    Filter { name: Name::from(name), plugin, config, on_error, on_failed_trial, mode, limits, grants }
}

/// How instances live and what they may use.
fn instances(table: &Table<'_>) -> (Mode, FilterLimits) {
    let default = FilterLimits::default();
    let limits = table.table("limits");
    let instances = table.table("instances");
    let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
    let mode = instances
        .key(
            "mode",
            "`reused`: an instance serves one call after the other. `fresh`: each request gets one in which nothing of others is left.",
            r#""fresh""#,
        )
        .word_or(defaults::INSTANCE_MODE);
    let limits = FilterLimits {
        memory: bytes(
            limits
                .key("memory", "The linear memory of an instance.", r#""64MiB""#)
                .or(ByteSize(default.memory as u64), |item| item.size_within(ByteSize(64 << 10)..=ByteSize(4 << 30))),
        ),
        cpu: limits
            .key("cpu", "CPU time of a call.", r#""20ms""#)
            .or(default.cpu, |item| item.duration_up_to(Duration::from_secs(10))),
        cpu_per_mib: limits
            .key("cpu_per_mib", "CPU time of a call with a body besides `cpu`, for each MiB of the body.", r#""500ms""#)
            .or(default.cpu_per_mib, |item| item.duration_up_to(Duration::from_secs(60))),
        wall: limits
            .key(
                "wall",
                "Time of a call, with all that it waits for. A call with a body has as much more as it has CPU time.",
                r#""3s""#,
            )
            .or(default.wall, |item| item.duration_up_to(Duration::from_secs(600))),
        table_elements: limits
            .key("table_elements", "Elements of each table of an instance.", "50000")
            .or(default.table_elements, |item| item.integer(1..=10_000_000)),
        max_http_body: limits
            .key("http_body", "The largest body of an answer to an outbound call.", r#""4MiB""#)
            .or(ByteSize(default.max_http_body), body)
            .0,
        max_body: limits
            .key("body", "The largest body that is held for the filter, decoded.", r#""4MiB""#)
            .or(ByteSize(default.max_body), body)
            .0,
        max_instances: instances
            .key("max", "Instances of each worker.", "16")
            .or(default.max_instances, |item| item.integer(1..=100_000u32).map(|most| most as usize)),
        queue: instances
            .key("queue", "Requests of each worker that may wait for an instance.", "1000")
            .or(default.queue, |item| item.integer(0..=1_000_000u32).map(|most| most as usize)),
        uses: instances
            .key("uses", "Calls after which a reused instance is renewed.", "1000")
            .or(default.uses, |item| item.integer(1..=u32::MAX).map(u64::from)),
        warm: instances
            .key(
                "warm",
                "Instances that each worker has ready beside those in use, made ahead so that no request waits until one has started.",
                "2",
            )
            .get("1 if making one takes 0.5 ms or more, else 0", |item| {
                item.integer(0..=1_000u32).map(|warm| warm as usize)
            }),
    };
    (mode, limits)
}

fn body(item: Item<'_>) -> Option<ByteSize> {
    item.size_within(ByteSize(0)..=ByteSize(1 << 30))
}

/// Reads grants. Those of a filter stay within those that the table of its plugin (`outer`) names.
fn grants(table: &Table<'_>, outer: Option<&Grants>, upstreams: &BTreeSet<String>) -> Grants {
    // Without a line of the plugin's table a filter may have what it likes.
    let within = |key: &str| outer.filter(|_| table.inherits(key));
    let none = "all headers but credentials";
    let read = table
        .key(
            "read_headers",
            "Headers that it may see besides all that are no credentials. `*` is every header.",
            r#"["authorization"]"#,
        )
        .get(none, |item| headers(item, within("read_headers").map(|outer| &outer.read)));
    let write = table
        .key(
            "write_headers",
            "Headers that it may set besides all that are no credentials. `*` is every header.",
            r#"["set-cookie"]"#,
        )
        .get(none, |item| headers(item, within("write_headers").map(|outer| &outer.write)));
    let bodies = table.key("body", "Whether it may see bodies.", "false").or(defaults::BODY_GRANT, |item| {
        let body = item.clone().boolean()?;
        if body && within("body").is_some_and(|outer| outer.no_bodies) {
            not_granted(&item, "it");
        }
        Some(body)
    });
    let http = table
        .key(
            "http",
            "Origins that it may call: a name at public addresses, an address, or `localhost`. A table allows more.",
            r#"["https://auth.example"]"#,
        )
        .get("none", |item| {
            let outer = within("http").map(|outer| &outer.services.http);
            item.taking("a list of origins or tables").list(|item| {
                let granted = granted_origin(&item)?;
                let shown = format!("`{}`", item.shown(&granted.origin.to_string()));
                match outer.map(|outer| outer.check(&granted.origin)) {
                    Some(Err(_)) => not_granted(&item, &shown),
                    Some(Ok(reach)) if granted.allow_private && reach != Reach::Any => {
                        not_granted(&item, &format!("{shown} with `allow_private`"));
                    }
                    Some(Ok(_)) | None => {}
                }
                Some(granted)
            })
        });
    let upstreams =
        table.key("upstreams", "Upstreams that it may call, by their names.", r#"["users"]"#).get("none", |item| {
            let outer = within("upstreams").map(|outer| &outer.services.upstreams);
            item.list(|item| {
                let name = item.clone().reference("upstream", upstreams)?;
                if outer.is_some_and(|granted| !granted.contains(name.as_str())) {
                    not_granted(&item, &format!("`{}`", item.shown(name.as_str())));
                }
                Some(name.to_string())
            })
        });
    let kv = table.key("kv", "Spaces of the key-value store that it may use.", r#"["sessions"]"#).get("none", |item| {
        let outer = within("kv").map(|outer| &outer.services.kv);
        item.list(|item| {
            let space =
                item.clone().parse("the name of a space", |text| (!text.is_empty()).then(|| text.to_owned()))?;
            if outer.is_some_and(|granted| !granted.contains(&space)) {
                not_granted(&item, &format!("`{}`", item.shown(&space)));
            }
            Some(space)
        })
    });
    let kv_quota = table.key("kv_quota", "How much it may keep in each of its spaces.", r#""64MiB""#).or(
        defaults::KV_QUOTA,
        |item| {
            let quota = item.clone().size_within(ByteSize(1)..=ByteSize(64 << 30))?;
            if within("kv_quota").is_some_and(|outer| quota.0 > outer.services.kv_quota) {
                not_granted(&item, "so much");
            }
            Some(quota)
        },
    );
    let consumers = table.key("consumers", "Whether it may look up who of `[consumers]` has a credential.", "true").or(
        defaults::CONSUMERS_GRANT,
        |item| {
            let consumers = item.clone().boolean()?;
            if consumers && within("consumers").is_some_and(|outer| !outer.services.consumers) {
                not_granted(&item, "it");
            }
            Some(consumers)
        },
    );
    let outer = within("secrets").map(|outer| &outer.services.secrets);
    let secrets = table.optional_whole_table("secrets").map(|table| secrets(&table, outer));
    Grants {
        read: read.unwrap_or_default(),
        write: write.unwrap_or_default(),
        no_bodies: !bodies,
        services: services::Grants {
            http: Origins::from_iter(http.unwrap_or_default()),
            upstreams: upstreams.unwrap_or_default().into_iter().collect(),
            kv: kv.unwrap_or_default().into_iter().collect(),
            kv_quota: kv_quota.0,
            consumers,
            secrets: secrets.unwrap_or_default(),
        },
    }
}

/// An origin, or a table that says more of it.
fn granted_origin(item: &Item<'_>) -> Option<GrantedOrigin> {
    if !item.is_table() {
        return Some(GrantedOrigin { origin: origin(item.clone())?, allow_private: false });
    }
    let table = item.clone().table()?;
    let origin = table.key("origin", "The origin.", r#""https://auth.internal""#).require(origin);
    let allow_private = table
        .key(
            "allow_private",
            "Whether its name may lead to addresses that are not public: private, loopback, link-local, carrier NAT, metadata services.",
            "true",
        )
        .or(defaults::ALLOW_PRIVATE, Item::boolean);
    Some(GrantedOrigin { origin: origin?, allow_private })
}

fn secrets(table: &Table<'_>, outer: Option<&Secrets>) -> Secrets {
    let mut secrets = Vec::new();
    for (name, item) in table.named("A secret that it may ask for by this name.", r#""${file:token.txt}""#) {
        if outer.is_some_and(|granted| granted.find(&name).is_err()) {
            not_granted(&item, &format!("`{name}`"));
        }
        secrets.extend(item.secret().map(|secret| (name, secret.expose().to_owned())));
    }
    secrets.into_iter().collect()
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

/// The JSON text of a table, such as a filter's config.
pub(super) fn json_of(item: &Item<'_>) -> Option<String> {
    let item = item.clone().taking("a table");
    if !item.is_table() {
        item.expected("a table");
        return None;
    }
    Some(item.node.map_or_else(|| "{}".to_owned(), |node| json(node).to_string()))
}

/// Any value as JSON.
pub(super) fn json_value(item: &Item<'_>) -> serde_json::Value {
    item.node.map_or(serde_json::Value::Null, json)
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
