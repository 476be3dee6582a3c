//! What the commands beside `run` say, to the operator and to nobody.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sluice_harness::fixtures;
use sluice_harness::gateway::binary;

use crate::support::{FAILS, filter, gateway, probe, route, setup, with_base};

const NOBODY: &str = "http://127.0.0.1:1";

/// The warnings of `check`, which has to be content all the same.
#[track_caller]
fn warnings(rest: &str) -> Vec<String> {
    let checked = setup().command_output(&with_base(rest), &["check"]);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let mut lines: Vec<String> = checked.stdout.lines().map(str::to_owned).collect();
    assert_eq!(lines.pop().as_deref(), Some("gateway.toml: ok"));
    lines
}

fn with_filter(filter: &str) -> String {
    route(NOBODY, &["a"]) + filter
}

fn plain(lines: &str) -> String {
    format!("[filters.a]\nplugin = \"plain\"\n{lines}\n")
}

/// A filter whose hook does this, whatever the request.
fn that_does(action: &str, lines: &str) -> String {
    with_filter(&filter("a", "probe", lines, json!({"on-request": [{"do": action}]})))
}

#[test]
fn a_filter_that_fails_for_every_request_is_refused_with_its_hook_and_the_key_that_allows_it() {
    let cases = [
        ("trap", "the hook on-request trapped: "),
        ("panic", "the probe panics"),
        ("memory", "the hook on-request needed more than its "),
        ("nonsense", "the hook on-request gave a bad answer: "),
        ("spin", "the hook on-request used more than its 100ms of CPU time"),
    ];
    for (action, expected) in cases {
        let toml = with_base(&that_does(action, ""));
        let checked = setup().command_output(&toml, &["check"]);
        let line = toml.lines().position(|line| line == "plugin = \"probe\"").expect("the plugin") + 1;
        let place = format!("gateway.toml:{line}:10: filters.a.plugin: the hook on-request ");
        assert!(!checked.status.success() && checked.stderr.contains(&place), "{action}: {checked:?}");
        assert!(checked.stderr.contains(expected), "{action}: {checked:?}");
        assert!(checked.stderr.contains("`on_failed_trial = \"warn\"`"), "{action}: {checked:?}");
    }
    assert!(setup().refused(&with_base(&that_does("trap", ""))).stderr.contains("the hook on-request trapped: "));
}

#[test]
fn a_failing_trial_that_is_allowed_is_a_warning() {
    let panics = that_does("panic", FAILS);
    let found = warnings(&panics);
    assert!(found[0].starts_with("warning: filter `a`: the hook on-request trapped: "), "{found:?}");
    assert!(found[0].contains("the probe panics") && found.len() == 1, "{found:?}");
    gateway(&panics).wait_log("the same", |line| {
        line["level"] == "WARN" && line["message"].as_str().is_some_and(|text| found[0].ends_with(text))
    });
}

#[test]
fn check_tells_of_addresses_that_can_t_be_bound() {
    // RFC 5737: an address of the documentation is nobody's.
    let found = warnings(&format!("[listeners.far]\nbind = \"192.0.2.1:8080\"\n{}", route(NOBODY, &[])));
    let expected = "warning: listeners.far.bind: 192.0.2.1:8080 can't be bound on this machine: ";
    assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    assert!(warnings(&format!("[listeners.near]\nbind = \"{address}\"\n{}", route(NOBODY, &[]))).is_empty());
}

#[test]
fn a_hook_that_traps_for_want_of_a_service_is_no_matter() {
    let granted = "grants = { kv = [\"sessions\"], http = [\"https://auth.test\"], secrets = { token = \"x\" } }";
    let found = warnings(&with_filter(&plain(granted)));
    assert!(found.iter().all(|line| !line.contains("trapped")), "{found:?}");
}

#[test]
fn check_tells_of_grants_that_are_missing_or_unknown() {
    let found = warnings(&with_filter(&plain("")));
    assert_eq!(
        found,
        [
            "warning: plugin `plain` says what it needs, but not in a way that is understood: files: there is no such grant",
            "warning: filter `a` needs grants that it does not have; add to the table `grants` of [filters.a] or [plugins.plain]: http = [\"https://auth.test\"], kv = [\"sessions\"], secrets = { token = \"…\" }",
        ]
    );
    let granted = "grants = { kv = [\"sessions\"], http = [\"https://auth.test\"], secrets = { token = \"x\" } }";
    assert_eq!(warnings(&with_filter(&plain(granted))), found[..1]);
}

#[test]
fn check_tells_of_grants_that_a_config_needs() {
    let limit = |lines: &str, key: &str| {
        let limits = json!({"limits": [{"key": key, "amount": 2, "window": "100s"}]});
        warnings(&with_filter(&filter("a", "rate-limit", lines, limits)))
    };
    let missing = "warning: filter `a` needs grants that it does not have; add to the table `grants` of [filters.a] or [plugins.rate-limit]: read_headers = [\"x-api-key\"]";
    assert_eq!(limit("", "header:X-Api-Key"), [missing]);
    assert_eq!(limit("grants = { read_headers = [\"x-api-key\"] }", "header:X-Api-Key"), [""; 0]);
    assert_eq!(limit("", "header:x-user"), [""; 0]);
    let split = |more: Value| {
        let mut config = json!({"split": [{"upstream": "o", "weight": 1}]});
        config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        warnings(&with_filter(&filter("a", "traffic-split", "", config))).len()
    };
    assert_eq!((split(json!({})), split(json!({"sticky": {}}))), (0, 1), "its plugin says that it may need `cookie`");
}

#[test]
fn a_filter_without_a_config_is_served() {
    let origin = sluice_harness::Origin::named("o");
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &plain("grants = { kv = [\"sessions\"] }")));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(origin.last().header("x-plain"), Some("1"));
    let refused = setup().refused(&with_base(&with_filter(&plain("config = { name = 1 }"))));
    assert!(
        refused.stderr.contains(": filters.a.config.name: unknown key `name`, there are no keys here"),
        "{refused:?}"
    );
}

#[test]
fn a_file_that_is_no_filter_is_named() {
    let toml = with_base(&with_filter(&filter("a", "broken", "", json!({}))));
    let checked = setup().file("plugins/broken.wasm", "no component").command_output(&toml, &["check"]);
    let named = "filters.a.plugin: plugins/broken.wasm: not a WebAssembly component";
    assert!(!checked.status.success() && checked.stderr.contains(named), "{checked:?}");
}

#[test]
fn inspect_tells_how_a_component_is_called() {
    let called = |plugin: &str| {
        let file = format!("plugins/{plugin}.wasm");
        let said = setup().as_component("plain").command_output("", &["plugin", "inspect", &file]);
        let line = said.stdout.lines().find(|line| line.starts_with("called ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{said:?}"))
    };
    assert_eq!(called("plain"), "called       directly");
    let why = "it has two core modules that are more than plumbing";
    assert_eq!(called("plain-component"), format!("called       as a component: {why}"));
}

#[test]
fn inspect_compiles_a_plugin_once() {
    let caches = tempfile::tempdir().expect("a directory");
    let cache = caches.path().join("sluice");
    let inspect = || {
        let said = setup()
            .env("XDG_CACHE_HOME", caches.path().to_str().expect("a path"))
            .command_output("", &["plugin", "inspect", "plugins/plain.wasm"]);
        assert!(said.status.success(), "{said:?}");
        let kept = std::fs::read_dir(&cache).expect("the cache").map(|entry| entry.expect("an entry").metadata());
        kept.map(|data| data.expect("a file").ino()).collect::<Vec<_>>()
    };
    let kept = inspect();
    assert_eq!(kept.len(), 1);
    assert_eq!(inspect(), kept, "a compiled plugin is not replaced");
}

#[test]
fn the_text_of_a_plugin_forges_no_line_and_steers_no_terminal() {
    let refuses =
        |text: &str| with_base(&with_filter(&probe("a", json!({"configure": [{"do": "refuse", "message": text}]}))));
    let checked = setup().command_output(&refuses("no\ngateway.toml: ok\u{1b}[2J"), &["check"]);
    assert!(checked.stderr.contains("no\\ngateway.toml: ok\\u{1b}[2J\n1 error\n"), "{checked:?}");
}

#[test]
fn inspect_shows_a_shipped_plugin_by_its_name() {
    let said = setup().command_output("", &["plugin", "inspect", "jwt-auth"]);
    let has = |line: &str| said.stdout.lines().any(|found| found == line);
    assert!(said.status.success() && has("name         jwt-auth"), "{said:?}");
    assert!(has("access       decides who may call") && has("docs         # jwt-auth"), "{said:?}");
    // The plugin's text stands behind the titles: no line of it can be taken for a row.
    let titles = said.stdout.lines().filter(|line| !line.starts_with(' ')).map(|line| &line[..12]);
    assert!(
        titles.clone().all(|title| title.trim_end().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())),
        "{said:?}"
    );
    assert_eq!(titles.filter(|title| title.starts_with("sha256 ")).count(), 1);
    let unknown = setup().command_output("", &["plugin", "inspect", "jwt-aut"]);
    assert!(!unknown.status.success() && unknown.stderr.contains("jwt-aut: "), "{unknown:?}");
}

#[test]
fn mistaken_names_and_equal_routes_are_told_with_what_they_are_like() {
    let errors = |rest: &str, plugins: &[&str]| {
        let mut setup = setup();
        for plugin in plugins {
            setup = setup.file(&format!("plugins/{plugin}.wasm"), "no component");
        }
        let checked = setup.command_output(&with_base(rest), &["check"]);
        assert!(!checked.status.success(), "{checked:?}");
        checked.stderr
    };
    let of = |plugin: &str| with_filter(&filter("a", plugin, "", json!({})));
    assert!(errors(&of("my_filter"), &["my-filter"]).contains("; did you mean `my-filter`?"));
    assert!(errors(&of("rate-limt"), &[]).contains("; did you mean `rate-limit`?"));
    let equal = "[routes.first]\nmatch = { path = \"/x\" }\nrespond = { status = 204 }\n\
                 [routes.second]\nmatch = { path = \"/x\" }\nrespond = { status = 204 }\n";
    let told = errors(equal, &[]);
    let place = told.split_once("routes.second.match: matches the same requests as the route `first` at ");
    assert!(place.is_some_and(|(_, at)| at.contains("gateway.toml:")), "{told}");
}

/// The exit code and standard error of a command whose reader has gone.
fn unread(arguments: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(binary()).args(arguments).stdout(writer).output().expect("the sluice binary");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let file = fixtures::file("plain");
    let file = file.to_str().expect("a path");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../gateway.toml");
    for arguments in [&["version"][..], &["--help"], &["check", example], &["plugin", "inspect", file]] {
        assert_eq!(unread(arguments), (Some(0), String::new()), "{arguments:?}");
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(binary());
    command.args(["check", "/no/such.toml"]).stdout(Stdio::null()).stderr(writer);
    assert_eq!(command.status().expect("the sluice binary").code(), Some(1));
}
