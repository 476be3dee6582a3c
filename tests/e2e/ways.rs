//! A filter does the same whether its core module is called directly or wasmtime runs its component: every function of the interface,
//! in every hook, with ordinary, odd and refused arguments.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use sluice_harness::gateway::Setup;
use sluice_harness::origin::{Reply, Request, nobody};
use sluice_harness::{Gateway, Origin, Response, eventually};

use crate::support::{filter, setup, with_base};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Signed with it by HS256: `{"sub":"ännä","n":1}`.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImsxIn0.eyJzdWIiOiLDpG5uw6QiLCJuIjoxfQ.0Q4p1td4CmjYF_RkcDmGL8dBXDt2y9T-47DROxUgKxI";
/// A window in which nothing comes back while the test runs.
const YEAR: u64 = 31_622_400_000;

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

fn list(calls: Value) -> Vec<Value> {
    calls.as_array().expect("a list").clone()
}

/// What the filter is configured with is declared first.
fn of_configure() -> Vec<Value> {
    let key = json!({"secret": SECRET, "kid": "k1", "alg": "HS256"}).to_string();
    list(json!([
        ["interest.hook", "on-request"],
        ["interest.hook", "no-such-hook"],
        ["interest.request-body", 100_000, []],
        ["interest.request-body", 100_000, ["nonsense", "", "ä/ö"]],
        ["interest.request-body", 100_000, ["application/json", "text/*", "*/*+json"]],
        ["interest.response-body", 9_223_372_036_854_775_807_u64, ["text/plain", "application/*"]],
        ["interest.response-body", 100_000, []],
        ["interest.needs", "{read_headers: []}"],
        ["interest.needs", "{\"read_headers\": []}"],
        ["log.log", "warn", "a löng line"],
        ["crypto.key-set", key],
        ["crypto.key-set", "no JSON"],
        ["crypto.key-set", ["ä", 3_000]],
        ["crypto.token-verifier", 0, ["HS256", "RS256"], "JWT", 10],
        ["crypto.token-verifier", 0, [], false, 0],
        ["consumers.token-verifier", ["HS256"], false],
        ["consumers.token-verifier", ["HS256"], ["t", 300]],
        ["crypto.token-verifier", 7, ["HS256"], false, 0],
        ["crypto.token-verifier", 0, ["HS256"], ["t", 300], 0],
        ["crypto.token-verifier", 0, ["HS256"], false, 1_000_000],
    ]))
}

fn of_messages() -> Vec<Value> {
    let mut calls = Vec::new();
    for message in ["request", "response"] {
        let with = |name: &str, arguments: Value| {
            let mut call = vec![json!(format!("{message}.{name}"))];
            call.extend(list(arguments));
            Value::Array(call)
        };
        calls.extend([
            with("set-header", json!(["x-one", "1"])),
            with("set-header", json!(["X-Empty", ""])),
            with("set-header", json!(["x-umlaut", "äöü ẞ 🦀"])),
            with("set-header", json!(["x-large", ["ab", 2_500]])),
            with("set-header", json!(["x-too-large", ["ab", 40_000]])),
            with("set-header", json!(["x-bad", "a\u{1}b"])),
            with("set-header", json!(["", "no name"])),
            with("set-header", json!(["näme", "1"])),
            with("set-header", json!(["connection", "close"])),
            with("set-header", json!(["cookie", "a=b"])),
            with("set-header-bytes", json!(["x-bytes", [255, 254, 65, 128]])),
            with("set-header-bytes", json!(["x-bytes", [0, 1]])),
            with("append-header", json!(["x-many", "a"])),
            with("append-header", json!(["x-many", "ä"])),
            with("append-header", json!(["x-many", ["c", 2_000]])),
            with("append-header", json!(["x-gone", "1"])),
            with("remove-header", json!(["x-gone"])),
            with("remove-header", json!(["x-never-was"])),
            with("header", json!(["x-large"])),
            with("header", json!(["x-bytes"])),
            with("header", json!(["x-none"])),
            with("header", json!(["authorization"])),
            with("header", json!([["x", 70_000]])),
            with("header-values", json!(["x-many"])),
            with("header-values", json!(["x-none"])),
            with("header-values", json!(["ä"])),
            with("header-bytes", json!(["x-many"])),
            with("header-bytes", json!(["x-bytes"])),
            with("header-bytes", json!(["x-empty"])),
            with("edit-headers", json!([[]])),
            with(
                "edit-headers",
                json!([[["set", "x-set", "ß"], ["append", "x-set", "2"], ["remove", "x-one"], ["set", "x-none", ""]]]),
            ),
            with("edit-headers", json!([[["set", "x-kept", "1"], ["append", "x-kept", "\u{2}"]]])),
            with("edit-headers", json!([vec![json!(["remove", "x-never-was"]); 257]])),
            with("edit-headers", json!([vec![json!(["append", "x-hundred", "n"]); 100]])),
            with("headers", json!([])),
            with("body-length", json!([])),
            with("body", json!([0, 9_223_372_036_854_775_807_u64])),
            with("body", json!([3, 10])),
            with("body", json!([1_000_000, 1])),
            with("want-body", json!([50_000])),
        ]);
    }
    calls.extend(list(json!([
        ["request.method"],
        ["request.scheme"],
        ["request.authority"],
        ["request.path"],
        ["request.query"],
        ["request.protocol"],
        ["request.client-address"],
        ["request.client-certificate"],
        ["request.id"],
        ["request.set-method", "PATCH"],
        ["request.set-method", "CONNECT"],
        ["request.set-method", "ä"],
        ["request.set-method", ["M", 100]],
        ["request.set-path", "/items/new%20path"],
        ["request.set-path", "no/slash"],
        ["request.set-path", "/ä"],
        ["request.set-query"],
        ["request.query"],
        ["request.set-query", ""],
        ["request.query"],
        ["request.set-query", "a b"],
        ["request.set-query", ["q=1&", 1_000]],
        ["request.query"],
        ["request.set-body", ""],
        ["request.set-body", ["ä", 4_000]],
        ["request.set-body", ["x", 300_000]],
        ["response.origin"],
        ["response.status"],
        ["response.set-status", 201],
        ["response.set-status", 99],
        ["response.set-status", 65_535],
        ["response.status"],
        ["response.set-reason", "tea-pot:1_2.3"],
        ["response.set-reason", ["r", 64]],
        ["response.set-reason", ["r", 65]],
        ["response.set-reason", ""],
        ["response.set-reason", "two words"],
        ["response.set-reason", "ö"],
        ["response.set-body", ["ö", 4_000]],
        ["response.set-body", ["x", 300_000]],
        ["response.trailer", "x-sum"],
        ["response.trailer", "x-none"],
        ["response.set-trailer", "x-added", "ä"],
        ["response.set-trailer", "content-length", "1"],
        ["response.set-trailer", "x-removed", "1"],
        ["response.remove-trailer", "x-removed"],
        ["response.trailers"],
    ])));
    calls
}

fn of_route(nobody: SocketAddr, origin: SocketAddr) -> Vec<Value> {
    list(json!([
        ["route.name"],
        ["route.param", "id"],
        ["route.param", "ä"],
        ["route.upstreams"],
        ["route.endpoints"],
        ["route.endpoint-label", "pair", origin.to_string(), "zone"],
        ["route.endpoint-label", "pair", origin.to_string(), ""],
        ["route.endpoint-label", "", "", ""],
        ["route.state-of-endpoint", "pair", origin.to_string()],
        ["route.state-of-endpoint", "pair", "nobody:1"],
        ["route.failures"],
        ["route.failed-attempts"],
        ["route.retries"],
        ["route.no-retry"],
        ["route.hash-key", ["k", 4_000]],
        ["route.hash-key", ["k", 5_000]],
        ["route.choose-upstream", "ünknown"],
        ["route.choose-upstream", "pair"],
        ["route.choose-endpoints", ["127.0.0.1:9"]],
        ["route.choose-endpoints", []],
        ["route.choose-endpoints", [origin.to_string(), nobody.to_string()]],
        ["route.summary"],
    ]))
}

fn of_facts() -> Vec<Value> {
    list(json!([
        ["state.get"],
        ["state.set", ""],
        ["state.get"],
        ["state.set", ["s", 65_537]],
        ["state.set", ["s", 65_536]],
        ["state.get"],
        ["state.set", [0, 255, 10]],
        ["context.get", "acme.none"],
        ["context.set", "acme.text", ["text", ["ä", 3_000]]],
        ["context.get", "acme.text"],
        ["context.set", "acme.text", ["text", ""]],
        ["context.get", "acme.text"],
        ["context.set", "acme.integer", ["integer", -9_223_372_036_854_775_807_i64]],
        ["context.get", "acme.integer"],
        ["context.set", "acme.float", ["float", -1.5e300]],
        ["context.get", "acme.float"],
        ["context.set", "acme.boolean", ["boolean", true]],
        ["context.get", "acme.boolean"],
        ["context.set", "acme.boolean", ["boolean", false]],
        ["context.get", "acme.boolean"],
        ["context.set", "acme.texts", ["texts", ["", "ä", ["long", 500], "c", "d", "e"]]],
        ["context.get", "acme.texts"],
        ["context.set", "acme.texts", ["texts", []]],
        ["context.get", "acme.texts"],
        [
            "context.set",
            "acme.json",
            ["json", "{\"a\":{\"b\":[\"x\",\"ä\"],\"n\":7,\"f\":1.5,\"t\":true,\"o\":{},\"s\":\"\"}}"]
        ],
        ["context.set", "acme.bad", ["json", "{"]],
        ["context.set", "acme.large", ["text", ["l", 70_000]]],
        ["context.get", "acme.json"],
        ["context.get-path", "acme.json", ["a", "b"]],
        ["context.get-path", "acme.json", ["a", "n"]],
        ["context.get-path", "acme.json", ["a", "f"]],
        ["context.get-path", "acme.json", ["a", "t"]],
        ["context.get-path", "acme.json", ["a", "o"]],
        ["context.get-path", "acme.json", ["a", "s"]],
        ["context.get-path", "acme.json", ["a", "ä", "b", "c", "d", "e"]],
        ["context.get-path", "acme.json", []],
        ["context.writer", "acme.json"],
        ["context.writer", "acme.none"],
        ["context.set-consumer", "ännä"],
        ["context.set-consumer", ["n", 2_000]],
        ["context.consumer"],
    ]))
}

fn of_consumers() -> Vec<Value> {
    list(json!([
        ["consumers.verify-token", 0, TOKEN],
        ["consumers.verify-token", 0, ""],
        ["consumers.verify-token", 9, TOKEN],
        ["consumers.known"],
        ["consumers.authenticate", "key", "no-such-key"],
        ["consumers.authenticate", "key", ["k", 20_000]],
        ["consumers.authenticate", "kind", "x"],
        ["consumers.recall-password", "alice", "open sesame"],
        ["consumers.vouch", "nobody", "probe"],
        ["consumers.vouch", "acmé", "two words"],
        ["consumers.authenticate", "key", "the-key"],
        ["consumers.known"],
        ["consumers.plan"],
        ["consumers.label", "tier"],
        ["consumers.label", "ä"],
        ["consumers.labels"],
        ["consumers.method"],
        ["consumers.vouch", "acme", "probe:1"],
        ["consumers.method"],
        ["context.consumer"],
        ["context.set-consumer", "änna"],
        ["consumers.plan"],
    ]))
}

fn of_guests() -> Vec<Value> {
    list(json!([
        ["log.log", "debug", "not shown"],
        ["log.enabled", "trace"],
        ["log.enabled", "error"],
        ["clock.now-us"],
        ["clock.monotonic-ns"],
        ["random.bytes", 0],
        ["random.bytes", 5_000],
        ["random.bytes", 100_000],
        ["random.number"],
    ]))
}

fn of_limits_and_values() -> Vec<Value> {
    list(json!([
        ["limiter.take", [], 1],
        ["limiter.take", [["k", "fixed-window", 3, YEAR, 0]], 1],
        [
            "limiter.take",
            [
                ["k", "token-bucket", 10, YEAR, 20],
                ["ä", "leaky-bucket", 5, YEAR, 3],
                ["", "sliding-window", 2, YEAR, 0]
            ],
            1
        ],
        [
            "limiter.take",
            [
                ["k", "token-bucket", 10, YEAR, 20],
                ["ä", "leaky-bucket", 5, YEAR, 3],
                ["", "sliding-window", 2, YEAR, 0]
            ],
            0
        ],
        ["limiter.take", [["k", "fixed-window", 0, 0, 0]], 1],
        ["limiter.take", vec![json!(["k", "fixed-window", 3, YEAR, 0]); 17], 1],
        ["kv.get", "space", "none"],
        ["kv.get", "not-granted", "k"],
        ["kv.get", "", ""],
        ["kv.set", "space", "k", ""],
        ["kv.get", "space", "k"],
        ["kv.set", "space", "ä", ["v", 5_000], 600_000],
        ["kv.set", "space", "large", ["v", 200_000]],
        ["kv.get", "space", "ä"],
        ["kv.compare-and-swap", "space", "swapped", false, "first"],
        ["kv.compare-and-swap", "space", "swapped", false, "second"],
        ["kv.compare-and-swap", "space", "swapped", "first", [0, 1, 255], 600_000],
        ["kv.compare-and-swap", "space", "swapped", "wrong", ""],
        ["kv.get", "space", "swapped"],
        ["kv.delete", "space", "swapped"],
        ["kv.delete", "space", "swapped"],
        ["kv.get-or-reserve", "space", "ä", 600_000],
        ["kv.get-or-reserve", "space", "reserved", 600_000],
        ["kv.get-or-reserve", "space", "reserved", 600_000],
        ["secrets.get", "token"],
        ["secrets.get", "none"],
        ["metrics.count", "ways_count", [], 1],
        ["metrics.count", "ways_count", [["kind", "ä"], ["other", ""]], 5_000_000_000_u64],
        ["metrics.count", "Bad Name", [], 1],
        ["metrics.gauge", "ways_gauge", [["kind", "a"]], -2.5],
        ["metrics.observe", "ways_observe", [["a", "1"], ["b", "2"], ["c", "3"], ["d", "4"], ["e", "5"]], 0.25],
    ]))
}

fn of_cryptography() -> Vec<Value> {
    list(json!([
        ["crypto.hash", "sha-1", ""],
        ["crypto.hash", "sha-256", ["ä", 5_000]],
        ["crypto.hash", "sha-512", [0, 255]],
        ["crypto.hash", "md5", "x"],
        ["crypto.hmac", "sha-384", "key", ["ä", 5_000]],
        ["crypto.hmac", "sha-256", "", ""],
        ["crypto.equal", "a", "a"],
        ["crypto.equal", ["a", 3_000], "a"],
        ["crypto.sign", 0, "HS256", "k1", "message"],
        ["crypto.verify", 0, "HS256", "k1", "message", true],
        ["crypto.verify", 0, "HS256", false, "message", true],
        ["crypto.verify", 0, "HS256", "ünknown", "message", true],
        ["crypto.verify", 0, "none", false, "", ""],
        ["crypto.verify", 9, "HS256", false, "message", ""],
        ["crypto.sign", 0, "HS256", false, ["m", 5_000]],
        ["crypto.sign", 0, "RS256", "k1", "message"],
        ["crypto.verify-token", 0, TOKEN],
        ["crypto.verify-token", 0, TOKEN],
        ["crypto.verify-token", 0, ["a.b.c", 1_000]],
        ["crypto.verify-token", 0, ""],
        ["crypto.verify-token", 9, TOKEN],
        ["crypto.verify-bearer", 0],
        ["crypto.verify-bearer", 1],
        ["crypto.verify-bearer", 9],
    ]))
}

/// Requests of the filter's own, to this origin and to where it may not.
fn of_http(other: &Origin) -> Vec<Value> {
    let url = other.url();
    list(json!([
        ["http.send", [], 1_000],
        [
            "http.send",
            [
                ["GET", format!("{url}/first"), [], ""],
                ["POST", format!("{url}/second?ä"), [["x-a", "ä"], ["x-b", ""], ["x-c", ["c", 3_000]]], ["ä", 3_000]],
                ["POST", format!("{url}/third"), [["x-a", "1"]], [0, 255, 1]],
                ["GET", "https://not.granted/", [], ""],
                ["", "no url", [], ""],
            ],
            20_000
        ],
        ["http.send", vec![json!(["GET", url, [], ""]); 17], 1_000],
        ["passwords.authenticate", "alice", "open sesame"],
        ["passwords.authenticate", "alice", [0, 255]],
        ["passwords.authenticate", ["a", 20_000], ["p", 5_000]],
        ["consumers.recall-password", "alice", "open sesame"],
    ]))
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
    let bearer = format!("Bearer {TOKEN}");
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
        of_messages(),
        of_route(nobody, origin.address()),
        of_facts(),
        of_consumers(),
        of_guests(),
        of_limits_and_values(),
        of_cryptography(),
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
        let calls = if plugin == "probe" { calls.clone() } else { [calls.clone(), of_http(&other)].concat() };
        let in_hook = |hook: &str| actions(hook, &calls);
        let mut in_request = in_hook("on-request");
        in_request.push(json!({"do": "respond", "if-header": "x-answer", "status": 418}));
        let mut in_response = in_hook("on-response");
        in_response.push(json!({"do": "respond", "if-header": "x-replace", "status": 418, "body": "in its place"}));
        let mut at_the_end = in_hook("on-complete");
        at_the_end.push(json!({"do": "functions", "calls": [["log.fail", "it is over"]], "to": "x-fail"}));
        at_the_end.push(json!({"do": "log", "value": "the end: done"}));
        let config = json!({
            "configure": actions("configure", &[of_configure(), of_guests(), of_cryptography()].concat()),
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
    let left: Vec<_> = functions().difference(&well).cloned().collect();
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
