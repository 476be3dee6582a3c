//! Limits in Redis while many call and the server goes: what a failover lets through, what routes without limits feel of it, and what a lease owes
//! when a gateway ends. `STATE_REQUESTS=100000 cargo test -p sluice --test e2e state_under_load:: -- --nocapture` is the full length, and
//! prints what it finds.

#![allow(clippy::print_stdout, reason = "at full length, the figures are read")]

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sluice_harness::load::{Neighbour, scaled};
use sluice_harness::redis::{Redis, RedisCluster};
use sluice_harness::{Gateway, Origin, Reply, eventually};

use crate::state::{limiting, shared};
use crate::support::{gateway, setup, with_base};

/// Clients of each gateway, each with one request at a time.
const CLIENTS: usize = 4;
const GATEWAYS: usize = 3;

fn requests() -> usize {
    scaled("STATE_REQUESTS", 3_000)
}

/// How requests have ended.
#[derive(Default)]
struct Ends {
    passed: AtomicUsize,
    refused: AtomicUsize,
    undecided: AtomicUsize,
}

impl Ends {
    fn decided(&self) -> usize {
        self.passed.load(Ordering::Relaxed) + self.refused.load(Ordering::Relaxed)
    }

    /// Sends a request to this gateway after the other, until `is_over`.
    fn ask(&self, gateway: &Gateway, is_over: impl Fn() -> bool) {
        let mut client = gateway.client();
        while !is_over() {
            let end = match client.get("/").status {
                200 => &self.passed,
                429 => &self.refused,
                503 => {
                    // As a caller that is told to come back later, if somewhat sooner.
                    std::thread::sleep(Duration::from_millis(5));
                    &self.undecided
                }
                other => panic!("a status of {other}"),
            };
            end.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A call counts once it is answered. What the replica of a master that fails has not got are calls of its last moment, so at most those that
/// wait for an answer: `max_waiting` of each worker.
#[test]
fn a_failover_under_load_lets_through_no_more_than_what_waited_for_an_answer() {
    let (requests, amount) = (requests(), requests() / 10);
    for how in ["killed", "hung"] {
        let Some(mut cluster) = RedisCluster::start() else { return };
        let origin = Origin::named("o");
        let lines = format!(
            "redis = {}\nmode = \"cluster\"\ntimeout = \"200ms\"\nmax_waiting = {CLIENTS}\non_unavailable = \"closed\"",
            cluster.urls()
        );
        let gateways: Vec<Gateway> = (0..GATEWAYS).map(|_| gateway(&shared(&origin, &lines, amount))).collect();
        let ends = Ends::default();
        std::thread::scope(|scope| {
            for gateway in &gateways {
                for _ in 0..CLIENTS {
                    scope.spawn(|| ends.ask(gateway, || ends.decided() >= requests));
                }
            }
            eventually("a third has passed", || ends.passed.load(Ordering::Relaxed) >= amount / 3);
            let master = cluster.master_of("{rate-limit}");
            match how {
                "killed" => master.kill(),
                _ => {
                    master.hang();
                    let before = ends.decided();
                    eventually("it is decided again", || ends.decided() > before + requests / 100);
                    master.resume();
                }
            }
        });
        let passed = ends.passed.into_inner();
        let excess = passed.saturating_sub(amount);
        println!(
            "master {how}: {passed} of {amount} have passed, {} were undecided, {} refused",
            ends.undecided.into_inner(),
            ends.refused.into_inner()
        );
        assert!(excess <= GATEWAYS * CLIENTS, "{how}: {passed} of {amount}");
        // Those that were repeated have counted twice.
        assert!(passed + GATEWAYS * CLIENTS >= amount, "{how}: {passed} of {amount}");
    }
}

#[test]
fn routes_without_limits_feel_nothing_of_a_server_that_goes() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let origin = Origin::named("o");
    let lines = format!("redis = [\"{}\"]\ntimeout = \"50ms\"\non_unavailable = \"local\"", redis.url());
    let plain = format!("[routes.plain]\nmatch = {{ path = \"/plain\" }}\nupstream = \"{}\"\n", origin.url());
    let gateways: Vec<Gateway> =
        (0..GATEWAYS).map(|_| gateway(&(shared(&origin, &lines, 1_000_000) + &plain))).collect();
    let (ends, is_over) = (Ends::default(), AtomicBool::new(false));
    let asked = requests() / 10;
    std::thread::scope(|scope| {
        for gateway in &gateways {
            scope.spawn(|| ends.ask(gateway, || is_over.load(Ordering::Relaxed)));
        }
        // The slowest hundredth of all gateways' requests takes this long.
        let p99 = |phase: &str| {
            let neighbours: Vec<Neighbour> = gateways
                .iter()
                .map(|gateway| Neighbour::start(gateway.address(), "/plain", Duration::from_millis(1)))
                .collect();
            eventually("enough were asked", || neighbours.iter().all(|one| one.asked() >= asked));
            let slowest = neighbours.into_iter().map(|one| {
                let report = one.stop();
                assert_eq!(report.count(200), report.total(), "{phase}: {:?}", report.statuses);
                report.quantile(0.99)
            });
            let slowest = slowest.max().unwrap_or_default();
            println!("{phase}: p99 {slowest:?}");
            slowest
        };
        let before = p99("before");
        // The machine of the tests has other things to do, too.
        let bound = before * 4 + Duration::from_millis(50);
        redis.kill();
        let killed = p99("killed");
        assert!(redis.start_again());
        let again = p99("started again");
        redis.hang();
        let hung = p99("hung");
        redis.resume();
        let resumed = p99("resumed");
        is_over.store(true, Ordering::Relaxed);
        for (phase, slowest) in [("killed", killed), ("started again", again), ("hung", hung), ("resumed", resumed)] {
            assert!(slowest <= bound, "{phase}: {slowest:?}, before: {before:?}");
        }
    });
    assert_eq!((ends.refused.into_inner(), ends.undecided.into_inner()), (0, 0), "they go on by themselves");
}

/// What the server has counted of the one limit that there is.
fn counted(redis: &Redis) -> u64 {
    let keys = redis.ask(&["KEYS", "*:limit:*"]);
    let Some(key) = keys.lines().next() else { return 0 };
    let state = redis.ask(&["GET", key.trim()]);
    state.split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn leased(lease: u32) -> String {
    format!("state = {{ name = \"shared\", limits = \"leased\", lease = {lease} }}")
}

#[test]
fn what_a_lease_owes_is_told_at_the_end_and_after_a_reload() {
    for how in ["ends", "is configured anew"] {
        let Some(redis) = Redis::start(&[]) else { return };
        let origin = Origin::named("o");
        let state = format!("redis = [\"{}\"]\ntimeout = \"50ms\"\nconnect_timeout = \"9s\"", redis.url());
        let toml = with_base(&limiting(&origin, &state, &leased(20), 100));
        let mut gateway = setup().start(&toml);
        assert_eq!(gateway.get("/").status, 200);
        eventually("it is told", || counted(&redis) == 1);
        // The first of these is told and not answered, and the others wait for that.
        redis.hang();
        for _ in 0..15 {
            assert_eq!(gateway.get("/").status, 200);
        }
        if how == "ends" {
            let address = gateway.address();
            gateway.signal("TERM");
            eventually("it takes no more connections", || TcpStream::connect(address).is_err());
            redis.resume();
            gateway.wait_end();
            assert_eq!(counted(&redis), 16);
        } else {
            gateway.reload(&toml.replace(&leased(20), &leased(21)));
            redis.resume();
            eventually("all is told", || counted(&redis) == 16);
        }
    }
}

#[test]
fn a_response_counts_in_whole_however_small_the_lease() {
    let Some(redis) = Redis::start(&[]) else { return };
    let origin = Origin::serve(|_| Reply::status(200).with("x-cost", "30"));
    let toml = limiting(&origin, &format!("redis = [\"{}\"]", redis.url()), &leased(5), 100);
    let toml = toml.replace("config.limits", "config.response_cost = \"header:x-cost\"\nconfig.limits");
    let gateway = gateway(&toml);
    assert_eq!(gateway.get("/").status, 200);
    eventually("it is told", || counted(&redis) == 31);
}
