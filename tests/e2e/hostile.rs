//! What a caller sends is never a failure of a shipped plugin, and never a way around it.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sluice::services::{Clock, Services, grants::Origins, outbound::Offline};
use sluice_harness::{Gateway, Origin, Reply};

use crate::support::{filter, gateway, route, setup, with_base};

const SECRET: &str = "a made-up secret of more than 32 bytes";

/// A token of these claims, signed as the filters below want it.
fn token(claims: &Value) -> String {
    let services = Services::new(Clock::system(), Arc::new(Offline));
    let source = json!({ "secret": SECRET }).to_string();
    let keys = services.key_sets.resolve(&source, &Origins::default()).expect("a key");
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"alg": "HS256"})), part(claims));
    let signature = keys.sign("HS256", None, message.as_bytes()).expect("a signature");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn auth(more: Value) -> String {
    let mut config = json!({"secret": SECRET, "required_claims": []});
    config.as_object_mut().expect("a table").extend(more.as_object().expect("a table").clone());
    filter("auth", "jwt-auth", "grants = { read_headers = [\"authorization\"] }", config)
}

/// The status of a request whose head has these bytes behind its first line.
fn status(gateway: &Gateway, target: &str, fields: &[u8]) -> u16 {
    let head =
        [format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n").as_bytes(), fields, b"\r\n"].concat();
    let answer = gateway.raw(head);
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {answer}"))
}

fn bearer(claims: &Value) -> Vec<u8> {
    format!("authorization: Bearer {}\r\n", token(claims)).into_bytes()
}

#[test]
fn no_value_of_a_caller_fails_a_shipped_plugin() {
    let origin = Origin::named("o");
    let holes = ["{param.x}", "{claim.sub}", "{consumer}", "{header.x-name}", "{cookie.c}"];
    let set = |hole: &str| json!({"set": {"x-made": hole}, "add": {"x-more": hole}});
    let mut toml = format!("[upstreams.all]\nendpoints = [\"{}\"]\n", origin.url());
    for (i, hole) in holes.iter().enumerate() {
        toml += &format!(
            "[routes.r{i}]\nmatch = {{ path = \"/{i}/{{x}}\" }}\nupstream = \"all\"\npipeline = [\"cors\", \"auth\", \"limits\", \"shape{i}\", \"split\"]\n"
        );
        let shape = json!({
            "request": {"headers": set(hole), "query": {"set": {"q": hole}}, "path": {"set": format!("/up/{hole}")}},
            "response": {"headers": set(hole)},
        });
        toml += &filter(&format!("shape{i}"), "transform", "grants = { read_headers = [\"cookie\"] }", shape);
    }
    let keys = ["consumer", "claim:sub", "claim:https://example.com/t", "header:x-name", "cookie:c", "param:x"];
    let limits: Vec<Value> = keys
        .iter()
        .enumerate()
        .map(|(i, key)| json!({"name": format!("l{i}"), "key": key, "amount": 1000, "window": "1d"}))
        .collect();
    let grants = "grants = { read_headers = [\"cookie\"] }";
    toml += &auth(json!({"headers": {"x-user": "sub", "x-t": "https://example.com/t"}, "optional": true}));
    toml += &filter("limits", "rate-limit", grants, json!({ "limits": limits }));
    toml += &filter(
        "split",
        "traffic-split",
        grants,
        json!({"split": [{"upstream": "all", "weight": 1}], "by": "cookie:c", "rules": [{"when": "claim:sub", "value": "x", "upstream": "all"}]}),
    );
    toml += &filter("cors", "cors", "", json!({"origins": ["https://a.example"], "methods": ["*"], "headers": ["*"]}));
    // It is about values, not about time, and an unoptimised gateway on a busy machine may need more than the usual limit for the largest.
    for plugin in ["cors", "jwt-auth", "rate-limit", "traffic-split", "transform"] {
        toml += &format!("[plugins.{plugin}]\nlimits = {{ cpu = \"500ms\" }}\n");
    }
    let gateway = gateway(&toml);

    let texts =
        ["a\nb", "a\r\nx-admin: 1", "\u{0}", "\u{7f}", " ", "", "..", "../a", "\u{e9}", "\"", "%", "{", "a,b;c=d"]
            .map(Value::from);
    let others = [
        json!("x".repeat(1100)),
        json!("x".repeat(6000)),
        json!(["a", "b\n"]),
        json!({"a": [1]}),
        json!(7.0),
        json!(9_223_372_036_854_775_808_u64),
        json!(1e300),
        json!(true),
        json!(null),
    ];
    let mut heads: Vec<Vec<u8>> = vec![Vec::new()];
    for value in texts.into_iter().chain(others) {
        heads.push(bearer(&json!({"sub": value, "https://example.com/t": "t"})));
        heads.push(bearer(&json!({"sub": "s", "https://example.com/t": value})));
    }
    for value in
        [b"caf\xe9".as_slice(), b"\xff\xfe", b"a\tb", b"%0a", b"..", b"", &b"z".repeat(5000), &b"\xe9".repeat(5000)]
    {
        for name in ["x-name: ", "cookie: c=", "origin: ", "authorization: Bearer ", "access-control-request-method: "]
        {
            heads.push([name.as_bytes(), value, b"\r\n"].concat());
        }
    }
    let many: String = (0..90).map(|i| format!("x-{i}: 1\r\n")).collect();
    heads.push(many.into_bytes());
    let params =
        ["a", "%0a", "%0d%0ax-admin:%201", "%2e%2e%2fa", "%7f", "%ff", "%C3%A9", "%25", "a%00", &"y".repeat(3000)];
    for (i, hole) in holes.iter().enumerate() {
        for head in &heads {
            let got = status(&gateway, &format!("/{i}/a"), head);
            assert!(got < 500, "{hole} with {}: {got}", head.escape_ascii());
        }
        for param in params {
            let head = bearer(&json!({"sub": "s"}));
            let got = status(&gateway, &format!("/{i}/{param}?f={{%22a%22:1}}&g[]=|"), &head);
            assert!(got < 500, "{hole} with {param}: {got}");
        }
    }
    let log: Vec<Value> = gateway.log();
    assert!(!log.iter().any(|line| line.to_string().contains("filter-failed")), "{log:#?}");
}

#[test]
fn a_key_that_is_there_is_counted() {
    let origin = Origin::named("o");
    let limits = json!([
        {"name": "tenant", "key": "claim:https://example.com/tenant", "amount": 1, "window": "1d", "algorithm": "fixed-window"},
        {"name": "name", "key": "header:x-name", "amount": 1, "window": "1d", "algorithm": "fixed-window"},
    ]);
    let toml = route(&origin.url(), &["auth", "limits"])
        + &auth(json!({"optional": true, "consumer_claim": "none"}))
        + &filter("limits", "rate-limit", "", json!({ "limits": limits }));
    let gateway = gateway(&toml);
    let tenants = [
        json!("a"),
        json!(["a", "b"]),
        json!(7.5),
        json!(9_223_372_036_854_775_808_u64),
        json!(9_223_372_036_854_775_809_u64),
        json!({"a": 1}),
    ];
    for tenant in tenants {
        let head = bearer(&json!({"https://example.com/tenant": tenant}));
        assert_eq!([status(&gateway, "/", &head), status(&gateway, "/", &head)], [200, 429], "{tenant}");
    }
    for name in [b"x-name: caf\xe9\r\n".as_slice(), b"x-name: \xff\r\n"] {
        assert_eq!([status(&gateway, "/", name), status(&gateway, "/", name)], [200, 429], "{}", name.escape_ascii());
    }
    assert_eq!([status(&gateway, "/", b""), status(&gateway, "/", b"")], [200, 200]);
}

#[test]
fn check_warns_of_keys_that_no_request_has() {
    let limits = json!({"limits": [{"name": "l", "key": "claim:sub", "amount": 1}]});
    let with = |pipeline: &[&str]| {
        let toml = with_base(
            &(route("http://127.0.0.1:1", pipeline)
                + &auth(json!({}))
                + &filter("limits", "rate-limit", "", limits.clone())),
        );
        let output = setup().command_output(&toml, &["check"]);
        assert!(output.status.success(), "{}", output.stderr);
        (output.stdout + &output.stderr).contains("filter `limits` goes by the consumer or claims of the caller")
    };
    assert!(with(&["limits"]) && with(&["limits", "auth"]));
    assert!(!with(&["auth", "limits"]));
}

/// A part of a body would show what the rules remove, since it is no JSON.
#[test]
fn a_range_is_no_way_around_the_rules_for_a_body() {
    let body = r#"{"cost": 7, "name": "a"}"#;
    let origin = Origin::serve(move |request| {
        let headers = vec![
            ("content-type".into(), "application/json".into()),
            ("accept-ranges".into(), "bytes".into()),
            ("content-digest".into(), "sha-256=:x:".into()),
            ("etag".into(), "\"a\"".into()),
        ];
        let is_part = request.header("range").is_some() || request.target == "/part";
        if !is_part {
            return Reply::Full(200, headers, body.into());
        }
        let range = ("content-range".into(), format!("bytes 0-9/{}", body.len()));
        Reply::Full(206, headers.into_iter().chain([range]).collect(), body.as_bytes()[..10].into())
    });
    let shape = json!({"response": {"body": {"remove": ["/cost"]}}});
    let gateway = gateway(&(route(&origin.url(), &["shape"]) + &filter("shape", "transform", "", shape)));
    let response = gateway.request("GET", "/", &[("range", "bytes=0-9"), ("if-range", "\"a\"")], b"");
    assert_eq!((response.status, response.text().as_str()), (200, r#"{ "name": "a"}"#));
    for gone in ["accept-ranges", "content-digest", "etag", "content-range"] {
        assert_eq!(response.header(gone), None, "{gone}");
    }
    let part = gateway.get("/part");
    assert_eq!(part.status, 502, "the upstream was not asked for a part");
    assert!(!part.text().contains("cost"), "{}", part.text());
}

/// RFC 3986 §5.2.4: a dot segment that a filter leaves behind would take the prefix away.
#[test]
fn no_path_leads_out_of_the_prefix_of_its_route() {
    let origin = Origin::named("o");
    let probe = json!({"on-request": [{"do": "set-path", "value": "/../admin"}]});
    let toml = format!(
        "[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{}\"\nrewrite = {{ strip_prefix = \"/\", replace_prefix = \"/tenant\" }}\npipeline = [\"climb\"]\n",
        origin.url()
    );
    let gateway = gateway(&(toml + &filter("climb", "probe", "", probe)));
    assert_eq!(gateway.get("/x").status, 400);
    assert_eq!(origin.count(), 0);
}
