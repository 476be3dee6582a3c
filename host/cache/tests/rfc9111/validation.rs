//! RFC 9111 §4.3: validation.

use std::time::Duration;

use sluice_cache::policy::Policy;

use crate::cache::Fields;
use crate::cache::Source::{Hit, StaleOnError, Upstream, Validated};
use crate::{FRESH, Row, ask, get, row};

const BEFORE: &str = "Sun, 06 Nov 1994 08:00:00 GMT";
const TAGGED: Fields = &[("cache-control", "max-age=2"), ("etag", "\"a\""), ("x", "1")];
const DATED: Fields = &[("cache-control", "max-age=2"), ("last-modified", BEFORE), ("x", "1")];

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = sent();
    rows.extend(received());
    rows.extend(answered());
    rows.extend(heard());
    rows
}

fn sent() -> Vec<Row> {
    let s431 = "RFC 9111 §4.3.1";
    vec![
        row(
            s431,
            "an entity tag becomes If-None-Match",
            [
                get(0).origin(200, TAGGED),
                get(3).origin(304, &[]).from(Validated).forwards(&[("if-none-match", "\"a\"")]),
            ],
        ),
        row(
            s431,
            "a weak one as well",
            [
                get(0).origin(200, &[("cache-control", "max-age=2"), ("etag", "W/\"a\"")]),
                get(3).origin(304, &[]).from(Validated).forwards(&[("if-none-match", "W/\"a\"")]),
            ],
        ),
        row(
            s431,
            "Last-Modified becomes If-Modified-Since",
            [
                get(0).origin(200, DATED),
                get(3).origin(304, &[]).from(Validated).forwards(&[("if-modified-since", BEFORE)]),
            ],
        ),
        row(
            s431,
            "both are sent (RFC 9110 §13.1.3)",
            [
                get(0).origin(200, &[("cache-control", "max-age=2"), ("etag", "\"a\""), ("last-modified", BEFORE)]),
                get(3)
                    .origin(304, &[])
                    .from(Validated)
                    .forwards(&[("if-none-match", "\"a\""), ("if-modified-since", BEFORE)]),
            ],
        ),
        row(
            s431,
            "the request has the fields that Vary names",
            [
                get(0)
                    .with(&[("abc", "1")])
                    .origin(200, &[("cache-control", "max-age=2"), ("etag", "\"a\""), ("vary", "abc")]),
                get(3).with(&[("abc", "1")]).origin(304, &[]).from(Validated).forwards(&[("abc", "1")]),
            ],
        ),
        row(
            s431,
            "the client's conditions and range do not go with it",
            [
                get(0).origin(200, TAGGED),
                get(3)
                    .with(&[
                        ("if-none-match", "\"b\""),
                        ("if-modified-since", BEFORE),
                        ("range", "bytes=0-1"),
                        ("if-range", "\"a\""),
                    ])
                    .origin(304, &[])
                    .from(Validated)
                    .status(206)
                    .content("co")
                    .forwards(&[("if-none-match", "\"a\"")])
                    .forwards_not(&["if-modified-since", "range", "if-range"]),
            ],
        ),
        row(
            s431,
            "without a stored response, the client's conditions are forwarded",
            [get(0)
                .with(&[("if-none-match", "\"b\"")])
                .origin(304, &[])
                .from(Upstream)
                .status(304)
                .forwards(&[("if-none-match", "\"b\"")])],
        ),
    ]
}

fn received() -> Vec<Row> {
    let s432 = "RFC 9111 §4.3.2";
    let fresh: Fields = &[
        ("cache-control", "max-age=60"),
        ("etag", "\"a\""),
        ("last-modified", BEFORE),
        ("content-type", "text/plain"),
    ];
    let meets = |request, status| [get(0).origin(200, fresh), get(1).with(request).from(Hit).status(status)];
    vec![
        row(s432, "SHOULD evaluate If-None-Match", meets(&[("if-none-match", "\"a\"")], 304)),
        row(
            s432,
            "the 304 has ETag, and nothing about the content",
            [
                get(0).origin(200, fresh),
                get(1)
                    .with(&[("if-none-match", "\"a\"")])
                    .status(304)
                    .has(&[("etag", "\"a\""), ("age", "1")])
                    .lacks(&["content-type"])
                    .content(""),
            ],
        ),
        row(s432, "one of several tags, compared weakly", meets(&[("if-none-match", "\"b\", W/\"a\"")], 304)),
        row(s432, "another tag gets the response", meets(&[("if-none-match", "\"b\"")], 200)),
        row(s432, "SHOULD evaluate If-Modified-Since", meets(&[("if-modified-since", BEFORE)], 304)),
        row(s432, "a later time", meets(&[("if-modified-since", "Sun, 06 Nov 1994 08:00:01 GMT")], 304)),
        row(
            s432,
            "an earlier time gets the response",
            meets(&[("if-modified-since", "Sun, 06 Nov 1994 07:59:59 GMT")], 200),
        ),
        row(s432, "If-None-Match takes precedence: it matches", {
            meets(&[("if-none-match", "\"a\""), ("if-modified-since", "Sun, 06 Nov 1994 07:00:00 GMT")], 304)
        }),
        row(s432, "If-None-Match takes precedence: it does not match", {
            meets(&[("if-none-match", "\"b\""), ("if-modified-since", BEFORE)], 200)
        }),
        row(
            s432,
            "without Last-Modified, SHOULD use Date",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("date", BEFORE)]),
                get(1).with(&[("if-modified-since", BEFORE)]).from(Hit).status(304),
            ],
        ),
        row(
            s432,
            "without Date, SHOULD use the time of receipt",
            [
                get(0).origin(200, FRESH),
                get(1).with(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")]).from(Hit).status(304),
                get(1).with(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")]).from(Hit).status(200),
            ],
        ),
        row(s432, "MUST NOT evaluate what is for origins: If-Match", meets(&[("if-match", "\"b\"")], 200)),
        row(s432, "MUST NOT evaluate what is for origins: If-Unmodified-Since", {
            meets(&[("if-unmodified-since", "Sun, 06 Nov 1994 07:00:00 GMT")], 200)
        }),
        row(
            s432,
            "MUST NOT evaluate without a stored response",
            [get(0).with(&[("if-none-match", "*")]).origin(200, FRESH).from(Upstream).status(200)],
        ),
        row(s432, "If-Range is evaluated: it matches", meets(&[("range", "bytes=0-1"), ("if-range", "\"a\"")], 206)),
        row(
            s432,
            "If-Range is evaluated: it does not match",
            meets(&[("range", "bytes=0-1"), ("if-range", "\"b\"")], 200),
        ),
        row(s432, "conditions come before ranges", meets(&[("range", "bytes=0-1"), ("if-none-match", "\"a\"")], 304)),
        row(s432, "a range that is not there", meets(&[("range", "bytes=99-")], 416)),
        row(
            s432,
            "a 304 whose tag is not the client's: MUST send a 200",
            [
                get(0).origin(200, TAGGED),
                get(3)
                    .with(&[("if-none-match", "\"b\"")])
                    .origin(304, &[("etag", "\"a\"")])
                    .from(Validated)
                    .status(200)
                    .content("content"),
            ],
        ),
        row(
            s432,
            "a 304 whose tag is the client's as well",
            [
                get(0).origin(200, TAGGED),
                get(3)
                    .with(&[("if-none-match", "\"a\"")])
                    .origin(304, &[("etag", "\"a\"")])
                    .from(Validated)
                    .status(304),
            ],
        ),
    ]
}

fn answered() -> Vec<Row> {
    let s433 = "RFC 9111 §4.3.3";
    let s434 = "RFC 9111 §4.3.4";
    vec![
        row(
            s433,
            "a 304: the stored response is updated and reused",
            [
                get(0).origin_with(200, TAGGED, "old"),
                get(3).origin(304, &[("etag", "\"a\"")]).from(Validated).status(200).content("old"),
                get(4).from(Hit).content("old"),
            ],
        ),
        row(
            s433,
            "a full response MUST be used, and MAY be stored",
            [
                get(0).origin_with(200, TAGGED, "old"),
                get(3).origin_with(200, FRESH, "new").from(Upstream).content("new"),
                get(4).from(Hit).content("new"),
            ],
        ),
        row(
            s433,
            "a 5xx can be forwarded",
            [get(0).origin(200, TAGGED), get(3).origin(503, &[]).from(Upstream).status(503)],
        ),
        row(
            s433,
            "or be taken as a failure, and a stored response be sent as far as allowed",
            [
                get(0).origin_with(200, TAGGED, "old"),
                get(3).origin(503, &[]).from(StaleOnError).status(200).content("old"),
            ],
        )
        .under(Policy { stale_if_error: Duration::from_secs(60), ..Policy::default() }),
        row(
            s433,
            "after an error, it is validated again",
            [get(0).origin(200, TAGGED), get(3).origin(503, &[]), get(4).origin(304, &[]).from(Validated)],
        ),
        row(
            s434,
            "a strong validator identifies what is updated",
            [
                get(0).origin(200, TAGGED),
                get(3).origin(304, &[("etag", "\"a\""), ("x", "2")]).from(Validated).has(&[("x", "2")]),
            ],
        ),
        row(
            s434,
            "with another strong validator, MUST NOT update",
            [
                get(0).origin(200, TAGGED),
                get(3).origin(304, &[("etag", "\"b\""), ("x", "2")]).from(Upstream),
                get(4).origin(304, &[("etag", "\"a\"")]).from(Validated).has(&[("x", "1")]),
            ],
        ),
        row(
            s434,
            "a weak validator identifies the most recent response that has it",
            [
                get(0).origin(200, &[("cache-control", "max-age=2"), ("etag", "W/\"a\""), ("x", "1")]),
                get(3).origin(304, &[("etag", "W/\"a\""), ("x", "2")]).from(Validated).has(&[("x", "2")]),
            ],
        ),
        row(
            s434,
            "Last-Modified identifies as well",
            [
                get(0).origin(200, DATED),
                get(3).origin(304, &[("last-modified", BEFORE), ("x", "2")]).from(Validated).has(&[("x", "2")]),
                get(4).from(Hit).has(&[("x", "2")]),
            ],
        ),
        row(
            s434,
            "MUST update the fields with those of the 304",
            [
                get(0).origin(200, TAGGED),
                get(3).origin(304, &[("cache-control", "max-age=60"), ("x", "2"), ("y", "3")]),
                get(50).from(Hit).has(&[("x", "2"), ("y", "3"), ("etag", "\"a\"")]),
            ],
        ),
        row(
            s434,
            "fields that the 304 leaves out stay",
            [get(0).origin(200, TAGGED), get(3).origin(304, &[]).from(Validated).has(&[("x", "1"), ("etag", "\"a\"")])],
        ),
        row(
            s434,
            "a 304 that forbids to store: used once, and not updated",
            [
                get(0).origin(200, TAGGED),
                get(3).origin(304, &[("cache-control", "no-store")]).from(Upstream).has(&[("x", "1")]),
                get(4).origin(304, &[]).from(Validated),
            ],
        ),
    ]
}

fn heard() -> Vec<Row> {
    let s435 = "RFC 9111 §4.3.5";
    vec![
        row(
            s435,
            "a HEAD with matching validators SHOULD update",
            [
                get(0).origin(200, TAGGED),
                ask("HEAD", 3)
                    .origin_with(200, &[("etag", "\"a\""), ("cache-control", "max-age=60"), ("x", "2")], "")
                    .from(Upstream),
                get(4).from(Hit).has(&[("x", "2")]).content("content"),
            ],
        ),
        row(
            s435,
            "a HEAD with another tag: SHOULD consider it stale",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("etag", "\"a\"")]),
                ask("HEAD", 1).with(&[("cache-control", "no-cache")]).origin_with(200, &[("etag", "\"b\"")], ""),
                get(2).origin(304, &[]).from(Validated),
            ],
        )
        .under(crate::asking()),
        row(
            s435,
            "a HEAD with another length: SHOULD consider it stale",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("etag", "\"a\"")]),
                ask("HEAD", 1).with(&[("cache-control", "no-cache")]).origin_with(
                    200,
                    &[("etag", "\"a\""), ("content-length", "9")],
                    "",
                ),
                get(2).origin(304, &[]).from(Validated),
            ],
        )
        .under(crate::asking()),
        row(
            s435,
            "a HEAD with another status than 200 says nothing",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("etag", "\"a\"")]),
                ask("HEAD", 1).with(&[("cache-control", "no-cache")]).origin_with(410, &[("etag", "\"b\"")], ""),
                get(2).from(Hit),
            ],
        )
        .under(crate::asking()),
    ]
}
