//! The HTTP cache of a route: what is stored, what answers, one fetch for many, stale responses, and what must never be shared.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use sluice_harness::origin::Request;
use sluice_harness::{Client, Gateway, Origin, Reply, Response, eventually};

use crate::support::{BASE, gateway};

/// A route for everything with this cache.
pub(crate) fn route(origin: &Origin, cache: &str) -> String {
    format!(
        "[upstreams.shop]\nendpoints = [\"{}\"]\n[routes.shop]\nmatch = {{ path = \"/**\" }}\nupstream = \"shop\"\n\
         cache = {{ {cache} }}\n",
        origin.url()
    )
}

/// An upstream whose responses have this `Cache-Control` and the number of the request as their text.
pub(crate) fn counting(cache_control: &'static str) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::serve(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        Reply::text(number.to_string()).with("cache-control", cache_control)
    })
}

pub(crate) fn status(response: &Response) -> &str {
    response.header("cache-status").unwrap_or("-")
}

pub(crate) fn get(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Response {
    gateway.request("GET", target, headers, b"")
}

#[test]
fn a_response_is_stored_and_answers_until_it_is_stale() {
    let origin = counting("max-age=60");
    let gateway = gateway(&route(&origin, ""));
    let first = gateway.get("/a?b=c");
    assert_eq!((&*first.text(), status(&first), first.header("age")), ("1", "sluice;fwd=uri-miss;stored;ttl=60", None));
    let second = gateway.get("/a?b=c");
    assert_eq!((&*second.text(), second.header("age")), ("1", Some("0")));
    assert!(status(&second).starts_with("sluice;hit;ttl="), "{}", status(&second));
    assert_eq!(second.header("content-length"), Some("1"));
    assert_eq!(gateway.get("/a?b=d").text(), "2");
    let head = gateway.request("HEAD", "/a?b=c", &[], b"");
    assert_eq!((head.status, head.header("content-length"), &*head.text()), (200, Some("1"), ""));
    assert_eq!(origin.count(), 2);
    let logged = gateway.wait_access("the hit", |line| line["cache"] == "hit" && line["method"] == "GET");
    assert_eq!((&logged["answered_by"], logged.get("endpoint")), (&"upstream".into(), None));
    assert_eq!(gateway.metric("sluice_cache_requests_total", &[("route", "shop"), ("result", "hit")]), Some(2.0));
    assert_eq!(gateway.metric("sluice_cache_requests_total", &[("route", "shop"), ("result", "miss")]), Some(2.0));
    // One byte each, and none to the HEAD.
    for (result, bytes) in [("hit", 1.0), ("miss", 2.0)] {
        eventually("their bytes are counted", || {
            gateway.metric("sluice_cache_sent_bytes_total", &[("route", "shop"), ("result", result)]) == Some(bytes)
        });
    }
    assert_eq!(gateway.metric("sluice_cache_objects", &[]), Some(2.0));
    assert!(gateway.metric("sluice_cache_bytes", &[]).is_some_and(|bytes| bytes > 0.0));
    assert_eq!(gateway.metric("sluice_cache_evictions_total", &[]), Some(0.0));
}

#[test]
fn what_is_stored_outlives_a_reload() {
    let origin = counting("max-age=60");
    let config = format!("{BASE}{}", route(&origin, ""));
    let gateway = Gateway::start(&config);
    gateway.get("/");
    gateway.reload(&format!("{config}[cache]\nmemory = \"1MiB\"\n"));
    assert_eq!((&*gateway.get("/").text(), origin.count()), ("1", 1));
    // A response takes an eighth of the memory at most.
    let large = "x".repeat(200 << 10);
    let body = large.clone();
    let origin = Origin::serve(move |_| Reply::text(body.clone()).with("cache-control", "max-age=60"));
    let config = format!("{BASE}{}[cache]\nmemory = \"1MiB\"\n", route(&origin, ""));
    let gateway = Gateway::start(&config);
    for _ in 0..2 {
        assert_eq!(gateway.get("/").text(), large);
    }
    assert_eq!(origin.count(), 2);
}

#[test]
fn an_upstream_confirms_what_is_stale() {
    let origin = Origin::serve(|request| {
        let reply = match request.header("if-none-match") {
            Some("\"one\"") => Reply::status(304).with("x-new", "1"),
            Some(other) => Reply::text(format!("unexpected {other}")),
            None => Reply::text("stored"),
        };
        reply.with("etag", "\"one\"").with("cache-control", "no-cache")
    });
    let gateway = gateway(&route(&origin, ""));
    assert_eq!(gateway.get("/").text(), "stored");
    let second = gateway.get("/");
    assert_eq!((second.status, &*second.text(), second.header("x-new")), (200, "stored", Some("1")));
    assert_eq!(status(&second), "sluice;fwd=stale;fwd-status=304;stored;ttl=0");
    // The conditions of a client are evaluated against what is stored then.
    let third = get(&gateway, "/", &[("if-none-match", "\"one\"")]);
    assert_eq!((third.status, &*third.text()), (304, ""));
    assert_eq!(origin.count(), 3);
    gateway.wait_access("the validation", |line| line["cache"] == "revalidated");
}

#[test]
fn the_cookie_of_a_confirmation_is_set_once() {
    let origin = Origin::serve(|request| match request.header("if-none-match") {
        Some(_) => Reply::status(304).with("set-cookie", "a=2"),
        None => Reply::text("x").with("etag", "\"one\"").with("cache-control", "no-cache").with("set-cookie", "a=1"),
    });
    for cache in ["set_cookie = \"store\"", "set_cookie = \"omit\""] {
        let gateway = gateway(&route(&origin, cache));
        gateway.get("/");
        let confirmed = gateway.get("/");
        assert!(status(&confirmed).contains("fwd-status=304"), "{cache}: {}", status(&confirmed));
        assert_eq!(confirmed.head.all("set-cookie"), ["a=2"], "{cache}");
    }
}

#[test]
fn ranges_come_out_of_what_is_stored() {
    let body: String = (0..100_000).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
    let whole = body.clone();
    let origin = Origin::serve(move |_| Reply::text(whole.clone()).with("cache-control", "max-age=60"));
    let gateway = gateway(&route(&origin, ""));
    assert_eq!(gateway.get("/").text(), body);
    let part = get(&gateway, "/", &[("range", "bytes=65530-65545")]);
    assert_eq!((part.status, part.text()), (206, body[65530..65546].to_owned()));
    let parts = get(&gateway, "/", &[("range", "bytes=0-1,99990-")]);
    assert_eq!(parts.status, 206);
    assert!(parts.header("content-type").is_some_and(|kind| kind.starts_with("multipart/byteranges")));
    assert!(parts.text().contains(&body[99990..]));
    let beyond = get(&gateway, "/", &[("range", "bytes=200000-")]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */100000")));
    assert_eq!(gateway.get("/").text(), body);
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_change_takes_what_is_stored_away() {
    let origin = counting("max-age=60");
    let gateway = gateway(&route(&origin, ""));
    gateway.get("/a");
    gateway.get("/b");
    let change = gateway.request("POST", "/a", &[], b"x");
    assert_eq!(status(&change), "sluice;fwd=method");
    assert_eq!((&*gateway.get("/a").text(), &*gateway.get("/b").text()), ("4", "2"));
}

#[test]
fn a_request_for_a_stored_response_only() {
    let origin = counting("max-age=60");
    let gateway = gateway(&route(&origin, ""));
    let only = [("cache-control", "only-if-cached")];
    let none = get(&gateway, "/", &only);
    assert_eq!((none.status, origin.count()), (504, 0));
    gateway.wait_access("the refusal", |line| line["error"] == "not-stored" && line["cache"] == "not-stored");
    gateway.get("/");
    assert_eq!(get(&gateway, "/", &only).text(), "1");
}

#[test]
fn how_long_a_response_is_fresh_that_does_not_say() {
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    let origin = Origin::serve(move |request| {
        let reply = Reply::text(request.target.clone()).with("last-modified", modified);
        match &*request.target {
            "/missing" => Reply::status(404),
            "/cookie" => reply.with("set-cookie", "a=b").with("cache-control", "max-age=60"),
            "/old" => reply.with("date", modified).with("cache-control", "max-age=60"),
            "/plain" => Reply::text("plain"),
            _ => reply,
        }
    });
    let is_stored = |gateway: &Gateway, target: &str, headers: &[(&str, &str)]| {
        get(gateway, target, headers);
        status(&get(gateway, target, headers)).starts_with("sluice;hit")
    };
    let nothing = gateway(&route(&origin, ""));
    for target in ["/", "/plain", "/missing", "/cookie"] {
        assert!(!is_stored(&nothing, target, &[]), "{target}");
    }
    let ttl = gateway(&route(&origin, "ttl = \"1m\""));
    assert!(is_stored(&ttl, "/plain", &[]) && is_stored(&ttl, "/missing", &[]));
    assert!(!is_stored(&ttl, "/plain?of=ada", &[("cookie", "session=1")]), "it may be one user's");
    let for_all = gateway(&route(&origin, "ttl = \"1m\", ttl_with_credentials = true"));
    assert!(is_stored(&for_all, "/plain", &[("cookie", "session=1")]));
    let heuristic = gateway(&route(&origin, "heuristic = { percent = 20, max = \"1h\" }"));
    assert!(is_stored(&heuristic, "/", &[]) && !is_stored(&heuristic, "/plain", &[]));
    let ttl_of = |gateway: &Gateway| -> u64 {
        let response = gateway.get("/");
        let (_, ttl) = status(&response).split_once("ttl=").expect("a ttl");
        ttl.parse().expect("a number")
    };
    assert!((3000..=3600).contains(&ttl_of(&heuristic)), "at most an hour");
    let shorter = gateway(&route(&origin, "heuristic = { percent = 20, max = \"100s\" }"));
    shorter.get("/");
    assert!(ttl_of(&shorter) <= 100);
    let negative = gateway(&route(&origin, "negative_ttl = \"10s\""));
    assert!(is_stored(&negative, "/missing", &[]) && !is_stored(&negative, "/plain", &[]));
    let other = gateway(&route(&origin, "negative_ttl = \"10s\", negative_statuses = [410]"));
    assert!(!is_stored(&other, "/missing", &[]));
    let omit = gateway(&route(&origin, "set_cookie = \"omit\""));
    assert!(is_stored(&omit, "/cookie", &[]));
    assert_eq!(omit.get("/cookie").header("set-cookie"), None);
    let by_date = gateway(&route(&origin, "age_from_date = true"));
    assert!(is_stored(&nothing, "/old", &[]) && !is_stored(&by_date, "/old", &[]));
}

#[test]
fn what_tells_two_requests_apart() {
    let origin = counting("max-age=60");
    let texts = |cache: &str, requests: &[(&str, &[(&str, &str)])]| -> Vec<String> {
        let gateway = gateway(&route(&origin, cache));
        let first = gateway.get("/").text().parse::<usize>().expect("a number");
        let number = |text: String| text.parse::<usize>().map(|number| (number - first).to_string()).unwrap_or(text);
        requests.iter().map(|(target, headers)| number(get(&gateway, target, headers).text())).collect()
    };
    assert_eq!(
        texts("query = [\"page\"]", &[("/x?page=1&a=1", &[]), ("/x?a=2&page=1", &[]), ("/x?page=2", &[])]),
        ["1", "1", "2"]
    );
    assert_eq!(
        texts("ignore_query = [\"utm\"]", &[("/x?a=1&utm=1", &[]), ("/x?a=1", &[]), ("/x?a=2", &[])]),
        ["1", "1", "2"]
    );
    let tenants: &[(&str, &[(&str, &str)])] =
        &[("/x", &[("x-tenant", "a")]), ("/x", &[("x-tenant", "b")]), ("/x", &[("x-tenant", "a")])];
    assert_eq!(texts("", tenants), ["1", "1", "1"]);
    assert_eq!(texts("headers = [\"x-tenant\"]", tenants), ["1", "2", "1"]);
    let currencies: &[(&str, &[(&str, &str)])] = &[
        ("/x", &[("cookie", "currency=eur; a=1")]),
        ("/x", &[("cookie", "currency=usd")]),
        ("/x", &[("cookie", "a=2; currency=eur")]),
    ];
    assert_eq!(texts("cookies = [\"currency\"]", currencies), ["1", "2", "1"]);
}

#[test]
fn a_response_varies_by_fields_of_the_request() {
    let origin = Origin::serve(|request| {
        let said = format!("{:?} {:?}", request.header("accept-encoding"), request.header("accept-language"));
        let reply = Reply::text(said).with("cache-control", "max-age=60").with("content-language", "de");
        reply.with("vary", "accept-encoding, accept-language")
    });
    let count = |cache: &str, one: &[(&str, &str)], other: &[(&str, &str)]| {
        let (before, gateway) = (origin.count(), gateway(&route(&origin, cache)));
        get(&gateway, "/", one);
        get(&gateway, "/", other);
        origin.count() - before
    };
    let (zip, zipped) = ([("accept-encoding", "gzip, br")], [("accept-encoding", "br;q=0.5,gzip")]);
    assert_eq!(count("", &zip, &zipped), 1);
    assert_eq!(count("", &zip, &[("accept-encoding", "gzip")]), 2);
    assert_eq!(count("normalise = { accept_encoding = false }", &zip, &zipped), 2);
    let (german, also) = ([("accept-language", "de")], [("accept-language", "de, en;q=0.5")]);
    assert_eq!(count("", &german, &also), 2);
    assert_eq!(count("normalise = { accept_language = true }", &german, &also), 1);
}

#[test]
fn a_client_asks_for_a_new_response_only_where_it_may() {
    let origin = counting("max-age=60");
    let reload = [("cache-control", "no-cache")];
    let deaf = gateway(&route(&origin, ""));
    deaf.get("/");
    assert_eq!(get(&deaf, "/", &reload).text(), "1");
    let heeds = gateway(&route(&origin, "request_directives = true"));
    heeds.get("/");
    assert_eq!(get(&heeds, "/", &reload).text(), "3");
    assert_eq!(heeds.get("/").text(), "3");
}

#[test]
fn what_is_too_large_passes_and_the_field_can_be_left_out() {
    let origin = counting("max-age=60");
    let gateway = gateway(&route(&origin, "max_object = 0, status_field = false"));
    for number in ["1", "2"] {
        let response = gateway.get("/");
        assert_eq!((&*response.text(), response.header("cache-status")), (number, None));
    }
    // Without an announced length, it shows while it passes.
    let long = "x".repeat(1 << 20);
    let body = long.clone();
    let origin = Origin::serve(move |_| {
        let body = body.clone();
        Reply::script(move |conn| {
            conn.write(format!("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\nconnection: close\r\n\r\n{body}"));
        })
    });
    let gateway = self::gateway(&route(&origin, "max_object = \"1000KiB\""));
    for _ in 0..2 {
        assert!(gateway.get("/").text() == long);
    }
    assert_eq!(origin.count(), 2);
}

/// An upstream that answers each request when it is told to, with this head and text. Answers also what it was asked.
struct Held {
    origin: Origin,
    go: mpsc::Sender<()>,
}

fn held(head: &'static str) -> Held {
    let (go, wait) = mpsc::channel();
    let wait = Arc::new(Mutex::new(wait));
    let origin = Origin::serve(move |_: &Request| {
        let wait = Arc::clone(&wait);
        Reply::script(move |conn| {
            let _ = wait.lock().expect("nobody has panicked").recv();
            conn.write(format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"));
        })
    });
    Held { origin, go }
}

#[test]
fn a_thousand_simultaneous_misses_make_one_request() {
    let held = held("cache-control: max-age=60");
    let config = BASE.replace("workers = 1", "workers = 2") + &route(&held.origin, "collapse_timeout = \"30s\"");
    let gateway = Gateway::start(&config);
    let mut clients: Vec<Client> = (0..1000).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send("GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    }
    eventually("the first request is at the upstream", || held.origin.count() == 1);
    let active = || gateway.metric("sluice_received_bytes_total", &[("listener", "http")]).unwrap_or_default();
    eventually("all requests are in", || active() >= 1000.0 * 38.0);
    held.go.send(()).unwrap();
    for client in &mut clients {
        assert_eq!(client.read_response("GET").text(), "hello");
    }
    assert_eq!(held.origin.count(), 1);
}

#[test]
fn a_stalled_fetch_costs_others_no_more_than_the_timeout() {
    let held = held("cache-control: max-age=60");
    let gateway = gateway(&route(&held.origin, "collapse_timeout = \"50ms\""));
    let (mut first, mut second) = (gateway.client(), gateway.client());
    first.send("GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    eventually("the first is at the upstream", || held.origin.count() == 1);
    second.send("GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    eventually("the second is there, too", || held.origin.count() == 2);
    for _ in 0..2 {
        held.go.send(()).unwrap();
    }
    assert_eq!((&*first.read_response("GET").text(), &*second.read_response("GET").text()), ("hello", "hello"));
    // With `off`, nobody waits.
    let apart = self::held("cache-control: max-age=60");
    let gateway = self::gateway(&route(&apart.origin, "collapse_timeout = \"off\""));
    let mut clients = [gateway.client(), gateway.client()];
    for client in &mut clients {
        client.send("GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    }
    eventually("both are at the upstream", || apart.origin.count() == 2);
    for _ in &clients {
        apart.go.send(()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.read_response("GET").text(), "hello");
    }
}

#[test]
fn a_client_that_leaves_ends_nobodys_fetch() {
    let held = held("cache-control: max-age=60");
    let gateway = gateway(&route(&held.origin, "collapse_timeout = \"30s\""));
    let mut leaves = gateway.client();
    leaves.send("GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    eventually("it is at the upstream", || held.origin.count() == 1);
    drop(leaves);
    gateway.wait_access("it has left", |line| line["error"] == "client-aborted");
    let mut stays = gateway.client();
    stays.send("GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    held.go.send(()).unwrap();
    assert_eq!(stays.read_response("GET").text(), "hello");
    assert_eq!(held.origin.count(), 1);
}

#[test]
fn clients_that_leave_do_not_pile_up_fetches() {
    let held = held("cache-control: max-age=60");
    let limits = "limits = { max_requests = 1000 }\n[routes.shop]";
    let gateway = gateway(&route(&held.origin, "").replacen("[routes.shop]", limits, 1));
    let count = 140;
    let mut clients: Vec<Client> = (0..count).map(|_| gateway.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /{number} HTTP/1.1\r\nhost: shop.example\r\n\r\n"));
    }
    eventually("all are at the upstream", || held.origin.count() == count);
    let active = || gateway.metric("sluice_limit_active_requests", &[("scope", "upstream"), ("name", "shop")]);
    eventually("all are under way", || active() == Some(140.0));
    drop(clients);
    eventually("the fetches above the bound have ended", || active() == Some(128.0));
    for _ in 0..count {
        held.go.send(()).unwrap();
    }
    // The others have gone on, and their places are free again.
    eventually("they are stored", || gateway.metric("sluice_cache_objects", &[]) == Some(128.0));
    assert_eq!(active(), Some(0.0));
}

#[test]
fn those_who_wait_fetch_for_themselves_what_is_private() {
    let held = held("cache-control: private");
    let gateway = gateway(&route(&held.origin, "collapse_timeout = \"30s\""));
    let mut clients = [gateway.client(), gateway.client()];
    for client in &mut clients {
        client.send("GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    }
    eventually("the first is at the upstream", || held.origin.count() == 1);
    held.go.send(()).unwrap();
    eventually("the second goes there, too", || held.origin.count() == 2);
    held.go.send(()).unwrap();
    for client in &mut clients {
        assert_eq!(client.read_response("GET").text(), "hello");
    }
}

#[test]
fn the_first_byte_is_not_held_back_and_a_broken_body_is_not_stored() {
    let (go, wait) = mpsc::channel::<bool>();
    let wait = Arc::new(Mutex::new(wait));
    let origin = Origin::serve(move |_| {
        let wait = Arc::clone(&wait);
        Reply::script(move |conn| {
            conn.write("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 10\r\n\r\nfirst");
            if wait.lock().unwrap().recv() == Ok(true) {
                conn.write("other");
            }
        })
    });
    let gateway = gateway(&route(&origin, ""));
    let ask = "GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n";
    let (mut leader, mut joins) = (gateway.client(), gateway.client());
    for client in [&mut leader, &mut joins] {
        client.send(ask);
        client.read_head();
        assert_eq!(client.read_exact(5), b"first");
    }
    go.send(false).unwrap();
    for client in [&mut leader, &mut joins] {
        assert_eq!(client.read_to_close(), b"");
    }
    // It was not stored.
    let mut again = gateway.client();
    again.send(ask);
    again.read_head();
    assert_eq!(again.read_exact(5), b"first");
    go.send(true).unwrap();
    assert_eq!(again.read_exact(5), b"other");
    let stored = get(&gateway, "/a", &[("host", "shop.example")]);
    assert_eq!((&*stored.text(), origin.count()), ("firstother", 2));
}

#[test]
fn a_stale_response_is_sent_while_another_is_fetched() {
    let origin = counting("max-age=0, stale-while-revalidate=60");
    let gateway = gateway(&route(&origin, ""));
    assert_eq!(gateway.get("/").text(), "1");
    let stale = gateway.get("/");
    assert_eq!((&*stale.text(), status(&stale).contains("detail=\"stale-while-revalidate\"")), ("1", true));
    eventually("another is stored", || gateway.get("/").text() != "1");
    // For responses that do not say.
    let origin = Origin::serve(|_| Reply::text("x").with("cache-control", "max-age=0").with("etag", "\"x\""));
    let gateway = self::gateway(&route(&origin, "stale_while_revalidate = \"30s\""));
    gateway.get("/");
    assert!(status(&gateway.get("/")).starts_with("sluice;hit"));
}

#[test]
fn a_stale_response_hides_errors() {
    let healthy = Arc::new(AtomicUsize::new(200));
    let says = Arc::clone(&healthy);
    let origin = Origin::serve(move |_| match says.load(Ordering::Relaxed) {
        200 => Reply::text("stored").with("cache-control", "max-age=0").with("etag", "\"x\""),
        0 => Reply::Close,
        other => Reply::status(other as u16),
    });
    let gateway = gateway(&route(&origin, "stale_if_error = \"1h\""));
    gateway.get("/");
    for failure in [500, 503, 0] {
        healthy.store(failure, Ordering::Relaxed);
        let stale = gateway.get("/");
        assert_eq!((stale.status, &*stale.text()), (200, "stored"), "{failure}");
        assert!(status(&stale).contains("detail=\"stale-if-error\""), "{}", status(&stale));
    }
    gateway.wait_access("it is told", |line| line["cache"] == "stale-if-error");
    healthy.store(404, Ordering::Relaxed);
    assert_eq!(gateway.get("/").status, 404, "no failure of the upstream");
}

#[test]
fn a_stale_response_hides_an_open_circuit_and_a_full_limit() {
    let healthy = Arc::new(AtomicUsize::new(1));
    let says = Arc::clone(&healthy);
    let origin = Origin::serve(move |_| match says.load(Ordering::Relaxed) {
        1 => Reply::text("stored").with("cache-control", "max-age=0").with("etag", "\"x\""),
        _ => Reply::status(503),
    });
    let breaker = "circuit_breaker = { failures = 1, of = 1, open = \"1h\" }\n[routes.shop]";
    let gateway = gateway(&route(&origin, "stale_if_error = \"1h\"").replacen("[routes.shop]", breaker, 1));
    gateway.get("/");
    healthy.store(0, Ordering::Relaxed);
    gateway.get("/other");
    let before = origin.count();
    for _ in 0..3 {
        assert_eq!(gateway.get("/").text(), "stored");
    }
    assert_eq!(origin.count(), before, "the circuit is open");

    let held = held("cache-control: max-age=0\r\netag: \"x\"");
    let limits = "limits = { max_requests = 1 }\n[routes.shop]";
    let gateway = self::gateway(&route(&held.origin, "stale_if_error = \"1h\"").replacen("[routes.shop]", limits, 1));
    held.go.send(()).unwrap();
    gateway.get("/a");
    let mut busy = gateway.client();
    busy.send("GET /b HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    eventually("the only place is taken", || held.origin.count() == 2);
    assert_eq!(gateway.get("/a").text(), "hello");
    held.go.send(()).unwrap();
    busy.read_response("GET");
}

#[test]
fn many_readers_at_once_get_the_same_bytes() {
    let body: String = (0..300_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    let whole = body.clone();
    let origin = Origin::serve(move |_| Reply::text(whole.clone()).with("cache-control", "max-age=60"));
    let gateway = Gateway::start(&(BASE.replace("workers = 1", "workers = 2") + &route(&origin, "")));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert!(gateway.get("/").text() == body);
                }
            });
        }
    });
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_response_to_a_caller_is_not_for_others() {
    // Of `the-key` and `key-2`. The filter takes the key out of the request: the upstream sees no credentials, but the caller's name.
    let hashes = [
        "sha256:ad44dc8e51cfbfa55e81ddbb626b466241069045066846e7e4cd096131505290",
        "sha256:7c36b0a9dedde119c75165957c6c9c187e65df1ee5db87c4c58ad503ad88cbe3",
    ];
    let callers: String = ["ada", "bob"]
        .iter()
        .zip(hashes)
        .map(|(name, hash)| format!("[consumers.{name}]\nkeys = [\"{hash}\"]\n"))
        .collect();
    let filter = "[filters.key]\nplugin = \"api-key\"\ngrants = { consumers = true, read_headers = [\"x-api-key\"], \
                  write_headers = [\"x-api-key\"] }\nconfig = { places = [\"header:x-api-key\"] }\n";
    let texts = |cache: &str, cache_control: &'static str| -> Vec<String> {
        let origin = counting(cache_control);
        let config = route(&origin, cache) + "pipeline = [\"key\"]\n" + filter + &callers;
        let gateway = crate::support::setup().start(&format!("{BASE}{config}"));
        let ask = |key: &str| get(&gateway, "/", &[("x-api-key", key)]).text();
        ["the-key", "key-2", "the-key"].map(ask).to_vec()
    };
    assert_eq!(texts("", "max-age=60"), ["1", "2", "3"], "nothing says that it is for all");
    assert_eq!(texts("", "max-age=60, public"), ["1", "1", "1"]);
    assert_eq!(texts("consumer = true", "max-age=60"), ["1", "2", "1"]);
}

#[test]
fn without_memory_a_response_passes_unstored() {
    let body = "x".repeat(200 << 10);
    let whole = body.clone();
    let origin = Origin::serve(move |_| Reply::text(whole.clone()).with("cache-control", "max-age=60"));
    let base = BASE.replace("[gateway]\n", "[gateway]\nmax_buffered_memory = \"256KiB\"\n");
    let gateway = Gateway::start(&(base + &route(&origin, "")));
    for _ in 0..2 {
        assert!(gateway.get("/").text() == body);
    }
    assert_eq!(origin.count(), 2);
    eventually("all of it is given back", || gateway.metric("sluice_buffered_bytes", &[]) == Some(0.0));
}
