//! Filters that see bodies and trailers.

use serde_json::json;
use sluice_harness::h2::{H2, H2Origin, full};
use sluice_harness::{Gateway, Origin, Reply};

use crate::support::{filter, gateway, probe, route, setup, with_base};

#[test]
fn request_bodies_are_read_and_replaced() {
    let origin = Origin::serve(|r| Reply::text(r.text()));
    let config = json!({"on-request-body": [{"do": "body-length", "to": "x-length"}, {"do": "upper-body"}]});
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    assert_eq!(gateway.request("POST", "/", &[], b"small words").text(), "SMALL WORDS");
    let seen = origin.last();
    assert_eq!((seen.header("x-length"), seen.header("content-length")), (Some("11"), Some("11")));
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n");
    assert_eq!(client.read_response("POST").text(), "ABCDEF");
}

#[test]
fn response_bodies_are_read_and_replaced() {
    let origin = Origin::named("small words");
    let config = json!({"on-response-body": [{"do": "body", "to": "x-body"}, {"do": "set-body", "value": "other and longer words"}]});
    let gateway = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    let response = gateway.get("/");
    assert_eq!((response.header("x-body"), response.text().as_str()), (Some("small words"), "other and longer words"));
    assert_eq!(response.header("content-length"), Some("22"));
}

#[test]
fn what_the_head_says_of_the_old_bytes_goes_with_them() {
    const OF_BYTES: [(&str, &str); 5] = [
        ("content-digest", "sha-256=:AA==:"),
        ("repr-digest", "sha-256=:AA==:"),
        ("digest", "sha-256=AA=="),
        ("content-md5", "AA=="),
        ("accept-ranges", "bytes"),
    ];
    let origin = Origin::serve(|_| {
        let reply = Reply::text("old").with("etag", "\"one\"").with("last-modified", "Mon, 30 Nov 2026 10:00:00 GMT");
        OF_BYTES.into_iter().fold(reply, |reply, (name, value)| reply.with(name, value))
    });
    let set = json!([{"do": "set-body", "value": "new words"}]);
    let toml = route(&origin.url(), &["a"])
        + &probe("a", json!({"body-limit": 1000, "on-request-body": set, "on-response-body": set}));
    let gateway = gateway(&toml);
    let response = gateway.request("POST", "/", &OF_BYTES, b"old");
    assert_eq!((response.text().as_str(), origin.last().text().as_str()), ("new words", "new words"));
    for (name, _) in OF_BYTES {
        assert_eq!(response.header(name), None);
        assert!(name == "accept-ranges" || origin.last().header(name).is_none(), "{name}");
    }
    assert_eq!(response.header("etag"), Some("W/\"one\""));
    assert!(response.header("last-modified").is_some());
    let head = gateway.request("HEAD", "/", &[], b"");
    assert_eq!((head.header("content-length"), head.header("content-digest")), (None, None));
    assert_eq!(head.header("etag"), Some("W/\"one\""));
    assert_eq!(gateway.request("HEAD", "/", &[], b"").status, 200, "the connection is as good as before");
    // One that asks for the body of this response gets none either, and its hook is not called.
    let wish = json!({"on-response": [{"do": "want-body", "max": 1000}], "on-response-body": [{"do": "set-header", "name": "x-called", "value": "1"}]});
    let asking = crate::support::gateway(&(route(&origin.url(), &["a"]) + &probe("a", wish)));
    let head = asking.request("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.header("content-length"), head.header("x-called")), (200, None, None));
    assert_eq!(asking.get("/").header("x-called"), Some("1"));
}

#[test]
fn coded_bodies_are_decoded_for_filters() {
    // "hello hello hello" as gzip.
    let gzip: &[u8] = &[
        31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 203, 72, 205, 201, 201, 87, 200, 64, 144, 0, 128, 136, 249, 229, 17, 0, 0, 0,
    ];
    let origin =
        Origin::serve(move |_| Reply::Full(200, vec![("content-encoding".into(), "gzip".into())], gzip.to_vec()));
    let config = json!({"on-response-body": [{"do": "upper-body"}]});
    let changed = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    let response = changed.request("GET", "/", &[("accept-encoding", "gzip")], b"");
    assert_eq!((response.text().as_str(), response.header("content-encoding")), ("HELLO HELLO HELLO", None));
    let config = json!({"on-response-body": [{"do": "body-length", "to": "x-length"}]});
    let seen = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    let response = seen.request("GET", "/", &[("accept-encoding", "gzip")], b"");
    assert_eq!((response.header("x-length"), response.header("content-encoding")), (Some("17"), Some("gzip")));
    assert_eq!(response.body, gzip, "untouched bytes are sent as they came");
}

/// An origin that answers in the first coding that it is offered would answer in one that nobody here can decode.
#[test]
fn an_upstream_is_offered_only_codings_that_a_filter_can_read() {
    let origin = Origin::serve(|r| Reply::text(r.header("accept-encoding").unwrap_or("any").to_string()));
    let config = json!({"on-response-body": [{"do": "body-length", "to": "x-length"}]});
    let read = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    let unread = gateway(&route(&origin.url(), &[]));
    for (accepted, offered) in
        [("dcz, gzip;q=0.5, zstd", "gzip;q=0.5, zstd"), ("compress", "identity"), ("*", "identity")]
    {
        let fields = [("accept-encoding", accepted)];
        assert_eq!(read.request("GET", "/", &fields, b"").text(), offered, "{accepted}");
        assert_eq!(unread.request("GET", "/", &fields, b"").text(), accepted, "nobody reads it");
    }
    assert_eq!((read.get("/").text(), unread.get("/").text()), ("identity".into(), "any".into()));
}

#[test]
fn bodies_only_where_they_are_wanted() {
    let origin = Origin::serve(|r| Reply::text(r.text()));
    let config = json!({
        "body-types": ["application/json"],
        "on-request-body": [{"do": "set-header", "name": "x-seen", "value": "yes"}],
    });
    let typed = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    typed.request("POST", "/", &[("content-type", "application/json; charset=utf-8")], b"{}");
    assert_eq!(origin.last().header("x-seen"), Some("yes"));
    typed.request("POST", "/", &[("content-type", "text/plain")], b"{}");
    assert_eq!(origin.last().header("x-seen"), None);

    let config = json!({
        "ask": true,
        "on-request": [{"do": "want-body", "max": 1000, "if-header": "x-please"}],
        "on-request-body": [{"do": "set-header", "name": "x-seen", "value": "yes"}],
    });
    let asking = gateway(&(route(&origin.url(), &["a"]) + &probe("a", config)));
    asking.request("POST", "/", &[("x-please", "1")], b"x");
    assert_eq!(origin.last().header("x-seen"), Some("yes"));
    asking.request("POST", "/", &[], b"x");
    assert_eq!(origin.last().header("x-seen"), None);
}

#[test]
fn bodies_over_the_limit_of_a_filter() {
    let origin = Origin::serve(|r| Reply::text("x".repeat(if r.target == "/big" { 100 } else { 5 })));
    let request = json!({"body-limit": 10, "on-request-body": []});
    let strict = gateway(&(route(&origin.url(), &["a"]) + &probe("a", request)));
    assert_eq!(strict.request("POST", "/", &[], b"small").status, 200);
    assert_eq!(strict.request("POST", "/", &[], b"more than ten bytes").status, 413);
    let response =
        || json!({"body-limit": 10, "on-response-body": [{"do": "set-header", "name": "x-seen", "value": "yes"}]});
    let closed = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", "on_error = \"closed\"", response())));
    assert_eq!(closed.get("/").header("x-seen"), Some("yes"));
    assert_eq!(closed.get("/big").status, 500);
    let line = closed.wait_access("the error", |l| l["path"] == "/big");
    assert_eq!(
        (line["error"].as_str(), line["error_side"].as_str()),
        (Some("response-too-large"), Some("filter")),
        "{line}"
    );
    let line = closed.wait_log("which filter and limit", |l| l["filter"] == "a" && l["passed_over"] == false);
    assert!(line.to_string().contains("more than 10 bytes"), "{line}");
    let open = gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", "on_error = \"open\"", response())));
    let big = open.get("/big");
    assert_eq!((big.status, big.body.len(), big.header("x-seen")), (200, 100, None));
    let count =
        |gateway: &Gateway, name: &str, label| gateway.metric(name, &[("filter", "a"), label, ("reason", "too-large")]);
    let refused = "sluice_filter_refused_bodies_total";
    assert_eq!(count(&strict, refused, ("hook", "on-request-body")), Some(1.0));
    assert_eq!(count(&closed, refused, ("hook", "on-response-body")), Some(1.0));
    assert_eq!(count(&open, refused, ("hook", "on-response-body")), None);
    assert_eq!(count(&open, "sluice_filter_unseen_bodies_total", ("plugin", "probe")), Some(1.0));
    open.wait_log("that it was passed on unread", |l| l["filter"] == "a" && l["passed_over"] == true);
}

#[test]
fn a_filter_that_asks_for_more_than_it_may_have_is_told_of() {
    let config = json!({"body-limit": 5000, "on-request-body": [], "on-response-body": []});
    let toml = |limits: &str| {
        with_base(&(route("http://127.0.0.1:1", &["a"]) + &filter("a", "probe", limits, config.clone())))
    };
    let check = |limits: &str| setup().command_output(&toml(limits), &["check"]).stdout;
    let cut = check("limits = { body = \"1KiB\" }");
    for kind in ["request", "response"] {
        let line = format!("filter `a` asks for {kind} bodies of up to 5000 bytes, and its `limits.body` allows 1024");
        assert!(cut.contains(&line), "{cut}");
    }
    assert!(!check("").contains("asks for"), "within the limit");

    let origin = Origin::named("o");
    let asking = json!({"ask": true, "on-request": [{"do": "want-body", "max": 5000}], "on-request-body": []});
    let gateway =
        gateway(&(route(&origin.url(), &["a"]) + &filter("a", "probe", "limits = { body = \"1KiB\" }", asking)));
    assert_eq!(gateway.request("POST", "/", &[], b"x").status, 200);
    gateway.wait_log("what it asks for", |l| l["filter"] == "a" && l.to_string().contains("5000 bytes"));
}

#[test]
fn limits_that_contradict_are_told_of() {
    let config = json!({"body-limit": 20 << 20, "on-request-body": []});
    let check = |limits: &str, gateway: &str| {
        let toml = with_base(&(route("http://127.0.0.1:1", &["a"]) + &filter("a", "probe", limits, config.clone())));
        setup().command_output(&toml.replace("workers = 1", gateway), &["check"]).stdout
    };
    assert!(!check("", "workers = 1").contains("may have bodies of"));
    let told =
        check("limits = { body = \"20MiB\", cpu_per_mib = \"1ms\" }", "workers = 1\nmax_buffered_memory = \"30MiB\"");
    for limit in ["limits.memory", "gateway.max_buffered_memory", "limits.cpu_per_mib"] {
        let line = told.lines().find(|line| line.contains(limit)).unwrap_or_else(|| panic!("{limit} in {told}"));
        assert!(line.contains("filter `a` may have bodies of 20971520 bytes"), "{line}");
    }
}

#[test]
fn the_operator_bounds_the_body_a_filter_may_buffer() {
    let origin = Origin::named("o");
    let config = json!({"body-limit": 1_000_000, "on-request-body": []});
    let toml = route(&origin.url(), &["a"]) + &filter("a", "probe", "limits = { body = \"1KiB\" }", config);
    let gateway = gateway(&toml);
    assert_eq!(gateway.request("POST", "/", &[], &[b'x'; 1000]).status, 200);
    assert_eq!(gateway.request("POST", "/", &[], &[b'x'; 2000]).status, 413);
}

#[test]
fn trailers_are_read_and_changed() {
    let origin = H2Origin::serve(None, |_| async move {
        use http_body_util::BodyExt;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("5"));
        let body = full("x").with_trailers(std::future::ready(Some(Ok(trailers))));
        http::Response::new(body.boxed())
    });
    let config = json!({"on-response-trailers": [
        {"do": "trailer", "name": "grpc-status", "to": "x-was"},
        {"do": "set-trailer", "name": "grpc-status", "value": "0"},
    ]});
    let toml = format!("[upstreams.h2]\nendpoints = [\"http://{}\"]\nprotocol = \"h2c\"\n", origin.address());
    let gateway = gateway(&(toml + &route("h2", &["a"]) + &probe("a", config)));
    let mut h2 = H2::connect(gateway.address());
    let request = h2.builder("POST", "/").header("te", "trailers").body(full("")).expect("a request");
    let trailers = h2.send(request).trailers.expect("trailers");
    assert_eq!(
        (&trailers["x-was"], &trailers["grpc-status"]),
        (&http::HeaderValue::from_static("5"), &http::HeaderValue::from_static("0"))
    );
}
