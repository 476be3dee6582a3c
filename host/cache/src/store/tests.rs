//! The store: variants, purges, bounds and what stays.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::*;
use crate::freshness::Times;
use crate::key::{KeyInput, KeyRule};
use crate::notes::Notes;
use crate::policy::Policy;
use crate::storable::{Received, storable};

type Fields<'a> = &'a [(&'static str, &'a str)];

fn headers(fields: Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

fn store(bytes: u64) -> Store {
    Store::new(Limits { bytes, object: bytes, variants: 4 }, Secret::new([5; 16]))
}

fn key(store: &Store, path: &str) -> Key {
    let headers = HeaderMap::new();
    let input = KeyInput {
        group: "",
        upstream: "",
        scheme: "http",
        host: "example.com",
        path,
        query: None,
        headers: &headers,
        consumer: None,
        parts: &[],
    };
    KeyRule::default().key(&input, store.secret())
}

fn object_of(store: &Store, path: &str, request: Fields, response: Fields, content: &[u8], born: Generation) -> Object {
    let (request, mut response) = (headers(request), headers(response));
    response.insert("cache-control", HeaderValue::from_static("max-age=60"));
    let times = Times { request: now(), response: now() };
    let received =
        Received { method: &Method::GET, request: &request, status: StatusCode::OK, response: &response, times };
    let notes = Arc::new(Notes { tags: vec!["of-a-filter".into()], freshness: None });
    let place = Place { host: "example.com", path, query: None, notes: Some(&notes) };
    let policy = Policy::default();
    let storable = storable(received, &policy).unwrap();
    let draft = Draft::new(&storable, &received, &place, born, &policy, store.secret()).unwrap();
    let mut body = draft.body(u64::MAX).unwrap();
    body.push(content).unwrap();
    draft.finish(body.finish()).unwrap()
}

fn put(store: &Store, path: &str, request: Fields, response: Fields, content: &[u8]) {
    let object = object_of(store, path, request, response, content, store.generation());
    store.insert(key(store, path), object).unwrap();
}

/// The content that a request finds.
fn content(store: &Store, path: &str, request: Fields) -> Option<Vec<u8>> {
    match store.find(&key(store, path), &headers(request)) {
        Found::Object(object) => Some(object.body().pieces().concat()),
        Found::OtherVariants | Found::Nothing => None,
    }
}

#[test]
fn what_is_stored_is_found() {
    let store = store(1 << 20);
    put(&store, "/a", &[], &[("x", "1")], b"hello");
    let Found::Object(object) = store.find(&key(&store, "/a"), &HeaderMap::new()) else { panic!("not found") };
    assert_eq!(object.head()["x"], "1");
    assert_eq!(object.status(), StatusCode::OK);
    assert_eq!(object.stored().lifetime(), Duration::from_secs(60));
    assert!(matches!(store.find(&key(&store, "/b"), &HeaderMap::new()), Found::Nothing));
    store.remove(&key(&store, "/a"));
    assert!(matches!(store.find(&key(&store, "/a"), &HeaderMap::new()), Found::Nothing));
    assert_eq!(store.bytes(), 0);
}

#[test]
fn incomplete_content_is_not_stored() {
    // RFC 9111 §3.3.
    let store = store(1 << 20);
    for (length, complete) in [("5", true), ("4", false), ("6", false), ("x", false), ("-5", false)] {
        let (request, response) =
            (HeaderMap::new(), headers(&[("cache-control", "max-age=60"), ("content-length", length)]));
        let times = Times { request: now(), response: now() };
        let received =
            Received { method: &Method::GET, request: &request, status: StatusCode::OK, response: &response, times };
        let policy = Policy::default();
        let storable = storable(received, &policy).unwrap();
        let place = Place { host: "example.com", path: "/", query: None, notes: None };
        let draft = Draft::new(&storable, &received, &place, store.generation(), &policy, store.secret()).unwrap();
        let mut body = BodyBuilder::new(None, 100).unwrap();
        body.push(b"12345").unwrap();
        assert_eq!(draft.finish(body.finish()).is_ok(), complete, "{length}");
    }
}

#[test]
fn variants_stand_under_one_key() {
    // RFC 9111 §4.1.
    let store = store(1 << 20);
    let vary: Fields = &[("vary", "foo")];
    put(&store, "/", &[("foo", "1")], vary, b"one");
    put(&store, "/", &[("foo", "2")], vary, b"two");
    assert_eq!(store.keys(), 1);
    assert_eq!(content(&store, "/", &[("foo", "1")]).as_deref(), Some(&b"one"[..]));
    assert_eq!(content(&store, "/", &[("foo", "2")]).as_deref(), Some(&b"two"[..]));
    let other = store.find(&key(&store, "/"), &headers(&[("foo", "3")]));
    assert!(matches!(other, Found::OtherVariants));
    // A newer one takes the place of that for the same request.
    put(&store, "/", &[("foo", "1")], vary, b"one again");
    assert_eq!(content(&store, "/", &[("foo", "1")]).as_deref(), Some(&b"one again"[..]));
    assert_eq!(content(&store, "/", &[("foo", "2")]).as_deref(), Some(&b"two"[..]));
}

#[test]
fn the_most_recent_vary_counts() {
    // RFC 9111 §4.1: a default response that lacks `Vary` does not stand beside those that have it.
    let store = store(1 << 20);
    put(&store, "/", &[("foo", "1")], &[], b"default");
    put(&store, "/", &[("foo", "2")], &[("vary", "foo")], b"two");
    assert_eq!(content(&store, "/", &[("foo", "1")]), None);
    assert_eq!(content(&store, "/", &[("foo", "2")]).as_deref(), Some(&b"two"[..]));
    // Of two that match, the most recent one is used (§4).
    put(&store, "/", &[("foo", "2"), ("bar", "1")], &[("vary", "bar")], b"by bar");
    assert_eq!(content(&store, "/", &[("foo", "2"), ("bar", "1")]).as_deref(), Some(&b"by bar"[..]));
}

#[test]
fn vary_explosion() {
    let store = store(1 << 20);
    for client in 0..1000 {
        put(&store, "/", &[("foo", &client.to_string())], &[("vary", "foo")], b"x");
    }
    let found = (0..1000).filter(|client| content(&store, "/", &[("foo", &client.to_string())]).is_some());
    assert_eq!(found.collect::<Vec<_>>(), [996, 997, 998, 999]);
}

#[test]
fn purges_take_effect_at_the_hit() {
    let purge = |purge: Purge, strength| {
        let store = store(1 << 20);
        put(&store, "/a/b", &[], &[("surrogate-key", "red")], b"x");
        put(&store, "/c", &[], &[], b"x");
        store.purge(&purge, strength, now());
        let state = |path| match store.find(&key(&store, path), &HeaderMap::new()) {
            Found::Object(object) => Some(object.candidate().marked_stale.is_some()),
            Found::OtherVariants | Found::Nothing => None,
        };
        let found = [state("/a/b"), state("/c")];
        // What was stale stays so, and what is gone is gone.
        assert_eq!([state("/a/b"), state("/c")], found);
        put(&store, "/a/b", &[], &[], b"new");
        assert_eq!(state("/a/b"), Some(false), "{purge:?}");
        found
    };
    let host = "example.com";
    let (there, stale, gone) = (Some(false), Some(true), None);
    assert_eq!(purge(Purge::Tag(b"red"), Strength::Hard), [gone, there]);
    assert_eq!(purge(Purge::Tag(b"red"), Strength::Soft), [stale, there]);
    assert_eq!(purge(Purge::Tag(b"of-a-filter"), Strength::Soft), [stale, stale]);
    assert_eq!(purge(Purge::Prefix { host, path: "/a" }, Strength::Hard), [gone, there]);
    assert_eq!(purge(Purge::Url { host, path: "/a/b", query: None }, Strength::Hard), [gone, there]);
    assert_eq!(purge(Purge::Host(host), Strength::Hard), [gone, gone]);
    assert_eq!(purge(Purge::Everything, Strength::Soft), [stale, stale]);
    assert_eq!(purge(Purge::Host("example.org"), Strength::Hard), [there, there]);
}

#[test]
fn a_soft_purge_has_a_time() {
    let store = store(1 << 20);
    put(&store, "/a", &[], &[("surrogate-key", "red")], b"x");
    let later = |seconds| now() + Duration::from_secs(seconds);
    store.purge(&Purge::Tag(b"red"), Strength::Soft, later(5));
    let since = || match store.find(&key(&store, "/a"), &HeaderMap::new()) {
        Found::Object(object) => object.candidate().marked_stale,
        Found::OtherVariants | Found::Nothing => None,
    };
    // It is that of the purge, whenever the response is looked at.
    assert_eq!(since(), Some(later(5)));
    store.purge(&Purge::Everything, Strength::Soft, later(9));
    assert_eq!(since(), Some(later(5)), "the first one counts");
}

#[test]
fn one_variant_can_be_taken_away() {
    let store = store(1 << 20);
    let vary: Fields = &[("vary", "foo")];
    for value in ["1", "2", "3"] {
        put(&store, "/", &[("foo", value)], vary, value.as_bytes());
    }
    let at = |value| match store.find(&key(&store, "/"), &headers(&[("foo", value)])) {
        Found::Object(object) => Some(object),
        Found::OtherVariants | Found::Nothing => None,
    };
    let (two, before) = (at("2").unwrap(), store.bytes());
    store.remove_object(&key(&store, "/"), &two);
    assert_eq!(["1", "2", "3"].map(|value| at(value).is_some()), [true, false, true]);
    assert!(store.bytes() < before);
    // One that is there no more takes nothing away.
    put(&store, "/", &[("foo", "2")], vary, b"new");
    store.remove_object(&key(&store, "/"), &two);
    assert_eq!(["1", "2", "3"].map(|value| at(value).is_some()), [true, true, true]);
    for value in ["1", "2", "3"] {
        store.remove_object(&key(&store, "/"), &at(value).unwrap());
    }
    assert_eq!((store.keys(), store.bytes()), (0, 0));
}

#[test]
fn what_is_stored_says_what_requests_have_in_common() {
    let store = store(1 << 20);
    let of =
        |path: &str, foo| store.variant(&key(&store, path), &headers(&[("foo", foo)]), Policy::default().normalise);
    assert_eq!(of("/", "1"), None);
    put(&store, "/", &[], &[], b"x");
    assert_eq!(of("/", "1"), None);
    put(&store, "/v", &[("foo", "1")], &[("vary", "foo")], b"x");
    assert!(of("/v", "2").is_some() && of("/v", "2") == of("/v", "2") && of("/v", "2") != of("/v", "3"));
}

#[test]
fn what_is_stored_can_be_looked_at() {
    let store = store(1 << 20);
    let at = |path: &str| {
        store.inspect(&key(&store, path)).into_iter().map(|(object, purged)| (object.body().len(), purged))
    };
    assert_eq!(at("/a").count(), 0);
    put(&store, "/a", &[("foo", "1")], &[("vary", "foo")], b"x");
    put(&store, "/a", &[("foo", "2")], &[("vary", "foo")], b"xx");
    assert_eq!(at("/a").collect::<Vec<_>>(), [(2, Purged::No), (1, Purged::No)]);
    store.purge(&Purge::Everything, Strength::Soft, now());
    assert_eq!(at("/a").collect::<Vec<_>>(), [(2, Purged::Softly), (1, Purged::Softly)]);
    store.purge(&Purge::Everything, Strength::Hard, now());
    assert_eq!(at("/a").collect::<Vec<_>>(), [(2, Purged::Gone), (1, Purged::Gone)]);
}

#[test]
fn a_purge_reaches_a_response_that_was_under_way() {
    let store = store(1 << 20);
    let born = store.generation();
    store.purge(&Purge::Everything, Strength::Hard, now());
    let object = object_of(&store, "/", &[], &[], b"old", born);
    store.insert(key(&store, "/"), object).unwrap();
    assert_eq!(content(&store, "/", &[]), None);
    assert_eq!(store.keys(), 0);
}

#[test]
fn what_was_stored_meanwhile_is_not_replaced() {
    let store = store(1 << 20);
    let object = |content: &[u8]| object_of(&store, "/", &[], &[], content, store.generation());
    let old = store.insert(key(&store, "/"), object(b"old")).unwrap();
    let again = store.replace(key(&store, "/"), &old, object(b"again")).unwrap();
    assert_eq!(content(&store, "/", &[]).unwrap(), b"again");
    put(&store, "/", &[], &[], b"newer");
    store.replace(key(&store, "/"), &again, object(b"late")).unwrap();
    assert_eq!(content(&store, "/", &[]).unwrap(), b"newer");
}

#[test]
fn what_a_purge_has_reached_takes_nothing_newer_away() {
    for strength in [Strength::Soft, Strength::Hard] {
        let store = store(1 << 20);
        let born = store.generation();
        let old = || object_of(&store, "/", &[], &[], b"old", born);
        store.purge(&Purge::Everything, strength, now());
        store.insert(key(&store, "/"), old()).unwrap();
        let stored = content(&store, "/", &[]);
        assert_eq!(stored.is_some(), strength == Strength::Soft, "what is stale may be validated");
        put(&store, "/", &[], &[], b"new");
        store.insert(key(&store, "/"), old()).unwrap();
        assert_eq!(content(&store, "/", &[]).as_deref(), Some(&b"new"[..]), "{strength:?}");
    }
}

#[test]
fn the_bound_on_bytes_holds_at_each_moment() {
    let store = store(1 << 20);
    for at in 0..2000 {
        put(&store, &format!("/{at}"), &[], &[], &[0; 2000]);
        assert!(store.bytes() <= 1 << 20);
    }
    assert!(store.evicted() > 1000);
    store.set_limits(Limits { bytes: 1 << 18, object: 1 << 18, variants: 4 });
    assert!(store.bytes() <= 1 << 18);
}

#[test]
fn memory_is_released_and_taken_again() {
    let store = store(1 << 20);
    let fill = || (0..1000).for_each(|at| put(&store, &format!("/{at}"), &[], &[], &[0; 2000]));
    fill();
    let before = store.bytes();
    store.release(300_000);
    assert!(store.bytes() <= before - 300_000, "{} of {before}", store.bytes());
    assert!(store.bytes() > before / 2);
    fill();
    assert!(store.bytes() > (1 << 20) * 9 / 10);
    store.release(u64::MAX);
    assert!(store.bytes() <= (1 << 20) / 16);
    fill();
    assert!(store.bytes() > (1 << 20) * 9 / 10);
}

#[test]
fn what_is_too_large_is_not_stored() {
    let store = Store::new(Limits { bytes: 1 << 20, object: 10_000, variants: 4 }, Secret::new([5; 16]));
    let insert = |path: &str, length: usize| {
        let object = object_of(&store, path, &[], &[], &vec![0; length], store.generation());
        store.insert(key(&store, path), object).map(|_| ())
    };
    assert_eq!(insert("/a", 9000), Ok(()));
    assert_eq!(insert("/b", 10_000), Err(TooLarge));
    // All variants of a key together are no larger.
    for at in ["1", "2", "3"] {
        put(&store, "/v", &[("foo", at)], &[("vary", "foo")], &[0; 4000]);
    }
    let there = ["1", "2", "3"].map(|at| content(&store, "/v", &[("foo", at)]).is_some());
    assert_eq!(there, [false, true, true]);
}

#[test]
fn a_crawler_empties_nothing() {
    // Room for some 700 responses, of which 300 are asked for again and again.
    let store = store(1 << 20);
    let path = |at: usize| format!("/popular/{at}");
    for round in 0..5 {
        for at in 0..300 {
            if round == 0 {
                put(&store, &path(at), &[], &[], &[0; 1024]);
            } else {
                content(&store, &path(at), &[]);
            }
        }
    }
    for page in 0..20_000 {
        put(&store, &format!("/once/{page}"), &[], &[], &[0; 1024]);
        // The popular ones are still asked for, a hundred times less often than the crawler asks.
        if page % 100 == 0 {
            content(&store, &path(page / 100 % 300), &[]);
        }
    }
    let left = (0..300).filter(|at| content(&store, &path(*at), &[]).is_some()).count();
    assert!(left >= 290, "{left} of 300 are left");
}

#[test]
fn readers_and_writers_on_many_threads() {
    let store = store(1 << 18);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for at in 0..500 {
                    let path = format!("/{}", at % 50);
                    put(store, &path, &[("foo", &(thread % 2).to_string())], &[("vary", "foo")], path.as_bytes());
                    if let Some(found) = content(store, &path, &[("foo", "1")]) {
                        assert_eq!(found, path.as_bytes());
                    }
                    if at % 100 == 0 {
                        store.purge(&Purge::Host("example.com"), Strength::Hard, now());
                    }
                }
            });
        }
    });
    assert!(store.bytes() <= 1 << 18);
}
