//! Packed responses come back as they were, and anything else is refused.

use http::Method;

use super::*;
use crate::policy::Policy;
use crate::storable::{Received, storable};
use crate::store::{Draft, Limits, Place, Store};

fn object(notes: Option<&Arc<Notes>>) -> Object {
    let store = Store::new(Limits { bytes: 1 << 20, object: 1 << 20, variants: 4 }, Secret::new([5; 16]));
    let mut head = HeaderMap::new();
    for (name, value) in [("cache-control", "max-age=60"), ("x-a", "1"), ("x-a", "2"), ("age", "7")] {
        head.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
    let request = HeaderMap::new();
    let times = Times { request: now, response: now };
    let received = Received { method: &Method::GET, request: &request, status: StatusCode::OK, response: &head, times };
    let policy = Policy::default();
    let place = Place { host: "a", path: "/", query: None, notes };
    let storable = storable(received, &policy).unwrap();
    let draft = Draft::new(&storable, &received, &place, store.generation(), &policy, store.secret()).unwrap();
    let mut body = draft.body(u64::MAX).unwrap();
    body.push(&[7; 100_000]).unwrap();
    draft.finish(body.finish()).unwrap()
}

fn notes() -> Arc<Notes> {
    let freshness = Freshness {
        lifetime: Duration::from_secs(9),
        stale_while_revalidate: None,
        stale_if_error: Some(Duration::from_secs(3)),
    };
    Arc::new(Notes { tags: vec!["red".into(), "blue".into()], freshness: Some(freshness) })
}

#[test]
fn a_response_comes_back_as_it_was() {
    let secret = Secret::new([9; 16]);
    for notes in [None, Some(notes())] {
        let object = object(notes.as_ref());
        let Some(Packed::Response(read)) = read(&response(&object, 42, &secret), &secret) else { panic!("a response") };
        assert_eq!((read.born, read.status, &read.head), (42, StatusCode::OK, &object.head()));
        assert_eq!(read.body, object.body().pieces().concat());
        assert_eq!(read.notes, notes);
        let stored = object.stored();
        assert_eq!(read.times.response, stored.received());
        // Its age goes on from what it was.
        assert_eq!(read.times.response.duration_since(read.times.request).unwrap(), Duration::from_secs(7));
    }
    let names = [HeaderName::from_static("accept-encoding"), HeaderName::from_static("x-a")];
    let Some(Packed::Varies(read)) = read(&varies(&names, &secret), &secret) else { panic!("names") };
    assert_eq!(read, names);
}

#[test]
fn what_is_broken_is_refused() {
    let secret = Secret::new([9; 16]);
    let good = response(&object(Some(&notes())), 42, &secret);
    assert!(read(&good, &Secret::new([8; 16])).is_none(), "another secret");
    for at in (0..600).chain(good.len() - 10..good.len()) {
        let mut broken = good.clone();
        broken[at] ^= 1;
        assert!(read(&broken, &secret).is_none(), "{at}");
        assert!(read(&good[..at], &secret).is_none(), "{at}");
    }
    // With a good checksum, too, lengths have to fit.
    for kind in [RESPONSE, VARIES, b'x'] {
        for length in 0..80 {
            for byte in [0, 1, 0xff] {
                let mut bytes = Writer::begin(kind);
                bytes.0.extend(std::iter::repeat_n(byte, length));
                let _ = read(&bytes.end(&secret), &secret);
            }
        }
    }
}
