//! A million responses of 1 KiB in the store of the cache: the memory that they take beside that of body, packed head and key, and how long a
//! hit takes, also beside one with few responses.
//!
//! Under `cargo test` it runs with few of them, and fails where they take more than the factor that is promised.

#![allow(clippy::print_stdout, reason = "it prints what it has measured")]
#![allow(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use sluice_cache::answer::answer;
use sluice_cache::digest::Secret;
use sluice_cache::directives::RequestDirectives;
use sluice_cache::freshness::{Decision, Times, reuse};
use sluice_cache::key::{Key, KeyInput, KeyRule};
use sluice_cache::policy::Policy;
use sluice_cache::storable::{Received, storable};
use sluice_cache::store::{Draft, Found, Limits, PackedHead, Place, Purge, Store, Strength};

/// What is promised: memory within this factor of body, packed head and key.
const FACTOR: f64 = 1.5;
const BODY: usize = 1024;
const HITS: usize = 200_000;

/// Counts bytes in use, each block rounded up to what allocators give out: steps of an eighth of a power of two, 16 at least.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);

fn block(size: usize) -> usize {
    let step = (size.next_power_of_two() / 8).max(16);
    size.div_ceil(step) * step
}

// SAFETY: it hands every call to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USED.fetch_add(block(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(block(layout.size()), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    fields.iter().map(field).collect()
}

fn response(number: usize) -> HeaderMap {
    headers(&[
        ("content-type", "application/json; charset=utf-8"),
        ("content-length", "1024"),
        ("cache-control", "public, max-age=3600, stale-while-revalidate=60"),
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("etag", &format!("\"{number:016x}\"")),
        ("last-modified", "Sun, 06 Nov 1994 07:49:37 GMT"),
        ("server", "origin/1.2"),
        ("vary", "accept-encoding"),
        ("surrogate-key", &format!("product-{number} category-{}", number % 100)),
        ("strict-transport-security", "max-age=31536000"),
    ])
}

fn key(store: &Store, path: &str, request: &HeaderMap) -> Key {
    let input = KeyInput {
        group: "shop",
        upstream: "products",
        scheme: "https",
        host: "shop.example.com",
        path,
        query: None,
        headers: request,
        consumer: None,
        parts: &[],
    };
    KeyRule::default().key(&input, store.secret())
}

fn path(number: usize) -> String {
    format!("/api/v1/products/{number}")
}

fn now() -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

fn put(store: &Store, request: &HeaderMap, number: usize) {
    let (path, response) = (path(number), response(number));
    let times = Times { request: now(), response: now() };
    let received = Received { method: &Method::GET, request, status: StatusCode::OK, response: &response, times };
    let policy = Policy::default();
    let storable = storable(received, &policy).expect("it may be stored");
    let place = Place { host: "shop.example.com", path: &path, query: None, notes: None };
    let draft = Draft::new(&storable, &received, &place, store.generation(), &policy, store.secret());
    let draft = draft.expect("a head of usual size");
    let mut body = draft.body(BODY as u64).expect("it is not too large");
    body.push(&[b'x'; BODY]).expect("it is not too large");
    let object = draft.finish(body.finish()).expect("it is complete");
    store.insert(key(store, &path, request), object).expect("it is not too large");
}

/// What a hit costs: key, look-up, decision, and the head of the answer.
fn hit(store: &Store, request: &HeaderMap, path: &str, policy: &Policy) -> bool {
    let Found::Object(object) = store.find(&key(store, path, request), request) else { return false };
    let decided = reuse(&RequestDirectives::of(request), Some(object.candidate()), now(), policy);
    // A few tags share the slot of one that was purged.
    assert!(matches!(decided.decision, Decision::Fresh | Decision::StaleWhileRevalidate));
    let answered = answer(&object, &Method::GET, request, Some(decided.age), String::new);
    black_box(answered.is_ok())
}

/// The time of a hit, at the middle and at the 99th of a hundred.
fn time_hits(store: &Store, request: &HeaderMap, objects: usize, hits: usize) -> (Duration, Duration) {
    let policy = Policy::default();
    let mut times: Vec<_> = (0..hits)
        .map(|at| {
            let path = path(at.wrapping_mul(2_654_435_761) % objects);
            let start = Instant::now();
            assert!(hit(store, request, &path, &policy), "{path} is not there");
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    (times[hits / 2], times[hits * 99 / 100])
}

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (objects, hits) = if is_bench { (1_000_000, HITS) } else { (20_000, 1000) };
    let request = headers(&[("accept", "*/*"), ("accept-encoding", "gzip, br"), ("user-agent", "bench")]);
    let limits = Limits { bytes: 4 << 30, object: 1 << 20, variants: 16 };

    let few = Store::new(limits, Secret::new([1; 16]));
    (0..1000).for_each(|number| put(&few, &request, number));
    let (few_middle, few_late) = time_hits(&few, &request, 1000, hits);

    let before = USED.load(Ordering::Relaxed);
    let store = Store::new(limits, Secret::new([1; 16]));
    (0..objects).for_each(|number| put(&store, &request, number));
    let (middle, late) = time_hits(&store, &request, objects, hits);
    // Hits make pieces of memory shared, which takes some: so it is counted after them.
    let used = USED.load(Ordering::Relaxed) - before;

    let head: usize = PackedHead::pack(StatusCode::OK, &response(objects / 2)).expect("a head of usual size").len();
    let needed = objects * (BODY + head + size_of::<Key>());
    let factor = used as f64 / needed as f64;
    let account = store.bytes() as f64 / used as f64;

    // Each response is checked once more. None has the tag.
    store.purge(&Purge::Tag(b"other"), Strength::Soft, now());
    let (purged_middle, purged_late) = time_hits(&store, &request, objects, hits);

    println!("responses            {objects} of {BODY} bytes, packed head {head}");
    println!(
        "memory               {used} bytes, {factor:.3} of body, head and key; the store's own account is {account:.3} of it"
    );
    println!("hit, 1,000 stored    {few_middle:?}, p99 {few_late:?}");
    println!("hit, all stored      {middle:?}, p99 {late:?}");
    println!("hit, after a purge   {purged_middle:?}, p99 {purged_late:?}");
    assert_eq!(store.keys(), objects, "all are there");
    assert!(factor <= FACTOR, "{factor:.3} is more than {FACTOR}");
}
