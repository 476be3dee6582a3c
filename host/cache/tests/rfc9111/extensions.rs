//! RFC 5861 (stale responses), RFC 8246 (`immutable`) and RFC 9213 (targeted fields).

use std::time::Duration;

use sluice_cache::policy::Policy;

use crate::cache::Fields;
use crate::cache::Source::{Error, Hit, Stale, StaleOnError, Upstream, Validated};
use crate::{Row, asking, get, row, then, then_fails};

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = stale_while_revalidate();
    rows.extend(stale_if_error());
    rows.extend(others());
    rows
}

fn stale_while_revalidate() -> Vec<Row> {
    let s3 = "RFC 5861 §3";
    let window: Fields = &[("cache-control", "max-age=2, stale-while-revalidate=4"), ("etag", "\"a\"")];
    vec![
        row(s3, "MAY serve it when it is stale, up to that many seconds", then(window, 6, Stale)),
        row(s3, "SHOULD serve no longer", then(window, 7, Upstream)),
        row(
            s3,
            "SHOULD validate it meanwhile",
            [
                get(0).origin_with(200, window, "old"),
                get(3).origin_with(200, window, "new").from(Stale).content("old").has(&[("age", "3")]),
                get(4).from(Hit).content("new"),
            ],
        ),
        row(
            s3,
            "SHOULD validate it meanwhile: it is still good",
            [get(0).origin(200, window), get(3).origin(304, &[]).from(Stale), get(4).from(Hit).has(&[("age", "1")])],
        ),
        row(
            s3,
            "a validation that fails shortens nothing and prolongs nothing",
            [
                get(0).origin(200, window),
                get(3).fails().from(Stale),
                get(6).fails().from(Stale),
                get(7).fails().from(Error),
            ],
        ),
        row(s3, "not beside must-revalidate", {
            then(&[("cache-control", "max-age=2, stale-while-revalidate=4, must-revalidate")], 3, Upstream)
        }),
        row(s3, "the response's own word counts beside s-maxage", {
            then(&[("cache-control", "s-maxage=2, stale-while-revalidate=4")], 3, Stale)
        }),
        row(s3, "a window of the policy", then(&[("cache-control", "max-age=2")], 5, Stale))
            .under(Policy { stale_while_revalidate: Duration::from_secs(5), ..Policy::default() }),
        row(s3, "a window of the policy, and the response says none", {
            then(&[("cache-control", "max-age=2, stale-while-revalidate=0")], 3, Upstream)
        })
        .under(Policy { stale_while_revalidate: Duration::from_secs(5), ..Policy::default() }),
        row(
            s3,
            "a client that wants a fresh response gets one",
            [get(0).origin(200, window), get(3).with(&[("cache-control", "max-age=1")]).from(Upstream)],
        )
        .under(asking()),
    ]
}

fn stale_if_error() -> Vec<Row> {
    let s4 = "RFC 5861 §4";
    let window: Fields = &[("cache-control", "max-age=2, stale-if-error=60")];
    let meets = |status, source| [get(0).origin(200, window), get(3).origin(status, &[]).from(source)];
    vec![
        row(s4, "MAY be used when no response comes", then_fails(window, 62, StaleOnError)),
        row(s4, "no longer than that many seconds", then_fails(window, 63, Error)),
        row(s4, "an error is a 500", meets(500, StaleOnError)),
        row(s4, "an error is a 502", meets(502, StaleOnError)),
        row(s4, "an error is a 503", meets(503, StaleOnError)),
        row(s4, "an error is a 504", meets(504, StaleOnError)),
        row(s4, "an error is no other status: 501", meets(501, Upstream)),
        row(s4, "an error is no other status: 404", meets(404, Upstream)),
        row(s4, "a response that is fresh needs no error", then(window, 1, Hit)),
        row(
            s4,
            "Age says how old it is",
            [get(0).origin(200, window), get(30).fails().from(StaleOnError).has(&[("age", "30")])],
        ),
        row(
            s4,
            "it is also a directive of requests",
            [
                get(0).origin(200, &[("cache-control", "max-age=2")]),
                get(3).with(&[("cache-control", "stale-if-error=60")]).fails().from(StaleOnError),
            ],
        )
        .under(asking()),
        row(s4, "not beside must-revalidate", {
            then_fails(&[("cache-control", "max-age=2, stale-if-error=60, must-revalidate")], 3, Error)
        }),
        row(
            s4,
            "an error replaces nothing that is stored",
            [
                get(0).origin_with(200, window, "old"),
                get(3).origin_with(503, &[("cache-control", "max-age=600")], "error").from(StaleOnError),
                get(4).origin_with(200, window, "new").from(Upstream).content("new"),
            ],
        ),
    ]
}

fn others() -> Vec<Row> {
    let s2 = "RFC 8246 §2";
    let s21 = "RFC 9213 §2.1";
    let s22 = "RFC 9213 §2.2";
    let immutable: Fields = &[("cache-control", "max-age=60, immutable"), ("etag", "\"a\"")];
    vec![
        row(
            s2,
            "SHOULD NOT validate while it is fresh, upon a reload",
            [get(0).origin(200, immutable), get(1).with(&[("cache-control", "max-age=0")]).from(Hit)],
        )
        .under(asking()),
        row(
            s2,
            "unless the user overrides it",
            [
                get(0).origin(200, immutable),
                get(1).with(&[("cache-control", "no-cache")]).origin(304, &[]).from(Validated),
            ],
        )
        .under(asking()),
        row(
            s2,
            "it says nothing of a response that is stale",
            [
                get(0).origin(200, immutable),
                get(60).with(&[("cache-control", "max-age=0")]).origin(304, &[]).from(Validated),
            ],
        )
        .under(asking()),
        row(s21, "MUST ignore a field that is no dictionary", {
            then(&[("cdn-cache-control", "max-age=60, &&&&&"), ("cache-control", "no-store")], 1, Upstream)
        }),
        row(s21, "MUST ignore a value of another type", {
            then(&[("cdn-cache-control", "max-age=\"60\""), ("cache-control", "no-store")], 1, Upstream)
        }),
        row(
            s21,
            "MUST ignore an empty field",
            then(&[("cdn-cache-control", ""), ("cache-control", "max-age=60")], 1, Hit),
        ),
        row(s21, "blanks around = are no dictionary", {
            then(&[("cdn-cache-control", "max-age =60"), ("cache-control", "max-age=1")], 2, Upstream)
        }),
        row(s22, "it is used instead of Cache-Control: longer", {
            then(&[("cdn-cache-control", "max-age=60"), ("cache-control", "max-age=1")], 5, Hit)
        }),
        row(s22, "it is used instead of Cache-Control: shorter", {
            then(&[("cdn-cache-control", "max-age=1"), ("cache-control", "max-age=60")], 5, Upstream)
        }),
        row(s22, "it is used instead of Cache-Control: no-store there", {
            then(&[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store")], 5, Hit)
        }),
        row(s22, "it is used instead of Cache-Control: no-store here", {
            then(&[("cdn-cache-control", "no-store"), ("cache-control", "max-age=60")], 5, Upstream)
        }),
        row(s22, "it is used instead of Cache-Control: private here", {
            then(&[("cdn-cache-control", "private"), ("cache-control", "max-age=60")], 5, Upstream)
        }),
        row(s22, "it is used instead of Cache-Control: no-cache here", {
            then(&[("cdn-cache-control", "no-cache"), ("cache-control", "max-age=60")], 5, Upstream)
        }),
        row(s22, "Expires does not count", {
            then(&[("cdn-cache-control", "max-age=0"), ("expires", "Sun, 06 Nov 1994 09:49:37 GMT")], 1, Upstream)
        }),
        row(s22, "Age counts", then(&[("cdn-cache-control", "max-age=60"), ("age", "120")], 1, Upstream)),
        row(
            s22,
            "the field is passed on",
            [
                get(0).origin(200, &[("cdn-cache-control", "max-age=60"), ("cache-control", "max-age=1")]),
                get(5).from(Hit).has(&[
                    ("cdn-cache-control", "max-age=60"),
                    ("cache-control", "max-age=1"),
                    ("age", "5"),
                ]),
            ],
        ),
    ]
}
