//! What the cache does at the edges of its rules: changes and purges by URL, those who wait while something is purged, requests that are no
//! plain GET, and what an upstream says anew.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use serde_json::json;
use sluice_harness::origin::Request;
use sluice_harness::{Client, Gateway, Origin, Reply, eventually};

use crate::cache::{counting, get, route, status};
use crate::support::{BASE, gateway, probe};

/// An upstream whose responses to GET have this head and, as their text, the number of the request and what `says` makes of it. They wait until
/// they are told to go. Other methods are answered at once.
fn held(head: &'static str, says: fn(&Request) -> String) -> (Origin, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel();
    let wait = Arc::new(Mutex::new(wait));
    let count = AtomicUsize::new(0);
    let origin = Origin::serve(move |request: &Request| {
        if request.method != "GET" {
            return Reply::text("done");
        }
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let (wait, text) = (Arc::clone(&wait), format!("{number}{}", says(request)));
        let not_modified = request.header("if-none-match").is_some();
        Reply::script(move |conn| {
            let _ = wait.lock().expect("nobody has panicked").recv();
            let length = text.len();
            conn.write(match not_modified {
                true => format!("HTTP/1.1 304 Not Modified\r\n{head}\r\nconnection: close\r\n\r\n"),
                false => {
                    format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}")
                }
            });
        })
    });
    (origin, go)
}

/// The requests with this method that an upstream has got.
fn got(origin: &Origin, method: &str) -> Vec<Request> {
    origin.requests().into_iter().filter(|request| request.method == method).collect()
}

/// A client that has sent a GET for `/a`, which the gateway has read.
fn asking(gateway: &Gateway, fields: &str) -> Client {
    let request = format!("GET /a HTTP/1.1\r\nhost: shop.example\r\n{fields}\r\n");
    let received = || gateway.metric("sluice_received_bytes_total", &[("listener", "http")]).unwrap_or_default();
    let wanted = received() + request.len() as f64;
    let mut client = gateway.client();
    client.send(&request);
    eventually("the request is in", || received() >= wanted);
    client
}

/// A gateway whose admin API takes changes.
fn with_admin(config: &str) -> Gateway {
    Gateway::start(&(BASE.replace("[admin]\n", &format!("[admin]\ntoken = \"{TOKEN}\"\n")) + config))
}

fn purge(gateway: &Gateway, what: &str) {
    let authorization = format!("Bearer {TOKEN}");
    let fields = [("content-type", "application/json"), ("authorization", &*authorization)];
    let mut admin = Client::connect(gateway.address_of("admin"));
    let purged = admin.request("POST", "/api/v1/cache/purge", &fields, what.as_bytes());
    assert_eq!(purged.status, 200, "{}", purged.text());
}

const TOKEN: &str = "a-token-of-some-length";

const SHOP: [(&str, &str); 1] = [("host", "shop.example")];

#[test]
fn a_head_of_what_is_stale_does_not_take_the_content_away() {
    let origin = Origin::serve(|request| {
        let has_content = request.method == "GET";
        Reply::script(move |conn| {
            let head = "HTTP/1.1 200 OK\r\ncache-control: max-age=0, stale-while-revalidate=60\r\n\
                        transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
            conn.write(head);
            if has_content {
                conn.write("5\r\nhello\r\n0\r\n\r\n");
            }
        })
    });
    let gateway = gateway(&route(&origin, ""));
    assert_eq!(gateway.get("/").text(), "hello");
    eventually("it is fetched for a HEAD, and what came of it once more", || {
        let head = gateway.request("HEAD", "/", &[], b"");
        assert!(status(&head).contains("stale-while-revalidate"), "{}", status(&head));
        origin.count() >= 3
    });
    assert_eq!(got(&origin, "HEAD").len(), 0, "a response to HEAD has no content to store");
    assert_eq!(gateway.get("/").text(), "hello");
}

#[test]
fn a_purge_by_url_reaches_what_the_key_leaves_out() {
    let origin = counting("max-age=60");
    let rules = ["ignore_query = [\"utm\"]", "query = [\"id\", \"page\"]"];
    for rule in rules {
        let gateway = with_admin(&route(&origin, &format!("{rule}, purge = {{ addresses = [\"127.0.0.1\"] }}")));
        let text = |target: &str| get(&gateway, target, &SHOP).text();
        let changes = |target: &str, with: &str, change: &dyn Fn()| {
            let before = text(target);
            assert_eq!(text(with), before, "{rule}: {with} has the key of {target}");
            change();
            assert_ne!(text(target), before, "{rule}: {with}");
        };
        for with in ["/a?id=1&page=2&utm=x", "/a?utm=y&id=1&page=2"] {
            let target = "/a?id=1&page=2";
            changes(target, with, &|| drop(gateway.request("PURGE", with, &SHOP, b"")));
            changes(target, with, &|| drop(gateway.request("POST", with, &SHOP, b"x")));
            // What was filled by a stranger.
            changes(with, target, &|| drop(gateway.request("PURGE", target, &SHOP, b"")));
            changes(target, with, &|| {
                purge(&gateway, &format!("{{\"url\": \"http://shop.example{with}\"}}"));
            });
        }
        // Another one stays.
        let other = text("/a?id=2");
        gateway.request("PURGE", "/a?id=1&page=2&utm=x", &SHOP, b"");
        assert_eq!(text("/a?id=2"), other, "{rule}");
    }
}

#[test]
fn a_change_of_something_else_ends_no_collapsing() {
    let (origin, go) = held("cache-control: max-age=60", |_| String::new());
    let gateway = gateway(&route(&origin, "collapse_timeout = \"30s\""));
    let mut clients = vec![asking(&gateway, "")];
    eventually("the first is at the upstream", || got(&origin, "GET").len() == 1);
    gateway.request("POST", "/other", &SHOP, b"x");
    clients.extend((0..3).map(|_| asking(&gateway, "")));
    go.send(()).unwrap();
    for client in &mut clients {
        assert_eq!(client.read_response("GET").text(), "1");
    }
    assert_eq!(got(&origin, "GET").len(), 1);
}

#[test]
fn those_who_come_after_a_change_share_one_request() {
    let (origin, go) = held("cache-control: max-age=60", |_| String::new());
    let gateway = gateway(&route(&origin, "collapse_timeout = \"30s\""));
    let mut before = asking(&gateway, "");
    eventually("the first is at the upstream", || got(&origin, "GET").len() == 1);
    gateway.request("POST", "/a", &SHOP, b"x");
    let mut after = vec![asking(&gateway, "")];
    eventually("the second does not wait for it", || got(&origin, "GET").len() == 2);
    after.extend((0..3).map(|_| asking(&gateway, "")));
    for _ in 0..2 {
        go.send(()).unwrap();
    }
    assert!(before.read_response("GET").status == 200);
    for client in &mut after {
        assert_eq!(client.read_response("GET").text(), "2");
    }
    assert_eq!((got(&origin, "GET").len(), &*get(&gateway, "/a", &SHOP).text()), (2, "2"));
}

#[test]
fn a_tag_that_is_purged_on_the_way_reaches_those_who_come_then() {
    let (origin, go) = held("cache-control: max-age=60\r\nsurrogate-key: red", |_| String::new());
    let gateway = with_admin(&route(&origin, "collapse_timeout = \"30s\""));
    let mut before = asking(&gateway, "");
    eventually("the first is at the upstream", || got(&origin, "GET").len() == 1);
    purge(&gateway, "{\"tag\": \"red\"}");
    // That the response will have the tag is not known yet.
    let mut after = [asking(&gateway, ""), asking(&gateway, "")];
    go.send(()).unwrap();
    eventually("it is fetched anew", || got(&origin, "GET").len() == 2);
    go.send(()).unwrap();
    assert_eq!(before.read_response("GET").text(), "1");
    for client in &mut after {
        assert_eq!(client.read_response("GET").text(), "2");
    }
    assert_eq!(got(&origin, "GET").len(), 2);
}

#[test]
fn simultaneous_misses_of_two_variants_make_two_requests() {
    let language = |request: &Request| format!(" {}", request.header("accept-language").unwrap_or_default());
    let (origin, go) = held("cache-control: max-age=60\r\nvary: accept-language", language);
    let gateway = gateway(&route(&origin, "collapse_timeout = \"30s\""));
    let mut german: Vec<_> = (0..4).map(|_| asking(&gateway, "accept-language: de\r\n")).collect();
    eventually("the first is at the upstream", || origin.count() == 1);
    let mut english: Vec<_> = (0..4).map(|_| asking(&gateway, "accept-language: en\r\n")).collect();
    go.send(()).unwrap();
    for client in &mut german {
        assert_eq!(client.read_response("GET").text(), "1 de");
    }
    eventually("another variant is asked for", || origin.count() == 2);
    // What they vary by is known now: nobody waits for a variant that is not theirs.
    let mut french: Vec<_> = (0..4).map(|_| asking(&gateway, "accept-language: fr\r\n")).collect();
    eventually("a third one is asked for", || origin.count() == 3);
    for _ in 0..2 {
        go.send(()).unwrap();
    }
    for (clients, language) in [(&mut english, "en"), (&mut french, "fr")] {
        for client in clients {
            let text = client.read_response("GET").text();
            assert!(text.ends_with(language), "{text}");
        }
    }
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_certificate_is_a_credential() {
    let origin = Origin::serve(|request| Reply::text(request.header("client-cert").unwrap_or("nobody").to_owned()));
    let listener = "[listeners.http]\n";
    let trusting = BASE.replace(listener, &format!("{listener}trusted_proxies = [\"127.0.0.1\"]\n"));
    let gateway = Gateway::start(&format!("{trusting}{}", route(&origin, "ttl = \"1m\"")));
    let of = |certificate: &str| get(&gateway, "/", &[("client-cert", certificate)]).text();
    assert_eq!((&*of(":YWRh:"), &*of(":Ym9i:")), (":YWRh:", ":Ym9i:"));
    assert_eq!(gateway.get("/").text(), "nobody");
    assert!(status(&gateway.get("/")).starts_with("sluice;hit"));
}

#[test]
fn a_session_that_a_head_begins_is_nobodys_else() {
    let origin = Origin::serve(|request| {
        let reply = match request.header("if-none-match") {
            Some(_) => Reply::status(304),
            None => Reply::text("x"),
        };
        reply.with("cache-control", "no-cache").with("etag", "\"one\"")
    });
    let config = route(&origin, "set_cookie = \"store\"");
    let gateway = gateway(&config.replacen("[routes.shop]", "sticky = { cookie = \"session\" }\n[routes.shop]", 1));
    let begun = gateway.get("/");
    let cookie = begun.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a session").to_owned();
    let mine = [("cookie", &*cookie)];
    assert_eq!(get(&gateway, "/", &mine).header("set-cookie"), None);
    assert!(status(&get(&gateway, "/", &mine)).contains("fwd-status=304"), "it is stored");
    let of_another = gateway.request("HEAD", "/", &[], b"");
    assert!(of_another.header("set-cookie").is_some_and(|cookie| cookie.starts_with("session=")));
    assert_eq!(get(&gateway, "/", &mine).header("set-cookie"), None, "the session of another client");
}

#[test]
fn a_change_by_another_route_takes_what_is_stored_away() {
    let origin = counting("max-age=60");
    let config = format!(
        "[upstreams.shop]\nendpoints = [\"{}\"]\n\
         [routes.read]\nmatch = {{ path = \"/shop/**\", methods = [\"GET\", \"HEAD\"] }}\nupstream = \"shop\"\n\
         cache = {{ ignore_query = [\"utm\"] }}\n\
         [routes.rest]\nmatch = {{ path = \"/**\" }}\nupstream = \"shop\"\n",
        origin.url()
    );
    let gateway = gateway(&config);
    let text = |target: &str| get(&gateway, target, &SHOP).text();
    assert_eq!([text("/shop/a"), text("/shop/b"), text("/shop/a")], ["1", "2", "1"]);
    // To the route `rest`.
    gateway.request("POST", "/shop/a?utm=x", &SHOP, b"x");
    assert_eq!([text("/shop/a"), text("/shop/b")], ["4", "2"]);
    gateway.request("POST", "/other", &SHOP, b"x");
    gateway.request("OPTIONS", "/shop/a", &SHOP, b"");
    assert_eq!([text("/shop/a"), text("/shop/b")], ["4", "2"]);
}

#[test]
fn what_is_no_more_is_not_served_to_the_end_of_its_window() {
    let gone = Arc::new(AtomicUsize::new(0));
    let says = Arc::clone(&gone);
    let origin = Origin::serve(move |request| match says.load(Ordering::Relaxed) {
        0 => {
            let windows = "max-age=0, stale-while-revalidate=600, stale-if-error=600";
            Reply::text("old").with("cache-control", windows).with("etag", "\"x\"")
        }
        1 => Reply::status(404),
        2 => Reply::text("new").with("cache-control", "private"),
        3 if request.header("if-none-match").is_some() => Reply::status(304).with("cache-control", "private"),
        3 => Reply::text("new").with("cache-control", "private"),
        4 => Reply::script(|conn| {
            let large = "x".repeat(200 << 10);
            conn.write(format!("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\nconnection: close\r\n\r\n{large}"));
        }),
        _ => Reply::status(503),
    });
    for newer in [1, 2, 3, 4] {
        gone.store(0, Ordering::Relaxed);
        let gateway = gateway(&route(&origin, "max_object = \"100KiB\""));
        assert_eq!(gateway.get("/").text(), "old");
        gone.store(newer, Ordering::Relaxed);
        assert_eq!(gateway.get("/").text(), "old", "while it is asked for");
        eventually("the newer one is known", || gateway.get("/").text() != "old");
        gone.store(9, Ordering::Relaxed);
        assert_eq!(gateway.get("/").status, 503, "what is no more hides no error");
    }
}

#[test]
fn what_was_purged_is_not_confirmed() {
    let (origin, go) = held("cache-control: max-age=0\r\netag: \"one\"", |_| String::new());
    let gateway = gateway(&route(&origin, "collapse_timeout = \"30s\""));
    go.send(()).unwrap();
    assert_eq!(asking(&gateway, "").read_response("GET").text(), "1");
    let mut first = asking(&gateway, "");
    eventually("it is validated", || got(&origin, "GET").len() == 2);
    let mut second = asking(&gateway, "");
    gateway.request("POST", "/a", &SHOP, b"x");
    go.send(()).unwrap();
    eventually("the second asks for itself", || got(&origin, "GET").len() == 3);
    go.send(()).unwrap();
    assert_eq!(first.read_response("GET").text(), "1", "it came before");
    assert_eq!(second.read_response("GET").text(), "3");
    let conditions: Vec<_> = got(&origin, "GET").iter().map(|get| get.header("if-none-match").is_some()).collect();
    assert_eq!(conditions, [false, true, false]);
}

#[test]
fn a_change_names_another_url_in_any_form() {
    let origin = Origin::serve(|request| match &*request.method {
        "GET" => Reply::text("x").with("cache-control", "max-age=60"),
        _ => Reply::text("x").with("location", "/%7Eada/%c3%a9").with("content-location", "/x/../b"),
    });
    let gateway = gateway(&route(&origin, ""));
    let is_stored = |target: &str| status(&get(&gateway, target, &SHOP)).starts_with("sluice;hit");
    let targets = ["/~ada/%C3%A9", "/b", "/c"];
    assert_eq!(targets.map(is_stored), [false; 3]);
    assert_eq!(targets.map(is_stored), [true; 3]);
    gateway.request("POST", "/change", &SHOP, b"x");
    assert_eq!(targets.map(is_stored), [false, false, true]);
}

/// The lines of a route whose filter tells the cache this.
fn telling(call: serde_json::Value) -> String {
    let calls = json!({"do": "functions", "calls": [call], "to": "x-said"});
    "pipeline = [\"tells\"]\n".to_owned() + &probe("tells", json!({"on-response": [calls]}))
}

#[test]
fn who_waits_gets_nothing_that_a_filter_keeps_back() {
    for (call, texts) in [(json!(["cache.no-store"]), ["1", "2"]), (json!(["cache.add-tag", "red"]), ["1", "1"])] {
        let (origin, go) = held("cache-control: max-age=60", |_| String::new());
        let gateway = gateway(&(route(&origin, "collapse_timeout = \"5m\"") + &telling(call)));
        let mut first = asking(&gateway, "");
        eventually("it is at the upstream", || origin.count() == 1);
        let mut second = asking(&gateway, "");
        for _ in 0..2 {
            go.send(()).expect("the origin waits");
        }
        assert_eq!([first.read_response("GET").text(), second.read_response("GET").text()], texts);
    }
}

#[test]
fn what_filters_have_seen_displaces_as_well() {
    let says = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&says);
    let origin = Origin::serve(move |_| match now.load(Ordering::Relaxed) {
        0 => Reply::text("old").with("cache-control", "max-age=0, stale-if-error=600"),
        1 => Reply::status(404),
        _ => Reply::status(503),
    });
    let gateway = gateway(&(route(&origin, "") + &telling(json!(["cache.add-tag", "red"]))));
    gateway.get("/");
    says.store(2, Ordering::Relaxed);
    eventually("it is stored", || gateway.get("/").text() == "old");
    says.store(1, Ordering::Relaxed);
    assert_eq!(gateway.get("/").status, 404);
    says.store(2, Ordering::Relaxed);
    eventually("it hides no error", || gateway.get("/").status == 503);
}
