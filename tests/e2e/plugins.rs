//! The shipped plugins, through the gateway. What they do in detail is tested beside them, natively.

use std::collections::BTreeSet;

use serde_json::json;
use sluice_harness::{Gateway, Origin, Reply, Response, eventually};

use crate::support::{filter, gateway, route, setup, with_base};

/// HS256 of a made-up secret, made by PyJWT: issuer `tests`, subject `ann`, roles `["reader"]`, scope `a b`, without end.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJ0ZXN0cyIsInN1YiI6ImFubiIsInJvbGVzIjpbInJlYWRlciJdLCJzY29wZSI6ImEgYiJ9.ZWP3KS8R1BHuvOeblojKQZWojk937i_PMKt5EkalbTk";
const SECRET: &str = "a made-up secret of more than 32 bytes";

fn with_filters(origin: &Origin, pipeline: &[&str], filters: &str) -> Gateway {
    gateway(&(route(&origin.url(), pipeline) + filters))
}

fn auth(lines: &str) -> String {
    format!(
        "[filters.auth]\nplugin = \"jwt-auth\"\ngrants = {{ read_headers = [\"authorization\"] }}\n[filters.auth.config]\nsecret = \"{SECRET}\"\nissuer = \"tests\"\nrequired_claims = []\n{lines}\n"
    )
}

fn bearer(gateway: &Gateway, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let token = format!("Bearer {TOKEN}");
    gateway.request(method, target, &[&[("authorization", token.as_str())], headers].concat(), b"")
}

#[test]
fn jwt_auth_admits_and_refuses() {
    let origin = Origin::named("o");
    let gateway = with_filters(&origin, &["auth"], &auth(""));
    let response = gateway.get("/");
    assert_eq!((response.status, response.header("www-authenticate")), (401, Some("Bearer realm=\"gateway\"")));
    let response = gateway.request("GET", "/", &[("authorization", "Bearer a.b.c")], b"");
    assert!(response.header("www-authenticate").is_some_and(|v| v.contains("error=\"invalid_token\"")), "{response:?}");
    assert_eq!((response.status, origin.count()), (401, 0));

    let response = bearer(&gateway, "GET", "/", &[("x-user-id", "eve"), ("x-user-roles", "admin")]);
    assert_eq!(response.status, 200);
    let seen = origin.last();
    assert_eq!(seen.head.all("x-user-id"), ["ann"], "what the client claims to be is gone");
    assert_eq!(seen.head.all("x-user-roles"), ["reader"]);
    gateway.wait_access("the consumer", |l| l["consumer"] == "ann");
}

#[test]
fn jwt_auth_rules_by_route_and_method() {
    let origin = Origin::named("o");
    let rules = "rules = [{ methods = [\"DELETE\"], roles = [\"admin\"] }, { methods = [\"PUT\"], scopes = [\"a\", \"b\"] }, { methods = [\"OPTIONS\"], public = true }]";
    let gateway = with_filters(&origin, &["auth"], &auth(rules));
    assert_eq!(bearer(&gateway, "GET", "/", &[]).status, 200);
    assert_eq!(bearer(&gateway, "PUT", "/", &[]).status, 200);
    let refused = bearer(&gateway, "DELETE", "/", &[]);
    assert_eq!(refused.status, 403);
    assert!(refused.header("www-authenticate").is_some_and(|v| v.contains("insufficient_scope")), "{refused:?}");
    assert_eq!(gateway.request("OPTIONS", "/", &[], b"").status, 200);
}

#[test]
fn jwt_auth_sees_no_token_without_its_grant() {
    let origin = Origin::named("o");
    let config = auth("").replace("grants = { read_headers = [\"authorization\"] }\n", "");
    let gateway = with_filters(&origin, &["auth"], &config);
    assert_eq!(bearer(&gateway, "GET", "/", &[]).status, 401);
}

#[test]
fn rate_limit_by_header_and_consumer() {
    let origin = Origin::named("o");
    let limits = "[filters.limits]\nplugin = \"rate-limit\"\ngrants = { read_headers = [\"x-api-key\"] }\nconfig = { limits = [{ key = \"header:x-api-key\", algorithm = \"fixed-window\", amount = 3, window = \"1d\" }] }\n";
    let gateway = with_filters(&origin, &["limits"], limits);
    let ask = |key: &str| gateway.request("GET", "/", &[("x-api-key", key)], b"");
    let first = ask("one");
    assert_eq!(
        (first.status, first.header("x-ratelimit-limit"), first.header("x-ratelimit-remaining")),
        (200, Some("3"), Some("2"))
    );
    assert!(first.header("ratelimit").is_some() && first.header("ratelimit-policy").is_some(), "{first:?}");
    let statuses: Vec<u16> = (0..4).map(|_| ask("one").status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    let refused = ask("one");
    assert!(refused.header("retry-after").is_some_and(|v| v.parse::<u64>().is_ok_and(|s| s > 0)), "{refused:?}");
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(ask("two").status, 200);
    assert_eq!(origin.count(), 4);
}

#[test]
fn rate_limit_of_the_consumer_that_jwt_auth_found() {
    let origin = Origin::named("o");
    let limits = "[filters.limits]\nplugin = \"rate-limit\"\nconfig = { limits = [{ key = \"consumer\", algorithm = \"fixed-window\", amount = 2, window = \"1d\" }] }\n";
    let gateway = with_filters(&origin, &["auth", "limits"], &(auth("") + limits));
    let statuses: Vec<u16> = (0..3).map(|_| bearer(&gateway, "GET", "/", &[]).status).collect();
    assert_eq!(statuses, [200, 200, 429]);
}

#[test]
fn transform_of_heads_and_bodies() {
    let origin = Origin::serve(|r| {
        Reply::Full(
            200,
            vec![("content-type".into(), "application/json".into()), ("x-upstream-secret".into(), "1".into())],
            format!(
                "{{\"got\": {}, \"cost\": 7, \"n\": 1.0}}",
                if r.body.is_empty() { "null".into() } else { r.text() }
            )
            .into_bytes(),
        )
    });
    let config = r#"
[filters.shape]
plugin = "transform"
[filters.shape.config.request]
headers = { set = { x-set = "1" }, remove = ["x-debug"], rename = { x-old = "x-new" } }
query = { set = { tenant = "{header.x-tenant}" }, remove = ["debug"] }
path = { remove_prefix = "/api", add_prefix = "/v2" }
body = { rename = { "/qty" = "quantity" }, set = { "/meta/by" = "test" } }
[filters.shape.config.response]
headers = { set = { x-gw = "1" }, remove = ["x-upstream-secret"] }
body = { remove = ["/cost"] }
"#;
    let gateway = with_filters(&origin, &["shape"], config);
    let headers = [("x-debug", "1"), ("x-old", "o"), ("x-tenant", "acme"), ("content-type", "application/json")];
    let response = gateway.request("POST", "/api/orders?debug=1&x=y", &headers, br#"{"qty": 2, "other": [1, 2.50]}"#);
    let seen = origin.last();
    assert_eq!(seen.target.split('?').next(), Some("/v2/orders"));
    assert!(
        seen.target.contains("tenant=acme") && seen.target.contains("x=y") && !seen.target.contains("debug"),
        "{}",
        seen.target
    );
    assert_eq!(
        (seen.header("x-set"), seen.header("x-debug"), seen.header("x-new"), seen.header("x-old")),
        (Some("1"), None, Some("o"), None)
    );
    let body: serde_json::Value = serde_json::from_str(&seen.text()).expect("JSON");
    assert_eq!(body, json!({"quantity": 2, "other": [1, 2.5], "meta": {"by": "test"}}));
    assert!(seen.text().contains("2.50"), "what no rule names keeps its bytes: {}", seen.text());
    assert_eq!((response.header("x-gw"), response.header("x-upstream-secret")), (Some("1"), None));
    assert!(response.json()["cost"].is_null() && response.text().contains("1.0"), "{}", response.text());
}

#[test]
fn cors_before_authentication() {
    let origin = Origin::named("o");
    let cors = "[filters.cors]\nconfig = { origins = [\"https://app.test\"], headers = [\"authorization\"], credentials = true }\n";
    let gateway = with_filters(&origin, &["cors", "auth"], &(cors.to_string() + &auth("")));
    let preflight = gateway.request(
        "OPTIONS",
        "/",
        &[
            ("origin", "https://app.test"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "authorization"),
        ],
        b"",
    );
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, Some("https://app.test")));
    assert!(preflight.header("access-control-allow-methods").is_some_and(|m| m.contains("PUT")), "{preflight:?}");
    assert_eq!(preflight.header("access-control-allow-credentials"), Some("true"));

    let refused = gateway.request("GET", "/", &[("origin", "https://app.test")], b"");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("https://app.test")));
    let stranger = bearer(&gateway, "GET", "/", &[("origin", "https://evil.test")]);
    assert_eq!((stranger.status, stranger.header("access-control-allow-origin")), (200, None));
    assert!(stranger.header("vary").is_some_and(|v| v.to_ascii_lowercase().contains("origin")), "{stranger:?}");
}

#[test]
fn cors_on_errors_of_the_gateway() {
    let cors = "[filters.cors]\nconfig = { origins = [\"*\"] }\n";
    let gateway = gateway(&(route(&format!("http://{}", sluice_harness::origin::nobody()), &["cors"]) + cors));
    let response = gateway.request("GET", "/", &[("origin", "https://app.test")], b"");
    assert_eq!((response.status, response.header("access-control-allow-origin")), (502, Some("*")));
}

#[test]
fn traffic_split_by_header_cookie_and_share() {
    let (stable, canary) = (Origin::named("stable"), Origin::named("canary"));
    let gateway = gateway(&format!(
        r#"
[upstreams.stable]
endpoints = ["{}"]
[upstreams.canary]
endpoints = ["{}"]
[routes.all]
match = {{ path = "/**" }}
upstreams = {{ stable = 1, canary = 0 }}
pipeline = ["split"]
[filters.split]
plugin = "traffic-split"
grants = {{ read_headers = ["cookie"], write_headers = ["set-cookie"] }}
[filters.split.config]
rules = [
    {{ when = "header:x-canary", value = "always", upstream = "canary" }},
    {{ when = "cookie:beta", value = "1", upstream = "canary" }},
]
split = [{{ upstream = "stable", weight = 3 }}, {{ upstream = "canary", weight = 1 }}]
sticky = {{ cookie = "ab" }}
"#,
        stable.url(),
        canary.url()
    ));
    for _ in 0..5 {
        assert_eq!(gateway.request("GET", "/", &[("x-canary", "always")], b"").text(), "canary");
        assert_eq!(gateway.request("GET", "/", &[("cookie", "beta=1")], b"").text(), "canary");
    }
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let first = gateway.get("/");
        let cookie = first.header("set-cookie").expect("a cookie").split(';').next().expect("a pair").to_string();
        for _ in 0..2 {
            assert_eq!(
                gateway.request("GET", "/", &[("cookie", &cookie)], b"").text(),
                first.text(),
                "the place is kept"
            );
        }
        seen.insert(first.text());
    }
    assert_eq!(seen.len(), 2, "both get a share");
}

const SHIPPED: [&str; 13] = [
    "acl",
    "api-key",
    "basic-auth",
    "cors",
    "forward-auth",
    "introspection",
    "ip-filter",
    "jwt-auth",
    "mtls-auth",
    "rate-limit",
    "redact",
    "traffic-split",
    "transform",
];

#[test]
fn shipped_plugins_do_the_same_on_fresh_instances() {
    let origin = Origin::named("o");
    let mut toml = format!("[upstreams.all]\nendpoints = [\"{}\"]\n", origin.url())
        + &route(
            "all",
            &[
                "cors",
                "addresses",
                "certificate",
                "key",
                "login",
                "auth",
                "access",
                "limits",
                "shape",
                "private",
                "split",
            ],
        )
        + &auth("");
    let others = [
        ("cors", "cors", json!({"origins": ["https://app.example.org"]})),
        ("addresses", "ip-filter", json!({"deny": ["192.0.2.0/24"]})),
        ("certificate", "mtls-auth", json!({"optional": true})),
        ("key", "api-key", json!({"optional": true})),
        ("login", "basic-auth", json!({"optional": true})),
        ("access", "acl", json!({"rules": [{"effect": "allow", "if": {"authenticated": true}}]})),
        ("limits", "rate-limit", json!({"limits": [{"key": "consumer", "amount": 3, "window": "1d"}]})),
        ("shape", "transform", json!({"request": {"headers": {"set": {"x-a": "1"}}}})),
        ("private", "redact", json!({"rules": [{"detect": "card"}]})),
        ("split", "traffic-split", json!({"split": [{"upstream": "all", "weight": 1}]})),
    ];
    for (name, plugin, config) in others {
        toml += &filter(name, plugin, "", config);
    }
    let names: BTreeSet<&str> = sluice::embedded::names().collect();
    assert_eq!(names, BTreeSet::from(SHIPPED));
    for name in names {
        toml += &format!("[plugins.{name}]\ninstances = {{ mode = \"fresh\" }}\n");
    }
    let gateway = gateway(&toml);
    for expected in [200, 200, 200, 429] {
        let response = bearer(&gateway, "GET", "/", &[("origin", "https://app.example.org")]);
        assert_eq!(response.status, expected);
        assert_eq!(response.header("access-control-allow-origin"), Some("https://app.example.org"));
    }
    assert_eq!(origin.last().head.all("x-a"), ["1"]);
    let forged = format!("Bearer {}", TOKEN.replace("ZWP3", "ZWP4"));
    assert_eq!(gateway.request("GET", "/", &[("authorization", &forged)], b"").status, 401);
    let log: String = gateway.log().iter().map(ToString::to_string).collect();
    assert!(!log.contains("there is no image"), "{log}");
}

#[test]
fn a_plugin_of_the_same_name_in_the_folder_wins() {
    let origin = Origin::named("o");
    let toml = with_base(
        &(route(&origin.url(), &["cors"])
            + "[filters.cors]\nconfig = { on-response = [{ do = \"set-header\", name = \"x-mine\", value = \"1\" }] }\n"),
    );
    let gateway = Gateway::setup().plugin("cors", &sluice_harness::fixtures::file("probe")).start(&toml);
    assert_eq!(gateway.get("/").header("x-mine"), Some("1"));
    assert!(gateway.log().iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains(OWN))));
}

/// What is said of a file that stands for a shipped plugin.
const OWN: &str =
    "plugins/cors.wasm, not the plugin of that name that ships with the gateway; write `file` in [plugins.cors]";

#[test]
fn a_file_that_comes_or_goes_in_the_place_of_a_shipped_plugin_is_told() {
    let origin = Origin::named("o");
    let shipped = sluice::embedded::find("cors").expect("a shipped plugin");
    let toml = with_base(&(route(&origin.url(), &["cors"]) + "[filters.cors]\nconfig = { origins = [\"*\"] }\n"));
    let named = toml.clone() + "[plugins.cors]\nfile = \"plugins/cors.wasm\"\n";
    let check =
        |toml: &str| Gateway::setup().file("plugins/cors.wasm", shipped).command_output(toml, &["check"]).stdout;
    assert!(check(&toml).contains(OWN), "{}", check(&toml));
    assert_eq!(check(&named), "gateway.toml: ok\n");
    let gateway = Gateway::start(&toml);
    gateway.write("plugins/cors.wasm", shipped);
    gateway.reload(&toml);
    let told = |what: &str| {
        gateway.wait_log(what, |line| {
            let text = line["message"].as_str().unwrap_or_default();
            text.starts_with("plugin `cors` is ") && text.ends_with(what)
        });
    };
    told("plugins/cors.wasm from now on; it was the shipped plugin `cors`");
    std::fs::remove_file(gateway.dir().join("plugins/cors.wasm")).expect("the file");
    gateway.reload(&toml);
    gateway.wait_log("the way back", |line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("plugin `cors` is the shipped plugin `cors` from now on; it was "))
    });
}

#[test]
fn the_shipped_components_from_files_do_the_same() {
    let origin = Origin::named("o");
    let wasm = sluice::embedded::find("jwt-auth").expect("an embedded plugin");
    let toml = with_base(&(route(&origin.url(), &["auth"]) + &auth("").replace("jwt-auth", "foreign")));
    let gateway = Gateway::setup().file("plugins/foreign.wasm", wasm).start(&toml);
    assert_eq!(gateway.get("/").status, 401);
    assert_eq!(bearer(&gateway, "GET", "/", &[]).status, 200);
}

#[test]
fn an_error_in_the_config_of_a_plugin_names_its_line() {
    let toml = with_base(
        &(route("http://127.0.0.1:1", &["limits"])
            + "[filters.limits]\nplugin = \"rate-limit\"\n[filters.limits.config]\nlimits = [\n  { amount = 3 },\n  { amount = \"many\" },\n]\n"),
    );
    let refused = Gateway::setup().refused(&toml);
    let row = toml.lines().position(|l| l.contains("many")).expect("the line") + 1;
    assert!(refused.stderr.contains(&format!("gateway.toml:{row}:")), "{}", refused.stderr);
    assert!(refused.stderr.contains("amount"), "{}", refused.stderr);
}

#[test]
fn the_example_configuration_serves_its_tour() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let toml = std::fs::read_to_string(root.join("gateway.toml")).expect("the root's gateway.toml");
    let toml = toml.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9901", "127.0.0.1:0");
    let gateway = setup().start(&toml);
    assert_eq!(gateway.get("/").text(), "Hello from Sluice.\n");
    assert_eq!(gateway.get("/echo/x").status, 200);
    assert_eq!(gateway.get("/api/x").status, 401);
    assert_eq!(gateway.get("/shop/x").status, 200);
    assert_eq!(gateway.get("/old/x").header("location").map(|l| l.ends_with("/echo/x")), Some(true));
    eventually("the metrics", || gateway.metric("sluice_requests_total", &[]).is_some_and(|n| n >= 5.0));
}
