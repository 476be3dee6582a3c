//! Groups of filters in a pipeline: `any_of` and `all_of`, with shipped plugins and with members that would like to get around each other.

use serde_json::json;
use sluice_harness::{Gateway, Origin, Reply, Response, eventually};

use crate::support::{filter, gateway, probe, setup, with_base};

/// HS256 of a made-up secret, made by PyJWT: issuer `tests`, subject `ann`, without end.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJ0ZXN0cyIsInN1YiI6ImFubiIsInJvbGVzIjpbInJlYWRlciJdLCJzY29wZSI6ImEgYiJ9.ZWP3KS8R1BHuvOeblojKQZWojk937i_PMKt5EkalbTk";
const SECRET: &str = "a made-up secret of more than 32 bytes";
const OTHER_SECRET: &str = "another made-up secret that is as long";

/// A filter that takes tokens signed with this secret.
fn jwt(name: &str, secret: &str, lines: &str) -> String {
    format!(
        "[filters.{name}]\nplugin = \"jwt-auth\"\ngrants = {{ read_headers = [\"authorization\"] }}\n[filters.{name}.config]\n\
         secret = \"{secret}\"\nrealm = \"{name}\"\nrequired_claims = []\n{lines}\n"
    )
}

/// The two that most tests have: `ours` takes [`TOKEN`], `theirs` does not.
fn both() -> String {
    jwt("theirs", OTHER_SECRET, "") + &jwt("ours", SECRET, "")
}

fn with_pipeline(origin: &Origin, pipeline: &str, filters: &str) -> Gateway {
    gateway(&routed(origin, pipeline, filters))
}

fn routed(origin: &Origin, pipeline: &str, filters: &str) -> String {
    format!(
        "[routes.all]\nmatch = {{ path = \"/**\" }}\nupstream = \"{}\"\npipeline = {pipeline}\n{filters}",
        origin.url()
    )
}

fn bearer(gateway: &Gateway, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let token = format!("Bearer {TOKEN}");
    let method = if body.is_empty() { "GET" } else { "POST" };
    gateway.request(method, "/", &[&[("authorization", token.as_str())], headers].concat(), body)
}

/// What a member does before it, or the next one of its branch, refuses.
fn marks(name: &str, lines: &str) -> String {
    let does = json!({"on-request": [
        {"do": "set-header", "name": "x-marked", "value": name},
        {"do": "remove-header", "name": "x-kept"},
        {"do": "set-path", "value": "/elsewhere"},
        {"do": "set-consumer", "value": "eve"},
        {"do": "context-set", "name": "seen", "value": name},
        {"do": "state-set", "from": "x-none", "value": "mine"},
    ], "on-response": [{"do": "set-header", "name": "x-saw-response", "value": name}]});
    filter(name, "probe", lines, does)
}

#[test]
fn one_of_two_issuers_is_enough_and_the_other_leaves_no_trace() {
    for mode in ["reused", "fresh"] {
        let origin = Origin::named("o");
        let reads = json!({"on-request": [{"do": "context-get", "name": "seen", "to": "x-seen"}]});
        let lines = format!("instances = {{ mode = \"{mode}\" }}");
        let filters = both() + &marks("marks", &lines) + &probe("reads", reads);
        let pipeline = r#"[{ any_of = [{ all_of = ["marks", "theirs"] }, "ours"] }, "reads"]"#;
        let gateway = with_pipeline(&origin, pipeline, &filters);
        let response = bearer(&gateway, &[("x-kept", "1"), ("x-user-id", "eve")], b"");
        assert_eq!((response.status, response.header("x-saw-response")), (200, None), "{mode}: {response:?}");
        let seen = origin.last();
        assert_eq!(seen.head.all("x-user-id"), ["ann"], "{mode}: whom the token is for, and nobody else");
        assert_eq!(
            (seen.header("x-marked"), seen.header("x-kept"), seen.header("x-seen")),
            (None, Some("1"), Some("None"))
        );
        assert!(seen.head.start.starts_with("GET / "), "{mode}: {}", seen.head.start);
        gateway.wait_access("the consumer", |line| line["consumer"] == "ann");
        assert_eq!(gateway.request("GET", "/", &[], b"").status, 401, "{mode}");
        assert_eq!(origin.count(), 1, "{mode}");
    }
}

#[test]
fn a_refusal_by_all_names_all_schemes_once() {
    let origin = Origin::named("o");
    let cors = "[filters.cors]\nconfig = { origins = [\"https://app.example\"] }\n";
    let pipeline = r#"["cors", { any_of = ["theirs", "ours", "theirs"] }]"#;
    let gateway = with_pipeline(&origin, pipeline, &(both() + cors));
    let response = gateway.request("GET", "/", &[("origin", "https://app.example")], b"");
    assert_eq!(response.status, 401);
    let challenges = response.head.all("www-authenticate");
    assert_eq!(challenges, [r#"Bearer realm="theirs", Bearer realm="ours""#]);
    assert_eq!(response.header("access-control-allow-origin"), Some("https://app.example"), "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let body = response.json();
    assert_eq!((&body["status"], &body["title"]), (&json!(401), &json!("Unauthorized")));
    assert_eq!(body["detail"], "The request has no credentials that are valid here.");
    assert_eq!(body["request_id"].as_str(), response.header("x-request-id"));

    let line = gateway.wait_access("the reasons of all", |line| line["status"] == 401);
    assert_eq!(line["reason"], "theirs=token-missing ours=token-missing theirs=token-missing");
    assert_eq!(line["answered_by"], "filter:theirs");
    let count = |filter: &str| {
        gateway.metric("sluice_response_reasons_total", &[("filter", filter), ("reason", "token-missing")])
    };
    assert_eq!((count("theirs"), count("ours")), (Some(2.0), Some(1.0)));
    // A bad token is refused by both, and neither says which part of it was nearly right.
    let bad = gateway.request("GET", "/", &[("authorization", "Bearer a.b.c")], b"");
    assert_eq!((bad.status, bad.head.all("www-authenticate").len(), origin.count()), (401, 1, 0));
}

#[test]
fn only_listed_statuses_try_the_next_member() {
    let origin = Origin::named("o");
    let strict = jwt("strict", SECRET, "rules = [{ roles = [\"admin\"] }]");
    let group = |more: &str| format!("[{{ any_of = [\"strict\", \"ours\"]{more} }}]");
    let gateway = with_pipeline(&origin, &group(""), &(both() + &strict));
    let refused = bearer(&gateway, &[], b"");
    assert_eq!((refused.status, origin.count()), (403, 0), "a caller who is known and may not is not asked again");
    assert!(refused.header("www-authenticate").is_some_and(|value| value.contains("insufficient_scope")));
    gateway.reload(&with_base(&routed(&origin, &group(", try_next_on = [401, 403]"), &(both() + &strict))));
    assert_eq!((bearer(&gateway, &[], b"").status, origin.count()), (200, 1));
}

#[test]
fn an_optional_group_lets_strangers_pass_as_nobody() {
    let origin = Origin::named("o");
    let pipeline = r#"[{ any_of = [{ all_of = ["marks", "theirs"] }, "ours"], optional = true }]"#;
    let gateway = with_pipeline(&origin, pipeline, &(both() + &marks("marks", "")));
    assert_eq!(gateway.request("GET", "/", &[("authorization", "Bearer a.b.c")], b"").status, 200);
    assert_eq!((origin.last().header("x-marked"), origin.last().header("x-user-id")), (None, None));
    gateway.wait_access("nobody", |line| line["status"] == 200 && line["consumer"].is_null());
    assert_eq!(bearer(&gateway, &[], b"").status, 200);
    assert_eq!(origin.last().header("x-user-id"), Some("ann"));
}

#[test]
fn crashing_a_member_is_no_way_past_it() {
    let origin = Origin::named("o");
    let does = json!({"on-request": [{"do": "set-consumer", "value": "eve"}, {"do": "trap", "if-header": "x-crash"}, {"do": "respond", "status": 401}]});
    let config = |on_error: &str| {
        let crashes = filter("crashes", "probe", &format!("on_error = \"{on_error}\""), does.clone());
        with_base(&routed(&origin, r#"[{ any_of = ["crashes", "ours"] }]"#, &(both() + &crashes)))
    };
    let gateway = setup().start(&config("closed"));
    assert_eq!(bearer(&gateway, &[], b"").status, 200);
    assert_eq!((bearer(&gateway, &[("x-crash", "1")], b"").status, origin.count()), (500, 1));
    // Open is as if the member were not there: the others still have to be convinced.
    gateway.reload(&config("open"));
    assert_eq!(gateway.request("GET", "/", &[("x-crash", "1")], b"").status, 401);
    assert_eq!(bearer(&gateway, &[("x-crash", "1")], b"").status, 200);
    assert_eq!((origin.last().header("x-user-id"), origin.count()), (Some("ann"), 2));
}

#[test]
fn a_member_that_refuses_at_the_body_has_not_changed_it() {
    let origin = Origin::named("o");
    let signed = json!({
        "on-request": [{"do": "set-consumer", "value": "eve"}, {"do": "set-header", "name": "x-signed", "value": "1"}],
        "on-request-body": [{"do": "set-body", "value": "forged"}, {"do": "respond", "status": 401}],
    });
    let never = json!({
        "on-request": [{"do": "respond", "status": 401}],
        "on-request-body": [{"do": "trap"}],
    });
    let filters = both() + &probe("signed", signed) + &filter("never", "probe", "on_failed_trial = \"warn\"", never);
    let gateway = with_pipeline(&origin, r#"[{ any_of = ["never", "signed", "ours"] }]"#, &filters);
    assert_eq!(bearer(&gateway, &[], b"as it came").status, 200);
    let seen = origin.last();
    assert_eq!(
        (seen.text().as_str(), seen.header("x-signed"), seen.header("x-user-id")),
        ("as it came", None, Some("ann"))
    );
    assert_eq!((gateway.request("POST", "/", &[], b"as it came").status, origin.count()), (401, 1));
}

/// A member that asks for the body has the filters before the group see it first, piece by piece. What these make of it goes with the member,
/// and what members did before stays one group's.
#[test]
fn filters_of_pieces_before_a_group_change_nothing_of_how_it_is_taken_back() {
    let service = Origin::serve(|_| Reply::status(401));
    let ask = format!(
        "[filters.ask]\nplugin = \"forward-auth\"\ngrants = {{ http = [\"{url}\"], read_headers = [\"authorization\", \"cookie\"] }}\n\
         config = {{ url = \"{url}/\", method = \"POST\", body = \"1KiB\" }}\n",
        url = service.url()
    );
    let rules = json!({ "rules": [{ "detect": "email" }], "messages": ["request"] });
    for mode in ["reused", "fresh"] {
        let filters = both()
            + &ask
            + &filter("private", "redact", "", rules.clone())
            + &format!("[plugins.redact]\ninstances = {{ mode = \"{mode}\" }}\n");
        let post = |gateway: &Gateway| {
            let token = format!("Bearer {TOKEN}");
            let headers = [("authorization", token.as_str()), ("content-type", "text/plain")];
            gateway.request("POST", "/", &headers, b"by ada@example.org").status
        };
        let origin = Origin::named("o");
        let gateway = with_pipeline(&origin, "[\"private\", { any_of = [\"ask\", \"ours\"] }]", &filters);
        assert_eq!(post(&gateway), 200);
        let seen = origin.last();
        assert!(seen.text().starts_with("by ") && !seen.text().contains("ada@"), "{mode}: {}", seen.text());
        assert_eq!(seen.header("x-user-id"), Some("ann"));
        assert!(!service.last().text().contains("ada@"), "the member sees what is left of the body, too");

        let origin = Origin::named("o");
        let pipeline = "[\"private\", { any_of = [{ all_of = [\"ours\", \"ask\"] }], optional = true }]";
        let gateway = with_pipeline(&origin, pipeline, &filters);
        assert_eq!(post(&gateway), 200);
        let seen = origin.last();
        assert_eq!(seen.header("x-user-id"), None, "{mode}: nobody has been let in by name");
        assert!(!seen.text().contains("ada@"), "{mode}: {}", seen.text());
        gateway.wait_access("a stranger", |line| line["consumer"].is_null());
    }
}

#[test]
fn a_named_pipeline_can_have_groups_and_a_member_that_never_refuses_is_an_error() {
    let origin = Origin::named("o");
    let config = |member: &str, more: &str| {
        let late = probe("late", json!({"ask": true}));
        let pipelines = format!(
            "[pipelines]\nguarded = [{{ any_of = [{{ all_of = [\"theirs\", \"{member}\"] }}, \"ours\"]{more} }}]\n"
        );
        with_base(&(routed(&origin, "\"guarded\"", &(both() + &late)) + &pipelines))
    };
    let gateway = setup().start(&config("ours", ", try_next_on = [401], optional = false"));
    assert_eq!((bearer(&gateway, &[], b"").status, gateway.get("/").status), (200, 401));
    let optional = config("ours", ", try_next_on = [401, 404], optional = true");
    gateway.reload(&optional);
    assert_eq!(gateway.get("/").status, 200);
    let cors =
        "[filters.shape]\nplugin = \"transform\"\nconfig = { response = { headers = { set = { x-a = \"1\" } } } }\n";
    let open = with_base(&routed(&origin, r#"[{ any_of = ["ours", "shape"] }]"#, &(both() + cors)));
    let refused = setup().refused(&open);
    assert!(
        refused.stderr.contains("a member of `any_of` never refuses, as `shape` has no hook for requests"),
        "{refused:?}"
    );
}

#[test]
fn a_key_or_a_token_and_the_caller_is_whose_credential_was_good() {
    let origin = Origin::named("o");
    let key = "[filters.key]\nplugin = \"api-key\"\n\
               grants = { consumers = true, read_headers = [\"x-api-key\"], write_headers = [\"x-api-key\"] }\n\
               [consumers.acme]\nplan = \"gold\"\nkeys = [\"sha256:ad44dc8e51cfbfa55e81ddbb626b466241069045066846e7e4cd096131505290\"]\n";
    let gateway = with_pipeline(&origin, r#"[{ any_of = ["key", "ours"] }]"#, &(both() + key));
    assert_eq!(gateway.request("GET", "/key", &[("x-api-key", "the-key")], b"").status, 200);
    assert_eq!(origin.last().header("x-api-key"), None);
    gateway.wait_access("whose key it is", |line| line["path"] == "/key" && line["consumer"] == "acme");
    // A token of one caller beside the wrong key of another one makes nobody out of both.
    assert_eq!(bearer(&gateway, &[("x-api-key", "not-the-key")], b"").status, 200);
    assert_eq!(origin.last().header("x-user-id"), Some("ann"));
    gateway.wait_access("whose token it is", |line| line["path"] == "/" && line["consumer"] == "ann");
    let refused = gateway.request("GET", "/", &[("x-api-key", "not-the-key")], b"");
    assert_eq!(refused.head.all("www-authenticate"), [r#"ApiKey realm="api", Bearer realm="ours""#]);
    let line = gateway.wait_access("both reasons", |line| line["status"] == 401);
    assert_eq!(
        (&line["reason"], line.to_string().contains("not-the-key")),
        (&json!("key=key-unknown ours=token-missing"), false)
    );
    assert_eq!((refused.status, origin.count()), (401, 2));
}

/// Two requests are at the origin at the same time, where the member that refuses both lets one through.
#[test]
fn a_member_that_refuses_holds_no_place() {
    let both_are_there = std::sync::Barrier::new(2);
    let origin = Origin::serve(move |_| {
        both_are_there.wait();
        Reply::text("o")
    });
    let limits = json!({ "concurrency": [{ "key": "global", "amount": 1 }] });
    let filters = both() + &filter("limits", "rate-limit", "", limits);
    let gateway = with_pipeline(&origin, r#"[{ any_of = [{ all_of = ["limits", "theirs"] }, "ours"] }]"#, &filters);
    let mut first = gateway.client();
    first.send(first.format("GET", "/", &[("authorization", &format!("Bearer {TOKEN}"))], b""));
    eventually("it is there", || origin.count() == 1);
    assert_eq!(bearer(&gateway, &[], b"").status, 200);
    assert_eq!(first.read_response("GET").status, 200);
}
