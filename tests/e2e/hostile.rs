//! What a caller sends is never a failure of a shipped plugin, and never a way around it.
//!
//! The hostile set of who may call, and where each attack is tried. Units are beside what they test.
//!
//! | attack | test |
//! |---|---|
//! | a token of one consumer in the name of another | `consumers::a_token_is_its_consumer_s_and_none_signs_as_another`; `no_consumer_can_sign_as_another` of sluice-services |
//! | issuers mixed up | `composition::one_of_two_issuers_is_enough_and_the_other_leaves_no_trace`; fuzz target `consumer_token` |
//! | a header made by a claim | `no_claim_makes_a_header_of_its_own`, `no_value_of_a_caller_fails_a_shipped_plugin` |
//! | which names have an account | `consumers::names_that_nobody_has_take_as_long_as_wrong_passwords`, `consumers::a_password_is_hashed_once_and_never_on_a_worker` (the same answer); `the_password_of_another_does_not_open_a_name_that_nobody_has` of sluice-services |
//! | a flood of passwords to hash | `a_flood_of_passwords_is_bounded_and_slows_nobody_else`; `too_many_are_refused_and_the_rest_is_served` of sluice-services |
//! | hash flooding: keys that meet in one place of a table | `keys_do_not_meet_in_the_same_shards_of_two_spaces`, `a_refused_key_looks_at_less_than_a_counter` of sluice-services (tables are seeded, bounded, and swept at a bounded cost) |
//! | answers of token introspection that are huge, nested or contradict themselves | `introspection::answers_that_decide_nothing_let_nobody_pass` |
//! | nonsense of a store that gateways share | `state::nonsense_is_no_answer`, `state_away::what_is_no_value_is_said`; `a_store_whose_clock_was_wrong_once_closes_no_counter` of sluice-services |
//! | a caller that leaves in the middle | `concurrency::a_caller_that_leaves_while_its_place_is_asked_for_keeps_none` |
//! | made-up keys while a store is away | `what_is_told_of_counters_that_are_gone_is_forgotten` of sluice-services |
//! | a key in a URL in logs and `Referer` | `a_key_in_a_url_is_told_to_nobody`; fuzz target `api_key` |
//! | a cookie that the gateway and the upstream read in two ways | `cookies::a_name_is_found_in_every_way_that_a_server_finds_it` of sluice-filter; fuzz target `api_key` |
//! | hash flooding, and what takes the square of its length | `a_token_of_many_members_is_refused_in_time`; `many_members_are_read_in_time_and_more_are_refused` of sluice-filter |
//! | answers of an introspection server | `introspection::answers_that_decide_nothing_let_nobody_pass`; `answers_that_are_unclear_of_one_token_leave_others_alone` of introspection |
//! | nonsense of a state | `state::nonsense_is_no_answer`; a state that is killed: `state_access` |
//! | headers smuggled past forward-auth | `forward_auth::a_service_allows_redirects_and_refuses`; fuzz target `forward_auth` |
//! | consumer files that are half-written | `consumers::a_broken_file_changes_nothing`, `a_file_that_is_written_in_parts_is_never_half_in_use`; fuzz target `consumers` |
//! | calls to private addresses, DNS rebinding | `ssrf`; fuzz target `outbound_url` |
//! | file traversal | `files_hostile`, a test for each class; `http::file_path` of sluice-http; fuzz target `file_path` |
//! | a crash of one way to authenticate | `composition::crashing_a_member_is_no_way_past_it` |

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sluice::services::{Clock, Services, grants::Origins, outbound::Offline};
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::support::{filter, gateway, route, setup, with_base};

const SECRET: &str = "a made-up secret of more than 32 bytes";

/// A token of these claims, signed as the filters below want it.
fn token(claims: &Value) -> String {
    signed(&json!({"alg": "HS256"}), &claims.to_string())
}

fn signed(head: &Value, payload: &str) -> String {
    let services = Services::new(Clock::system(), Arc::new(Offline));
    let source = json!({ "secret": SECRET }).to_string();
    let keys = services.key_sets.resolve(&source, &Origins::default()).expect("a key");
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(payload));
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

/// Of the plugins that say who may call, each alone: a filter before them would refuse what they should see.
#[test]
fn no_value_of_a_caller_fails_a_plugin_for_access() {
    let (origin, service) =
        (Origin::named("o"), Origin::serve(|_| Reply::json(&json!({"active": true, "sub": "ann"}))));
    let http = format!("http = [\"{}\"], ", service.url());
    let (key, credential) = ("\"x-api-key\"", "\"authorization\"");
    let grants = |more: &str, field: &str| {
        format!("grants = {{ {more}read_headers = [{field}, \"cookie\"], write_headers = [{field}, \"cookie\"] }}")
    };
    let known = "consumers = true, ";
    let places = json!(["header:x-api-key", "query:key", "cookie:c"]);
    let plugins = [
        ("api-key", grants(known, key), json!({"places": places})),
        ("basic-auth", grants(known, credential), json!({})),
        ("mtls-auth", grants(known, credential), json!({"optional": true})),
        (
            "acl",
            grants(known, key),
            json!({"rules": [{"effect": "deny", "if": {"headers": {"x-name": ["b"]}}}, {"effect": "allow"}]}),
        ),
        ("ip-filter", grants("", key), json!({"deny": ["192.0.2.0/24"]})),
        (
            "forward-auth",
            grants(&format!("{http}kv = [\"forward-auth\"], "), credential),
            json!({"url": format!("{}/", service.url()), "cache": {"key": ["header:authorization", "cookie:c", "path"]}, "upstream_headers": ["x-user"]}),
        ),
        (
            "introspection",
            grants(
                &format!("{http}kv = [\"introspection\"], secrets = {{ client_secret = \"made up\" }}, "),
                credential,
            ),
            json!({"url": format!("{}/introspect", service.url()), "client_id": "gateway"}),
        ),
        (
            "redact",
            "grants = { body = true }".to_owned(),
            json!({"rules": [{"detect": "card"}], "messages": ["request", "response"]}),
        ),
    ];
    let mut toml =
        "[consumers.ann]\nkeys = [\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"]\n"
            .to_owned();
    for (plugin, grants, config) in &plugins {
        toml += &format!(
            "[routes.{plugin}]\nmatch = {{ path = \"/{plugin}/**\" }}\nupstream = \"{}\"\npipeline = [\"{plugin}\"]\n",
            origin.url()
        );
        toml += &filter(
            plugin,
            plugin,
            &format!("{grants}\nlimits = {{ cpu = \"500ms\", wall = \"30s\" }}"),
            config.clone(),
        );
    }
    let gateway = gateway(&toml);
    let long = [b'z'; 5000];
    let values: [&[u8]; 13] = [
        b"",
        b" ",
        b"\"",
        b"caf\xe9",
        b"\xff\xfe",
        b"a\tb",
        b"%0a",
        b"..",
        b"Basic ",
        b"Basic =",
        b"Basic 4pyTOuKckw==",
        b"Bearer a.b.c",
        &long,
    ];
    let fields = [
        "x-api-key: ",
        "x-name: ",
        "authorization: ",
        "authorization: Basic ",
        "authorization: Bearer ",
        "cookie: c=",
        "cookie: ",
    ];
    for (plugin, ..) in &plugins {
        for field in fields {
            for value in values {
                let line = [field.as_bytes(), value, b"\r\n"].concat();
                for head in [line.clone(), line.repeat(2)] {
                    let got = status(&gateway, &format!("/{plugin}/x"), &head);
                    assert!(got < 500, "{plugin} with {}: {got}", head.escape_ascii());
                }
            }
        }
        for rest in [
            "%0a",
            "%ff?key=%ff",
            "a?key=",
            "a?key=a&key=b",
            "%2e%2e%2fx?key=%00&%",
            &format!("a?key={}", "y".repeat(3000)),
        ] {
            let got = status(&gateway, &format!("/{plugin}/{rest}"), b"");
            assert!(got < 500, "{plugin} with {rest}: {got}");
        }
    }
    let failed: Vec<Value> =
        gateway.log().into_iter().filter(|line| line.to_string().contains("filter-failed")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
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

/// A claim is text that somebody else has written.
#[test]
fn no_claim_makes_a_header_of_its_own() {
    let origin = Origin::named("o");
    let headers = json!({"headers": {"x-user": "sub", "x-teams": "teams"}});
    let shape = json!({"request": {"headers": {"set": {"x-made": "{claim.sub}"}}}});
    let toml = route(&origin.url(), &["auth", "shape"]) + &auth(headers) + &filter("shape", "transform", "", shape);
    let gateway = gateway(&toml);
    let breaks = ["a\r\nx-admin: 1", "a\nx-admin: 1", "a\rx-admin: 1", "a\u{0}b", "a\r\n\r\nGET /admin HTTP/1.1"];
    for text in breaks {
        for claims in [json!({"sub": text, "teams": "t"}), json!({"sub": "s", "teams": ["t", text]})] {
            let got = status(&gateway, "/", &bearer(&claims));
            assert_eq!(got, 401, "{claims}");
        }
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(status(&gateway, "/", &bearer(&json!({"sub": "s", "teams": ["t", "u"]}))), 200);
    let seen = origin.last();
    assert_eq!((seen.header("x-user"), seen.header("x-made"), seen.header("x-admin")), (Some("s"), Some("s"), None));
}

/// The caller learns what is wrong with a token, the operator the reason.
#[test]
fn each_refusal_of_a_token_has_its_reason() {
    let origin = Origin::named("o");
    let key = json!({"kty": "oct", "alg": "HS256", "kid": "k1", "k": URL_SAFE_NO_PAD.encode(SECRET)});
    let config = json!({"jwks": {"keys": [key]}, "typ": "JWT", "required_claims": []});
    let grants = "grants = { read_headers = [\"authorization\"] }";
    let gateway = gateway(&(route(&origin.url(), &["auth"]) + &filter("auth", "jwt-auth", grants, config)));
    let head = |more: Value| {
        let mut head = json!({"alg": "HS256", "typ": "JWT", "kid": "k1"});
        head.as_object_mut().expect("a table").extend(more.as_object().expect("a table").clone());
        head
    };
    let future = json!({"sub": "s", "nbf": 4_102_444_800_u64}).to_string();
    for (head, payload, reason) in [
        (head(json!({"alg": "HS512"})), "{}", "wrong-algorithm"),
        (head(json!({"alg": "none"})), "{}", "wrong-algorithm"),
        (head(json!({"kid": "k2"})), "{}", "unknown-key"),
        (head(json!({"typ": "x"})), "{}", "wrong-type"),
        (head(json!({"crit": ["b64"], "b64": false})), "{}", "critical-extension"),
        (head(json!({"alg": 7})), "{}", "bad-token-header"),
        (head(json!({})), "no JSON", "bad-claims"),
        (head(json!({})), r#"{"sub":"a","sub":"b"}"#, "bad-claims"),
        (head(json!({})), &*future, "token-not-yet-valid"),
    ] {
        let before = gateway.access().len();
        let token = format!("Bearer {}", signed(&head, payload));
        assert_eq!(gateway.request("GET", "/", &[("authorization", &token)], b"").status, 401, "{reason}");
        eventually(reason, || gateway.access().iter().skip(before).any(|line| line["reason"] == reason));
    }
    assert_eq!(origin.count(), 0);
}

const KEY_HASH: &str = "sha256:ad44dc8e51cfbfa55e81ddbb626b466241069045066846e7e4cd096131505290";

#[test]
fn a_key_in_a_url_is_told_to_nobody() {
    let origin = Origin::named("o");
    let toml = route(&origin.url(), &["key"])
        + &filter("key", "api-key", "grants = { consumers = true }", json!({"places": ["query:key"]}))
        + &format!("[consumers.acme]\nkeys = [\"{KEY_HASH}\"]\n");
    let gateway = gateway(&toml);
    let page = gateway.get("/page?a=1&k%65y=the-key");
    assert_eq!((page.status, page.header("referrer-policy")), (200, Some("no-referrer")));
    assert_eq!(origin.last().target, "/page?a=1");
    // A browser that does not follow the policy, and a page that asks for more with the key.
    let referer = [("referer", "http://a.example/page?a=1&key=the-key")];
    assert_eq!(gateway.request("GET", "/image?key=the-key", &referer, b"").status, 200);
    assert_eq!(origin.last().header("referer"), Some("http://a.example/page?a=1"));
    assert_eq!(gateway.get("/page?key=not-the-key").status, 401);
    gateway.wait_access("the refusal", |line| line["reason"] == "key-unknown");
    let told = format!("{:?}{:?}", gateway.log(), gateway.access());
    assert!(told.contains("key-unknown") && !told.contains("the-key"), "{told}");
}

/// Passwords are hashed one after the other, and each takes long: who sends many gets refusals, and others get their answers.
#[test]
fn a_flood_of_passwords_is_bounded_and_slows_nobody_else() {
    let origin = Origin::named("o");
    let hash = sluice::services::passwords::hash(b"open sesame");
    let login = json!({"throttle": {"failures": 0, "account_failures": 0}});
    let grants =
        "grants = { consumers = true, read_headers = [\"authorization\"], write_headers = [\"authorization\"] }";
    let toml = route(&origin.url(), &["login"]).replace("/**", "/login")
        + &format!("[routes.free]\nmatch = {{ path = \"/free\" }}\nupstream = \"{}\"\n", origin.url())
        + &filter("login", "basic-auth", grants, login)
        + &format!("[consumers.acme]\npasswords = {{ alice = \"{hash}\" }}\n");
    // A hash alone may take a second where a busy machine runs an unoptimised gateway.
    let gateway = gateway(&(toml + "[plugins.basic-auth]\nlimits = { wall = \"20s\" }\n"));
    let guess = |number: usize| {
        let pair = STANDARD.encode(format!("alice:{number}"));
        format!("GET /login HTTP/1.1\r\nhost: a\r\nauthorization: Basic {pair}\r\n\r\n")
    };
    let guesses: Vec<_> = (0..400)
        .map(|number| {
            let mut client = gateway.client();
            client.send(guess(number));
            client
        })
        .collect();
    gateway.wait_access("no more than a bounded number waits", |line| {
        line["reason"] == "passwords-busy" && line["status"] == 503
    });
    assert_eq!(gateway.get("/free").status, 200, "while passwords wait");
    let statuses: Vec<_> = gateway.access().iter().map(|line| line["status"].clone()).collect();
    assert!(statuses.iter().all(|status| [200, 401, 503].iter().any(|known| status == known)), "{statuses:?}");
    drop(guesses);
    eventually("who has a password gets in once the others have gone", || {
        let pair = format!("Basic {}", STANDARD.encode("alice:open sesame"));
        gateway.request("GET", "/login", &[("authorization", &pair)], b"").status == 200
    });
}

/// What a partner signs is as large as a head may be: 3,000 members must not take the square of their number.
#[test]
fn a_token_of_many_members_is_refused_in_time() {
    let origin = Origin::named("o");
    let gateway = gateway(&(route(&origin.url(), &["auth"]) + &auth(json!({}))));
    let ask = |count: usize| {
        let members: String = (0..count).map(|number| format!(",\"{number}\":0")).collect();
        let token = signed(&json!({"alg": "HS256"}), &format!("{{\"sub\":\"a\"{members}}}"));
        status(&gateway, "/", format!("authorization: Bearer {token}\r\n").as_bytes())
    };
    assert_eq!([ask(1000), ask(2600), ask(1000)], [200, 401, 200]);
    gateway.wait_access("the reason", |line| line["reason"] == "bad-claims");
}

#[test]
fn a_file_that_is_written_in_parts_is_never_half_in_use() {
    let origin = Origin::named("o");
    let line = |name: &str, hash: &str| format!("{{\"name\":\"{name}\",\"keys\":[\"{hash}\"]}}\n");
    let toml = with_base(
        &(route(&origin.url(), &["key"])
            + &filter("key", "api-key", "grants = { consumers = true }", json!({"places": ["query:key"]}))),
    )
    .replace("reload = false", "consumer_files = [\"consumers.jsonl\"]");
    let all =
        "{\"consumers\":2}\n".to_owned() + &line("other", &format!("sha256:{:064x}", 7)) + &line("acme", KEY_HASH);
    let gateway = setup().file("consumers.jsonl", &all).start(&toml);
    assert_eq!(gateway.get("/?key=the-key").status, 200);
    // Each part is all that there is when the file is read: written, and closed.
    let refused = || gateway.metric("sluice_consumer_files_refused_total", &[]).unwrap_or_default();
    for end in [1, 10, 15, 60, all.len() - 20, all.len() - 2] {
        let before = refused();
        gateway.write("consumers.jsonl", &all[..end]);
        eventually("the part is read and refused", || refused() > before);
        assert_eq!(gateway.get("/?key=the-key").status, 200, "{end} bytes of it");
    }
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
