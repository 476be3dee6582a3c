//! A filter does the same whether its core module is called directly or wasmtime runs its component: every function of the interface,
//! in every hook, with ordinary, odd and refused arguments.

mod calls;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use sluice_harness::gateway::Setup;
use sluice_harness::origin::{Reply, Request, nobody};
use sluice_harness::{Gateway, Origin, Response, eventually};

use crate::support::{filter, setup, with_base};

const CONSUMER: &str = r#"
[consumers.acme]
plan = "göld"
labels = { tier = "partner", "ä" = "ö" }
keys = ["sha256:ad44dc8e51cfbfa55e81ddbb626b466241069045066846e7e4cd096131505290"]
passwords = { alice = "$argon2id$v=19$m=19456,t=2,p=1$aGMM00XIJVOwb+8j/ecM0w$DmSdNDkJu55gcDfWXducJ/CyuqcZ4gUJRd5oB9NAi2M" }
"#;

/// The field of a request that has a hook called functions; none: it always does. Not all answers of all exchanges can be logged, and
/// a response whose body was replaced has no trailers.
fn asked_by(hook: &str) -> Option<&'static str> {
    match hook {
        "select-upstream" | "on-complete" => Some("x-all"),
        "on-response" | "on-response-body" => Some("x-body"),
        _ => None,
    }
}

/// As few actions as make lines that are not cut: a filter may log a hundred in a second.
fn actions(hook: &str, calls: &[Value]) -> Vec<Value> {
    let action = |(number, some): (usize, &[Value])| {
        let mut action = json!({"do": "functions", "calls": some, "to": format!("x-{hook}-{number}")});
        if let Some(field) = asked_by(hook) {
            action["if-header"] = field.into();
        }
        action
    };
    calls.chunks(35).enumerate().map(action).collect()
}

/// What is seen of a filter from outside.
#[derive(Debug, PartialEq)]
struct Seen {
    requests: Vec<Vec<String>>,
    responses: Vec<Vec<String>>,
    lines: BTreeSet<String>,
    metrics: Vec<String>,
}

/// All but what has to differ. Fields with the answers of functions come one line for each answer.
fn told<'a>(fields: impl IntoIterator<Item = &'a (String, String)>) -> Vec<String> {
    let kept = fields.into_iter().filter(|(name, _)| !["x-request-id", "traceparent", "date"].contains(&&**name));
    kept.flat_map(|(name, value)| value.split(" | ").map(move |part| format!("{name}: {part}"))).collect()
}

fn told_request(request: &Request) -> Vec<String> {
    let mut all = told(&request.head.headers);
    all.push(format!("{} {} {}", request.method, request.target, request.text()));
    all
}

fn told_response(response: &Response) -> Vec<String> {
    let mut all = told(response.head.headers.iter().chain(&response.trailers));
    all.push(format!("{} {}", response.status, response.text()));
    all
}

fn is_of_filter(line: &Value) -> bool {
    line["filter"] == "a" && line["target"] == "sluice::filter"
}

/// The same exchanges with a filter of this plugin.
fn seen(setup: Setup, origin: &Origin, toml: &str) -> Seen {
    let gateway: Gateway = setup.start(toml);
    let before = origin.count();
    let bearer = format!("Bearer {}", calls::TOKEN);
    let common =
        [("host", "test.example"), ("authorization", &*bearer), ("content-type", "text/plain"), ("x-in", "\u{e4}")];
    let mut responses = Vec::new();
    let exchanges: [(&str, &[(&str, &str)]); 4] = [
        ("a%20%C3%A4?q=1", &[("x-all", "1"), ("x-body", "1")]),
        ("chunked", &[("x-all", "1"), ("te", "trailers")]),
        ("answered", &[("x-answer", "1")]),
        ("replaced", &[("x-body", "1"), ("x-replace", "1")]),
    ];
    for (number, (name, more)) in exchanges.into_iter().enumerate() {
        let headers: Vec<_> = common.iter().chain(more).copied().collect();
        let target = format!("/items/{name}");
        let response = gateway.request("POST", &target, &headers, "a body of its öwn".as_bytes());
        responses.push(told_response(&response));
        // The next exchange finds what `on-complete` of this one has left in the store.
        let count = || gateway.log().iter().filter(|line| line["message"].as_str() == Some("the end: done")).count();
        eventually("the end of the exchange", || count() == number + 1);
    }
    let lines = gateway.log();
    let lines = lines.iter().filter(|line| is_of_filter(line)).filter_map(|line| line["message"].as_str());
    let metrics = gateway.admin("/metrics").text();
    Seen {
        requests: origin.requests().iter().skip(before).map(told_request).collect(),
        responses,
        lines: lines.map(str::to_owned).collect(),
        metrics: metrics.lines().filter(|line| line.starts_with("sluice_filter_ways")).map(str::to_owned).collect(),
    }
}

/// The functions that filters can import, from `wit/`.
fn functions() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for file in ["message.wit", "services.wit"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit").join(file);
        let text = std::fs::read_to_string(&path).expect("a file of wit/");
        let mut interface = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("interface ") {
                interface = name.trim_end_matches([' ', '{']);
            } else if let Some((name, _)) = line.strip_prefix("    ").and_then(|line| line.split_once(": func(")) {
                all.insert(format!("{interface}.{name}"));
            }
        }
    }
    all
}

/// The functions that answered well at least once.
fn answered(seen: &Seen) -> BTreeSet<String> {
    let all = seen.requests.iter().chain(&seen.responses).flatten().chain(&seen.lines);
    let function = |part: &str| {
        let (before, _) = part.split_once(" ok ")?;
        Some(before.rsplit(' ').next()?.to_owned())
    };
    all.flat_map(|line| line.split(" | ")).filter_map(function).collect()
}

/// Which way the plugin is run, as `inspect` says.
fn way_of(plugin: &str) -> String {
    let file = format!("plugins/{plugin}.wasm");
    let said =
        setup().as_component("probe").as_component("probe-waiting").command_output("", &["plugin", "inspect", &file]);
    let line = said.stdout.lines().find_map(|line| line.strip_prefix("called       "));
    line.unwrap_or_else(|| panic!("{said:?}")).to_owned()
}

#[test]
fn a_filter_does_the_same_called_directly_and_run_as_a_component() {
    let origin = Origin::serve(|request| {
        if request.head.header("x-body").is_none() {
            return Reply::Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nx-in: \xe4\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n".to_vec());
        }
        Reply::text("ä".repeat(3_000)).with("x-in", "1").with("x-in", "2")
    });
    let other =
        Origin::serve(|request| Reply::text(format!("{} {} {}", request.method, request.target, request.body.len())));
    let nobody = nobody();
    let upstreams = format!(
        "{CONSUMER}[upstreams.pair]\nendpoints = [{{ url = \"http://{nobody}\", weight = 0 }}, {{ url = \"{}\", weight = 3, labels = {{ zone = \"öst\" }} }}]\n\
         [upstreams.other]\nendpoints = [\"{}\"]\n\
         [routes.all]\nmatch = {{ path = \"/items/{{id}}\" }}\nupstreams = {{ pair = 1, other = 0 }}\npipeline = [\"a\"]\n",
        origin.url(),
        other.url(),
    );
    let calls = [
        calls::of_messages(),
        calls::of_route(nobody, origin.address()),
        calls::of_cache(),
        calls::of_facts(),
        calls::of_consumers(),
        calls::of_guests(),
        calls::of_limits_and_values(),
        calls::of_cryptography(),
    ]
    .concat();
    let ways = [("probe", "reused"), ("probe", "fresh"), ("probe-waiting", "reused")];
    for plugin in ["probe", "probe-waiting"] {
        assert_eq!(way_of(plugin), "directly");
        let why = "it has two core modules that are more than plumbing";
        assert_eq!(way_of(&format!("{plugin}-component")), format!("as a component: {why}"));
    }
    let mut well = BTreeSet::new();
    for (plugin, mode) in ways {
        let calls = if plugin == "probe" { calls.clone() } else { [calls.clone(), calls::of_http(&other)].concat() };
        let in_hook = |hook: &str| actions(hook, &calls);
        let mut in_request = in_hook("on-request");
        in_request.push(json!({"do": "respond", "if-header": "x-answer", "status": 418}));
        let mut in_response = in_hook("on-response");
        in_response.push(json!({"do": "respond", "if-header": "x-replace", "status": 418, "body": "in its place"}));
        let mut at_the_end = in_hook("on-complete");
        at_the_end.push(json!({"do": "functions", "calls": [["log.fail", "it is over"]], "to": "x-fail"}));
        at_the_end.push(json!({"do": "log", "value": "the end: done"}));
        let config = json!({
            "configure": actions("configure", &[calls::of_configure(), calls::of_guests(), calls::of_cryptography()].concat()),
            "on-request": in_request,
            "on-request-body": in_hook("on-request-body"),
            "select-upstream": in_hook("select-upstream"),
            "on-response": in_response,
            "on-response-body": in_hook("on-response-body"),
            "on-response-trailers": in_hook("on-response-trailers"),
            "on-complete": at_the_end,
        });
        let lines = format!(
            "instances = {{ mode = \"{mode}\", max = 1 }}\nlimits = {{ cpu = \"5s\", wall = \"20s\", body = \"100KiB\" }}\n\
             grants = {{ read_headers = [\"authorization\"], kv = [\"space\"], kv_quota = \"64KiB\", secrets = {{ token = \"gehëim\" }}, http = [\"{}\"], consumers = true }}",
            other.url()
        );
        let run = |plugin: &str| {
            let toml = with_base(&(upstreams.clone() + &filter("a", plugin, &lines, config.clone())));
            seen(setup().as_component("probe").as_component("probe-waiting"), &origin, &toml)
        };
        let as_component = format!("{plugin}-component");
        let (direct, component) = (run(plugin), run(&as_component));
        well.extend(answered(&direct));
        for (direct, component) in direct.requests.iter().zip(&component.requests) {
            pretty_assert(direct, component);
        }
        for (direct, component) in direct.responses.iter().zip(&component.responses) {
            pretty_assert(direct, component);
        }
        let only: Vec<_> = direct.lines.symmetric_difference(&component.lines).collect();
        assert_eq!(only, [""; 0], "lines of one way only");
        assert_eq!(direct, component, "{plugin} {mode}");
    }
    let left: Vec<_> = functions().difference(&well).filter(|name| !name.starts_with("chunk.")).cloned().collect();
    assert_eq!(left, [""; 0], "functions that no hook has called well");
}

#[test]
fn pieces_are_the_same_both_ways() {
    let origin = Origin::serve(|request| match &*request.target {
        "/events" => {
            let fields = vec![("content-type".into(), "text/event-stream".into())];
            Reply::Full(200, fields, "event: e\nid: 1\ndata: ä\n\n".into())
        }
        _ => Reply::text(request.text()),
    });
    let calls = calls::of_pieces();
    let config = json!({
        "chunk-types": ["text/plain"],
        "on-request-chunk": actions("on-request-chunk", &calls),
        "on-response-chunk": actions("on-response-chunk", &calls),
        "on-response-event": actions("on-response-event", &calls),
    });
    let run = |plugin: &str| {
        let toml =
            with_base(&(crate::support::route(&origin.url(), &["a"]) + &filter("a", plugin, "", config.clone())));
        let gateway = setup().as_component("probe").start(&toml);
        let chunks = gateway.request("POST", "/", &[("content-type", "text/plain")], "a bödy".as_bytes()).text();
        let events = gateway.get("/events").text();
        let is_last =
            |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with("x-on-response-event"));
        gateway.wait_log("the last hook", is_last);
        let lines = gateway.log();
        let lines: BTreeSet<String> = lines
            .iter()
            .filter(|line| is_of_filter(line))
            .filter_map(|line| Some(line["message"].as_str()?.to_owned()))
            .collect();
        (chunks, events, lines)
    };
    let direct = run("probe");
    assert_eq!(direct, run("probe-component"));
    let is_well = |name: &str| direct.2.iter().any(|line| line.contains(&format!("{name} ok ")));
    let left: Vec<_> = functions().into_iter().filter(|name| name.starts_with("chunk.") && !is_well(name)).collect();
    assert_eq!(left, [""; 0], "functions that no hook has called well");
}

/// Equal, or the first lines that differ.
#[track_caller]
fn pretty_assert(direct: &[String], component: &[String]) {
    for (direct, component) in direct.iter().zip(component) {
        assert_eq!(direct, component);
    }
    assert_eq!(direct.len(), component.len());
}
