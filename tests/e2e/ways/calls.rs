//! The functions that the probe calls in each hook, with arguments at and beyond their limits.

use std::net::SocketAddr;

use serde_json::{Value, json};
use sluice_harness::Origin;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Signed with it by HS256: `{"sub":"ännä","n":1}`.
pub(super) const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImsxIn0.eyJzdWIiOiLDpG5uw6QiLCJuIjoxfQ.0Q4p1td4CmjYF_RkcDmGL8dBXDt2y9T-47DROxUgKxI";
/// A window in which nothing comes back while the test runs.
const YEAR: u64 = 31_622_400_000;

fn list(calls: Value) -> Vec<Value> {
    calls.as_array().expect("a list").clone()
}

/// What the filter is configured with is declared first.
pub(super) fn of_configure() -> Vec<Value> {
    let key = json!({"secret": SECRET, "kid": "k1", "alg": "HS256"}).to_string();
    list(json!([
        ["interest.hook", "on-request"],
        ["interest.hook", "no-such-hook"],
        ["interest.request-body", 100_000, []],
        ["interest.request-body", 100_000, ["nonsense", "", "ä/ö"]],
        ["interest.request-body", 100_000, ["application/json", "text/*", "*/*+json"]],
        ["interest.response-body", 9_223_372_036_854_775_807_u64, ["text/plain", "application/*"]],
        ["interest.response-body", 100_000, []],
        ["interest.request-chunks", ["application/x-none"]],
        ["interest.response-chunks", ["application/x-none"]],
        ["interest.response-events", ["application/x-none", "nonsense"]],
        ["interest.response-events", ["application/x-none"]],
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

pub(super) fn of_messages() -> Vec<Value> {
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
        ["response.cache-status"],
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

pub(super) fn of_route(nobody: SocketAddr, origin: SocketAddr) -> Vec<Value> {
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

pub(super) fn of_pieces() -> Vec<Value> {
    list(json!([
        ["chunk.length"],
        ["chunk.read", 0, 100],
        ["chunk.read", 9_223_372_036_854_775_807_u64, 1],
        ["chunk.is-last"],
        ["chunk.hold", 1],
        ["chunk.hold", 99_999],
        ["chunk.hold", 0],
        ["chunk.replace", "ä"],
        ["chunk.event-name"],
        ["chunk.event-id"],
        ["chunk.event-data"],
        ["chunk.set-event-data", "x\ny"],
        ["chunk.end"],
        ["chunk.pass-rest"],
        ["request.path"],
        ["request.set-path", "/other"],
        ["response.status"],
        ["response.set-status", 404],
    ]))
}

pub(super) fn of_cache() -> Vec<Value> {
    list(json!([
        ["cache.set-key-part", "plan", "gold"],
        ["cache.set-key-part", "", "gold"],
        ["cache.set-key-part", "n", ["v", 2_000]],
        ["cache.add-tag", "red"],
        ["cache.add-tag", "re d"],
        ["cache.add-tag", ["t", 300]],
        ["cache.set-freshness", 60_000, 1_000, false],
        ["cache.set-freshness", 0, false, 9_223_372_036_854_775_807_u64],
        ["cache.no-store"],
    ]))
}

pub(super) fn of_facts() -> Vec<Value> {
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

pub(super) fn of_consumers() -> Vec<Value> {
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

pub(super) fn of_guests() -> Vec<Value> {
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

pub(super) fn of_limits_and_values() -> Vec<Value> {
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
        ["concurrency.enter", [], [], 1],
        ["concurrency.enter", [["p", 1], ["ö", 3]], [], 1],
        ["concurrency.enter", [["ö", 3], ["p", 1]], [["c", "fixed-window", 3, YEAR, 0]], 1],
        ["concurrency.enter", [["ö", 3]], [["c", "fixed-window", 3, YEAR, 0]], 2],
        ["concurrency.enter", [["ö", 3]], [["c", "fixed-window", 3, YEAR, 0]], 2],
        ["concurrency.enter", [["ö", 3]], [], 1],
        ["concurrency.enter", [["ö", 3]], [], 1],
        ["concurrency.enter", [["ö", 0]], [], 1],
        ["concurrency.enter", [[["k", 2_000], 1]], [], 1],
        ["concurrency.enter", vec![json!(["many", 100]); 17], [], 1],
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

pub(super) fn of_cryptography() -> Vec<Value> {
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
pub(super) fn of_http(other: &Origin) -> Vec<Value> {
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
        ["kv.set", "space", "settled", "väl", 60_000],
        ["kv-wait.wait", "space", "settled", 1_000],
        ["kv-wait.wait", "space", "nobody's", 1_000],
        ["kv.get-or-reserve", "space", "turn", 5],
        ["kv-wait.wait", "space", "turn", 5_000],
        ["kv-wait.wait", "space", ["k", 2_000], 1],
        ["kv-wait.wait", "other", "settled", 1],
        ["passwords.authenticate", "alice", "open sesame"],
        ["passwords.authenticate", "alice", [0, 255]],
        ["passwords.authenticate", ["a", 20_000], ["p", 5_000]],
        ["consumers.recall-password", "alice", "open sesame"],
    ]))
}
