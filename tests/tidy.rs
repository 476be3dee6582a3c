//! Reads the sources of the gateway and holds what docs/src/internals/architecture.md says of them. Only code counts: comments and
//! unit tests may name what they like, unless a rule says otherwise.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// For each module of the gateway, the modules of the gateway that it may name besides itself. `main` and `gateway` put everything together
/// and may name all. The other crates are cargo's business, and `crate::chain`, a function, is everybody's.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("allocator", &[]),
    ("embedded", &[]),
    ("telemetry", &[]),
    ("background", &["telemetry"]),
    ("watcher", &["background"]),
    ("cache", &["config"]),
    ("certs", &["config"]),
    ("consumers", &["background", "config", "telemetry", "watcher"]),
    ("sockets", &["config"]),
    ("durable", &[]),
    ("acme", &["background", "certs", "config", "durable", "outbound"]),
    ("control", &["acme", "background", "config", "server", "snapshot", "telemetry", "upstream", "watcher"]),
    ("config", &["telemetry"]),
    ("upstream", &["background", "config", "durable", "telemetry", "watcher"]),
    ("outbound", &["background", "telemetry", "upstream"]),
    ("filter", &["config", "telemetry"]),
    ("server", &["allocator", "certs", "config", "sockets", "telemetry"]),
    (
        "admin",
        &[
            "background",
            "cache",
            "certs",
            "config",
            "control",
            "filter",
            "snapshot",
            "sockets",
            "telemetry",
            "upstream",
        ],
    ),
    (
        "snapshot",
        &["cache", "certs", "config", "consumers", "embedded", "filter", "outbound", "server", "telemetry", "upstream"],
    ),
    ("plugin", &["config", "embedded", "filter", "outbound", "snapshot", "telemetry"]),
    ("proxy", &["cache", "filter", "outbound", "server", "snapshot", "telemetry", "upstream"]),
];

/// The other crates, by the names that the gateway has for them, and `chain`.
const EVERYBODYS: [&str; 10] =
    ["chain", "coarse", "deadline", "exchange", "http", "http1", "proxy_protocol", "route", "services", "wasm"];

/// Of those, what a module must not name: for the rest, cargo's dependencies are the rule.
const MUST_NOT_NAME: [(&str, &[&str]); 7] = [
    ("allocator", &["exchange", "http", "http1", "route", "services", "wasm"]),
    ("telemetry", &["exchange", "http", "http1", "route", "services", "wasm"]),
    ("config", &["exchange", "http1"]),
    ("upstream", &["route", "services", "wasm"]),
    ("outbound", &["exchange", "route", "wasm"]),
    ("filter", &["http1", "route"]),
    ("server", &["exchange", "route", "services", "wasm"]),
];

/// Statuses that are no errors: to compare with, or what an answer starts from.
const NO_ERRORS: [&str; 8] = [
    "CONTINUE",
    "SWITCHING_PROTOCOLS",
    "OK",
    "NO_CONTENT",
    "PARTIAL_CONTENT",
    "FOUND",
    "NOT_MODIFIED",
    "PERMANENT_REDIRECT",
];

/// Who names error statuses: the one place that maps errors to them, and servers of their own, which map none.
const NAME_ERROR_STATUSES: [&str; 7] = [
    "gateway/proxy/respond.rs",
    "gateway/admin/pages.rs",
    "gateway/admin/problem.rs",
    "gateway/admin/endpoint.rs",
    "gateway/admin/endpoints.rs",
    "gateway/upstream/builtin.rs",
    "gateway/upstream/files/head.rs",
];

struct Source {
    /// Below `host`, without `src`: `gateway/proxy/mod.rs`.
    path: String,
    text: String,
    /// Without comments and unit tests.
    code: String,
}

impl Source {
    fn package(&self) -> &str {
        self.path.split('/').next().expect("a path has a first part")
    }

    fn module(&self) -> &str {
        self.path.split(['/', '.']).nth(1).expect("a path has a second part")
    }

    fn is_in(&self, package: &str, module: &str) -> bool {
        self.package() == package && self.module() == module
    }

    /// The modules of the crate that the code names.
    fn names(&self) -> Vec<String> {
        let folders = self.path.matches('/').count() - 1;
        let depth = if self.path.ends_with("/mod.rs") { folders } else { folders + 1 };
        let paths = Regex::new(r"\bcrate::([a-z_]+|\{)|((?:\bsuper::)+)([a-z_]+)").expect("a pattern");
        paths
            .captures_iter(&self.code)
            .filter_map(|found| match (found.get(1), found.get(2)) {
                (Some(name), _) => Some(name.as_str().to_owned()),
                (_, Some(supers)) if supers.as_str().matches("super").count() >= depth => Some(found[3].to_owned()),
                _ => None,
            })
            .collect()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|ending| ending == "rs") {
                found.push(entry);
            }
        }
    }
    let mut sources = Vec::new();
    for package in ["cache", "gateway", "http", "services", "wasm"] {
        let top = root().join("host").join(package).join("src");
        let mut paths = Vec::new();
        walk(&top, &mut paths);
        paths.sort();
        sources.extend(paths.iter().map(|path| read(package, &top, path)));
    }
    assert!(sources.len() > 100, "{} sources: is this the right folder?", sources.len());
    sources
}

fn read(package: &str, top: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("a source in UTF-8");
    let path = format!("{package}/{}", path.strip_prefix(top).expect("a path below the top").display());
    let code = if path.ends_with("/tests.rs") { String::new() } else { code(&text) };
    Source { path, text, code }
}

/// Unit tests stand at the end of a file. What follows `//` is a comment, unless it is a part of a URL.
fn code(text: &str) -> String {
    let comment = Regex::new(r"(^|[^:])//.*").expect("a pattern");
    let (before, _) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((text, ""));
    before.lines().map(|line| comment.replace(line, "$1") + "\n").collect()
}

/// Fails with every line of code that has the pattern where it is not allowed.
fn forbid(pattern: &str, allowed: impl Fn(&Source) -> bool, why: &str) {
    let pattern = Regex::new(pattern).expect("a pattern");
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !allowed(source)) {
        let lines = source.code.lines().enumerate().filter(|(_, line)| pattern.is_match(line));
        found.extend(lines.map(|(at, line)| format!("host/{}:{}: {}", source.path, at + 1, line.trim())));
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn modules_name_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.package() == "gateway") {
        if matches!(source.module(), "main" | "gateway" | "lib") {
            continue;
        }
        let known = MAY_NAME.iter().find(|(module, _)| *module == source.module());
        let Some((module, allowed)) = known else { panic!("host/{} has no line in MAY_NAME", source.path) };
        for name in source.names() {
            assert_ne!(name, "{", "host/{}: write one `use crate::module` for each module", source.path);
            let refused = MUST_NOT_NAME.iter().any(|(of, names)| of == module && names.contains(&&*name));
            let known = EVERYBODYS.contains(&&*name) || allowed.contains(&&*name);
            if name != *module && (refused || !known) {
                wrong.push(format!("host/{} names `crate::{name}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "against the direction of dependencies:\n{}", wrong.join("\n"));
}

#[test]
fn only_wasm_names_the_engine() {
    forbid(r"\bwasmtime\b", |source| source.package() == "wasm", "only the wasm crate knows the engine");
}

#[test]
fn routes_and_configuration_do_not_wait() {
    let elsewhere = |source: &Source| !source.is_in("http", "route") && !source.is_in("gateway", "config");
    forbid(r"\basync\b|\.await\b|\btokio\b", elsewhere, "route/ and config/ are pure");
}

#[test]
fn the_rules_of_the_cache_are_pure() {
    let elsewhere = |source: &Source| source.package() != "cache";
    let why = "times come in as arguments, and nothing waits";
    forbid(r"\basync\b|\.await\b|\btokio\b|\bnow\(\)|\.elapsed\(\)", elsewhere, why);
}

#[test]
fn one_place_turns_errors_into_statuses() {
    let named = Regex::new(r"StatusCode::([A-Z_]+)|from_u16\(([45]\d\d)\)").expect("a pattern");
    for source in sources() {
        if NAME_ERROR_STATUSES.contains(&&*source.path) {
            continue;
        }
        for found in named.captures_iter(&source.code) {
            let fine = found.get(1).is_some_and(|name| NO_ERRORS.contains(&name.as_str()));
            assert!(fine, "host/{} names `{}`: proxy/respond.rs is the place", source.path, &found[0]);
        }
    }
}

#[test]
fn the_host_names_no_plugin() {
    let plugins =
        fs::read_dir(root().join("plugins")).expect("the shipped plugins").map(|entry| entry.expect("an entry"));
    let names: Vec<_> = plugins
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| regex::escape(&entry.file_name().to_string_lossy()))
        .collect();
    assert!(!names.is_empty());
    let names = names.join("|");
    // `api-key` is the name of a header, too.
    let allowed = |source: &Source| source.path == "http/http/headers.rs";
    forbid(&format!(r#""({names})(\.wasm)?""#), allowed, "shipped plugins are plugins like any other");
}

#[test]
fn only_main_prints() {
    forbid(r"\be?print(ln)?!", |source| source.path == "gateway/main.rs", "the log is `tracing`");
}

#[test]
fn every_file_says_its_job() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "host/{} does not open with `//!`", source.path);
    }
}

#[test]
fn a_family_of_metrics_is_written_once_and_documented() {
    let list = sources();
    let of = |path: &str| list.iter().find(|source| source.path == path).expect("a known file");
    let literal = Regex::new(r#""((?:sluice|process)_\w+)""#).expect("a pattern");
    let mut written: Vec<(String, &str)> = Vec::new();
    for source in &list {
        written.extend(literal.captures_iter(&source.code).map(|found| (found[1].to_owned(), &*source.path)));
    }
    written.sort();
    written.dedup();
    for pair in written.windows(2) {
        assert_ne!(pair[0].0, pair[1].0, "a family in {} and in {}", pair[0].1, pair[1].1);
    }

    let header = Regex::new(r#"family\(\s*"(\w+)""#).expect("a pattern");
    let mut headers: Vec<_> =
        list.iter().flat_map(|source| header.captures_iter(&source.code).map(|found| found[1].to_owned())).collect();
    headers.sort();
    assert!(headers.windows(2).all(|pair| pair[0] != pair[1]), "a family is begun twice: {headers:?}");

    let in_list = Regex::new(r"`((?:sluice|process)_[a-z_]+)`").expect("a pattern");
    let intro: String =
        of("gateway/telemetry/metrics.rs").text.lines().take_while(|line| line.starts_with("//!")).collect();
    let mut documented: Vec<_> = in_list.captures_iter(&intro).map(|found| found[1].to_owned()).collect();
    documented.sort();
    let families: Vec<_> = written.into_iter().map(|(family, _)| family).collect();
    assert_eq!(families, documented, "the list at the top of telemetry/metrics.rs is not what is written");

    let taken = &of("services/filter_metrics.rs").code;
    for name in families.iter().filter_map(|family| family.strip_prefix("sluice_filter_")) {
        assert!(taken.contains(&format!("\"{name}\"")), "a filter could have a metric `{name}` of its own");
    }
}

#[test]
fn comments_and_unit_tests_are_no_code() {
    let text = "//! a\nlet url = \"http://b\"; // c\n/// d\nfn e() {}\n#[cfg(test)]\nmod tests { f }\n";
    assert_eq!(code(text), "\nlet url = \"http://b\"; \n\nfn e() {}\n");
}

/// A file that no `mod` leads to is never compiled, and nobody notices that it is dead.
#[test]
fn every_source_is_compiled() {
    let module = Regex::new(r#"(?m)^\s*(?:#\[path = "([^"]+)"\]\s*)?(?:pub(?:\([a-z]+\))? )?mod ([a-z0-9_]+);"#)
        .expect("a pattern");
    let target = Regex::new(r#"(?m)^path = "([^"]+\.rs)""#).expect("a pattern");
    let (mut all, mut manifests) = (Vec::new(), Vec::new());
    let mut folders: Vec<_> = ["host", "sdk", "plugins", "tests/harness"].map(|folder| root().join(folder)).into();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                all.push(path.canonicalize().expect("a file"));
            } else if path.file_name().is_some_and(|name| name == "Cargo.toml") {
                manifests.push(path);
            }
        }
    }
    // What cargo compiles: the usual places, and those that a manifest names.
    let mut compiled: Vec<PathBuf> = Vec::new();
    for manifest in &manifests {
        let folder = manifest.parent().expect("a folder");
        compiled.extend(["src/lib.rs", "src/main.rs", "build.rs"].map(|usual| folder.join(usual)));
        for usual in ["tests", "examples", "benches"] {
            let files = fs::read_dir(folder.join(usual)).into_iter().flatten();
            compiled.extend(files.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()));
        }
        let text = fs::read_to_string(manifest).expect("a manifest");
        compiled.extend(target.captures_iter(&text).map(|found| folder.join(&found[1])));
    }
    let mut compiled: Vec<PathBuf> = compiled.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let roots = compiled.len();
    let mut next = 0;
    while let Some(file) = compiled.get(next).cloned() {
        let folder = file.parent().expect("a folder");
        let is_root = next < roots || file.file_name().is_some_and(|name| name == "mod.rs");
        let below = if is_root { folder.to_owned() } else { file.with_extension("") };
        for found in module.captures_iter(&fs::read_to_string(&file).expect("a source")) {
            let places = match found.get(1) {
                Some(path) => vec![folder.join(path.as_str())],
                None => vec![below.join(format!("{}.rs", &found[2])), below.join(&found[2]).join("mod.rs")],
            };
            for place in places.iter().filter_map(|place| place.canonicalize().ok()) {
                if !compiled.contains(&place) {
                    compiled.push(place);
                }
            }
        }
        next += 1;
    }
    let orphans: Vec<_> = all.iter().filter(|path| !compiled.contains(path)).collect();
    assert!(all.len() > 150, "{} sources: are these the right folders?", all.len());
    assert!(orphans.is_empty(), "no `mod` leads to these: {orphans:#?}");
}
