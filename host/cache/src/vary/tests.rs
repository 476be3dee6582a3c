//! Pairs of requests that select the same stored response, or do not.

use http::HeaderValue;

use super::*;

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

type Fields = &'static [(&'static str, &'static str)];

const ALL: Normalise = Normalise { accept_encoding: true, accept_language: true };
const NONE: Normalise = Normalise { accept_encoding: false, accept_language: false };

fn selects(vary: &[&'static str], response: Fields, normalise: Normalise, first: Fields, second: Fields) -> bool {
    let secret = Secret::new([3; 16]);
    let names: Vec<_> = vary.iter().map(|name| HeaderName::from_static(name)).collect();
    Variant::new(&names, &headers(first), &headers(response), normalise, &secret).matches(&headers(second), &secret)
}

#[test]
fn all_nominated_fields_have_to_match() {
    // RFC 9111 §4.1.
    let table: [(&[&'static str], Fields, Fields, bool); 15] = [
        (&[], &[("foo", "1")], &[("foo", "2")], true),
        (&["foo"], &[("foo", "1")], &[("foo", "1")], true),
        (&["foo"], &[("foo", "1")], &[("foo", "2")], false),
        (&["foo"], &[], &[("foo", "1")], false),
        (&["foo"], &[("foo", "1")], &[], false),
        (&["foo"], &[("foo", "")], &[], false),
        (&["foo"], &[], &[("other", "3")], true),
        (&["foo", "bar"], &[("foo", "1"), ("bar", "abc")], &[("bar", "abc"), ("foo", "1")], true),
        (&["foo", "bar"], &[("foo", "1"), ("bar", "abc")], &[("foo", "2"), ("bar", "abc")], false),
        (&["foo", "bar"], &[("foo", "1"), ("bar", "abc")], &[], false),
        (&["foo", "bar"], &[("foo", "1")], &[("bar", "1")], false),
        // Blanks and lines, but not inside of quotes.
        (&["foo"], &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")], true),
        (&["foo"], &[("foo", "1,2")], &[("foo", " 1 ,\t2 ")], true),
        (&["foo"], &[("foo", "\"1,2\"")], &[("foo", "\"1, 2\"")], false),
        (&["foo"], &[("foo", "1 2")], &[("foo", "12")], false),
    ];
    for (vary, first, second, same) in table {
        assert_eq!(selects(vary, &[], ALL, first, second), same, "{vary:?} {first:?} {second:?}");
        assert_eq!(selects(vary, &[], ALL, second, first), same, "{vary:?} {second:?} {first:?}");
    }
}

#[test]
fn accept_encoding_is_a_set_of_codings() {
    // RFC 9110 §12.5.3.
    let pair = |first: &'static str, second: &'static str, normalise, response| {
        let fields = |value| vec![("accept-encoding", value)].leak();
        selects(&["accept-encoding"], response, normalise, &*fields(first), &*fields(second))
    };
    let table = [
        ("gzip, br", "br,gzip", true),
        ("gzip, br", "br;q=0.5, GZIP;q=1.0", true),
        ("gzip, x-unknown", "gzip", true),
        ("gzip, identity", "gzip", true),
        ("gzip, br;q=0", "gzip", true),
        ("gzip", "br", false),
        ("gzip", "gzip, br", false),
        ("gzip", "", false),
        ("gzip, identity;q=0", "gzip", false),
        ("gzip, *;q=0", "gzip", false),
        ("*", "gzip", false),
        ("gzip;q=0, *", "*", false),
        ("x-gzip;q=0, *", "*;q=0.5, gzip;q=0", true),
        ("br, gzip;q=0, *", "br, *", false),
        ("br;q=0, *", "gzip;q=0, *", false),
    ];
    for (first, second, same) in table {
        assert_eq!(pair(first, second, ALL, &[]), same, "{first} {second}");
        assert_eq!(pair(first, second, ALL, &[("content-encoding", "gzip")]), same, "{first} {second}");
    }
    assert!(!pair("gzip, br", "br,gzip", NONE, &[]));
    // A client that takes gzip only never gets what another one takes.
    assert!(!pair("gzip, x-unknown", "gzip", ALL, &[("content-encoding", "x-unknown")]));
    assert!(pair("gzip, x-unknown", "gzip,x-unknown", ALL, &[("content-encoding", "x-unknown")]));
}

#[test]
fn accept_language_is_compared_by_preference() {
    // RFC 9110 §12.5.4.
    let pair = |first: &'static str, second: &'static str, normalise, response| {
        let fields = |value| vec![("accept-language", value)].leak();
        selects(&["accept-language"], response, normalise, &*fields(first), &*fields(second))
    };
    let table = [
        ("en, de", "de, en", true),
        ("en, de", "eN, De", true),
        ("en, de", "  en ,   de", true),
        ("en;q=0.5, de", "de, en;q=0.500", true),
        ("en, de;q=0.5", "de, en;q=0.5", false),
        ("en", "de", false),
    ];
    for (first, second, same) in table {
        assert_eq!(pair(first, second, ALL, &[]), same, "{first} {second}");
    }
    assert!(!pair("en, de", "de, en", NONE, &[]));
    // The language that the client wants most, where there is one.
    let german: Fields = &[("content-language", "de")];
    assert!(pair("en, de", "fr;q=0.5, de;q=1.0", ALL, german));
    assert!(!pair("en, de", "fr;q=0.5, de;q=1.0", NONE, german));
    assert!(!pair("en, de", "fr, de", ALL, german));
    assert!(!pair("en, de", "fr, de;q=0.5", ALL, german));
    assert!(!pair("en, de", "de;q=0", ALL, german));
    assert!(!pair("en, de", "de", ALL, &[("content-language", "de, en")]));
}

#[test]
fn another_field_still_has_to_match_beside_the_language() {
    let vary = ["accept-language", "foo"];
    let first: Fields = &[("accept-language", "en, de"), ("foo", "1")];
    let german: Fields = &[("content-language", "de")];
    assert!(selects(&vary, german, ALL, first, &[("accept-language", "de"), ("foo", "1")]));
    assert!(!selects(&vary, german, ALL, first, &[("accept-language", "de"), ("foo", "2")]));
}

#[test]
fn weights() {
    for (text, expected) in [("a;q=0", 0), ("a;q=0.000", 0), ("a; q=0.25", 250), ("a;Q=1", 1000), ("a;q=1.5", 1000)] {
        assert_eq!(weighted(text.as_bytes()), (&b"a"[..], expected), "{text}");
    }
    assert_eq!(weighted(b"a;q=x"), (&b"a"[..], 1000));
    assert_eq!(weighted(b"a;level=1;q=0.001"), (&b"a"[..], 1));
}
