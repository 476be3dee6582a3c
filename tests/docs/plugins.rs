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

#[test]
fn every_key_of_a_plugin_is_on_its_page() {
    let mut missing = Vec::new();
    for Plugin { name, page, schema, .. } in plugins() {
        let named: BTreeSet<String> = rows(&page, "| key |").iter().flat_map(|row| code(&row[0])).collect();
        // A key that only goes with another one may be in the text about that: `key = "value"`.
        let is_named = |key: &str| {
            let inner = [format!("{key}."), format!("{key}[")];
            let is_in_text = page.contains(&format!("`{key} ="));
            is_in_text || named.iter().any(|one| one == key || inner.iter().any(|inner| one.starts_with(inner)))
        };
        let keys = schema["properties"].as_object().unwrap().keys();
        missing
            .extend(keys.filter(|key| !is_named(key)).map(|key| format!("{name}: `{key}` is in no table of the page")));
        let known = |key: &str| schema["properties"].get(key.split(['.', '[']).next().unwrap()).is_some();
        let whole = schema.to_string();
        let unknown = named.iter().filter(|key| !known(key) && !whole.contains(&format!("\"{key}\"")));
        missing.extend(unknown.map(|key| format!("{name}: the schema has no `{key}`")));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The part of a schema about a key such as `limits[].burst`.
fn property<'s>(schema: &'s Value, key: &str) -> Option<&'s Value> {
    key.split('.').try_fold(schema, |table, part| {
        let found = table.get("properties")?.get(part.trim_end_matches("[]"))?;
        if part.ends_with("[]") { found.get("items") } else { Some(found) }
    })
}

#[test]
fn defaults_on_the_pages_are_those_of_the_schemas() {
    let mut wrong = Vec::new();
    let mut compared = 0;
    for Plugin { name, page, schema, .. } in plugins() {
        for row in rows(&page, "| key | default |") {
            for (key, shown) in code(&row[0]).into_iter().zip(code(&row[1])) {
                let Some(default) = property(&schema, &key).and_then(|property| property.get("default")) else {
                    continue;
                };
                let Ok(table) = format!("shown = {shown}").parse::<toml::Table>() else { continue };
                compared += 1;
                let shown = serde_json::to_value(&table["shown"]).unwrap();
                if shown != *default {
                    wrong.push(format!("{name}: the page says `{key}` is {shown}, the schema {default}"));
                }
            }
        }
    }
    assert!(compared > 60, "{compared} defaults: is this the right table?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A reason that the log may have is on the page, comes from the code, and some test expects it.
#[test]
fn reasons_are_on_the_page_in_the_code_and_tested() {
    let literal = Regex::new(r#"(?:\.reason\(|refuse\(|invalid\()\s*"([a-z][a-z0-9-]+)""#).unwrap();
    let is_rust = |file: &Path| file.extension().is_some_and(|extension| extension == "rs");
    // `tests.rs`, and what it has in the folder of that name.
    let is_test =
        |file: &Path| file.components().any(|part| ["tests.rs", "tests"].iter().any(|name| part.as_os_str() == *name));
    let end_to_end = sources(&root().join("tests/e2e"), is_rust);
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
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
