//! The steps of a request, each so many times in a function that callgrind can find, and that so many times: `instructions.py` has
//! them counted. Without numbers, or called as a test, each is done once.
#![allow(clippy::print_stdout, reason = "it is how the names of the steps get to the script")]

#[path = "shared/guests.rs"]
mod guests;
#[path = "shared/heads.rs"]
mod heads;
#[path = "shared/routes.rs"]
mod routes;
#[path = "shared/upstreams.rs"]
mod upstreams;

use std::hint::black_box;
use std::net::IpAddr;

use bytes::BytesMut;
use heads::{BROWSER, DATE, LIMITS, RESPONSE, TOOL};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode, Version};
use sluice::config::defaults;
use sluice::config::model::{Backoff, RetryBudget, RetryPolicy};
use sluice::http1::{self, Framing};
use sluice::route::{Ingress, RequestView};
use sluice::upstream::retry::{Attempts, EndedAttempt, FilterChoice, Repeatability, RetryLoad, condition_of};
use sluice::upstream::{Affinity, Choice, hash};
use sluice::wasm::{Mode, Runtime, RuntimeOptions, Verdict};

/// That of the gateway's binary.
#[global_allocator]
static ALLOCATOR: sluice::allocator::Allocator = sluice::allocator::Allocator;

/// Calls before those that are counted: the first ones fill caches and make instances.
const BEFORE: usize = 20;
const BUFFER: usize = 8 * 1024;

#[allow(unsafe_code, reason = "callgrind looks for this very name; nothing else has it")]
#[unsafe(no_mangle)]
#[inline(never)]
fn sluice_counted_step(times: usize, step: &mut dyn FnMut()) {
    for _ in 0..times {
        step();
    }
}

/// How often a step is done: `rounds` counts of `times` each.
#[derive(Clone, Copy)]
struct Often {
    times: usize,
    rounds: usize,
}

/// Does a step and says its name, for `instructions.py` to put beside the counts.
fn step(often: Often, name: &str, mut step: impl FnMut()) {
    for _ in 0..BEFORE.min(often.times) {
        step();
    }
    for _ in 0..often.rounds {
        sluice_counted_step(often.times, &mut step);
    }
    println!("{name}");
}

fn main() {
    let _keeping = sluice::allocator::Keeping::new();
    let number = |place| std::env::args().nth(place).and_then(|number| number.parse().ok()).unwrap_or(1);
    let often = Often { times: number(1), rounds: number(3) };
    find_routes(often);
    choose_endpoints(often);
    decide_on_retries(often);
    read_and_write_heads(often);
    call_hooks(often);
}

fn find_routes(often: Often) {
    let headers = HeaderMap::new();
    for count in [10, 10_000] {
        let (router, requests) = (routes::router(count), routes::requests(count));
        // The same ones in each round.
        let mut requests = requests.iter().take(often.times).cycle();
        step(often, &format!("find a route among {count}"), || {
            let Some((host, path)) = requests.next() else { return };
            let client_ip = Some(IpAddr::from([127, 0, 0, 1]));
            let ingress = &Ingress { listener: "http", scheme: &Scheme::HTTP, sni: None };
            let view =
                RequestView { ingress, host, path, method: &Method::GET, query: None, headers: &headers, client_ip };
            black_box(router.find(black_box(&view)));
        });
    }
}

fn choose_endpoints(often: Often) {
    for (name, algorithm) in upstreams::algorithms() {
        for count in [4, 1000] {
            let upstream = upstreams::upstream(algorithm.clone(), count);
            let mut keys = (0..often.times).map(|n| hash(&n.to_le_bytes())).cycle();
            step(often, &format!("choose one of {count} endpoints: {name}"), || {
                let endpoints = upstream.endpoints();
                let choice = Choice::Balanced(Affinity::new(keys.next(), None));
                black_box(upstream.choose(&endpoints, choice, None, black_box(&[])));
            });
        }
    }
}

/// What an attempt costs that has failed and is followed by another one: the decision, and the budget of its upstream.
fn decide_on_retries(often: Often) {
    let policy = RetryPolicy {
        attempts: defaults::RETRY_ATTEMPTS,
        on: defaults::RETRY_ON,
        status_codes: Vec::new(),
        per_try_timeout: defaults::PER_TRY_TIMEOUT,
        backoff: Backoff { base: defaults::BACKOFF_BASE, max: defaults::BACKOFF_MAX },
        budget: RetryBudget { percent: 100, min_per_second: 0 },
        body: defaults::RETRY_BODY,
        non_idempotent: defaults::RETRY_NON_IDEMPOTENT,
        max_retry_after: defaults::MAX_RETRY_AFTER,
        attempt_header: None,
    };
    let get = Repeatability { idempotent: true, has_body: false, whole: true };
    let (load, now) = (RetryLoad::default(), 1_000_000);
    step(often, "count a request for the retry budget", || load.note_request(black_box(now)));
    step(often, "decide on a retry", || {
        let mut attempts = Attempts::new(Some(&policy));
        attempts.select(2, 0, FilterChoice::NoneOrSame);
        attempts.spend(0);
        let condition = condition_of(&policy, black_box(StatusCode::SERVICE_UNAVAILABLE), None);
        let ended = EndedAttempt::answered(condition.expect("a condition of the policy"), get);
        let decision = black_box(attempts.after(ended, false));
        assert!(decision.is_charged);
        black_box(load.withdraw(policy.budget, black_box(now)));
    });
}

fn read_and_write_heads(often: Often) {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    let mut fill = |bytes: &[u8]| {
        buffer.reserve(BUFFER);
        buffer.extend_from_slice(black_box(bytes));
        std::mem::take(&mut buffer)
    };
    let mut received = fill(BROWSER);
    let request = http1::read_request(&mut received, LIMITS).expect("a good head").expect("a whole head").parts.headers;
    let mut received = fill(RESPONSE);
    let response = http1::read_response(&mut received, LIMITS, &Method::GET, http1::Tolerance::default())
        .expect("a good head")
        .expect("a whole head")
        .headers;
    let mut received = BytesMut::with_capacity(BUFFER);
    for (name, bytes) in [("read the head of a request", BROWSER), ("read the head of a tool's request", TOOL)] {
        step(often, name, || {
            received.reserve(BUFFER);
            received.extend_from_slice(black_box(bytes));
            assert!(matches!(http1::read_request(&mut received, LIMITS), Ok(Some(_))));
        });
    }
    step(often, "read the head of a response", || {
        received.reserve(BUFFER);
        received.extend_from_slice(black_box(RESPONSE));
        assert!(matches!(
            http1::read_response(&mut received, LIMITS, &Method::GET, http1::Tolerance::default()),
            Ok(Some(_))
        ));
    });
    let target = PathAndQuery::from_static("/shop/items/4711/reviews?page=2&sort=date");
    let mut out = BytesMut::with_capacity(BUFFER);
    step(often, "write the head of a request", || {
        out.clear();
        http1::request_head(&mut out, &Method::GET, &target, black_box(&request), Framing::None);
    });
    step(often, "write the head of a response", || {
        out.clear();
        let (version, body) = (Version::HTTP_11, Framing::Length(1024));
        http1::response_head(&mut out, version, StatusCode::OK, black_box(&response), body, true, DATE);
    });
}

fn call_hooks(often: Often) {
    let cache = std::env::args().nth(2).map(Into::into);
    // Few: under valgrind there is room for some 16 reservations of 4 GiB.
    let options = RuntimeOptions { instances: 4, cache, ..RuntimeOptions::default() };
    let runtime = Runtime::new(options).expect("the runtime");
    let local = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for guest in guests::guests() {
        let pool = guests::pool(&runtime, &guest, Mode::Reused);
        for hook in guest.hooks {
            // The first call makes the instance.
            let (exchange, first) = local.block_on(pool.call(*hook, guests::exchange(&guest), 0));
            assert_eq!(first.expect("a verdict"), Verdict::Continue, "{}", guest.name);
            let mut idle = Some(exchange);
            step(often, &format!("{}: {hook}", guest.name), || {
                let Some(mut exchange) = idle.take() else { return };
                exchange.roll_back();
                // Those whose functions may wait are called on a fiber, as in the gateway.
                let called = pool.call_now(*hook, exchange, 0, &mut None);
                let called = called.unwrap_or_else(|exchange| local.block_on(pool.call(*hook, exchange, 0)));
                let (exchange, Ok(Verdict::Continue)) = called else { panic!("{} did not continue", guest.name) };
                idle = Some(exchange);
            });
        }
    }
}
