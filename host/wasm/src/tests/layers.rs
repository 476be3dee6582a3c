//! The modules of this crate form layers: each may name those before it in the list of `lib.rs`. And every `unsafe` block is written down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// From the bottom up.
const LAYERS: [&str; 9] = ["exchange", "filter", "bindings", "load", "call", "abi", "host", "backend", "pool"];

/// Every source of the crate but tests, by its path below `src`, and its text without comments and unit tests.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&top, &mut paths);
    paths.sort();
    let relative = |path: &Path| path.strip_prefix(&top).unwrap().to_string_lossy().replace('\\', "/");
    let is_source = |path: &&PathBuf| {
        let path = relative(path);
        path.ends_with(".rs") && !path.starts_with("tests") && !path.ends_with("/tests.rs")
    };
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        (relative(path), lines.collect::<Vec<_>>().join("\n"))
    };
    paths.iter().filter(is_source).map(read).collect()
}

#[test]
fn modules_name_only_those_below_them() {
    let mut seen = 0;
    for (path, code) in sources() {
        let Some(layer) = LAYERS.iter().position(|layer| path.split(['/', '.']).next() == Some(layer)) else {
            assert_eq!(path, "lib.rs", "a module that is in no layer");
            continue;
        };
        for named in code.split("crate::").skip(1) {
            // `$crate` of a macro counts as well.
            let name: String = named.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let Some(below) = LAYERS.iter().position(|layer| *layer == name) else { continue };
            assert!(below <= layer, "src/{path} names `crate::{name}`, a layer above it");
            seen += 1;
        }
        let depth = path.matches('/').count() + usize::from(!path.ends_with("mod.rs"));
        let up = "super::".repeat(depth);
        assert!(depth == 0 || !code.contains(&up), "src/{path} reaches out of its layer by `{up}`: write `crate::`");
    }
    assert!(seen > 100, "{seen} names: is this the right pattern?");
}

#[test]
fn every_unsafe_block_is_written_down() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/internals/unsafe.md");
    let page = std::fs::read_to_string(page).unwrap();
    // A row: | `abi/mod.rs` | 3 | …
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let documented: BTreeMap<String, usize> =
        rows.filter_map(|(file, rest)| Some((file.to_owned(), rest.split(' ').next()?.parse().ok()?))).collect();
    let is_block =
        |line: &&str| line.contains("unsafe {") || line.contains("unsafe fn ") || line.contains("unsafe impl");
    let mut found = BTreeMap::new();
    for (path, code) in sources() {
        let blocks = code.lines().filter(is_block).count();
        if blocks > 0 {
            found.insert(path, blocks);
        }
    }
    assert_eq!(
        found, documented,
        "docs/src/internals/unsafe.md has a row for each file, with the number of its unsafe blocks"
    );
}
