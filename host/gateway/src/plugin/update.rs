//! Writes what was seen into files of cases, in the place of what was expected. Everything else of a file stays as it is, comments among it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value};

use super::{CaseResult, Summary, ToolError};
use crate::config;

/// The largest file of cases.
const MOST: u64 = 16 << 20;

/// Answers how many expectations have changed. Budgets, and parts of bodies, are for people to change.
pub fn update(summary: &Summary) -> Result<usize, ToolError> {
    let mut files: BTreeMap<&Path, Vec<&CaseResult>> = BTreeMap::new();
    for result in &summary.results {
        files.entry(&result.file).or_default().push(result);
    }
    let mut count = 0;
    for (path, results) in files {
        let is_new = |result: &&CaseResult| result.failures.iter().any(|failure| failure.right.is_some());
        if !results.iter().any(is_new) {
            continue;
        }
        let bytes = config::read_file(path, MOST).map_err(ToolError::file(path))?;
        let text = String::from_utf8_lossy(&bytes);
        let unreadable = |why: String| ToolError::Missing(format!("{}: {why}", path.display()));
        let mut document: DocumentMut = text.parse().map_err(|error| unreadable(format!("{error}")))?;
        for result in results {
            count += rewrite(&mut document, &text, result).map_err(unreadable)?;
        }
        std::fs::write(path, document.to_string()).map_err(ToolError::file(path))?;
    }
    Ok(count)
}

fn rewrite(document: &mut DocumentMut, text: &str, result: &CaseResult) -> Result<usize, String> {
    let mut count = 0;
    for failure in &result.failures {
        let Some((path, value)) = &failure.right else { continue };
        let mut place = case(document, text, result)?;
        if let Some(step) = failure.step {
            place = place
                .get_mut("step")
                .and_then(|steps| steps.get_mut(step))
                .ok_or_else(|| format!("the case `{}` has no step {}", result.name, step + 1))?;
        }
        let (last, tables) = path.split_last().ok_or("an expectation without a name")?;
        for key in std::iter::once("expect").chain(tables.iter().map(String::as_str)) {
            place = place.get_mut(key).ok_or_else(|| format!("`{key}` of the case `{}` is not there", result.name))?;
        }
        // Names of headers have no case.
        let key = place
            .as_table_like()
            .and_then(|table| table.iter().map(|(key, _)| key.to_owned()).find(|key| key.eq_ignore_ascii_case(last)));
        let key = key.unwrap_or_else(|| last.clone());
        let old = place.get_mut(&key).ok_or_else(|| format!("`{}` is not there", failure.key))?;
        replace(old, value);
        count += 1;
    }
    Ok(count)
}

/// The case that begins in the line of the result.
fn case<'d>(document: &'d mut DocumentMut, text: &str, result: &CaseResult) -> Result<&'d mut Item, String> {
    let heads = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("[[case]]"));
    let number = heads.take_while(|(at, _)| *at < result.line).count();
    let cases = document.get_mut("case").filter(|cases| cases.is_array_of_tables());
    let case = cases.and_then(|cases| cases.get_mut(number.checked_sub(1)?));
    case.ok_or_else(|| {
        format!("the case `{}` is not written as a table `[[case]]`, so it can't be changed here", result.name)
    })
}

/// Puts a value in the place of another, with the spaces and comments around it.
fn replace(old: &mut Item, new: &Json) {
    match (old.as_value().map(|value| value.decor().clone()), old.is_table()) {
        (Some(decor), _) => {
            let mut value = value_of(new);
            *value.decor_mut() = decor;
            *old = Item::Value(value);
        }
        (None, true) if new.is_object() => {
            let mut table = Table::new();
            for (key, value) in new.as_object().into_iter().flatten() {
                table.insert(key, Item::Value(value_of(value)));
            }
            if let Some(before) = old.as_table() {
                *table.decor_mut() = before.decor().clone();
                table.set_position(before.position());
            }
            *old = Item::Table(table);
        }
        (None, _) => *old = Item::Value(value_of(new)),
    }
}

fn value_of(json: &Json) -> Value {
    match json {
        // TOML has no null.
        Json::Null => Value::from(""),
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        // A literal `${` would be a reference.
        Json::String(text) => text.replace("${", "$${").into(),
        Json::Array(items) => Value::Array(items.iter().map(value_of).collect::<Array>()),
        Json::Object(members) => {
            let members = members.iter().map(|(key, value)| (key.as_str(), value_of(value)));
            Value::InlineTable(members.collect::<InlineTable>())
        }
    }
}
