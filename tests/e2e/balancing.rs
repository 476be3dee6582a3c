//! Which endpoint of an upstream gets a request.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_harness::origin::Request;
use sluice_harness::origin::nobody;
use sluice_harness::{Client, Gateway, Origin, Reply, eventually};

use crate::support::{gateway, probe, route, setup, with_base};

/// Origins that answer with their place in the list.
fn origins(count: usize) -> Vec<Origin> {
    (0..count).map(|n| Origin::named(&n.to_string())).collect()
}

/// An upstream `all` of these origins, with more lines, and a route for it.
fn upstream(origins: &[Origin], lines: &str) -> String {
    let urls: Vec<String> = origins.iter().map(Origin::url).collect();
    format!("[upstreams.all]\nendpoints = {urls:?}\n{lines}\n{}", route("all", &[]))
}

/// Who answers a request.
fn answer(client: &mut Client, target: &str, headers: &[(&str, &str)]) -> String {
    let response = client.request("GET", target, headers, b"");
    assert_eq!(response.status, 200, "{response:?}");
    response.text()
}

#[test]
fn by_chance_and_by_latency() {
    let all = origins(3);
    let gateway = gateway(&upstream(&all, "balance = \"random\""));
    let mut client = gateway.client();
    (0..300).for_each(|_| drop(client.get("/")));
    assert!(all.iter().all(|origin| (60..=140).contains(&origin.count())), "random");

    let slow = Origin::serve(|_| {
        let begun = Instant::now();
        eventually("the time of a slow answer", || begun.elapsed() > Duration::from_millis(500));
        Reply::text("slow")
    });
    let failing_fast = Origin::serve(|_| Reply::status(503));
    for bad in [slow, failing_fast] {
        let quick = origins(3);
        let urls = [bad.url(), quick[0].url(), quick[1].url(), quick[2].url()];
        gateway.reload(&with_base(&format!(
            "[upstreams.all]\nendpoints = {urls:?}\nbalance = \"peak_ewma\"\n{}",
            route("all", &[])
        )));
        let mut client = gateway.client();
        (0..300).for_each(|_| drop(client.get("/")));
        assert!(bad.count() <= 15, "{} of 300", bad.count());
    }
}

#[test]
fn the_same_value_leads_to_the_same_endpoint() {
    let all = origins(4);
    let sent: [(&str, &str, &str); 5] = [
        ("header:x-user", "/", "x-user"),
        ("cookie:user", "/", "cookie"),
        ("query:user", "/?user=", ""),
        ("param:user", "/of/", ""),
        ("consumer", "/", "x-consumer"),
    ];
    let consumer = probe("who", json!({"on-request": [{"do": "set-consumer", "value": "ann"}]}));
    for algorithm in ["maglev", "ring_hash"] {
        for (hash, target, header) in sent {
            let pipeline: &[&str] = if hash == "consumer" { &["who"] } else { &[] };
            let routes =
                route("all", pipeline).replace("path = \"/**\"", "path = \"/of/{user}\"").replace(".all]", ".of]");
            let urls: Vec<String> = all.iter().map(Origin::url).collect();
            let gateway = gateway(&format!(
                "[upstreams.all]\nendpoints = {urls:?}\nbalance = {{ hash = \"{hash}\", algorithm = \"{algorithm}\" }}\n{}\n{}{consumer}",
                routes,
                route("all", pipeline)
            ));
            let mut client = gateway.client();
            let mut of = |user: &str| {
                let target = if header.is_empty() { format!("{target}{user}") } else { target.to_owned() };
                let value = if header == "cookie" { format!("other=1; user={user}") } else { user.to_owned() };
                let headers: &[(&str, &str)] = if header.is_empty() { &[] } else { &[(header, &value)] };
                answer(&mut client, &target, headers)
            };
            let users: Vec<String> = (0..20).map(|n| format!("user-{n}")).collect();
            let first: Vec<String> = users.iter().map(|user| of(user)).collect();
            let again: Vec<String> = users.iter().map(|user| of(user)).collect();
            assert_eq!(first, again, "{hash} by {algorithm}");
            let used: BTreeSet<&String> = first.iter().collect();
            // The consumer is always the same.
            assert_eq!(used.len() > 1, hash != "consumer", "{hash} by {algorithm}: {first:?}");
        }
    }
    // One client; and without a value by chance.
    for (hash, is_one) in [("[\"header:x-none\", \"ip\"]", true), ("\"header:x-none\"", false)] {
        let gateway = gateway(&upstream(&all, &format!("balance = {{ hash = {hash} }}")));
        let mut client = gateway.client();
        let used: BTreeSet<String> = (0..40).map(|_| answer(&mut client, "/", &[])).collect();
        assert_eq!(used.len() == 1, is_one, "{hash}: {used:?}");
    }
    for wrong in ["hash = \"header:\"", "hash = \"mood\"", "hash = []", "hash = \"ip\", algorithm = \"best\"", ""] {
        let refused = setup().refused(&with_base(&upstream(&all, &format!("balance = {{ {wrong} }}"))));
        assert!(refused.stderr.contains("upstreams.all.balance"), "{}", refused.stderr);
    }
}

#[test]
fn a_bound_on_the_load_of_a_hash() {
    for (bounded_load, elsewhere) in [("", 0), (", bounded_load = 1.5", 2)] {
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock().expect("the gate");
        let all: Vec<Origin> = (0..2)
            .map(|_| {
                let gate = gate.clone();
                Origin::serve(move |_| {
                    drop(gate.lock());
                    Reply::text("done")
                })
            })
            .collect();
        let gateway = gateway(&upstream(&all, &format!("balance = {{ hash = \"ip\"{bounded_load} }}")));
        let mut clients: Vec<Client> = (0..6).map(|_| gateway.client()).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(client.format("GET", "/", &[], b""));
            eventually("one more request under way", || all[0].count() + all[1].count() == n + 1);
        }
        // Of 6, an endpoint has 1.5 × 3 = 4.5 at most, so 5.
        let counts = BTreeSet::from([all[0].count(), all[1].count()]);
        match elsewhere {
            0 => assert_eq!(counts, BTreeSet::from([0, 6])),
            _ => assert!(counts.first().is_some_and(|fewest| (1..=3).contains(fewest)), "{counts:?}"),
        }
        drop(held);
        clients.iter_mut().for_each(|client| assert_eq!(client.read_response("GET").status, 200));
    }
    let refused =
        setup().refused(&with_base(&upstream(&origins(1), "balance = { hash = \"ip\", bounded_load = 1.0 }")));
    assert!(refused.stderr.contains("a number from 1.01 to 10"), "{}", refused.stderr);
}

#[test]
fn the_next_priority_when_too_few_are_available() {
    let (first, second) = (Origin::named("first"), Origin::named("second"));
    let endpoints = |down: &str| {
        with_base(&format!(
            "[upstreams.all]\nendpoints = [\"{}\", {down} {{ url = \"{}\", priority = 1 }}]\n{}",
            first.url(),
            second.url(),
            route("all", &[])
        ))
    };
    let gateway = setup().start(&endpoints(""));
    let mut client = gateway.client();
    (0..20).for_each(|_| assert_eq!(answer(&mut client, "/", &[]), "first"));
    // Half of priority 0 is available: 70 % of the requests stay.
    gateway.reload(&endpoints(&format!("\"http://{}\",", nobody())));
    let mut client = gateway.client();
    eventually("a request that finds it down", || {
        answer(&mut client, "/", &[]);
        gateway.metric("sluice_endpoint_healthy", &[("endpoint", &first.address().to_string())]) == Some(1.0)
            && second.count() > 0
    });
    let before = second.count();
    (0..200).for_each(|_| drop(answer(&mut client, "/", &[])));
    assert!((30..=90).contains(&(second.count() - before)), "{}", second.count() - before);
}

#[test]
fn the_own_zone_first() {
    let (near, far) = (Origin::named("near"), Origin::named("far"));
    let upstream = |near: &str, zone: &str| {
        with_base(&format!(
            "[upstreams.all]\nendpoints = [{{ url = \"{near}\", labels = {{ zone = \"a\", rack = \"7\" }} }}, \
             {{ url = \"{}\", labels = {{ zone = \"b\" }} }}]\n{zone}\n{}",
            far.url(),
            route("all", &[])
        ))
    };
    let answers = |gateway: &Gateway| {
        let mut client = gateway.client();
        (0..20).map(|_| answer(&mut client, "/", &[])).collect::<BTreeSet<String>>()
    };
    let gateway = setup().start(&upstream(&near.url(), "zone = { local = \"a\" }"));
    assert_eq!(answers(&gateway), BTreeSet::from(["near".to_owned()]));
    gateway.reload(&upstream(&near.url(), "zone = { local = \"7\", label = \"rack\" }"));
    assert_eq!(answers(&gateway), BTreeSet::from(["near".to_owned()]));
    gateway.reload(&upstream(&near.url(), "zone = { local = \"c\" }"));
    assert_eq!(answers(&gateway).len(), 2, "none is near");
    gateway.reload(&upstream(&format!("http://{}", nobody()), "zone = { local = \"a\" }"));
    assert_eq!(answers(&gateway), BTreeSet::from(["far".to_owned()]), "what is near is down");
}

#[test]
fn a_zone_that_is_full_spills() {
    // Each answers when it is told to.
    let held = |name: &'static str, gate: &Arc<(Mutex<bool>, Condvar)>| {
        let gate = gate.clone();
        Origin::serve(move |_| {
            let (is_open, opened) = &*gate;
            drop(opened.wait_while(is_open.lock().expect("the gate"), |is_open| !*is_open).expect("the gate"));
            Reply::text(name)
        })
    };
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let origins = [held("near", &gate), held("near", &gate), held("far", &gate), held("later", &gate)];
    let [near, other, far, later] = &origins;
    let config = format!(
        "[upstreams.all]\nzone = {{ local = \"a\", spill_above = 3 }}\nendpoints = [\
         {{ url = \"{}\", labels = {{ zone = \"a\" }} }}, {{ url = \"{}\", labels = {{ zone = \"a\" }} }}, \
         {{ url = \"{}\", labels = {{ zone = \"b\" }} }}, {{ url = \"{}\", priority = 1 }}]\n{}",
        near.url(),
        other.url(),
        far.url(),
        later.url(),
        route("all", &[])
    );
    let gateway = gateway(&config);
    let spilled = || gateway.metric("sluice_upstream_spilled_requests_total", &[("upstream", "all")]);
    let counts = || origins.each_ref().map(Origin::count);
    std::thread::scope(|scope| {
        // One after another, as each has to see those before it.
        for n in 1..=8 {
            scope.spawn(|| assert_eq!(gateway.client().get("/").status, 200));
            eventually("the request is under way", || counts().iter().sum::<usize>() == n);
        }
        assert_eq!(counts(), [3, 3, 2, 0], "three for each of the own zone, the rest to the other one of the priority");
        assert_eq!(spilled(), Some(2.0));
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
    });
    let mut client = gateway.client();
    (0..20).for_each(|_| assert_eq!(answer(&mut client, "/", &[]), "near"));
    assert_eq!(spilled(), Some(2.0), "nothing spills without load");
}

#[test]
fn a_route_uses_a_subset_by_labels() {
    let (one, two) = (Origin::named("v1"), Origin::named("v2"));
    let config = |version: &str, fallback: &str| {
        with_base(&format!(
            "[upstreams.all]\nendpoints = [{{ url = \"{}\", labels = {{ version = \"v1\", zone = \"a\" }} }}, \
             {{ url = \"{}\", labels = {{ version = \"v2\", zone = \"a\" }} }}]\n{fallback}\n{}subset = {{ version = \"{version}\", zone = \"a\" }}\n",
            one.url(),
            two.url(),
            route("all", &[])
        ))
    };
    let gateway = setup().start(&config("v2", ""));
    let mut client = gateway.client();
    (0..20).for_each(|_| assert_eq!(answer(&mut client, "/", &[]), "v2"));
    gateway.reload(&config("v1", ""));
    (0..20).for_each(|_| assert_eq!(answer(&mut client, "/", &[]), "v1"));
    gateway.reload(&config("v3", ""));
    assert_eq!(client.get("/").status, 503);
    gateway.reload(&config("v3", "subset_fallback = \"any_endpoint\""));
    let used: BTreeSet<String> = (0..20).map(|_| answer(&mut client, "/", &[])).collect();
    assert_eq!(used.len(), 2);
}

#[test]
fn a_new_endpoint_starts_slowly() {
    let old = Origin::named("old");
    let config = |urls: &[String], min: u32| {
        let settings = format!("slow_start = {{ window = \"10s\", min_weight_percent = {min} }}");
        with_base(&format!("[upstreams.all]\nendpoints = {urls:?}\n{settings}\n{}", route("all", &[])))
    };
    for (min, is_slow) in [(1, true), (100, false)] {
        let gateway = setup().start(&config(&[old.url()], min));
        let mut client = gateway.client();
        let mut of_new = || {
            let new = Origin::named("new");
            gateway.reload(&config(&[old.url(), new.url()], min));
            (0..20).filter(|_| answer(&mut client, "/", &[]) == "new").count()
        };
        match is_slow {
            // The old one starts slowly as well, and is ahead of new ones the more the longer it is up.
            true => eventually("few requests for a new one", || of_new() < 8),
            false => assert_eq!(of_new(), 10, "{min} % at first are its full share"),
        }
    }
}

#[test]
fn a_builtin_upstream_has_no_endpoints_to_limit() {
    let gateway = gateway(
        "[defaults.upstream]\nlimits.per_endpoint.max_requests = 1\nhealth.type = \"tcp\"\n[upstreams.demo]\nbuiltin = \"status\"\n\
         [routes.all]\nmatch = { path = \"/**\" }\nupstream = \"demo\"\n",
    );
    assert_eq!(gateway.get("/204").status, 204);
}

#[test]
fn a_session_stays_at_its_endpoint() {
    let all = origins(4);
    let key = "key = \"sixteen bytes or more\"";
    let config = |origins: &[Origin], more: &str| {
        with_base(&upstream(origins, &format!("sticky = {{ cookie = \"at\", {key}{more} }}")))
    };
    let gateway = setup().start(&config(&all, ""));
    let mut client = gateway.client();
    let first = client.get("/");
    let cookie = first.header("set-cookie").expect("a cookie").to_owned();
    let (pair, attributes) = cookie.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
    assert!(!pair.contains("127.0.0.1") && !pair.contains(&all[0].address().port().to_string()), "{pair}");
    for _ in 0..10 {
        let response = client.request("GET", "/", &[("cookie", pair)], b"");
        assert_eq!((response.text(), response.header("set-cookie")), (first.text(), None));
    }
    // Without the cookie, and with one that the gateway has not made, it is anybody's turn.
    let forged = pair.replacen('=', "=A", 1);
    for headers in [&[][..], &[("cookie", &*forged)], &[("cookie", "at=")]] {
        let used: BTreeSet<String> = (0..8).map(|_| answer(&mut client, "/", headers)).collect();
        assert_eq!(used.len(), 4, "{headers:?}");
        assert!(client.request("GET", "/", headers, b"").header("set-cookie").is_some());
    }
    // Another gateway with the same key knows it, and one with another key does not.
    let other = setup().start(&config(
        &all,
        ", path = \"/shop\", max_age = \"1m\", http_only = false, same_site = \"none\", secure = true",
    ));
    let mut client = other.client();
    assert!((0..8).all(|_| answer(&mut client, "/", &[("cookie", pair)]) == first.text()));
    let cookie = client.get("/").header("set-cookie").expect("a cookie").to_owned();
    assert!(cookie.ends_with("; Path=/shop; Max-Age=60; Secure; SameSite=None"), "{cookie}");
    other.reload(&config(&all, "").replace("sixteen bytes", "another sixteen"));
    let used: BTreeSet<String> = (0..8).map(|_| answer(&mut client, "/", &[("cookie", pair)])).collect();
    assert!(used.len() > 1);
    // Its endpoint goes: another one and a new cookie.
    let left: Vec<Origin> =
        all.into_iter().enumerate().filter(|(n, _)| n.to_string() != first.text()).map(|(_, o)| o).collect();
    gateway.reload(&config(&left, ""));
    let moved = gateway.request("GET", "/", &[("cookie", pair)], b"");
    assert!(moved.status == 200 && moved.header("set-cookie").is_some_and(|cookie| !cookie.starts_with(pair)));
}

#[test]
fn endpoints_that_are_out_are_used_when_too_few_are_left() {
    let failing_checks = |request: &Request| match &*request.target {
        "/healthz" => Reply::status(503),
        _ => Reply::text("out"),
    };
    let all = [Origin::named("good"), Origin::serve(failing_checks), Origin::serve(failing_checks)];
    let config = |threshold: u32| {
        let check = "health = { type = \"http\", path = \"/healthz\", interval = \"50ms\", unhealthy_threshold = 1 }";
        with_base(&upstream(&all, &format!("{check}\npanic_threshold = {threshold}")))
    };
    let gateway = setup().start(&config(0));
    let mut client = gateway.client();
    let mut are_all_good = || (0..12).all(|_| answer(&mut client, "/", &[]) == "good");
    eventually("only the good one is used", &mut are_all_good);
    let in_panic = || gateway.metric("sluice_upstream_panic_requests_total", &[("upstream", "all")]);
    assert_eq!(in_panic(), Some(0.0));
    gateway.reload(&config(50));
    assert!(!are_all_good());
    assert!(in_panic().is_some_and(|requests| requests >= 1.0));
    gateway.wait_log("the panic in the log", |line| {
        line["fields"]["evidence"].as_str().or(line["evidence"].as_str()) == Some("1 of 3 addresses are available")
    });
}
