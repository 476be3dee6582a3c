//! The content of what is fetched for the cache, and the memory that it takes; what a HEAD and a confirmation change in what is stored.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use serde_json::json;
use sluice_harness::{Client, Gateway, Origin, Reply, eventually};

use crate::cache::{get, route, status};
use crate::support::{BASE, gateway, probe, setup, with_base};

const ASK: &str = "GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n";

#[test]
fn slow_readers_of_what_is_stored_leave_the_memory_to_others() {
    // More than the buffers of sockets take.
    let body = "0123456789abcdef".repeat(1 << 20);
    let whole = body.clone();
    let origin = Origin::serve(move |_| Reply::text(whole.clone()).with("cache-control", "max-age=60"));
    let gateway = gateway(&(route(&origin, "max_object = \"16MiB\"") + "[cache]\nmemory = \"256MiB\"\n"));
    let mut slow = gateway.client();
    slow.send(ASK);
    slow.read_head();
    eventually("it is stored", || gateway.metric("sluice_cache_objects", &[]) == Some(1.0));
    eventually("nothing is charged", || gateway.metric("sluice_buffered_bytes", &[]) == Some(0.0));
    assert!(slow.read_exact(body.len()) == body.as_bytes());
    assert_eq!(origin.count(), 1);
}

#[test]
fn slow_readers_of_what_filters_have_seen_are_charged_for_it() {
    let body = "0123456789abcdef".repeat(1 << 20);
    let whole = body.clone();
    let origin = Origin::serve(move |_| Reply::text(whole.clone()));
    let tells = json!({"do": "functions", "calls": [["cache.add-tag", "red"]], "to": "x-said"});
    let rest = "pipeline = [\"tells\"]\n".to_owned() + &probe("tells", json!({"on-response": [tells]}));
    let memory = "[cache]\nmemory = \"256MiB\"\n";
    let gateway = gateway(&(route(&origin, "max_object = \"16MiB\"") + &rest + memory));
    let mut slow = gateway.client();
    slow.send(ASK);
    slow.read_head();
    let charged = || gateway.metric("sluice_buffered_bytes", &[]);
    eventually("it is charged", || charged() == Some(body.len() as f64));
    assert!(slow.read_exact(body.len()) == body.as_bytes());
    drop(slow);
    eventually("nothing is charged", || charged() == Some(0.0));
}

#[test]
fn streams_that_are_compressed_do_not_end_storing() {
    let origin = Origin::serve(|request| match request.target.as_str() {
        "/events" => Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
            conn.write("6\r\ndata: \r\n");
            conn.wait_for_close();
        }),
        _ => Reply::text("x".repeat(100_000)).with("cache-control", "max-age=60"),
    });
    let base = BASE.replace("[gateway]\n", "[gateway]\nmax_buffered_memory = \"4MiB\"\n");
    let gateway = Gateway::start(&(base + &route(&origin, "") + "compression = { encodings = [\"gzip\"] }\n"));
    let stream = |_| -> (Client, bool) {
        let mut client = gateway.client();
        client.send("GET /events HTTP/1.1\r\nhost: shop.example\r\naccept-encoding: gzip\r\n\r\n");
        let head = client.read_head();
        (client, head.header("content-encoding") == Some("gzip"))
    };
    let streams: Vec<_> = (0..8).map(stream).collect();
    // They have their half of the memory, and no more.
    assert!(streams[0].1 && !streams[7].1);
    let before = origin.count();
    gateway.get("/page");
    assert!(status(&gateway.get("/page")).starts_with("sluice;hit"));
    assert_eq!(origin.count(), before + 1);
}

#[test]
fn nobody_waits_for_a_body_that_has_stalled() {
    let origin = Origin::serve(|_| {
        Reply::script(|conn| {
            conn.write("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 10\r\n\r\nfirst");
            conn.wait_for_close();
        })
    });
    let lines = "timeouts = { idle = \"10m\" }\n";
    let gateway = gateway(&(route(&origin, "collapse_timeout = \"100ms\"") + lines));
    let mut first = gateway.client();
    first.send(ASK);
    first.read_head();
    assert_eq!(first.read_exact(5), b"first");
    let mut waiting = Vec::new();
    eventually("somebody asks for himself", || {
        let mut client = gateway.client();
        client.send(ASK);
        client.read_head();
        waiting.push(client);
        origin.count() > 1
    });
}

#[test]
fn requests_for_what_was_too_large_do_not_wait_for_each_other() {
    let body = "x".repeat(200 << 10);
    let count = AtomicUsize::new(0);
    let (go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let origin = Origin::serve(move |_| {
        let (body, wait, first) = (body.clone(), Arc::clone(&wait), count.fetch_add(1, Ordering::Relaxed) == 0);
        Reply::script(move |conn| {
            if !first {
                let _ = wait.lock().expect("nobody has panicked").recv();
            }
            conn.write(format!("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\nconnection: close\r\n\r\n{body}"));
        })
    });
    let gateway = gateway(&route(&origin, "max_object = \"100KiB\", collapse_timeout = \"5m\""));
    let mut first = gateway.client();
    first.send(ASK);
    assert_eq!(first.read_response("GET").body.len(), 200 << 10);
    let mut clients = [gateway.client(), gateway.client()];
    for client in &mut clients {
        client.send(ASK);
    }
    eventually("both are at the upstream", || origin.count() == 3);
    for client in &mut clients {
        go.send(()).expect("the origin waits");
        client.read_head();
    }
}

#[test]
fn the_session_that_a_head_begins_is_not_stored() {
    let origin = Origin::serve(|request| {
        let reply = if request.header("if-none-match").is_some() { Reply::status(304) } else { Reply::text("x") };
        reply.with("etag", "\"one\"").with("cache-control", "no-cache")
    });
    let sticky = "sticky = { cookie = \"at\", key = \"sixteen bytes or more\" }\n[routes.shop]";
    let gateway = gateway(&route(&origin, "set_cookie = \"store\"").replacen("[routes.shop]", sticky, 1));
    let cookie = gateway.get("/").header("set-cookie").expect("a session").to_owned();
    let known = [("cookie", cookie.split(';').next().unwrap_or_default())];
    get(&gateway, "/", &known);
    assert!(status(&get(&gateway, "/", &known)).contains("fwd-status=304"), "it is stored");
    assert!(gateway.request("HEAD", "/", &[], b"").header("set-cookie").is_some(), "a session of its own");
    let again = get(&gateway, "/", &known);
    assert!(status(&again).contains("fwd-status=304"), "{}", status(&again));
    assert_eq!(again.header("set-cookie"), None);
}

/// An origin that says in the response to a HEAD who has asked.
fn names_who_asks(cache_control: &'static str) -> Origin {
    Origin::serve(move |request| {
        let reply = match (&*request.method, request.header("if-none-match")) {
            ("HEAD", _) => Reply::text("x").with("x-account", "ada").with("cache-control", "no-cache"),
            (_, Some(_)) => Reply::status(304).with("cache-control", cache_control),
            (_, None) => Reply::text("x").with("cache-control", cache_control),
        };
        reply.with("etag", "\"one\"")
    })
}

#[test]
fn what_a_head_says_to_one_caller_is_not_for_others() {
    // A filter takes the key out of the request: the upstream sees the caller's name, and no credentials. The key is `the-key`.
    let hash = "sha256:ad44dc8e51cfbfa55e81ddbb626b466241069045066846e7e4cd096131505290";
    let rest = format!(
        "pipeline = [\"key\"]\n[filters.key]\nplugin = \"api-key\"\ngrants = {{ consumers = true, read_headers = [\"x-api-key\"], \
         write_headers = [\"x-api-key\"] }}\nconfig = {{ places = [\"header:x-api-key\"] }}\n[consumers.ada]\nkeys = [\"{hash}\"]\n"
    );
    let origin = names_who_asks("no-cache, public");
    let by_key = setup().start(&with_base(&(route(&origin, "") + &rest)));
    // A filter forbids to store the response to a request.
    let forbids = json!({"do": "functions", "if-header": "x-own", "calls": [["cache.no-store"]], "to": "x-said"});
    let other = names_who_asks("no-cache");
    let rest = "pipeline = [\"tells\"]\n".to_owned() + &probe("tells", json!({"on-request": [forbids]}));
    let by_filter = gateway(&(route(&other, "") + &rest));
    let key = [("x-api-key", "the-key")];
    for (gateway, headers, of_head) in [(&by_key, &key[..], &key[..]), (&by_filter, &[], &[("x-own", "1")])] {
        get(gateway, "/", headers);
        assert!(status(&get(gateway, "/", headers)).contains("fwd-status=304;stored"), "it is stored");
        assert_eq!(gateway.request("HEAD", "/", of_head, b"").header("x-account"), Some("ada"));
        let again = get(gateway, "/", headers);
        assert!(status(&again).contains("fwd-status=304"), "{}", status(&again));
        assert_eq!(again.header("x-account"), None, "{of_head:?}");
    }
}

#[test]
fn the_age_that_the_upstream_says_counts() {
    let origin = Origin::serve(|request| {
        let reply = match request.header("if-none-match") {
            Some(_) => Reply::status(304).with("cache-control", "max-age=60"),
            None if request.target == "/fresh" => Reply::text("x").with("cache-control", "max-age=60"),
            None => Reply::text("x").with("cache-control", "max-age=10"),
        };
        reply.with("etag", "\"one\"").with("age", "50")
    });
    let gateway = gateway(&route(&origin, ""));
    let fresh = gateway.get("/fresh");
    assert_eq!((status(&fresh), fresh.header("age")), ("sluice;fwd=uri-miss;stored;ttl=10", Some("50")));
    gateway.get("/stale");
    let confirmed = gateway.get("/stale");
    assert_eq!(status(&confirmed), "sluice;fwd=stale;fwd-status=304;stored;ttl=10");
    assert_eq!(confirmed.header("age"), Some("50"), "a cache behind must not take it for younger");
}
