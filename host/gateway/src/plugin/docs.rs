//! `sluice plugin docs`: a page about a plugin, in Markdown, of what its component has and says, and of what its cases show.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use super::Summary;
use crate::filter::Plugin;
use crate::services::log_limit::visible;

/// How deep tables in a config schema are followed.
const DEEPEST: usize = 6;

/// The page. With results of cases it lists the metrics that these have shown.
pub fn page(plugin: &Plugin, name: &str, cases: Option<&Summary>) -> String {
    let about = plugin.description();
    let title = visible(about.name.as_deref().unwrap_or(name)).into_owned();
    let mut page = format!("# {title}\n\n");
    let line = |text: &Option<String>| text.as_ref().map(|text| format!("{}\n\n", visible(text)));
    page.extend(line(&about.description));
    let _ = writeln!(page, "| | |\n|---|---|");
    let code = |names: Vec<String>| match names.is_empty() {
        true => "none".to_owned(),
        false => names.iter().map(|name| format!("`{}`", cell(name))).collect::<Vec<_>>().join(", "),
    };
    if let Some(version) = &about.version {
        let _ = writeln!(page, "| version | {} |", cell(version));
    }
    let _ = writeln!(page, "| interface | `sluice:filter@{}` |", cell(plugin.interface_version()));
    let _ = writeln!(page, "| hooks | {} |", code(plugin.hooks().iter().map(|hook| hook.name().to_owned()).collect()));
    let ours = plugin.imports().into_iter().filter(|import| !import.contains(':'));
    let _ = writeln!(page, "| imports | {} |", code(ours.collect()));
    if let Some(grants) = &about.grants {
        let _ = writeln!(page, "| grants that it needs | `{}` |", cell(&grants.to_string()));
    }
    if let Some(rows) = about.config.as_ref().map(config) {
        page.push_str("\n## Config\n\n");
        page.push_str(&rows);
    }
    if let Some(names) = cases.map(metrics).filter(|names| !names.is_empty()) {
        page.push_str("\n## Metrics\n\nAs its cases show them:\n\n");
        page.extend(names.iter().map(|name| format!("- `sluice_filter_{}`\n", cell(name))));
    }
    if let Some(summary) = cases {
        page.push_str("\n## What its cases promise\n\n");
        page.extend(summary.results.iter().map(|result| format!("- {}\n", visible(&result.name))));
    }
    if let Some(docs) = &about.docs {
        // A title of its own would be one more of the page.
        let lines = docs.trim().lines().enumerate().filter(|(at, line)| *at > 0 || !line.starts_with("# "));
        let lines: Vec<_> = lines.map(|(_, line)| visible(line)).collect();
        let _ = write!(page, "\n## Documentation\n\n{}\n", lines.join("\n").trim());
    }
    page
}

/// The table of a config schema.
fn config(schema: &Json) -> String {
    let mut rows = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    let begin = rows.len();
    add_rows(&mut rows, schema, schema, "", 0);
    if rows.len() == begin { "It has no keys.\n".to_owned() } else { rows }
}

fn add_rows(rows: &mut String, root: &Json, schema: &Json, path: &str, depth: usize) {
    let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return };
    let required: Vec<&str> =
        schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    for (name, property) in properties {
        let property = resolved(root, property);
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let default = match property.get("default") {
            Some(value) => format!("`{}`", cell(&value.to_string())),
            None if required.contains(&name.as_str()) => "required".to_owned(),
            None => "-".to_owned(),
        };
        let meaning = property.get("description").and_then(Json::as_str).unwrap_or_default();
        let _ = writeln!(rows, "| `{}` | {} | {default} | {} |", cell(&key), type_of(root, property), cell(meaning));
        if depth < DEEPEST {
            add_rows(rows, root, property, &key, depth + 1);
            if let Some(items) = property.get("items") {
                add_rows(rows, root, resolved(root, items), &format!("{key}[]"), depth + 1);
            }
        }
    }
}

/// A schema, or that to which it refers within the document.
fn resolved<'s>(root: &'s Json, schema: &'s Json) -> &'s Json {
    let target = schema.get("$ref").and_then(Json::as_str).and_then(|to| root.pointer(to.strip_prefix('#')?));
    target.unwrap_or(schema)
}

fn type_of(root: &Json, schema: &Json) -> String {
    if let Some(words) = schema.get("enum").and_then(Json::as_array) {
        return words.iter().map(|word| format!("`{}`", cell(&word.to_string()))).collect::<Vec<_>>().join(", ");
    }
    let name = |name: &str| match (name, schema.get("items")) {
        ("array", Some(items)) => format!("list of {}", type_of(root, resolved(root, items))),
        ("object", _) => "table".to_owned(),
        (name, _) => cell(name),
    };
    match schema.get("type") {
        Some(Json::String(one)) => name(one),
        Some(Json::Array(several)) => {
            several.iter().filter_map(Json::as_str).map(name).collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    }
}

/// The metrics that were seen, by their names without labels.
fn metrics(summary: &Summary) -> BTreeSet<String> {
    let seen = summary.results.iter().flat_map(|result| &result.seen);
    let names = seen.filter_map(|seen| seen.get("metrics").and_then(Json::as_object)).flat_map(Map::keys);
    names.map(|name| name.split('{').next().unwrap_or_default().to_owned()).collect()
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    visible(text).replace('|', "\\|").replace('`', "'")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_a_table_of_its_keys() {
        let schema = json!({
            "type": "object", "required": ["rules"], "$defs": {"words": {"type": ["string", "array"], "items": {"type": "string"}}},
            "properties": {
                "rules": {"type": "array", "items": {"type": "object", "properties": {
                    "effect": {"enum": ["allow", "deny"]}, "names": {"$ref": "#/$defs/words"}}}},
                "dry_run": {"type": "boolean", "default": false, "description": "Counts | refuses nobody"},
            },
        });
        let rows = config(&schema);
        for row in [
            "| `rules` | list of table | required |  |",
            "| `rules[].effect` | `\"allow\"`, `\"deny\"` | - |  |",
            "| `rules[].names` | string or list of string | - |  |",
            "| `dry_run` | boolean | `false` | Counts \\| refuses nobody |",
        ] {
            assert!(rows.contains(row), "{row}\n{rows}");
        }
        let endless = json!({"properties": {"a": {"$ref": "#"}}});
        assert!(config(&endless).lines().count() < 20, "a schema that refers to itself ends");
    }
}
