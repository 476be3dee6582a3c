//! RFC 9111 §5: the fields and the directives.

use crate::cache::Fields;
use crate::cache::Source::{Error, Hit, NotStored, Stale, Upstream, Validated};
use crate::{FRESH, Row, asking, get, row, then, then_fails};

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = age_and_list();
    rows.extend(requests());
    rows.extend(responses());
    rows.extend(others());
    rows
}

fn age_and_list() -> Vec<Row> {
    let s51 = "RFC 9111 §5.1";
    let s52 = "RFC 9111 §5.2";
    vec![
        row(
            s51,
            "SHOULD use the first member of a list: old",
            then(&[("cache-control", "max-age=60"), ("age", "120, 0")], 0, Upstream),
        ),
        row(
            s51,
            "SHOULD use the first member of a list: new",
            then(&[("cache-control", "max-age=60"), ("age", "0, 120")], 0, Hit),
        ),
        row(
            s51,
            "SHOULD use the first line: old",
            then(&[("cache-control", "max-age=60"), ("age", "120"), ("age", "0")], 0, Upstream),
        ),
        row(
            s51,
            "SHOULD use the first line: new",
            then(&[("cache-control", "max-age=60"), ("age", "0"), ("age", "120")], 0, Hit),
        ),
        row(
            s51,
            "SHOULD ignore what is no integer: a word",
            then(&[("cache-control", "max-age=60"), ("age", "abc")], 0, Hit),
        ),
        row(
            s51,
            "SHOULD ignore what is no integer: negative",
            then(&[("cache-control", "max-age=60"), ("age", "-120")], 0, Hit),
        ),
        row(
            s51,
            "SHOULD ignore what is no integer: a fraction",
            then(&[("cache-control", "max-age=60"), ("age", "120.0")], 0, Hit),
        ),
        row(
            s51,
            "an age beyond 2^31 is that old",
            then(&[("cache-control", "max-age=60"), ("age", "99999999999999999999")], 0, Upstream),
        ),
        row(s52, "directives have no case", then(&[("cache-control", "MaX-aGe=60")], 1, Hit)),
        row(s52, "directives have no case: no-store", then(&[("cache-control", "No-StOrE, max-age=60")], 1, Upstream)),
        row(s52, "both forms of arguments ought to be accepted", then(&[("cache-control", "max-age=\"60\"")], 1, Hit)),
        row(
            s52,
            "what stands inside of quotes is no directive",
            then(&[("cache-control", "x=\"a, max-age=60\", max-age=1")], 2, Upstream),
        ),
        row(
            s52,
            "what stands inside of quotes is no directive: after",
            then(&[("cache-control", "max-age=1, x=\"max-age=60\"")], 2, Upstream),
        ),
        row(
            s52,
            "lines of the field are one list",
            then(&[("cache-control", "max-age=60"), ("cache-control", "no-store")], 1, Upstream),
        ),
        row(s52, "MUST pass directives on", [get(0).origin(200, FRESH), get(1).from(Hit).has(FRESH)]),
        row(s52, "seconds may have leading zeros", then(&[("cache-control", "max-age=0060")], 59, Hit)),
        row(
            s52,
            "seconds beyond 2^31 are that many (§1.2.2)",
            then(&[("cache-control", "max-age=99999999999")], 2_147_483_647, Hit),
        ),
    ]
}

fn requests() -> Vec<Row> {
    let s5211 = "RFC 9111 §5.2.1.1";
    let s5212 = "RFC 9111 §5.2.1.2";
    let s5213 = "RFC 9111 §5.2.1.3";
    let s5214 = "RFC 9111 §5.2.1.4";
    let s5215 = "RFC 9111 §5.2.1.5";
    let s5217 = "RFC 9111 §5.2.1.7";
    let meets = |request, at, source| [get(0).origin(200, FRESH), get(at).with(request).from(source)];
    let tagged: Fields = &[("cache-control", "max-age=60"), ("etag", "\"a\"")];
    vec![
        row(s5211, "max-age: the response is older", meets(&[("cache-control", "max-age=5")], 6, Upstream))
            .under(asking()),
        row(s5211, "max-age: it is not", meets(&[("cache-control", "max-age=5")], 5, Hit)).under(asking()),
        row(
            s5211,
            "caches are not required to honour them: this one only where asked",
            meets(&[("cache-control", "max-age=5")], 6, Hit),
        ),
        row(s5211, "max-age does not accept stale responses", meets(&[("cache-control", "max-age=100")], 61, Upstream))
            .under(asking()),
        row(s5212, "max-stale accepts that much", meets(&[("cache-control", "max-stale=10")], 70, Stale))
            .under(asking()),
        row(s5212, "max-stale accepts no more", meets(&[("cache-control", "max-stale=10")], 71, Upstream))
            .under(asking()),
        row(s5212, "max-stale without a value accepts any", meets(&[("cache-control", "max-stale")], 9999, Stale))
            .under(asking()),
        row(
            s5212,
            "max-stale and Age",
            [
                get(0).origin(200, &[("cache-control", "max-age=1500, stale-if-error=9999"), ("age", "2000")]),
                get(0).with(&[("cache-control", "max-stale=1000")]).from(Stale),
            ],
        )
        .under(asking()),
        row(s5213, "min-fresh: it stays fresh for less", meets(&[("cache-control", "min-fresh=20")], 41, Upstream))
            .under(asking()),
        row(s5213, "min-fresh: it stays fresh for that long", meets(&[("cache-control", "min-fresh=20")], 40, Hit))
            .under(asking()),
        row(
            s5214,
            "no-cache: not without validation",
            [
                get(0).origin(200, tagged),
                get(1)
                    .with(&[("cache-control", "no-cache")])
                    .origin(304, &[])
                    .from(Validated)
                    .forwards(&[("if-none-match", "\"a\"")]),
            ],
        )
        .under(asking()),
        row(s5214, "no-cache, and nothing to validate with", meets(&[("cache-control", "no-cache")], 1, Upstream))
            .under(asking()),
        row(
            s5215,
            "no-store: MUST NOT store the response",
            [get(0).with(&[("cache-control", "no-store")]).origin(200, FRESH), get(1).from(Upstream)],
        ),
        row(
            s5215,
            "no-store does not apply to a response that is stored already",
            meets(&[("cache-control", "no-store")], 1, Hit),
        ),
        row(s5217, "only-if-cached: a stored response", meets(&[("cache-control", "only-if-cached")], 1, Hit)),
        row(
            s5217,
            "only-if-cached: SHOULD answer 504",
            [get(0).with(&[("cache-control", "only-if-cached")]).from(NotStored).status(504)],
        ),
        row(s5217, "only-if-cached, and it is stale", meets(&[("cache-control", "only-if-cached")], 61, NotStored)),
        row(s5217, "only-if-cached, consistent with the other constraints", {
            meets(&[("cache-control", "only-if-cached, max-stale=10")], 65, Stale)
        })
        .under(asking()),
    ]
}

fn responses() -> Vec<Row> {
    let s5223 = "RFC 9111 §5.2.2.3";
    let s5224 = "RFC 9111 §5.2.2.4";
    let s52210 = "RFC 9111 §5.2.2.10";
    vec![
        row(
            "RFC 9111 §5.2.2.1",
            "max-age: stale after that many seconds",
            then(&[("cache-control", "max-age=5")], 6, Upstream),
        ),
        row("RFC 9111 §5.2.2.1", "max-age=0", then(&[("cache-control", "max-age=0")], 0, Upstream)),
        row(
            "RFC 9111 §5.2.2.2",
            "must-revalidate: fresh as any",
            then(&[("cache-control", "max-age=60, must-revalidate")], 59, Hit),
        ),
        row(
            "RFC 9111 §5.2.2.2",
            "must-revalidate: MUST NOT reuse when stale without validation",
            [
                get(0).origin(200, &[("cache-control", "max-age=2, must-revalidate"), ("etag", "\"a\"")]),
                get(2).origin(304, &[]).from(Validated),
            ],
        ),
        row("RFC 9111 §5.2.2.2", "must-revalidate: MUST generate an error when disconnected", {
            then_fails(&[("cache-control", "max-age=2, must-revalidate, stale-if-error=60")], 3, Error)
        }),
        row(
            s5223,
            "must-understand: a status that is not understood",
            [get(0).origin(599, &[("cache-control", "max-age=60, no-store, must-understand")]), get(1).from(Upstream)],
        ),
        row(s5223, "must-understand: SHOULD ignore no-store for a status that is", {
            then(&[("cache-control", "max-age=60, no-store, must-understand")], 1, Hit)
        }),
        row(
            s5224,
            "no-cache: MUST NOT use without validation",
            [
                get(0).origin(200, &[("cache-control", "no-cache"), ("etag", "\"a\"")]),
                get(1).origin(304, &[]).from(Validated),
            ],
        ),
        row(s5224, "no-cache: not even a cache that is configured to send stale responses", {
            then_fails(&[("cache-control", "no-cache, stale-if-error=60"), ("etag", "\"a\"")], 1, Error)
        }),
        row(
            s5224,
            "no-cache, qualified: MAY use it without the named fields",
            [
                get(0).origin(200, &[("cache-control", "max-age=60, no-cache=\"a\""), ("a", "1")]),
                get(1).from(Hit).lacks(&["a"]),
            ],
        ),
        row("RFC 9111 §5.2.2.5", "no-store: MUST NOT store", {
            then(
                &[("cache-control", "max-age=60, no-store"), ("expires", "Sun, 06 Nov 1994 09:49:37 GMT")],
                1,
                Upstream,
            )
        }),
        row(
            "RFC 9111 §5.2.2.7",
            "private: MUST NOT store",
            then(&[("cache-control", "private, max-age=60")], 1, Upstream),
        ),
        row(
            "RFC 9111 §5.2.2.7",
            "private, qualified: MUST NOT store the named fields",
            [
                get(0).origin(
                    200,
                    &[("cache-control", "max-age=60, private=\"a, b\""), ("a", "1"), ("b", "1"), ("c", "1")],
                ),
                get(1).from(Hit).has(&[("c", "1")]).lacks(&["a", "b"]),
            ],
        ),
        row("RFC 9111 §5.2.2.8", "proxy-revalidate: MUST NOT reuse when stale without validation", {
            then_fails(&[("cache-control", "max-age=2, proxy-revalidate, stale-if-error=60")], 3, Error)
        }),
        row(
            "RFC 9111 §5.2.2.8",
            "proxy-revalidate by itself does not let a response be stored",
            [
                get(0)
                    .with(&[("authorization", "x")])
                    .origin(200, &[("cache-control", "max-age=60, proxy-revalidate")]),
                get(1).from(Upstream),
            ],
        ),
        row(
            "RFC 9111 §5.2.2.9",
            "public: MAY store what would be prohibited otherwise",
            [
                get(0).origin(201, &[("cache-control", "public"), ("etag", "\"a\"")]),
                get(1).origin(304, &[]).from(Validated).status(201),
            ],
        ),
        row(s52210, "s-maxage overrides max-age and Expires", {
            then(
                &[("cache-control", "max-age=60, s-maxage=2"), ("expires", "Sun, 06 Nov 1994 09:49:37 GMT")],
                3,
                Upstream,
            )
        }),
        row(
            s52210,
            "s-maxage: MUST NOT reuse when stale without validation",
            then_fails(&[("cache-control", "s-maxage=2")], 3, Error),
        ),
    ]
}

fn others() -> Vec<Row> {
    let s523 = "RFC 9111 §5.2.3";
    let s53 = "RFC 9111 §5.3";
    let s54 = "RFC 9111 §5.4";
    vec![
        row(s523, "MUST ignore unknown directives", then(&[("cache-control", "foobar, max-age=60, x=\"y\"")], 1, Hit)),
        row(
            s523,
            "MUST ignore unknown directives: beside private",
            then(&[("cache-control", "private, community=\"UCI\", max-age=60")], 1, Upstream),
        ),
        row(s53, "stale after that time", then(&[("expires", "Sun, 06 Nov 1994 08:49:38 GMT")], 1, Upstream)),
        row(s53, "MUST take an invalid date as one in the past: 0", then(&[("expires", "0")], 0, Upstream)),
        row(
            s53,
            "MUST take an invalid date as one in the past: two digits of a year",
            then(&[("expires", "Sun, 06 Nov 94 09:49:37 GMT")], 0, Upstream),
        ),
        row(
            s53,
            "MUST ignore Expires with max-age",
            then(&[("cache-control", "max-age=0"), ("expires", "Sun, 06 Nov 1994 09:49:37 GMT")], 0, Upstream),
        ),
        row(
            s53,
            "MUST ignore Expires with max-age: invalid",
            then(&[("cache-control", "max-age=60"), ("expires", "0")], 1, Hit),
        ),
        row(
            s53,
            "MUST ignore Expires with s-maxage",
            then(&[("cache-control", "s-maxage=60"), ("expires", "0")], 1, Hit),
        ),
        row(s53, "a time far away", then(&[("expires", "Sun, 21 Nov 2286 04:46:39 GMT")], 9999, Hit)),
        row(
            s54,
            "no-cache in a request, without Cache-Control",
            [get(0).origin(200, FRESH), get(1).with(&[("pragma", "no-cache")]).from(Upstream)],
        )
        .under(asking()),
        row(
            s54,
            "Cache-Control takes its place",
            [get(0).origin(200, FRESH), get(1).with(&[("pragma", "no-cache"), ("cache-control", "x")]).from(Hit)],
        )
        .under(asking()),
        row(
            s54,
            "it has no meaning in responses",
            then(&[("cache-control", "max-age=60"), ("pragma", "no-cache")], 1, Hit),
        ),
    ]
}
