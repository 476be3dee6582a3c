//! What the page of a plugin says of its keys, defaults and reasons is what the plugin has: the page, `schema.json`, the code and its tests name the
//! same. Blocks of these pages are tried as those of all pages are (`configs`, `sessions`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

use crate::markdown::root;

struct Plugin {
    name: String,
    folder: PathBuf,
    page: String,
    schema: Value,
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn plugins() -> Vec<Plugin> {
    let entries = fs::read_dir(root().join("plugins")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .filter(|folder| folder.join("schema.json").exists())
        .map(|folder| Plugin {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            page: read(folder.join("README.md")),
            schema: serde_json::from_str(&read(folder.join("schema.json"))).unwrap(),
            folder,
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(found.len() > 8, "{} plugins: is this the right folder?", found.len());
    found
}

/// What stands in backticks.
fn code(text: &str) -> Vec<String> {
    let pattern = Regex::new(r"`([^`]+)`").unwrap();
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// The rows of the tables with this header, as cells.
fn rows(page: &str, header: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        if line.starts_with(header) {
            is_inside = true;
        } else if !line.starts_with('|') {
            is_inside = false;
        } else if is_inside && !line.starts_with("|---") {
            let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            found.push(cells.collect());
        }
    }
    found
}

/// All sources below a folder, as one text.
fn sources(folder: &PathBuf, wanted: impl Fn(&Path) -> bool + Copy) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            text += &sources(&entry, wanted);
        } else if wanted(&entry) {
            text += &read(entry);
        }
    }
    text
}

/// A part of a schema, with what it refers to in its place.
fn resolved<'s>(whole: &'s Value, schema: &'s Value) -> &'s Value {
    let path = schema["$ref"].as_str().map(|path| path.trim_start_matches('#'));
    path.map_or(schema, |path| whole.pointer(path).expect("a definition"))
}

/// Each key of a config, at any depth, as `limits[].burst`, and its part of the schema.
fn keys<'s>(whole: &'s Value, schema: &'s Value, at: &str, found: &mut Vec<(String, &'s Value)>) {
    let schema = resolved(whole, schema);
    for choice in ["oneOf", "anyOf"].iter().filter_map(|key| schema[key].as_array()).flatten() {
        keys(whole, choice, at, found);
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        found.push((at.clone(), property));
        keys(whole, property, &at, found);
    }
    if schema["items"].is_object() {
        keys(whole, &schema["items"], &format!("{at}[]"), found);
    }
}

fn keys_of(schema: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    keys(schema, schema, "", &mut found);
    found
}

/// A key is in a table, as a whole or by its last name, or in the text, in code.
#[test]
fn every_key_of_a_plugin_is_on_its_page() {
    let mut missing = Vec::new();
    let mut compared = 0;
    for Plugin { name, page, schema, .. } in plugins() {
        let named: BTreeSet<String> = ["| key |", "| condition |"]
            .iter()
            .flat_map(|header| rows(&page, header))
            .flat_map(|row| code(&row[0]))
            .collect();
        // Line by line: the fences of blocks have backticks, too.
        let in_text = page.lines().flat_map(code).collect::<Vec<_>>().join(" ");
        let keys = keys_of(&schema);
        compared += keys.len();
        for (key, _) in &keys {
            let last = key.rsplit('.').next().unwrap();
            let word = Regex::new(&format!(r"(^|[^a-z_-]){}($|[^a-z_-])", regex::escape(last))).unwrap();
            let is_table = named.iter().any(|one| one.starts_with(&format!("{key}.")));
            let is_in_table = is_table || named.contains(key) || named.contains(last);
            if !is_in_table && !word.is_match(&in_text) {
                missing.push(format!("{name}: the page does not have `{key}`"));
            }
        }
        let known = |named: &str| {
            let last = named.rsplit('.').next().unwrap();
            keys.iter().any(|(key, _)| key == named || named == last && key.ends_with(&format!(".{named}")))
        };
        missing.extend(named.iter().filter(|one| !known(one)).map(|one| format!("{name}: the schema has no `{one}`")));
    }
    assert!(compared > 200, "{compared} keys: are these the schemas?");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// What a page shows as a default that no schema can have: it depends on other keys, or on the place of the entry in its list.
const WITHOUT_SCHEMA: [(&str, &str); 7] = [
    ("acl", "rules[].name"),
    ("jwt-auth", "refresh"),
    ("jwt-auth", "cooldown"),
    ("jwt-auth", "headers"),
    ("rate-limit", "limits[].name"),
    ("rate-limit", "concurrency[].name"),
    ("redact", "rules[].name"),
];

/// The page shows the defaults that the schema has, in code or, for lists, as words; each plugin holds in a test of its own that its config has those of
/// the schema.
#[test]
fn defaults_on_the_pages_are_those_of_the_schemas() {
    let mut wrong = Vec::new();
    let mut compared = 0;
    for Plugin { name, page, schema, .. } in plugins() {
        let keys = keys_of(&schema);
        for row in rows(&page, "| key | default |") {
            let shown = code(&row[1]);
            for (at, key) in code(&row[0]).into_iter().enumerate() {
                let Some((_, property)) = keys.iter().find(|(known, _)| *known == key) else { continue };
                if WITHOUT_SCHEMA.contains(&(&*name, &*key)) {
                    continue;
                }
                let shown = match shown.get(at) {
                    Some(text) => text.clone(),
                    // A list as words, a number, or words such as `none`.
                    None => match &*row[1] {
                        "none" | "any" | "everybody" | "nobody" | "" => String::new(),
                        words if words.contains(", ") => {
                            serde_json::to_string(&words.split(", ").collect::<Vec<_>>()).unwrap()
                        }
                        other => other.to_owned(),
                    },
                };
                let shown = format!("shown = {shown}").parse::<toml::Table>().ok();
                let shown = shown.map(|table| serde_json::to_value(&table["shown"]).unwrap());
                // `none` may be an empty list.
                let default =
                    property.get("default").filter(|default| shown.is_some() || **default != Value::Array(Vec::new()));
                compared += usize::from(shown.is_some());
                if shown.as_ref() != default {
                    wrong.push(format!("{name}: the page says `{key}` is {}, the schema {default:?}", row[1]));
                }
            }
        }
    }
    assert!(compared > 90, "{compared} defaults: is this the right table?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A reason that the log may have is on the page, comes from the code (of the plugin, or what it uses of the SDK), and some test expects it; and so is each
/// one on the page.
#[test]
fn reasons_are_on_the_page_in_the_code_and_tested() {
    let literal = Regex::new(r#"(?:\.reason\(|refuse\(|invalid\(|answer\(|Token\()\s*"([a-z][a-z0-9-]+)""#).unwrap();
    let is_rust = |file: &Path| file.extension().is_some_and(|extension| extension == "rs");
    // `tests.rs`, and what it has in the folder of that name.
    let is_test =
        |file: &Path| file.components().any(|part| ["tests.rs", "tests"].iter().any(|name| part.as_os_str() == *name));
    let end_to_end = sources(&root().join("tests/e2e"), is_rust);
    let of_sdk = sources(&root().join("sdk/src"), is_rust);
    let mut wrong = Vec::new();
    for Plugin { name, folder, page, .. } in plugins() {
        let within = |file: &Path| file.strip_prefix(&folder).is_ok_and(is_test);
        let code_of = sources(&folder.join("src"), |file| is_rust(file) && !within(file));
        let tests = sources(&folder.join("src"), |file| is_rust(file) && within(file)) + &end_to_end;
        let in_code: BTreeSet<String> = literal.captures_iter(&code_of).map(|found| found[1].to_owned()).collect();
        let has_table = page.contains("reason in the log");
        for reason in in_code {
            if has_table && !page.contains(&format!("`{reason}")) {
                wrong.push(format!("{name}: the page does not have the reason `{reason}`"));
            }
            if !tests.contains(&reason) {
                wrong.push(format!("{name}: no test expects the reason `{reason}`"));
            }
        }
        for reason in rows(&page, "| status | reason in the log |").iter().flat_map(|row| code(&row[1])) {
            let literal = format!("\"{reason}\"");
            if !code_of.contains(&literal) && !of_sdk.contains(&literal) {
                wrong.push(format!("{name}: the page has `{reason}`, and the code has not"));
            }
            if !tests.contains(&literal) {
                wrong.push(format!("{name}: the page has `{reason}`, and no test expects it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
