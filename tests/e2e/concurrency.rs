//! Limits of requests at the same time that gateways share in Redis: never exceeded, on one server and in a cluster; and what becomes of places
//! when a gateway is killed or the server hangs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use sluice_harness::redis::{Redis, RedisCluster};
use sluice_harness::{Client, Gateway, Origin, Reply, eventually, eventually_within};

use crate::support::{gateway, route};

/// How long the store holds a place that nobody renews.
const LEASE: Duration = Duration::from_secs(15);

/// A gateway that lets `amount` requests through at the same time.
fn limiting(origin: &Origin, state: &str, amount: usize) -> String {
    route(&origin.url(), &["limits"])
        + &format!(
            "[filters.limits]\nplugin = \"rate-limit\"\n\
             config.concurrency = [{{ key = \"global\", amount = {amount} }}]\n\
             [plugins.rate-limit]\nstate = \"shared\"\nlimits = {{ cpu = \"1s\", wall = \"8s\" }}\n[state.shared]\n{state}\n"
        )
}

/// An origin that counts the requests that it has at the same time, and the most there were.
fn counting() -> (Origin, Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let found = most.clone();
    let origin = Origin::serve(move |_| {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Long enough that others come meanwhile.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        now.fetch_sub(1, Ordering::SeqCst);
        Reply::text("o")
    });
    (origin, found)
}

/// The requests that pass, sent to all gateways by several clients at the same time. Nothing but 200 and 429 is answered.
fn passed(gateways: &[Gateway], requests: usize) -> usize {
    let (sent, passed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in gateways.iter().flat_map(|gateway| (0..6).map(|_| gateway.client())) {
            let (sent, passed) = (&sent, &passed);
            let mut client: Client = client;
            scope.spawn(move || {
                while sent.fetch_add(1, Ordering::Relaxed) < requests {
                    match client.get("/").status {
                        200 => passed.fetch_add(1, Ordering::Relaxed),
                        429 => 0,
                        other => panic!("a status of {other}"),
                    };
                }
            });
        }
    });
    passed.into_inner()
}

/// An origin whose answers are held back until its gate opens.
fn held() -> (Origin, Arc<(Mutex<bool>, Condvar)>) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let of_origin = gate.clone();
    let origin = Origin::serve(move |request| {
        if request.target == "/hold" {
            let (is_open, opened) = &*of_origin;
            drop(opened.wait_while(is_open.lock().expect("the gate"), |is_open| !*is_open).expect("the gate"));
        }
        Reply::text("o")
    });
    (origin, gate)
}

/// A client whose request is under way.
fn holding(gateway: &Gateway, origin: &Origin) -> Client {
    let before = origin.count();
    let mut client = gateway.client();
    client.send(client.format("GET", "/hold", &[], b""));
    eventually("the request is under way", || origin.count() > before);
    client
}

/// The places that are taken in the store.
fn taken(redis: &Redis) -> usize {
    redis.ask(&["ZCARD", "sluice:{rate-limit}:place:concurrency0"]).trim().parse().unwrap_or(usize::MAX)
}

#[test]
fn three_gateways_have_no_more_at_a_time_than_the_limit() {
    const REQUESTS: usize = 3_000;
    let Some(redis) = Redis::start(&[]) else { return };
    let (origin, most) = counting();
    let toml = limiting(&origin, &format!("redis = [\"{}\"]\ntimeout = \"2s\"", redis.url()), 5);
    let gateways: Vec<Gateway> = (0..3).map(|_| gateway(&toml)).collect();
    let before = redis.calls("evalsha");
    let found = passed(&gateways, REQUESTS);
    assert!((1..=5).contains(&most.load(Ordering::SeqCst)), "{most:?} at a time");
    assert!(found > 0 && found < REQUESTS, "{found} passed: places were free, and others were not");
    let asked = redis.calls("evalsha") - before;
    let at_most = REQUESTS + found + 40;
    assert!((REQUESTS as u64..=at_most as u64).contains(&asked), "{asked} scripts: one for each decision");
    eventually("all places are free", || taken(&redis) == 0);
}

#[test]
fn a_cluster_holds_the_limit_too() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let (origin, most) = counting();
    let lines = format!("redis = {}\nmode = \"cluster\"\ntimeout = \"2s\"", cluster.urls());
    let gateways: Vec<Gateway> = (0..3).map(|_| gateway(&limiting(&origin, &lines, 4))).collect();
    let found = passed(&gateways, 1_500);
    assert!((1..=4).contains(&most.load(Ordering::SeqCst)), "{most:?} at a time");
    assert!(found > 0, "{found}");
    eventually("all places are free", || taken(cluster.master_of("{rate-limit}")) == 0);
}

#[test]
fn places_of_a_killed_gateway_are_free_after_their_lease() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (origin, gate) = held();
    let toml = limiting(&origin, &format!("redis = [\"{}\"]\ntimeout = \"2s\"", redis.url()), 2);
    let (mut one, other) = (gateway(&toml), gateway(&toml));
    let (_of_one, mut of_other) = (holding(&one, &origin), holding(&other, &origin));
    assert_eq!(other.get("/").status, 429, "both places are taken");
    let key = "sluice:{rate-limit}:place:concurrency0";
    let ends = || redis.ask(&["ZRANGE", key, "0", "-1", "WITHSCORES"]);
    let before = ends();
    eventually("who lives puts off the end of its places", || ends() != before);
    one.signal("KILL");
    one.wait_end();
    let killed = Instant::now();
    let refused = other.get("/");
    assert_eq!(refused.status, 429, "its place is still taken: {}", refused.text());
    eventually("the place of the killed one is free", || other.get("/").status == 200);
    // Some more for a machine with other work.
    assert!(killed.elapsed() <= Duration::from_secs(20), "{:?}", killed.elapsed());
    eventually("that of the other one is not", || taken(&redis) == 1);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!(of_other.read_response("GET").status, 200);
    eventually("and now it is", || taken(&redis) == 0);
}

#[test]
fn a_gateway_counts_its_own_while_the_server_hangs_and_tells_it_afterwards() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (origin, gate) = held();
    let toml = limiting(&origin, &format!("redis = [\"{}\"]\ntimeout = \"1s\"", redis.url()), 2);
    let (one, other) = (gateway(&toml), gateway(&toml));
    let mut clients = vec![holding(&one, &origin), holding(&one, &origin)];
    assert_eq!((one.get("/").status, other.get("/").status), (429, 429));
    redis.hang();
    assert_eq!(one.get("/").status, 429, "it knows of its own");
    clients.push(holding(&other, &origin));
    clients.push(holding(&other, &origin));
    assert_eq!(other.get("/").status, 429, "each keeps to the limit");
    redis.resume();
    eventually("the server hears of all of them", || taken(&redis) == 4);
    let late = gateway(&toml);
    assert_eq!(late.get("/").status, 429);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response("GET").status, 200));
    eventually("all are free again", || taken(&redis) == 0 && late.get("/").status == 200);
}

#[test]
fn a_call_that_comes_twice_counts_once() {
    const SCRIPT: &str = include_str!("../../host/services/src/state/take.lua");
    let Some(redis) = Redis::start(&[]) else { return };
    // One limit of 10 in a window of a day, and one place of two.
    let take = |call: &str, place: &str| {
        let (limit, places) = (["f", "10", "86400000000", "10"], ["2", place]);
        let head = ["EVAL", SCRIPT, "3", "{p}:limit", "{p}:place", call, "1", "0", "1", "15000", "60000"];
        redis.ask(&[&head[..], &limit, &places].concat())
    };
    let (first, again) = (take("{p}:call:1", "a"), take("{p}:call:1", "a"));
    assert_eq!(first, again, "the same answer, time and all");
    assert_eq!(redis.ask(&["ZCARD", "{p}:place"]).trim(), "1");
    let taken = || redis.ask(&["GET", "{p}:limit"]).split(' ').nth(1).map(str::to_owned);
    assert_eq!(taken().as_deref(), Some("1"));
    assert_ne!(take("{p}:call:2", "b"), first);
    assert_eq!(taken().as_deref(), Some("2"), "another call counts");
    take("{p}:call:3", "c");
    assert_eq!(redis.ask(&["ZCARD", "{p}:place"]).trim(), "2", "and is refused without a place");
    assert_eq!(taken().as_deref(), Some("2"), "for which nothing counts");
}

#[test]
fn a_caller_that_leaves_while_its_place_is_asked_for_keeps_none() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let state = format!("redis = [\"{}\"]\ntimeout = \"10s\"\non_unavailable = \"closed\"", redis.url());
    let gateway = gateway(&limiting(&origin, &state, 2).replace("wall = \"8s\"", "wall = \"60s\""));
    assert_eq!(gateway.get("/").status, 200);
    eventually("its place is free", || taken(&redis) == 0);
    let before = redis.calls("zadd");
    let waiting = || gateway.metric("sluice_state_waiting_calls", &[("state", "shared")]);
    redis.hang();
    let clients = [(); 2].map(|()| {
        let mut client = gateway.client();
        client.send(client.format("GET", "/", &[], b""));
        client
    });
    eventually("both wait for a place", || waiting() == Some(2.0));
    drop(clients);
    eventually("nobody waits any more", || waiting() == Some(0.0));
    redis.resume();
    eventually("the server does what it was asked for", || redis.calls("zadd") >= before + 2);
    let free = || taken(&redis) == 0;
    eventually_within(LEASE - Duration::from_secs(5), "their places are free", free);
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_key_that_another_has_keeps_no_other_place_from_being_given_back() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (origin, gate) = held();
    let toml = limiting(&origin, &format!("redis = [\"{}\"]\ntimeout = \"2s\"", redis.url()), 2);
    let both = "config.concurrency = [{ key = \"global\", amount = 2 }, { key = \"ip\", amount = 2 }]";
    let gateway = gateway(&toml.replace("config.concurrency = [{ key = \"global\", amount = 2 }]", both));
    let mut client = holding(&gateway, &origin);
    let keys = redis.ask(&["KEYS", "*:place:*"]);
    let other = keys.lines().map(str::trim).find(|key| key.contains("concurrency1")).expect("the second limit's");
    assert_eq!(redis.ask(&["ZCARD", other]).trim(), "1");
    let first = "sluice:{rate-limit}:place:concurrency0";
    redis.ask(&["DEL", first]);
    redis.ask(&["LPUSH", first, "of another"]);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!(client.read_response("GET").status, 200);
    let free = || redis.ask(&["ZCARD", other]).trim() == "0";
    eventually_within(LEASE - Duration::from_secs(5), "the place of the second limit is free", free);
}

#[test]
fn places_of_a_server_that_is_away_are_as_on_unavailable_says() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let (origin, gate) = held();
    let [open, closed] = ["open", "closed"].map(|word| {
        let state = format!("redis = [\"{}\"]\ntimeout = \"1s\"\non_unavailable = \"{word}\"", redis.url());
        gateway(&limiting(&origin, &state, 1))
    });
    assert_eq!(open.get("/").status, 200);
    // They share the place, which is given back behind the request.
    eventually("its place is free", || closed.get("/").status == 200);
    redis.kill();
    eventually("closed refuses", || closed.get("/").status == 503);
    closed.wait_access("the reason", |line| line["reason"] == "limits-unavailable");
    let mut clients = [holding(&open, &origin), holding(&open, &origin)];
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.read_response("GET").status, 200, "more than one at a time"));
    assert!(redis.start_again());
    eventually("it is found again", || closed.get("/").status == 200);
}
