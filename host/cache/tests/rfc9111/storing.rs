//! RFC 9111 §2 and §3: keys, and what is stored.

use sluice_cache::policy::{Policy, SetCookie};

use crate::cache::Source::{Hit, Upstream, Validated};
use crate::{FRESH, Row, get, row, then};

pub(crate) fn rows() -> Vec<Row> {
    let s2 = "RFC 9111 §2";
    let s3 = "RFC 9111 §3";
    let s31 = "RFC 9111 §3.1";
    let s32 = "RFC 9111 §3.2";
    let s33 = "RFC 9111 §3.3";
    let s35 = "RFC 9111 §3.5";
    vec![
        row(
            s2,
            "the key has at least method and target URI: another path",
            [get(0).path("/a").origin(200, FRESH), get(1).path("/b").from(Upstream), get(1).path("/a").from(Hit)],
        ),
        row(
            s2,
            "the key has at least method and target URI: another query",
            [
                get(0).path("/?a=1").origin(200, FRESH),
                get(1).path("/?a=2").from(Upstream),
                get(1).path("/").from(Upstream),
                get(1).path("/?a=1").from(Hit),
            ],
        ),
        row(s3, "MAY store with max-age", then(FRESH, 1, Hit)),
        row(s3, "MAY store with s-maxage", then(&[("cache-control", "s-maxage=60")], 1, Hit)),
        row(s3, "MAY store with Expires", then(&[("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], 1, Hit)),
        row(
            s3,
            "MAY store any final status with explicit freshness",
            [get(0).origin(599, FRESH), get(1).from(Hit).status(599)],
        ),
        row(
            s3,
            "MAY store an error with explicit freshness",
            [get(0).origin(503, FRESH), get(1).from(Hit).status(503)],
        ),
        row(
            s3,
            "MUST NOT store unless the method is understood",
            [get(0).origin(200, FRESH), crate::ask("POST", 1).origin(200, FRESH).from(Upstream)],
        ),
        row(s3, "MUST NOT store unless the status is final", [get(0).origin(103, FRESH), get(1).from(Upstream)]),
        row(s3, "MUST NOT store 206 unless it is understood", [get(0).origin(206, FRESH), get(1).from(Upstream)]),
        row(s3, "MUST NOT store 304 unless it is understood", [get(0).origin(304, FRESH), get(1).from(Upstream)]),
        row(s3, "MUST NOT store with no-store", then(&[("cache-control", "no-store, max-age=60")], 1, Upstream)),
        row(s3, "MUST NOT store with private", then(&[("cache-control", "private, max-age=60")], 1, Upstream)),
        row(
            s3,
            "MUST NOT store what has neither permission nor a cacheable status",
            [get(0).origin(201, &[("etag", "\"a\"")]), get(1).from(Upstream).forwards_not(&["if-none-match"])],
        ),
        row(s3, "a response without freshness and validator is not useful", then(&[], 1, Upstream)),
        row(
            s31,
            "MUST store all fields, also unknown ones",
            [
                get(0).origin(
                    200,
                    &[
                        ("cache-control", "max-age=60"),
                        ("x-unknown", "1"),
                        ("content-foo", "2"),
                        ("content-type", "text/plain"),
                    ],
                ),
                get(1).from(Hit).has(&[("x-unknown", "1"), ("content-foo", "2"), ("content-type", "text/plain")]),
            ],
        ),
        row(
            s31,
            "Connection and the fields that it names are removed",
            [
                get(0).origin(
                    200,
                    &[("cache-control", "max-age=60"), ("connection", "a, b"), ("a", "1"), ("b", "2"), ("c", "3")],
                ),
                get(1).from(Hit).has(&[("c", "3")]).lacks(&["connection", "a", "b"]),
            ],
        ),
        row(
            s31,
            "fields of the connection are removed",
            [
                get(0).origin(
                    200,
                    &[
                        ("cache-control", "max-age=60"),
                        ("keep-alive", "1"),
                        ("proxy-connection", "1"),
                        ("te", "1"),
                        ("transfer-encoding", "chunked"),
                        ("upgrade", "h2c"),
                    ],
                ),
                get(1).from(Hit).lacks(&["keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"]),
            ],
        ),
        row(
            s31,
            "MUST NOT store fields about the client's proxy",
            [
                get(0).origin(
                    200,
                    &[
                        ("cache-control", "max-age=60"),
                        ("proxy-authenticate", "1"),
                        ("proxy-authentication-info", "1"),
                        ("proxy-authorization", "1"),
                    ],
                ),
                get(1).from(Hit).lacks(&["proxy-authenticate", "proxy-authentication-info", "proxy-authorization"]),
            ],
        ),
        row(
            s31,
            "fields that no-cache names are not stored",
            [
                get(0).origin(
                    200,
                    &[("cache-control", "max-age=60, no-cache=\"a, B\""), ("a", "1"), ("b", "2"), ("c", "3")],
                ),
                get(1).from(Hit).has(&[("c", "3")]).lacks(&["a", "b"]),
            ],
        ),
        row(
            s31,
            "fields that private names are not stored",
            [
                get(0).origin(200, &[("cache-control", "max-age=60, private=\"a\""), ("a", "1"), ("c", "3")]),
                get(1).from(Hit).has(&[("c", "3")]).lacks(&["a"]),
            ],
        ),
        row(
            s32,
            "MUST add each field of the update, in the place of stored values",
            [
                get(0).origin(200, &[("cache-control", "max-age=1"), ("etag", "\"a\""), ("x", "1"), ("y", "1")]),
                get(2)
                    .origin(304, &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("x", "2")])
                    .from(Validated)
                    .has(&[("x", "2"), ("y", "1")]),
                get(3).from(Hit).has(&[("x", "2"), ("y", "1"), ("cache-control", "max-age=60")]),
            ],
        ),
        row(
            s32,
            "except fields that are not stored",
            [
                get(0).origin(200, &[("cache-control", "max-age=1"), ("etag", "\"a\"")]),
                get(2).origin(
                    304,
                    &[("cache-control", "max-age=60"), ("connection", "x"), ("x", "2"), ("proxy-authenticate", "y")],
                ),
                get(3).from(Hit).lacks(&["x", "connection", "proxy-authenticate"]),
            ],
        ),
        row(
            s32,
            "except Content-Length, and what the stored content depends on",
            [
                get(0).origin(
                    200,
                    &[
                        ("cache-control", "max-age=1"),
                        ("etag", "\"a\""),
                        ("content-length", "7"),
                        ("content-encoding", "gzip"),
                    ],
                ),
                get(2)
                    .origin(
                        304,
                        &[("content-length", "9"), ("content-encoding", "br"), ("content-range", "bytes 0-1/2")],
                    )
                    .from(Validated)
                    .has(&[("content-length", "7"), ("content-encoding", "gzip")])
                    .lacks(&["content-range"])
                    .content("content"),
            ],
        ),
        row(
            s33,
            "an incomplete response is not used as a complete one: the connection broke",
            [get(0).breaks_off(FRESH), get(1).from(Upstream)],
        ),
        row(
            s33,
            "an incomplete response is not used as a complete one: content is missing",
            [get(0).origin(200, &[("cache-control", "max-age=60"), ("content-length", "9")]), get(1).from(Upstream)],
        ),
        row(
            s33,
            "MUST NOT send a part without 206",
            [get(0).origin(200, FRESH), get(1).with(&[("range", "bytes=0-1")]).from(Hit).status(206).content("co")],
        ),
        row(
            "RFC 9111 §3.4",
            "parts are neither stored nor combined",
            [
                get(0).with(&[("range", "bytes=0-3")]).origin_with(
                    206,
                    &[("cache-control", "max-age=60"), ("content-range", "bytes 0-3/7")],
                    "cont",
                ),
                get(1).with(&[("range", "bytes=0-3")]).from(Upstream).forwards(&[("range", "bytes=0-3")]),
                get(1).from(Upstream),
            ],
        ),
        row(
            s35,
            "MUST NOT use a response to a request with Authorization",
            [
                get(0).with(&[("authorization", "x")]).origin(200, FRESH),
                get(1).from(Upstream),
                get(1).with(&[("authorization", "x")]).from(Upstream),
            ],
        ),
        row(
            s35,
            "unless it has public",
            [
                get(0).with(&[("authorization", "x")]).origin(200, &[("cache-control", "max-age=60, public")]),
                get(1).from(Hit),
            ],
        ),
        row(
            s35,
            "unless it has must-revalidate",
            [
                get(0).with(&[("authorization", "x")]).origin(200, &[("cache-control", "max-age=60, must-revalidate")]),
                get(1).from(Hit),
            ],
        ),
        row(
            s35,
            "unless it has s-maxage",
            [get(0).with(&[("authorization", "x")]).origin(200, &[("cache-control", "s-maxage=60")]), get(1).from(Hit)],
        ),
        row(
            s35,
            "and conforms to the directive: stale with must-revalidate",
            [
                get(0)
                    .with(&[("authorization", "x")])
                    .origin(200, &[("cache-control", "max-age=5, must-revalidate"), ("etag", "a")]),
                get(5).from(Upstream).forwards(&[("if-none-match", "a")]),
            ],
        ),
        row(
            "RFC 9111 §7.3",
            "Set-Cookie does not forbid to store: this cache refuses unless it is told",
            [get(0).origin(200, &[("cache-control", "max-age=60"), ("set-cookie", "a=b")]), get(1).from(Upstream)],
        ),
        row(
            "RFC 9111 §7.3",
            "told so, it stores the field",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("set-cookie", "a=b")]),
                get(1).from(Hit).has(&[("set-cookie", "a=b")]),
            ],
        )
        .under(Policy { set_cookie: SetCookie::Store, ..Policy::default() }),
        row(
            "RFC 9111 §7.3",
            "a cookie of the request does not matter",
            [get(0).origin(200, FRESH), get(1).with(&[("cookie", "a=b")]).from(Hit)],
        ),
    ]
}
