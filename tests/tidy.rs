//! Reads the sources of the gateway and holds what docs/src/internals/architecture.md says of them. Only code counts: comments and
//! unit tests may name what they like, unless a rule says otherwise.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// For each module, the modules of the crate that it may name besides itself. `main` and `gateway` put everything together and
/// may name all. `crate::chain`, a function, is everybody's.
const MAY_NAME: [(&str, &[&str]); 18] = [
    ("allocator", &[]),
    ("coarse", &[]),
    ("deadline", &["coarse"]),
    ("embedded", &[]),
    ("telemetry", &[]),
    ("exchange", &[]),
    ("http", &["deadline"]),
    ("http1", &["http"]),
    ("route", &["http"]),
    ("config", &["http", "route"]),
    ("upstream", &["coarse", "deadline", "exchange", "http", "http1", "telemetry"]),
    ("services", &["deadline", "http", "http1", "telemetry", "upstream"]),
    ("wasm", &["deadline", "exchange", "http", "services", "telemetry"]),
    ("filter", &["deadline", "exchange", "http", "services", "telemetry", "wasm"]),
    ("server", &["allocator", "coarse", "deadline", "http", "http1", "telemetry"]),
    ("admin", &["server", "telemetry"]),
    (
        "snapshot",
        &[
            "config",
            "embedded",
            "exchange",
            "filter",
            "http",
            "route",
            "server",
            "services",
            "telemetry",
            "upstream",
            "wasm",
        ],
    ),
    (
        "proxy",
        &[
            "deadline",
            "exchange",
            "filter",
            "http",
            "http1",
            "route",
            "server",
            "services",
            "snapshot",
            "telemetry",
            "upstream",
        ],
    ),
];

/// Statuses that are no errors: to compare with, or what an answer starts from.
const NO_ERRORS: [&str; 6] = ["CONTINUE", "SWITCHING_PROTOCOLS", "OK", "NO_CONTENT", "FOUND", "NOT_MODIFIED"];

/// Who names error statuses: the one place that maps errors to them, and two servers of their own, which map none.
const NAME_ERROR_STATUSES: [&str; 3] = ["proxy/respond.rs", "admin.rs", "upstream/builtin.rs"];

struct Source {
    /// Below `host/src`, with `/`.
    path: String,
    text: String,
    /// Without comments and unit tests.
    code: String,
}

impl Source {
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().expect("a path has a first part")
    }

    fn is_in(&self, module: &str) -> bool {
        self.module() == module
    }

    /// The modules of the crate that the code names.
    fn names(&self) -> Vec<String> {
        let folders = self.path.matches('/').count();
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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
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
    let top = root().join("host/src");
    let mut paths = Vec::new();
    walk(&top, &mut paths);
    paths.sort();
    let sources: Vec<_> = paths.iter().map(|path| read(&top, path)).collect();
    assert!(sources.len() > 100, "{} sources: is this the right folder?", sources.len());
    sources
}

fn read(top: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(path).expect("a source in UTF-8");
    let path = path.strip_prefix(top).expect("a path below the top").to_string_lossy().replace('\\', "/");
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
        found.extend(lines.map(|(at, line)| format!("host/src/{}:{}: {}", source.path, at + 1, line.trim())));
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn modules_name_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for source in sources() {
        if matches!(source.module(), "main" | "gateway" | "lib") {
            continue;
        }
        let known = MAY_NAME.iter().find(|(module, _)| *module == source.module());
        let Some((module, allowed)) = known else { panic!("host/src/{} has no line in MAY_NAME", source.path) };
        for name in source.names() {
            assert_ne!(name, "{", "host/src/{}: write one `use crate::module` for each module", source.path);
            if name != *module && name != "chain" && !allowed.contains(&&*name) {
                wrong.push(format!("host/src/{} names `crate::{name}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "against the direction of dependencies:\n{}", wrong.join("\n"));
}

#[test]
fn only_wasm_names_the_engine() {
    forbid(r"\bwasmtime\b", |source| source.is_in("wasm"), "only wasm/ knows the engine");
}

#[test]
fn routes_and_configuration_do_not_wait() {
    let elsewhere = |source: &Source| !source.is_in("route") && !source.is_in("config");
    forbid(r"\basync\b|\.await\b|\btokio\b", elsewhere, "route/ and config/ are pure");
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
            assert!(fine, "host/src/{} names `{}`: proxy/respond.rs is the place", source.path, &found[0]);
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
    forbid(&format!(r#""({names})(\.wasm)?""#), |_| false, "shipped plugins are plugins like any other");
}

#[test]
fn only_main_prints() {
    forbid(r"\be?print(ln)?!", |source| source.path == "main.rs", "the log is `tracing`");
}

#[test]
fn every_file_says_its_job() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "host/src/{} does not open with `//!`", source.path);
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
    let intro: String = of("telemetry/metrics.rs").text.lines().take_while(|line| line.starts_with("//!")).collect();
    let mut documented: Vec<_> = in_list.captures_iter(&intro).map(|found| found[1].to_owned()).collect();
    documented.sort();
    let families: Vec<_> = written.into_iter().map(|(family, _)| family).collect();
    assert_eq!(families, documented, "the list at the top of telemetry/metrics.rs is not what is written");

    let taken = &of("services/filter_metrics.rs").code;
    for name in families.iter().filter_map(|family| family.strip_prefix("sluice_filter_")) {
        assert!(taken.contains(&format!("\"{name}\"")), "a filter could have a metric `{name}` of its own");
    }
}

/// The fuzz targets are a workspace of their own, which no test builds.
#[test]
fn what_the_fuzz_targets_take_in_finds_its_siblings() {
    let folder = root().join("tests/fuzz/src");
    let taken = Regex::new(r#"#\[path = "(.+)"\]"#).expect("a pattern");
    let declared = Regex::new(r"\bmod (\w+);").expect("a pattern");
    let used = Regex::new(r"\buse super::([a-z_0-9]+)(?:::|;)").expect("a pattern");
    let mut seen = 0;
    for file in ["http.rs", "http1.rs"] {
        let text = fs::read_to_string(folder.join(file)).expect("a source of the fuzz targets");
        let siblings: Vec<&str> =
            declared.captures_iter(&text).map(|found| found.get(1).expect("a group").as_str()).collect();
        for path in taken.captures_iter(&text).map(|found| found[1].to_owned()) {
            let of = fs::read_to_string(folder.join(&path)).expect("a source that the fuzz targets take in");
            for name in used.captures_iter(&code(&of)).map(|found| found[1].to_owned()) {
                seen += 1;
                assert!(
                    siblings.contains(&&*name),
                    "tests/fuzz/src/{file} takes in {path}, but not `{name}` beside it"
                );
            }
        }
    }
    assert!(seen >= 4, "{seen} uses: is this the right pattern?");
}

#[test]
fn comments_and_unit_tests_are_no_code() {
    let text = "//! a\nlet url = \"http://b\"; // c\n/// d\nfn e() {}\n#[cfg(test)]\nmod tests { f }\n";
    assert_eq!(code(text), "\nlet url = \"http://b\"; \n\nfn e() {}\n");
}
