//! Filters in every language that has a package in `sdk/`: the same ones (`examples/filters/`), with the same requests.

#![allow(clippy::print_stdout, reason = "at full length, the figures are read")]

mod build;
mod calls;
mod compiled;
mod streams;
mod warm;

use serde_json::{Value, json};
use sluice_harness::load::{flood, scaled};
use sluice_harness::{Gateway, Origin, Reply};

use self::build::{Built, built};
use crate::support::{BASE, with_base};

/// A body with what tends to break: text that is not ASCII, a surrogate pair, a number beyond 2^53.
const BODY: &str = r#"{"user":"Jörg","password":"x","count":12345678901234567890,"list":[{"card":"1","note":"gr\u00fcn \ud83d\ude00"}]}"#;

/// A gateway with the filters of every language, named `LANGUAGE-FILTER`.
fn start(languages: &[Built], toml: &str) -> Gateway {
    setup(languages).start(toml)
}

fn setup(languages: &[Built]) -> sluice_harness::gateway::Setup {
    let mut setup = Gateway::setup();
    for language in languages {
        for (filter, file) in &language.filters {
            setup = setup.plugin(&format!("{}-{filter}", language.name), file);
        }
    }
    setup
}

fn route(language: &str, origin: &Origin) -> String {
    format!(
        r#"
[filters.{language}-stamp]
config = {{ header = "x-stamp", value = "grün" }}
[filters.{language}-api-key]
grants = {{ read_headers = ["x-api-key"] }}
config = {{ keys = {{ k1 = {{ name = "ann", account = 9007199254740991 }} }} }}
[filters.{language}-redact]
grants = {{ body = true }}
config = {{ fields = ["password", "card"] }}
[routes.{language}]
match = {{ path = "/{language}/**" }}
upstream = "{}"
pipeline = ["{language}-stamp", "{language}-api-key", "{language}-redact", "show"]
"#,
        origin.url()
    )
}

const SHOW: &str = r#"
[filters.show]
plugin = "transform"
config = { request = { headers = { set = { x-account = "{context.api-key.account}", x-consumer = "{consumer}" } } } }
"#;

fn origin() -> Origin {
    Origin::serve(|request| match request.target.rsplit('/').next() {
        Some("json") => Reply::text(BODY).with_type("application/json"),
        Some("broken") => Reply::text("{\"password\":").with_type("application/json"),
        _ => Reply::text(BODY),
    })
}

trait WithType {
    fn with_type(self, kind: &str) -> Reply;
}

impl WithType for Reply {
    fn with_type(self, kind: &str) -> Reply {
        let Reply::Full(status, _, body) = self else { unreachable!("made as a full one") };
        Reply::Full(status, vec![("content-type".into(), kind.into())], body)
    }
}

#[test]
fn the_same_filters_do_the_same_in_every_language() {
    let languages = built();
    let origin = origin();
    let routes: String = languages.iter().map(|language| route(language.name, &origin)).collect();
    let gateway = start(languages, &(with_base(SHOW) + &routes));
    let mut client = gateway.client();
    for language in languages {
        let name = language.name;
        let mut ask = |path: &str, key: Option<&str>| {
            let fields: Vec<_> = key.map(|key| ("x-api-key", key)).into_iter().collect();
            client.request("GET", &format!("/{name}/{path}"), &fields, b"")
        };
        assert_eq!(ask("x", Some("k1")).text(), BODY, "{name}: what is no JSON passes as it is");
        let seen = origin.last();
        let seen = ["x-stamp", "x-account", "x-consumer"].map(|field| seen.header(field));
        // The harness reads a field as Latin-1: "grün" in UTF-8.
        assert_eq!(seen, [Some("gr\u{c3}\u{bc}n"), Some("9007199254740991"), Some("ann")], "{name}");

        let before = origin.count();
        for (key, reason, detail) in
            [(None, "key-missing", "an API key is needed"), (Some("k2"), "key-unknown", "the API key is not valid")]
        {
            let refused = ask("x", key);
            assert_eq!(refused.status, 401, "{name}: {reason}");
            assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{name}");
            assert_eq!(refused.header("www-authenticate"), Some("ApiKey"), "{name}");
            let mut document = refused.json();
            let id = document.as_object_mut().expect("an object").shift_remove("request_id");
            assert!(id.is_some_and(|id| id.as_str().is_some_and(|id| id.len() == 32)), "{name}: {document}");
            let expected = json!({"type": "about:blank", "title": "Unauthorized", "status": 401, "detail": detail});
            assert_eq!(document, expected, "{name}");
            let filter = format!("{name}-api-key");
            let labels = [("filter", filter.as_str()), ("reason", reason)];
            assert_eq!(gateway.metric("sluice_filter_refused", &labels), Some(1.0), "{name}: {reason}");
            assert_eq!(gateway.metric("sluice_response_reasons_total", &labels), Some(1.0), "{name}: {reason}");
        }
        assert_eq!(origin.count(), before, "{name}: what is refused goes nowhere");

        let redacted = ask("json", Some("k1"));
        let expected: Value = serde_json::from_str(
            r#"{"user":"Jörg","password":"[redacted]","count":12345678901234567890,"list":[{"card":"[redacted]","note":"grün 😀"}]}"#,
        )
        .expect("JSON");
        assert_eq!(redacted.json(), expected, "{name}");
        let broken = ask("broken", Some("k1"));
        assert_eq!(
            (broken.status, &broken.json()["detail"]),
            (502, &json!("the upstream's answer is not JSON")),
            "{name}"
        );
        for filter in ["stamp", "api-key", "redact"] {
            let filter = format!("{name}-{filter}");
            let called = gateway.metric("sluice_filter_info", &[("filter", &filter), ("called", "direct")]);
            assert_eq!(called.is_some(), language.direct, "{filter}: called directly");
        }
    }
}

#[test]
fn a_refused_config_is_shown_with_its_key_in_every_language() {
    let languages = built();
    let filters: String = languages
        .iter()
        .map(|language| {
            let name = language.name;
            let keys = r#"keys = { k1 = { name = "ann", account = "many" } }"#;
            format!(
                "[filters.{name}-stamp]\nconfig = {{ header = \"x-a\", value = \"b\", colour = \"red\" }}\n\
                 [filters.{name}-api-key]\nconfig = {{ {keys} }}\n"
            )
        })
        .collect();
    let said = setup(languages).command_output(&format!("{BASE}{filters}"), &["check", "gateway.toml"]);
    let said = said.stdout + &said.stderr;
    for language in languages {
        let name = language.name;
        let line =
            |part: &str| said.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {said}"));
        let unknown = line(&format!("filters.{name}-stamp.config"));
        assert!(unknown.contains("colour") && unknown.contains("unknown"), "{unknown}");
        let account = line(&format!("filters.{name}-api-key.config.keys"));
        assert!(account.contains("account"), "{account}");
    }
}

#[test]
fn the_gateways_reason_reaches_the_log_from_every_language() {
    let languages = built();
    let origin = origin();
    let mut toml = BASE.to_owned();
    for language in languages {
        let name = language.name;
        toml.push_str(&format!(
            "[filters.{name}-stamp]\non_failed_trial = \"warn\"\nconfig = {{ header = \"connection\", value = \"x\" }}\n\
             [routes.{name}]\nmatch = {{ path = \"/{name}/**\" }}\nupstream = \"{}\"\npipeline = [\"{name}-stamp\"]\n",
            origin.url()
        ));
    }
    let gateway = start(languages, &toml);
    for language in languages {
        let filter = format!("{}-stamp", language.name);
        assert_eq!(gateway.get(&format!("/{}/x", language.name)).status, 500);
        let line = gateway.wait_log("the reason", |line| {
            line["filter"] == filter.as_str() && line.to_string().contains("connection")
        });
        let line = line.to_string();
        assert!(line.contains("set-header") || line.contains("invalid"), "{line}");
        assert!(!line.contains("[object"), "{line}");
    }
}

/// Bytes by which the largest memory of an instance may still grow in the second half of the calls. Where memory is freed at once, it stays as it
/// is. A collector lets it grow until it runs, and how far depends on when that is.
fn may_grow(language: &str) -> u32 {
    match language {
        "rust" | "c" | "zig" => 0,
        "javascript" | "typescript" | "python" => 256 << 10,
        "go" => 4 << 20,
        other => panic!("how much may {other} grow?"),
    }
}

/// Bytes of a body that a filter hands over are its own to free: an instance that kept them would be at its limit soon.
#[test]
fn bodies_that_are_replaced_leave_no_memory() {
    let body = json!({"password": "x", "note": "n".repeat(64 << 10)}).to_string();
    let origin = Origin::serve(move |_| Reply::text(body.clone()).with_type("application/json"));
    for language in built() {
        let filter = format!("{}-redact", language.name);
        let gateway = start(
            std::slice::from_ref(language),
            &with_base(&format!(
                "[filters.{filter}]\ngrants = {{ body = true }}\nconfig = {{ fields = [\"password\"] }}\n\
                 limits = {{ cpu = \"10s\", wall = \"60s\" }}\n\
                 [routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{}\"\npipeline = [\"{filter}\"]\n",
                origin.url()
            )),
        );
        let mut client = gateway.client();
        let mut half = || {
            for _ in 0..80 {
                let answer = client.request("GET", "/", &[], b"");
                assert_eq!((answer.status, &answer.json()["password"]), (200, &json!("[redacted]")), "{filter}");
            }
            gateway.metric("sluice_filter_memory_peak_bytes", &[("filter", &filter)]).expect("called")
        };
        let (first, second) = (half(), half());
        assert!(second - first <= f64::from(may_grow(language.name)), "{filter}: {first} and then {second} bytes");
    }
}

/// The same for the whole process: what the allocator keeps differs by some pages from time to time.
const GATEWAY_MAY_GROW: u64 = 4 << 20;

/// SLUICE_LANGUAGES=1000000 for the long run, SLUICE_LANGUAGES_ONLY=go for one language. Go's collector runs many times in the short one, too: a
/// request leaves some kilobytes. Nothing here depends on how fast the machine is, but for the 10 s that a call may take with its waits.
#[test]
fn many_calls_leave_no_trap_and_no_memory() {
    let only = std::env::var("SLUICE_LANGUAGES_ONLY").ok();
    let wanted = |language: &&Built| only.as_deref().is_none_or(|only| only == language.name);
    let languages: Vec<&Built> = built().iter().filter(wanted).collect();
    assert!(!languages.is_empty(), "there is no language {only:?}, or its tools are missing");
    let origin = origin();
    let total = scaled("SLUICE_LANGUAGES", 5_000);
    // One gateway for each: what one language does to the process is not blamed on another.
    for language in languages {
        let name = language.name;
        let filter = format!("{name}-api-key");
        let gateway = start(
            std::slice::from_ref(language),
            &with_base(&format!(
                "[filters.{filter}]\ngrants = {{ read_headers = [\"x-api-key\"] }}\n\
                 config = {{ keys = {{ k1 = {{ name = \"ann\", account = 1 }} }} }}\n\
                 instances = {{ uses = 4294967295 }}\nlimits = {{ cpu = \"1s\", wall = \"10s\" }}\n\
                 [routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{}\"\npipeline = [\"{filter}\"]\n",
                origin.url()
            )),
        );
        let half = || {
            let report = flood(gateway.address(), 4, total / 2, "/x", &[]);
            assert_eq!((report.count(401), report.total()), (total / 2, total / 2), "{filter}: {:?}", report.statuses);
            let peak = gateway.metric("sluice_filter_memory_peak_bytes", &[("filter", &filter)]).expect("called");
            (peak, gateway.resident())
        };
        let ((first, resident_first), (second, resident_second)) = (half(), half());
        for kind in ["trap", "memory", "deadline", "timeout", "declared", "bad-answer", "instantiate", "busy"] {
            let failed = gateway.metric("sluice_filter_failures_total", &[("filter", &filter), ("kind", kind)]);
            assert_eq!(failed.unwrap_or(0.0), 0.0, "{filter}: {kind}");
        }
        let grown = second - first;
        println!(
            "{filter}: {total} calls, memory of an instance {first} and then {second}, of the gateway {resident_first} and then {resident_second}"
        );
        assert!(grown <= f64::from(may_grow(name)), "{filter}: {grown} bytes more in the second half");
        let grown = resident_second.saturating_sub(resident_first);
        assert!(grown <= GATEWAY_MAY_GROW + u64::from(may_grow(name)), "{filter}: the gateway has {grown} bytes more");
    }
}
