//! What `rate-limit` counts by plan, by cost, at the same time and in a dry run.

use std::sync::{Arc, Mutex};

use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::support::{gateway, route};

/// SHA-256 of `the-key`, `key-2` and `key-3`.
const HASHES: [&str; 3] = [
    "sha256:ad44dc8e51cfbfa55e81ddbb626b466241069045066846e7e4cd096131505290",
    "sha256:7c36b0a9dedde119c75165957c6c9c187e65df1ee5db87c4c58ad503ad88cbe3",
    "sha256:d9ef8196557c9da69806fb5d777f4e5ad6d5c18593039e0ff62f9fdf003b0198",
];

/// A gateway whose filter `limits` has this config.
fn limiting(origin: &Origin, config: &str) -> Gateway {
    gateway(&(route(&origin.url(), &["limits"]) + &format!("[filters.limits]\nplugin = \"rate-limit\"\n{config}\n")))
}

#[test]
fn a_plan_has_an_amount_of_its_own() {
    let origin = Origin::named("o");
    let key = "[filters.key]\nplugin = \"api-key\"\ngrants = { consumers = true, read_headers = [\"x-api-key\"], write_headers = [\"x-api-key\"] }\n";
    let limits = "[filters.limits]\nplugin = \"rate-limit\"\nconfig.limits = [{ key = \"consumer\", algorithm = \"fixed-window\", \
                  amount = 1, window = \"1d\", plans = { gold = 3, staff = \"unlimited\" } }]\n";
    let consumers: String = [("acme", "gold"), ("us", "staff"), ("small", "bronze")]
        .iter()
        .zip(HASHES)
        .map(|((name, plan), hash)| format!("[consumers.{name}]\nplan = \"{plan}\"\nkeys = [\"{hash}\"]\n"))
        .collect();
    let gateway = gateway(&(route(&origin.url(), &["key", "limits"]) + key + limits + &consumers));
    let passed =
        |key: &str| (0..6).filter(|_| gateway.request("GET", "/", &[("x-api-key", key)], b"").status == 200).count();
    assert_eq!((passed("the-key"), passed("key-2"), passed("key-3")), (3, 6, 1));
    let refused = gateway.request("GET", "/", &[("x-api-key", "the-key")], b"");
    assert_eq!((refused.status, refused.header("x-ratelimit-limit")), (429, Some("3")));
}

#[test]
fn requests_and_responses_have_their_costs() {
    let origin = Origin::serve(|_| Reply::text("o").with("x-cost", "4"));
    let config = "config = { cost = { of = \"body\", per = \"1KiB\" }, response_cost = \"header:x-cost\", \
                  limits = [{ algorithm = \"fixed-window\", amount = 20, window = \"1d\" }] }";
    let gateway = limiting(&origin, config);
    let left = |body: &[u8]| {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let answer = gateway.request(method, "/", &[], body);
        (answer.status, answer.header("x-ratelimit-remaining").map(str::to_owned))
    };
    assert_eq!(left(b"small"), (200, Some("15".into())), "one for the body, four for the response");
    assert_eq!(left(&[b'x'; 2500]), (200, Some("8".into())));
    assert_eq!(left(&[b'x'; 9000]), (429, Some("0".into())), "nine are not left");
    assert_eq!(left(b""), (200, Some("3".into())));
    assert_eq!(left(b""), (200, Some("0".into())), "a response counts what is left at most");
    assert_eq!(left(b"").0, 429);
}

#[test]
fn a_place_is_free_when_the_exchange_ends_or_the_client_leaves() {
    let hold = Arc::new(Mutex::new(()));
    let origin = Origin::serve({
        let hold = hold.clone();
        move |request| {
            if request.target == "/hold" {
                drop(hold.lock());
            }
            Reply::text("o")
        }
    });
    let limit = "config.concurrency = [{ name = \"two\", amount = 2 }]";
    let gateway = limiting(&origin, &format!("instances = {{ mode = \"fresh\" }}\n{limit}"));
    let held = hold.lock();
    let mut clients: Vec<_> = (0..2).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send(client.format("GET", "/hold", &[], b""));
    }
    eventually("both are under way", || origin.count() == 2);
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    gateway.wait_access("why", |line| line["reason"] == "over-limit:two");
    drop(clients.pop());
    eventually("the place of who has left", || gateway.get("/").status == 200);
    drop(held);
    assert_eq!(clients[0].read_response("GET").status, 200);
}

#[test]
fn a_dry_run_lets_all_pass_and_says_whom_it_would_refuse() {
    let origin = Origin::named("o");
    let config = "config = { dry_run = true, limits = [{ name = \"few\", algorithm = \"fixed-window\", amount = 2, window = \"1d\" }] }";
    let gateway = limiting(&origin, config);
    for _ in 0..5 {
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.header("ratelimit")), (200, None), "clients see nothing of it");
    }
    let labels = [("filter", "limits"), ("limit", "few")];
    assert_eq!(gateway.metric("sluice_filter_would_refuse_total", &labels), Some(3.0));
    gateway.wait_log("whom", |line| line["message"] == "dry run: the limit `few` would refuse this request");
}

/// Whoever sends a key twice, one of them new each time, is limited by the other one.
#[test]
fn a_key_that_is_sent_twice_is_no_way_around_a_limit() {
    let origin = Origin::named("o");
    let limits = "grants = { read_headers = [\"cookie\"] }\nconfig.limits = [{ key = \"KEY\", algorithm = \"fixed-window\", \
                  amount = 2, window = \"1d\" }]";
    for (key, name, real) in [("header:x-tenant", "x-tenant", "t=acme"), ("cookie:t", "cookie", "t=acme")] {
        let gateway = limiting(&origin, &limits.replace("KEY", key));
        let statuses: Vec<_> = (0..4)
            .map(|i| gateway.request("GET", "/", &[(name, &format!("t=new{i}")), (name, real)], b"").status)
            .collect();
        assert_eq!(statuses, [200, 200, 429, 429], "{key}");
        assert_eq!(gateway.get("/").status, 200, "a request without the key is not counted");
        let many: Vec<_> = (0..20).map(|i| format!("t={i}")).collect();
        let many: Vec<_> = many.iter().map(|value| (name, &**value)).collect();
        assert_eq!(gateway.request("GET", "/", &many, b"").status, 400, "{key}");
    }
}
