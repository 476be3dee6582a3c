//! `sluice plugin check`: what of a component would be a surprise in a gateway. Its hooks and its config schema by themselves; its imports,
//! limits and config for each filter of a configuration that uses it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::foreseen::Foreseen;
use super::{Component, ToolError, runtime};
use crate::config::{self, Loaded, model};
use crate::filter::{Filter, Grants, Hook, LoadError, Plugin};
use crate::services::log_limit::{visible, visible_lines};
use crate::services::{Clock, Services};
use crate::snapshot::{filter_spec, needs};

/// Of the further lines of a message.
const INDENT: &str = "    ";

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Note,
    Warning,
    Error,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub message: String,
}

impl Finding {
    fn new(severity: Severity, message: impl Into<String>) -> Finding {
        Finding { severity, message: message.into() }
    }
}

/// Checks a component, and its uses in a configuration.
pub fn check(
    component: &Component,
    configuration: Option<&Path>,
    cache: Option<PathBuf>,
) -> Result<Vec<Finding>, ToolError> {
    let runtime = runtime(None, cache)?;
    let plugin = match runtime.load(&component.bytes) {
        Ok(plugin) => plugin,
        Err(error) => return Ok(vec![Finding::new(Severity::Error, visible(&error.to_string()))]),
    };
    let mut findings = of_itself(&plugin);
    let Some(path) = configuration else { return Ok(findings) };
    let loaded = config::load(path)?;
    let uses: Vec<&model::Filter> =
        loaded.config.filters.iter().filter(|filter| uses(&loaded, filter, component)).collect();
    if uses.is_empty() {
        let message = format!("no filter of {} uses {}", path.display(), component.origin);
        findings.push(Finding::new(Severity::Warning, message));
    }
    for filter in uses {
        findings.extend(of_filter(&loaded, filter, &plugin, component));
    }
    Ok(findings)
}

/// What can be told without a configuration.
fn of_itself(plugin: &Plugin) -> Vec<Finding> {
    let about = plugin.description();
    let hooks: Vec<&str> = plugin.hooks().iter().map(Hook::name).collect();
    let imports = plugin.imports();
    let mut findings = vec![
        Finding::new(Severity::Note, format!("hooks: {}", hooks.join(", "))),
        Finding::new(Severity::Note, format!("imports: {}", visible(&imports.join(", ")))),
    ];
    if let Some(why) = plugin.not_direct() {
        let message = format!("each call goes through the component runtime, and costs more: {}", visible(why));
        findings.push(Finding::new(Severity::Note, message));
    }
    for told in about.hooks.iter().filter(|told| !hooks.contains(&told.as_str())) {
        let message = format!("it says that it has the hook `{}`, and does not export it", visible(told));
        findings.push(Finding::new(Severity::Warning, message));
    }
    findings.extend(of_schema(about.config.as_ref()));
    findings
}

/// What is wrong with a config schema.
fn of_schema(schema: Option<&Json>) -> Option<Finding> {
    let wrong = |why: &str| Some(Finding::new(Severity::Warning, format!("its config schema {why}")));
    match schema {
        None => Some(Finding::new(Severity::Note, "it has no config schema: `describe` can answer one")),
        Some(Json::Object(schema)) => {
            let properties = schema.get("properties").and_then(Json::as_object);
            let unknown = schema.get("required").and_then(Json::as_array).and_then(|required| {
                let names = required.iter().filter_map(Json::as_str);
                names.into_iter().find(|name| properties.is_none_or(|known| !known.contains_key(*name)))
            });
            match (schema.get("type").and_then(Json::as_str), unknown) {
                (Some("object"), None) => None,
                (Some("object"), Some(name)) => wrong(&format!("requires `{}`, which it does not have", visible(name))),
                (_, _) => wrong("is not that of a table: expected `\"type\": \"object\"`"),
            }
        }
        Some(Json::String(_)) => wrong("is not JSON"),
        Some(_) => wrong("is not a JSON object"),
    }
}

/// Whether a filter is a use of this component.
fn uses(loaded: &Loaded, filter: &model::Filter, component: &Component) -> bool {
    let plugin = loaded.config.plugins.iter().find(|plugin| plugin.name == filter.plugin);
    let configured = plugin.and_then(|plugin| plugin.file.clone());
    let in_folder = loaded.config.gateway.plugin_dir.join(format!("{}.wasm", filter.plugin));
    let of_filter = configured.unwrap_or(in_folder);
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().replace('_', "-"));
    match &component.path {
        // Before it is copied to the folder of plugins, its name tells.
        Some(path) => {
            std::fs::canonicalize(path).ok() == std::fs::canonicalize(&of_filter).ok()
                || (!of_filter.exists()
                    && stem(path).is_some_and(|stem| stem == filter.plugin.as_str().replace('_', "-")))
        }
        None => !of_filter.exists() && component.origin.contains(&format!("`{}`", filter.plugin)),
    }
}

/// What is to be said of one use.
fn of_filter(loaded: &Loaded, filter: &model::Filter, plugin: &Arc<Plugin>, component: &Component) -> Vec<Finding> {
    let name = &filter.name;
    let mut findings = Vec::new();
    let mut say = |severity, message: String| {
        findings.push(Finding::new(severity, format!("filter `{name}`: {message}")));
    };
    for message in of_imports(&plugin.imports(), plugin, &filter.grants) {
        say(Severity::Warning, message);
    }
    let services = Services::new(Clock::system(), Foreseen::new(Vec::new()));
    let bytes = Some(component.bytes.as_slice().into());
    match Filter::new(filter_spec(filter, Arc::clone(plugin), services, bytes)) {
        Ok(built) => {
            if let Some(needed) = built.needs() {
                let needs::Comparison { missing, odd } = needs::compare(needed, &filter.grants);
                odd.into_iter().for_each(|what| {
                    say(Severity::Warning, format!("what it needs is not understood: {}", visible(&what)))
                });
                if !missing.is_empty() {
                    say(
                        Severity::Warning,
                        format!("it needs grants that it does not have: {}", visible(&missing.join(", "))),
                    );
                }
            }
            built.warnings().iter().for_each(|warning| say(Severity::Warning, visible_lines(warning, INDENT)));
            for failure in built.trial_failures() {
                say(Severity::Error, format!("{}, when tried on an empty message", visible_lines(failure, INDENT)));
            }
            if built.trial_failures().is_empty() {
                say(Severity::Note, "it takes its config".to_owned());
            }
        }
        Err(LoadError::Refused(message)) => {
            findings.push(Finding::new(Severity::Error, loaded.error_at(name, &visible(&message)).to_string()));
        }
        Err(error) => say(Severity::Error, visible_lines(&crate::chain(&error), INDENT)),
    }
    findings
}

/// Imports that are of no use without a grant, and grants that are of no use without an import.
fn of_imports(imports: &[String], plugin: &Plugin, grants: &Grants) -> Vec<String> {
    let services = &grants.services;
    let has = |names: &[&str]| names.iter().any(|name| imports.iter().any(|import| import == name));
    let rows = [
        ("http", has(&["http"]), "http", services.http.iter().next().is_some() || !services.upstreams.is_empty()),
        ("kv", has(&["kv", "kv-wait"]), "kv", !services.kv.is_empty()),
        ("consumers", has(&["consumers", "passwords"]), "consumers", services.consumers),
    ];
    let mut messages = Vec::new();
    for (import, is_imported, grant, is_granted) in rows {
        // `consumers` also tells the plan of a caller, for which no grant is needed; and key sets have granted origins without `http`.
        match (is_imported, is_granted) {
            (true, false) if import != "consumers" => {
                messages.push(format!(
                    "it imports `{import}`, and `grants.{grant}` allows nothing: its calls answer `not-granted`"
                ));
            }
            (false, true) if import != "http" => {
                messages.push(format!("`grants.{grant}` is of no use: it does not import `{import}`"));
            }
            (_, _) => {}
        }
    }
    let has_body_hook = plugin.hooks().iter().any(|hook| matches!(hook, Hook::OnRequestBody | Hook::OnResponseBody));
    if has_body_hook && grants.no_bodies {
        messages.push("it has hooks for bodies, and `grants.body` is false: they are never called".to_owned());
    }
    messages
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_are_looked_at() {
        assert_eq!(of_schema(Some(&json!({"type": "object", "required": ["a"], "properties": {"a": {}}}))), None);
        for (schema, expected) in [
            (json!({"type": "object", "required": ["b"], "properties": {"a": {}}}), "requires `b`"),
            (json!({"properties": {}}), "not that of a table"),
            (json!("{"), "is not JSON"),
            (json!([]), "not a JSON object"),
        ] {
            let found = of_schema(Some(&schema)).expect("a finding");
            assert!(found.message.contains(expected) && found.severity == Severity::Warning, "{found:?}");
        }
    }
}
