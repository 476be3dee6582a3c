//! RFC 9111 §4, §4.1 and §4.4: which stored response answers which request, and which ones become invalid.

use sluice_cache::policy::{Normalise, Policy};

use crate::cache::Fields;
use crate::cache::Source::{Hit, StaleOnError, Upstream, Validated};
use crate::{FRESH, Row, ask, get, row, then};

const VARY: Fields = &[("cache-control", "max-age=60"), ("vary", "Foo")];
const VARY_3: Fields = &[("cache-control", "max-age=60"), ("vary", "Foo, Bar, Baz")];

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = constructing();
    rows.extend(selecting());
    rows.extend(invalidating());
    rows
}

fn constructing() -> Vec<Row> {
    let s4 = "RFC 9111 §4";
    vec![
        row(
            s4,
            "MUST NOT reuse unless the target matches",
            [get(0).path("/a").origin(200, FRESH), get(1).path("/A").from(Upstream)],
        ),
        row(
            s4,
            "a response to GET answers a HEAD, without content",
            [get(0).origin(200, FRESH), ask("HEAD", 1).from(Hit).has(&[("content-length", "7")]).content("")],
        ),
        row(s4, "a response to HEAD answers no GET", [ask("HEAD", 0).origin(200, FRESH), get(1).from(Upstream)]),
        row(
            s4,
            "MUST NOT reuse with no-cache unless validated",
            [
                get(0).origin(200, &[("cache-control", "max-age=60, no-cache"), ("etag", "\"a\"")]),
                get(1).origin(304, &[]).from(Validated).forwards(&[("if-none-match", "\"a\"")]),
            ],
        ),
        row(s4, "MUST NOT reuse unless fresh, allowed to be stale, or validated", then(FRESH, 60, Upstream)),
        row(
            s4,
            "MUST generate Age when it does not validate",
            [get(0).origin(200, FRESH), get(3).from(Hit).has(&[("age", "3")])],
        ),
        row(
            s4,
            "Age takes the place of the one in the response",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("age", "30")]),
                get(3).from(Hit).has(&[("age", "33")]),
            ],
        ),
        row(
            s4,
            "Date stays as it was",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:30 GMT")]),
                get(3).from(Hit).has(&[("date", "Sun, 06 Nov 1994 08:49:30 GMT")]),
            ],
        ),
        row(
            s4,
            "MUST write unsafe requests through",
            [get(0).origin(200, FRESH), ask("POST", 1).from(Upstream), ask("M-SEARCH", 1).from(Upstream)],
        ),
        row(
            s4,
            "MUST use the most recent of several that match",
            [
                get(0).with(&[("foo", "1"), ("bar", "1")]).origin_with(200, VARY, "older"),
                get(1).with(&[("foo", "2"), ("bar", "1")]).origin_with(
                    200,
                    &[("cache-control", "max-age=60"), ("vary", "Bar")],
                    "newer",
                ),
                get(2).with(&[("foo", "1"), ("bar", "1")]).from(Hit).content("newer"),
            ],
        ),
        row(
            s4,
            "a stored response is used although a newer one was not stored",
            [
                get(0).origin_with(200, FRESH, "old"),
                get(1)
                    .with(&[("cache-control", "no-cache")])
                    .origin(200, &[("cache-control", "no-store")])
                    .from(Upstream),
                get(2).from(Hit).content("old"),
            ],
        )
        .under(crate::asking()),
    ]
}

fn selecting() -> Vec<Row> {
    let s41 = "RFC 9111 §4.1";
    let languages =
        || Policy { normalise: Normalise { accept_language: true, ..Normalise::default() }, ..Policy::default() };
    let by_language: Fields = &[("cache-control", "max-age=60"), ("vary", "Accept-Language")];
    let by_coding: Fields = &[("cache-control", "max-age=60"), ("vary", "Accept-Encoding")];
    vec![
        row(
            s41,
            "a request with the same selecting field matches",
            [get(0).with(&[("foo", "1")]).origin(200, VARY), get(1).with(&[("foo", "1"), ("other", "2")]).from(Hit)],
        ),
        row(
            s41,
            "MUST NOT use it unless all selecting fields match",
            [get(0).with(&[("foo", "1")]).origin(200, VARY), get(1).with(&[("foo", "2")]).from(Upstream)],
        ),
        row(
            s41,
            "MUST NOT use it unless all selecting fields match: the last of three",
            [
                get(0).with(&[("foo", "1"), ("bar", "a"), ("baz", "7")]).origin(200, VARY_3),
                get(1).with(&[("foo", "1"), ("baz", "7"), ("bar", "b")]).from(Upstream),
            ],
        ),
        row(
            s41,
            "all three match, in another order",
            [
                get(0).with(&[("foo", "1"), ("bar", "a"), ("baz", "7")]).origin(200, VARY_3),
                get(1).with(&[("baz", "7"), ("foo", "1"), ("bar", "a")]).from(Hit),
            ],
        ),
        row(
            s41,
            "a field that is absent only matches an absent one: the first request has none",
            [get(0).origin(200, VARY), get(1).with(&[("foo", "1")]).from(Upstream)],
        ),
        row(
            s41,
            "a field that is absent only matches an absent one: the second request has none",
            [get(0).with(&[("foo", "")]).origin(200, VARY), get(1).from(Upstream)],
        ),
        row(
            s41,
            "a field that is absent in both matches",
            [
                get(0).with(&[("foo", "1"), ("baz", "7")]).origin(200, VARY_3),
                get(1).with(&[("foo", "1"), ("baz", "7")]).from(Hit),
            ],
        ),
        row(
            s41,
            "a member * always fails to match",
            [get(0).origin(200, &[("cache-control", "max-age=60"), ("vary", "*")]), get(1).from(Upstream)],
        ),
        row(
            s41,
            "a member * among others, on another line",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("vary", "Foo"), ("vary", ", *")]),
                get(1).from(Upstream),
            ],
        ),
        row(
            s41,
            "variants are stored beside each other",
            [
                get(0).with(&[("foo", "1")]).origin_with(200, VARY, "one"),
                get(0).with(&[("foo", "2")]).origin_with(200, VARY, "two").from(Upstream),
                get(1).with(&[("foo", "1")]).from(Hit).content("one"),
                get(1).with(&[("foo", "2")]).from(Hit).content("two"),
            ],
        ),
        row(
            s41,
            "blanks in lists do not matter",
            [get(0).with(&[("foo", "1,2")]).origin(200, VARY), get(1).with(&[("foo", " 1 , 2 ")]).from(Hit)],
        ),
        row(
            s41,
            "lines of a field are one",
            [get(0).with(&[("foo", "1, 2")]).origin(200, VARY), get(1).with(&[("foo", "1"), ("foo", "2")]).from(Hit)],
        ),
        row(
            s41,
            "values are normalised where that is known: codings",
            [
                get(0).with(&[("accept-encoding", "gzip, br")]).origin(200, by_coding),
                get(1).with(&[("accept-encoding", "br;q=1.0,gzip;q=0.8")]).from(Hit),
                get(1).with(&[("accept-encoding", "gzip")]).from(Upstream),
            ],
        ),
        row(
            s41,
            "values are normalised where that is known: languages",
            [
                get(0).with(&[("accept-language", "en, de")]).origin(200, by_language),
                get(1).with(&[("accept-language", " De,eN ")]).from(Hit),
                get(1).with(&[("accept-language", "fr")]).from(Upstream),
            ],
        )
        .under(languages()),
        row(
            s41,
            "MAY select by preference",
            [
                get(0).with(&[("accept-language", "en, de")]).origin(
                    200,
                    &[("cache-control", "max-age=60"), ("vary", "Accept-Language"), ("content-language", "de")],
                ),
                get(1).with(&[("accept-language", "fr;q=0.5, de;q=1.0")]).from(Hit),
            ],
        )
        .under(languages()),
        row(
            s41,
            "a default response without Vary: SHOULD use the most recent Vary",
            [
                get(0).with(&[("foo", "1")]).origin_with(200, FRESH, "default"),
                get(60).with(&[("foo", "2")]).origin_with(200, VARY, "two"),
                get(61).with(&[("foo", "1")]).from(Upstream),
                get(61).with(&[("foo", "2")]).from(Hit).content("two"),
            ],
        ),
        row(
            s41,
            "without a selected response, the request is forwarded",
            [
                get(0).with(&[("foo", "1")]).origin(200, VARY),
                get(1).with(&[("foo", "2")]).fails().from(crate::cache::Source::Error),
            ],
        ),
    ]
}

fn invalidating() -> Vec<Row> {
    let s44 = "RFC 9111 §4.4";
    let gone = |method| [get(0).origin(200, FRESH), ask(method, 1).origin(200, &[]), get(2).from(Upstream)];
    let kept = |method, status| [get(0).origin(200, FRESH), ask(method, 1).origin(status, &[]), get(2).from(Hit)];
    let other = |status, fields, source| {
        [get(0).path("/x").origin(200, FRESH), ask("POST", 1).origin(status, fields), get(2).path("/x").from(source)]
    };
    vec![
        row(s44, "MUST invalidate the target after POST", gone("POST")),
        row(s44, "MUST invalidate the target after PUT", gone("PUT")),
        row(s44, "MUST invalidate the target after DELETE", gone("DELETE")),
        row(s44, "MUST invalidate the target after a method of unknown safety", gone("M-SEARCH")),
        row(
            s44,
            "a redirection is no error",
            [get(0).origin(200, FRESH), ask("POST", 1).origin(303, &[]), get(2).from(Upstream)],
        ),
        row(s44, "an error does not invalidate: 500", kept("POST", 500)),
        row(s44, "an error does not invalidate: 404", kept("DELETE", 404)),
        row(s44, "a safe method does not invalidate", kept("OPTIONS", 200)),
        row(
            s44,
            "all variants of the target are invalid",
            [
                get(0).with(&[("foo", "1")]).origin(200, VARY),
                get(0).with(&[("foo", "2")]).origin(200, VARY),
                ask("POST", 1).origin(200, &[]),
                get(2).with(&[("foo", "1")]).from(Upstream),
                get(2).with(&[("foo", "2")]).from(Upstream),
            ],
        ),
        row(
            s44,
            "what is invalid is not served on error either",
            [
                get(0).origin(200, &[("cache-control", "max-age=1, stale-if-error=600")]),
                get(2).fails().from(StaleOnError),
                ask("POST", 3).origin(200, &[]),
                get(4).fails().from(crate::cache::Source::Error),
            ],
        ),
        row(s44, "MAY invalidate Location", other(201, &[("location", "/x")], Upstream)),
        row(
            s44,
            "MAY invalidate Content-Location",
            other(200, &[("content-location", "https://example.com/x")], Upstream),
        ),
        row(
            s44,
            "MUST NOT invalidate a URI of another origin",
            other(201, &[("location", "https://example.org/x")], Hit),
        ),
        row(
            s44,
            "MUST NOT invalidate a URI of another scheme",
            other(201, &[("location", "http://example.com/x")], Hit),
        ),
        row(s44, "an error invalidates none of them", other(500, &[("location", "/x")], Hit)),
    ]
}
