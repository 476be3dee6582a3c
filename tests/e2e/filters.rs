//! Filters: order, answers, errors, context, state, the choice of an upstream, outbound calls.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_harness::origin::nobody;
use sluice_harness::{Client, Origin, Reply, eventually};

use crate::support::{FAILS, filter, gateway, probe, route, setup, with_base};

fn mark(name: &str) -> serde_json::Value {
    json!({
        "on-request": [{"do": "append-header", "name": "x-in", "value": name}],
        "on-response": [{"do": "append-header", "name": "x-out", "value": name}],
    })
}

#[test]
fn in_by_order_and_out_in_reverse() {
    let origin = Origin::named("o");
    let toml = route(&origin.url(), &["a", "b", "c"])
        + &probe("a", mark("a"))
        + &probe("b", mark("b"))
        + &probe("c", mark("c"));
    let gateway = gateway(&toml);
    let response = gateway.get("/");
    assert_eq!(origin.last().head.all("x-in"), ["a", "b", "c"]);
    assert_eq!(response.head.all("x-out"), ["c", "b", "a"]);
}

#[test]
fn an_answer_of_a_filter_passes_those_before_it() {
    let origin = Origin::named("o");
    let answer = json!({
        "on-request": [{"do": "respond", "status": 403, "headers": {"x-who": "b"}, "body": "no"}],
        "on-response": [{"do": "append-header", "name": "x-out", "value": "b"}],
    });
    let toml =
        route(&origin.url(), &["a", "b", "c"]) + &probe("a", mark("a")) + &probe("b", answer) + &probe("c", mark("c"));
    let gateway = gateway(&toml);
    let response = gateway.get("/");
    assert_eq!((response.status, response.text().as_str(), response.header("x-who")), (403, "no", Some("b")));
    assert_eq!(response.head.all("x-out"), ["a"]);
    assert_eq!(origin.count(), 0);
    let log = gateway.wait_access("the exchange", |l| l["status"] == 403);
    assert!(log["answered_by"].to_string().contains('b'), "{log}");
}

#[test]
fn errors_of_the_gateway_pass_the_filters() {
    let out = json!({"on-response": [{"do": "origin", "to": "x-origin"}, {"do": "status", "to": "x-status"}]});
    let gateway = gateway(&(route(&format!("http://{}", nobody()), &["a"]) + &probe("a", out)));
    let response = gateway.get("/");
    assert!(response.header("x-origin").is_some_and(|o| o.to_lowercase().contains("gateway")), "{response:?}");
    assert_eq!(response.header("x-status"), Some(response.status.to_string().as_str()));
}

#[test]
fn the_source_of_a_response_is_told() {
    let origin = Origin::named("o");
    let out = json!({"on-response": [{"do": "origin", "to": "x-origin"}]});
    let answer = json!({"on-request": [{"do": "respond", "status": 200, "if-header": "x-short"}]});
    let gateway = gateway(&(route(&origin.url(), &["a", "b"]) + &probe("a", out) + &probe("b", answer)));
    let source = |headers: &[(&str, &str)]| {
        gateway.request("GET", "/", headers, b"").header("x-origin").unwrap_or("none").to_lowercase()
    };
    assert!(source(&[]).contains("upstream"));
    assert!(source(&[("x-short", "1")]).contains("filter"));
}

#[test]
fn edits_reach_the_origin_and_the_client() {
    let origin = Origin::serve(|_| Reply::text("body").with("x-internal", "1").with("server", "old"));
    let config = json!({
        "on-request": [
            {"do": "set-method", "value": "PUT"},
            {"do": "set-path", "value": "/other"},
            {"do": "set-query", "value": "a=b"},
            {"do": "set-header", "name": "X-Set", "value": "1"},
            {"do": "remove-header", "name": "x-gone"},
        ],
        "on-response": [
            {"do": "set-status", "status": 202},
            {"do": "remove-header", "name": "x-internal"},
            {"do": "set-header", "name": "server", "value": "new"},
        ],
    });
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    let response = gateway.request("POST", "/first?x=y", &[("x-gone", "1")], b"");
    let seen = origin.last();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str(), seen.header("x-set"), seen.header("x-gone")),
        ("PUT", "/other?a=b", Some("1"), None)
    );
    assert_eq!((response.status, response.header("x-internal"), response.header("server")), (202, None, Some("new")));
    assert_eq!(response.text(), "body");
}

#[test]
fn what_frames_a_message_cannot_be_set() {
    let origin = Origin::named("o");
    let names = [
        "connection",
        "transfer-encoding",
        "content-length",
        "te",
        "upgrade",
        "trailer",
        "keep-alive",
        "proxy-connection",
    ];
    let actions: Vec<_> = names
        .iter()
        .map(|n| json!({"do": "try-set-header", "name": n, "value": "1", "to": format!("x-{n}")}))
        .collect();
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &probe("a", json!({"on-request": actions}))));
    assert_eq!(gateway.get("/").status, 200);
    let seen = origin.last();
    for name in names {
        assert!(seen.header(&format!("x-{name}")).is_some_and(|v| v.starts_with("invalid")), "{name}: {seen:?}");
    }
}

#[test]
fn many_headers_are_edited_in_one_call_or_none() {
    let origin = Origin::named("o");
    let edits = json!([["x-a", "1"], ["x-gone"], ["X-B", "2"], ["x-a", "3"]]);
    let refused = json!([["x-a", "4"], ["x-b"], ["host", "elsewhere"]]);
    let both = json!([
        {"do": "edit-headers", "edits": edits, "to": "x-done"},
        {"do": "edit-headers", "edits": refused, "to": "x-refused"},
    ]);
    let config = json!({"on-request": both, "on-response": both});
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    let response = gateway.request("GET", "/", &[("x-gone", "1")], b"");
    let seen = origin.last();
    assert_eq!(seen.header("x-gone"), None);
    for header in ["x-a", "x-b", "x-done", "x-refused"] {
        assert_eq!(seen.header(header), response.header(header), "{header}");
    }
    assert_eq!((seen.header("x-a"), seen.header("x-b"), seen.header("x-done")), (Some("3"), Some("2"), Some("done")));
    assert!(seen.header("x-refused").is_some_and(|why| why.starts_with("invalid")), "{seen:?}");
}

#[test]
fn context_goes_from_filter_to_filter() {
    let origin = Origin::named("o");
    let first = json!({"on-request": [
        {"do": "context-set", "name": "acme.tier", "value": "gold"},
        {"do": "set-consumer", "value": "ann"},
    ]});
    let second = json!({"on-request": [
        {"do": "context-get", "name": "acme.tier", "to": "x-tier"},
        {"do": "context-writer", "name": "acme.tier", "to": "x-writer"},
        {"do": "consumer", "to": "x-consumer"},
    ]});
    let gateway =
        gateway(&(route(&origin.url(), &["first", "second"]) + &probe("first", first) + &probe("second", second)));
    gateway.get("/");
    let seen = origin.last();
    assert!(seen.header("x-tier").is_some_and(|v| v.contains("gold")), "{seen:?}");
    assert_eq!((seen.header("x-writer"), seen.header("x-consumer")), (Some("first"), Some("ann")));
    let log = gateway.wait_access("the consumer in the access log", |l| l["consumer"] == "ann");
    assert_eq!(log["status"], 200);
}

#[test]
fn state_belongs_to_the_exchange_also_when_the_instance_is_shared() {
    for mode in ["reused", "fresh"] {
        let origin = Origin::scripted();
        let config = json!({
            "on-request": [{"do": "state-set", "from": "x-who"}],
            "on-response": [{"do": "state-get", "to": "x-state"}, {"do": "calls", "to": "x-calls"}],
        });
        let lines = format!("instances = {{ mode = \"{mode}\", max = 1 }}");
        let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", &lines, config)));
        let mut ann = gateway.client();
        let mut bob = gateway.client();
        ann.send("GET / HTTP/1.1\r\nhost: x\r\nx-who: ann\r\n\r\n");
        let mut ann_conn = origin.accept();
        ann_conn.read_head();
        if mode == "fresh" {
            // One fresh instance at a time would make Bob wait for Ann: her answer comes first.
            ann_conn.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(ann.read_response("GET").header("x-state"), Some("ann"));
            continue;
        }
        bob.send("GET / HTTP/1.1\r\nhost: x\r\nx-who: bob\r\n\r\n");
        let mut bob_conn = origin.accept();
        bob_conn.read_head();
        bob_conn.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let bob = bob.read_response("GET");
        ann_conn.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let ann = ann.read_response("GET");
        assert_eq!((ann.header("x-state"), bob.header("x-state")), (Some("ann"), Some("bob")));
        assert_eq!((bob.header("x-calls"), ann.header("x-calls")), (Some("3"), Some("4")), "one instance served both");
    }
}

#[test]
fn a_fresh_instance_remembers_nothing_and_a_reused_one_is_renewed() {
    let origin = Origin::named("o");
    let config = || json!({"on-request": [{"do": "calls", "to": "x-calls"}]});
    for (lines, expected) in [
        ("instances = { mode = \"fresh\" }", ["1", "1", "1", "1"]),
        ("instances = { mode = \"reused\" }", ["1", "2", "3", "4"]),
        ("instances = { mode = \"reused\", uses = 2 }", ["1", "2", "1", "2"]),
    ] {
        let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config())));
        let mut client = gateway.client();
        let seen: Vec<String> = (0..4)
            .map(|_| {
                client.get("/");
                origin.last().header("x-calls").expect("the number of calls").to_string()
            })
            .collect();
        assert_eq!(seen, expected, "{lines}");
    }
}

#[test]
fn a_fresh_filter_is_configured_once_and_where_that_can_t_be_it_is_said() {
    let origin = Origin::named("o");
    // A guest that has printed holds its standard output from then on.
    for (action, once) in [("log", true), ("print", false)] {
        let config = json!({
            "configure": [{"do": action, "value": "taken in"}],
            "on-request": [{"do": "calls", "to": "x-calls"}, {"do": "print", "value": "a line"}],
        });
        let lines = "instances = { mode = \"fresh\" }";
        let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", lines, config)));
        for _ in 0..3 {
            assert_eq!(gateway.get("/").status, 200);
            assert_eq!(origin.last().header("x-calls"), Some("1"));
        }
        let said = |what: &str| gateway.log().iter().filter(|line| line.to_string().contains(what)).count();
        eventually("all lines", || said("a line") == 3);
        assert_eq!((said("taken in"), said("there is no image")), if once { (1, 0) } else { (4, 1) });
    }
}

#[test]
fn select_upstream_chooses() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let upstreams = format!(
        "[upstreams.one]\nendpoints = [{{ url = \"{}\", labels = {{ zone = \"east\" }} }}, {{ url = \"{}\", labels = {{ zone = \"west\" }} }}]\n[upstreams.two]\nendpoints = [\"{}\"]\n\
         [routes.all]\nmatch = {{ path = \"/**\" }}\nupstreams = {{ one = 1, two = 0 }}\npipeline = [\"f\"]\n",
        a.url(),
        b.url(),
        b.url()
    );
    let by_label = json!({"select-upstream": [{"do": "choose-label", "name": "zone", "value": "west"}]});
    let gateway_label = gateway(&format!("{upstreams}{}", probe("f", by_label)));
    for _ in 0..6 {
        assert_eq!(gateway_label.get("/").text(), "b");
    }
    let by_name = json!({"select-upstream": [{"do": "choose-upstream", "value": "two", "to": "chosen"}]});
    let gateway_name = gateway(&format!("{upstreams}{}", probe("f", by_name)));
    for _ in 0..6 {
        assert_eq!(gateway_name.get("/").text(), "b");
    }
    let by_address = json!({"select-upstream": [{"do": "choose-endpoint", "from": "x-to", "to": "chosen"}]});
    let gateway_address = gateway(&format!("{upstreams}{}", probe("f", by_address)));
    for origin in [&a, &b, &a] {
        let before = origin.count();
        gateway_address.request("GET", "/", &[("x-to", &origin.address().to_string())], b"");
        assert_eq!(origin.count(), before + 1);
    }
}

#[test]
fn hash_keys_stick() {
    let origins: Vec<Origin> = ["a", "b", "c"].map(Origin::named).into();
    let endpoints: Vec<String> = origins.iter().map(Origin::url).collect();
    let config = json!({"select-upstream": [{"do": "hash-key", "name": "x-user"}]});
    let toml =
        format!("[upstreams.three]\nendpoints = {endpoints:?}\n") + &route("three", &["f"]) + &probe("f", config);
    let gateway = gateway(&toml);
    let mut used = std::collections::BTreeSet::new();
    for user in 0..60 {
        let user = format!("user-{user}");
        let ask = || gateway.request("GET", "/", &[("x-user", &user)], b"").text();
        let first = ask();
        assert_eq!((ask(), ask()), (first.clone(), first.clone()));
        used.insert(first);
    }
    assert_eq!(used.len(), 3, "the keys spread");
}

#[test]
fn select_upstream_is_told_what_failed() {
    let origin = Origin::named("alive");
    let config = json!({"select-upstream": [{"do": "failures", "to": "failures"}, {"do": "choose-another"}]});
    let toml = format!("[upstreams.pair]\nendpoints = [\"http://{}\", \"{}\"]\n", nobody(), origin.url());
    let gateway = gateway(&(toml + &route("pair", &["f"]) + &probe("f", config)));
    for _ in 0..2 {
        assert_eq!(gateway.get("/").text(), "alive");
    }
    gateway.wait_log("the second call with the failure of the first", |l| l.to_string().contains("failures: 1"));
}

#[test]
fn on_complete_sees_the_finished_exchange_also_after_an_abort() {
    let origin = Origin::serve(|r| {
        if r.target == "/silent" {
            return Reply::script(|conn| conn.wait_for_close());
        }
        if r.target == "/abort" {
            return Reply::script(|conn| {
                conn.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome");
                conn.wait_for_close();
            });
        }
        Reply::text("o")
    });
    let config = json!({"on-complete": [{"do": "summary", "to": "summary"}]});
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    gateway.get("/whole");
    let line = gateway.wait_log("the summary", |l| l["message"].as_str().is_some_and(|m| m.contains("/whole")));
    assert!(line.to_string().contains("200"), "{line}");
    let mut client = gateway.client();
    client.send("GET /abort HTTP/1.1\r\nhost: x\r\n\r\n");
    client.read_head();
    drop(client);
    gateway.wait_log("the summary of the aborted exchange", |l| {
        l["message"].as_str().is_some_and(|m| m.contains("/abort"))
    });
    let mut client = gateway.client();
    client.send("GET /silent HTTP/1.1\r\nhost: x\r\n\r\n");
    eventually("the request to reach the origin", || origin.last().target == "/silent");
    drop(client);
    gateway.wait_log("the summary of one that was left before its response", |l| {
        l["message"].as_str().is_some_and(|m| m.contains("/silent"))
    });
}

#[test]
fn open_and_closed() {
    let origin = Origin::named("o");
    let fails = || json!({"on-request": [{"do": "set-header", "name": "x-half", "value": "1"}, {"do": "fail", "value": "a secret reason"}]});
    let open = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", "on_error = \"open\"", fails())));
    assert_eq!(open.get("/").status, 200);
    assert_eq!(origin.last().header("x-half"), None, "half-made edits are rolled back");
    let closed = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", "on_error = \"closed\"", fails())));
    let response = closed.get("/");
    assert!(response.status >= 500, "{response:?}");
    assert!(!response.text().contains("secret"), "{}", response.text());
    closed.wait_log("the reason", |l| l.to_string().contains("a secret reason"));
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_filter_that_traps_and_is_slow_to_configure_leaves_its_worker_to_the_others() {
    let origin = Origin::named("o");
    let config =
        json!({"configure": [{"do": "spin", "ms": 25}], "on-request": [{"do": "trap", "if-header": "x-trap"}]});
    let gateway =
        gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", "limits = { wall = \"5s\" }", config)));
    let begun = Instant::now();
    for _ in 0..16 {
        assert_eq!(gateway.request("GET", "/", &[("x-trap", "1")], b"").status, 500);
    }
    // Some instances were ready, and the last one is replaced behind its request. Replacing ten of 25 ms takes 250 ms; all but 75 ms of that is a
    // tenth of the time.
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(gateway.get("/").status, 200, "and the filter serves those who do not make it trap");
}

#[test]
fn closed_is_the_default() {
    let origin = Origin::named("o");
    let gateway = gateway(
        &(route(&origin.url(), &["a"]) + &filter("a", "probe", FAILS, json!({"on-request": [{"do": "trap"}]}))),
    );
    assert!(gateway.get("/").status >= 500);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_hook_that_is_not_wanted_is_not_called() {
    let origin = Origin::named("o");
    // The probe switches off every hook that its config does not name.
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &probe("a", json!({"on-response": []}))));
    gateway.get("/");
    eventually("the counted call", || {
        gateway.metric("sluice_filter_calls_total", &[("hook", "on-response")]) == Some(1.0)
    });
    assert_eq!(gateway.metric("sluice_filter_calls_total", &[("hook", "on-request")]).unwrap_or(0.0), 0.0);
}

#[test]
fn a_call_in_the_wrong_hook_answers_so() {
    let origin = Origin::named("o");
    let config = json!({"on-request": [
        {"do": "choose-upstream", "value": "x", "to": "x-choose"},
        {"do": "summary", "to": "x-summary"},
        {"do": "trailer", "name": "x", "to": "x-trailer"},
    ]});
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    assert_eq!(gateway.get("/").status, 200);
    let seen = origin.last();
    for name in ["x-choose", "x-summary", "x-trailer"] {
        assert_eq!(seen.header(name), Some("wrong-hook"), "{name}");
    }
}

#[test]
fn refused_configs_point_at_the_key() {
    let config = json!({"configure": [{"do": "refuse", "message": "limits[1].window: expected a duration"}], "limits": [{"window": "1m"}, {"window": "x"}]});
    let refused = setup().refused(&with_base(&(route("http://127.0.0.1:1", &["a"]) + &probe("a", config))));
    assert!(!refused.status.success());
    let text = refused.stderr;
    assert!(
        text.contains("gateway.toml:") && text.contains("limits[1].window") && text.contains("expected a duration"),
        "{text}"
    );
}

#[test]
fn outbound_calls() {
    let origin = Origin::named("o");
    let other = Origin::serve(|r| Reply::text(format!("got {}", r.target)));
    let stranger = Origin::named("stranger");
    let call = |url: String, to: &str| json!({"do": "call", "url": url, "to": to});
    let config = json!({"on-request": [
        call(format!("{}/token", other.url()), "x-called"),
        call(stranger.url(), "x-refused"),
        call("http://127.0.0.1:1/".into(), "x-not-granted"),
    ]});
    let lines = format!("grants = {{ http = [\"{}\"] }}", other.url());
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe-waiting", &lines, config)));
    assert_eq!(gateway.get("/").status, 200);
    let seen = origin.last();
    assert_eq!(seen.header("x-called"), Some("200 got /token"));
    assert!(seen.header("x-refused").is_some_and(|v| v.starts_with("not-granted")), "{seen:?}");
    assert_eq!(stranger.count(), 0);
}

#[test]
fn a_filter_that_calls_its_own_route_does_so_once() {
    let origin = Origin::named("o");
    let own = nobody().port();
    let url = format!("http://127.0.0.1:{own}");
    let call = json!({"do": "call", "url": format!("{url}/"), "to": "x-called"});
    let config = json!({"on-request": [call.clone(), call]});
    let lines = format!("grants = {{ http = [\"{url}\"] }}");
    let toml = route(&origin.url(), &["a"]) + &filter("a", "probe-waiting", &lines, config);
    let gateway = setup().start(&with_base(&toml).replacen("127.0.0.1:0", &format!("127.0.0.1:{own}"), 1));
    assert_eq!(gateway.get("/").status, 200);
    // The request, and the two calls for it, in which the filter calls nobody.
    assert_eq!(origin.count(), 3);
    let seen = origin.requests();
    assert!(seen[0].header("x-called").is_some_and(|v| v.starts_with("invalid: this filter")), "{:?}", seen[0]);
    assert_eq!(seen[2].header("x-called"), Some("200 o"));
}

#[test]
fn a_request_that_goes_in_circles_is_refused() {
    let own = nobody();
    let toml = route(&format!("http://{own}"), &[])
        + "[routes.origin]\nmatch = { path = \"/origin\" }\nupstream = \"ORIGIN\"\n";
    let origin = Origin::named("o");
    let toml = with_base(&toml.replace("ORIGIN", &origin.url()));
    let gateway = setup().start(&toml.replacen("127.0.0.1:0", &own.to_string(), 1));
    assert_eq!(gateway.get("/").status, 508);
    let refused = gateway.wait_access("the refusal", |l| l["error"] == "loop-detected");
    assert_eq!((refused["status"].as_u64(), refused["error_side"].as_str()), (Some(508), Some("client")), "{refused}");
    eventually("the passes before it", || gateway.access().len() == 11);
    // Other networks are passed on, and a client can't hide that a request has been here.
    let headers = [("cdn-loop", "other.example; a=b"), ("connection", "cdn-loop")];
    assert_eq!(gateway.request("GET", "/origin", &headers, b"").status, 200);
    assert_eq!(origin.last().header("cdn-loop"), Some("other.example; a=b, sluice"));
}

#[test]
fn a_waiting_filter_does_not_hold_up_its_worker() {
    let origin = Origin::named("o");
    let slow = Origin::scripted();
    let config = json!({"on-request": [{"do": "call", "url": slow.url(), "to": "x-called", "if-header": "x-call"}]});
    let lines = format!("grants = {{ http = [\"{}\"] }}\nlimits = {{ wall = \"20s\" }}", slow.url());
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe-waiting", &lines, config)));
    let mut waiting = gateway.client();
    waiting.send("GET / HTTP/1.1\r\nhost: x\r\nx-call: 1\r\n\r\n");
    let mut conn = slow.accept();
    conn.read_head();
    for _ in 0..20 {
        assert_eq!(gateway.get("/").status, 200);
    }
    conn.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
    assert_eq!(waiting.read_response("GET").status, 200);
    assert_eq!(origin.last().header("x-called"), Some("200 done"));
}

#[test]
fn the_queue_for_an_instance_is_bounded() {
    let origin = Origin::named("o");
    let slow = Origin::scripted();
    let config = json!({"on-request": [{"do": "call", "url": slow.url(), "to": "x-called"}]});
    let lines = format!(
        "grants = {{ http = [\"{}\"] }}\nlimits = {{ wall = \"20s\" }}\ninstances = {{ max = 1, queue = 1 }}",
        slow.url()
    );
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe-waiting", &lines, config)));
    let ask = || {
        let mut client = gateway.client();
        client.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        client
    };
    let mut first: Client = ask();
    let mut conn = slow.accept();
    conn.read_head();
    let mut rest = [ask(), ask(), ask()];
    // One of the three waits; the others are refused at once.
    let answer = |conn: &mut sluice_harness::Conn| conn.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
    eventually("two refusals", || gateway.access().iter().filter(|l| l["status"].as_u64() >= Some(500)).count() == 2);
    answer(&mut conn);
    assert_eq!(first.read_response("GET").status, 200);
    conn.read_head();
    answer(&mut conn);
    let mut statuses: Vec<u16> = rest.iter_mut().map(|c| c.read_response("GET").status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses[0], 200);
    assert!(statuses[1] >= 500 && statuses[2] >= 500, "{statuses:?}");
}
