//! Pages that list what the gateway has are whole: errors and metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::markdown::root;

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The sources of the host.
fn sources() -> Vec<PathBuf> {
    below("host")
}

fn tests() -> Vec<PathBuf> {
    [below("tests/e2e"), below("tests/stress")].concat()
}

/// The files in Rust below a folder.
fn below(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|ending| ending == "rs") {
                found.push(entry);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found
}

fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).expect("a pattern");
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

#[test]
fn every_error_is_documented() {
    let source = sources().into_iter().find(|path| path.ends_with("proxy/error.rs")).expect("proxy/error.rs");
    let kinds = found(r#"Kind::\w+ => "([a-z-]+)""#, &read(source));
    assert!(kinds.len() > 20, "{kinds:?}: is this the right pattern?");
    let documented = found("`([a-z-]+)`", &read("docs/src/operation/errors.md"));
    let missing: Vec<_> = kinds.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/src/operation/errors.md has no {missing:?}");
}

#[test]
fn every_metric_is_documented() {
    let text: String = sources().into_iter().map(read).collect();
    let mut families = found(r#"family\(\s*"((?:sluice|process)_\w+)""#, &text);
    // Those that are written under the name of a variable are in the list of the module that counts.
    let list: String = text.lines().filter(|line| line.starts_with("//! | `")).collect();
    families.extend(found("`((?:sluice|process)_[a-z_]+)`", &list));
    let named = found(r#""((?:sluice|process)_\w+)""#, &text);
    assert!(families.len() > 15, "{families:?}: is this the right pattern?");
    let page = read("docs/src/operation/metrics.md");
    let documented = found("`((?:sluice|process)_[a-z_]+)`", &page);
    let missing: Vec<_> = families.difference(&documented).filter(|name| *name != "sluice_test").collect();
    assert!(missing.is_empty(), "docs/src/operation/metrics.md has no {missing:?}");
    let gone: Vec<_> = documented.difference(&named).collect();
    assert!(gone.is_empty(), "docs/src/operation/metrics.md has {gone:?}, which nothing writes");
    let mut rows = BTreeSet::new();
    let twice =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).find(|row| !rows.insert(*row));
    assert_eq!(twice, None, "docs/src/operation/metrics.md has it twice");
}

/// Paths such as `proxy/record.rs` and `route/`, wherever in the host they are.
#[test]
fn the_architecture_names_files_that_exist() {
    let page = read("docs/src/internals/architecture.md");
    let named = found(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+(?:\.rs|/))`", &page);
    assert!(named.len() > 40, "{named:?}: is this the right pattern?");
    let files: BTreeSet<_> = sources().iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let there = |name: &String| {
        let inside = format!("/{name}");
        root().join(name).exists()
            || files.iter().any(|file| file.ends_with(&inside) || name.ends_with('/') && file.contains(&inside))
    };
    let gone: Vec<_> = named.iter().filter(|name| !there(name)).collect();
    assert!(gone.is_empty(), "docs/src/internals/architecture.md names {gone:?}");
}

/// The page on isolation names the tests that hold each promise, in the last column of its first table.
#[test]
fn the_tests_of_isolation_are_there() {
    let page = read("docs/src/filters/isolation.md");
    let (_, table) = page.split_once("## What is guaranteed").expect("the promises");
    let (table, _) = table.split_once("## What is not").expect("the end of the promises");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let named: BTreeSet<String> = rows
        .flat_map(|row| found("`([a-z_]+)`", row.trim_end_matches(" |").rsplit_once('|').expect("a row").1))
        .collect();
    assert!(named.len() > 25, "{named:?}: is this the right table?");
    let text: String = sources().into_iter().chain(tests()).map(read).collect();
    let gone: Vec<_> = named.iter().filter(|name| !text.contains(&format!("fn {name}("))).collect();
    assert!(gone.is_empty(), "docs/src/filters/isolation.md names {gone:?}");
}
