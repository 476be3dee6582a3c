//! Short ways to write the configs of these tests.

use serde_json::Value;
use sluice_harness::gateway::Setup;
use sluice_harness::{Client, Gateway};

/// A plain listener and the admin listener, on free ports, with one worker, reloading only when told to.
pub(crate) const BASE: &str = r#"
[gateway]
workers = 1
reload = false
[listeners.http]
bind = "127.0.0.1:0"
[admin]
bind = "127.0.0.1:0"
"#;

/// A gateway with [`BASE`] and the fixtures in its plugins folder.
#[track_caller]
pub(crate) fn gateway(rest: &str) -> Gateway {
    setup().start(&with_base(rest))
}

/// The fixtures in the plugins folder.
pub(crate) fn setup() -> Setup {
    Gateway::setup().fixtures()
}

/// [`BASE`] and more.
pub(crate) fn with_base(rest: &str) -> String {
    format!("{BASE}{rest}")
}

/// The line of a filter that fails for every request, and so in its trial.
pub(crate) const FAILS: &str = "on_failed_trial = \"warn\"";

/// A route for everything.
pub(crate) fn route(upstream: &str, pipeline: &[&str]) -> String {
    format!("[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{upstream}\"\npipeline = {pipeline:?}\n")
}

/// A filter that is the plain probe with this config.
pub(crate) fn probe(name: &str, config: Value) -> String {
    filter(name, "probe", "", config)
}

/// A filter with this config and further lines.
pub(crate) fn filter(name: &str, plugin: &str, lines: &str, config: Value) -> String {
    format!("[filters.{name}]\nplugin = \"{plugin}\"\n{lines}\nconfig = {}\n", inline(&config))
}

/// JSON as a TOML inline value.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(k, v)| format!("{} = {}", Value::String(k.clone()), inline(v))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The statuses of several requests on one connection.
#[track_caller]
pub(crate) fn statuses(gateway: &Gateway, targets: &[&str]) -> Vec<u16> {
    let mut client: Client = gateway.client();
    targets.iter().map(|t| client.get(t).status).collect()
}
