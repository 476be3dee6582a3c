//! RFC 9111 §4.2: freshness, age, and stale responses.

use std::time::Duration;

use http::StatusCode;
use sluice_cache::policy::{Heuristic, Policy};

use crate::cache::Fields;
use crate::cache::Source::{Error, Hit, Stale, StaleOnError, Upstream, Validated};
use crate::{FRESH, Row, get, row, then, then_fails};

fn heuristic() -> Policy {
    let heuristic = Heuristic { percent: 10, limit: Duration::from_secs(86_400) };
    Policy { heuristic: Some(heuristic), ..Policy::default() }
}

/// An operator who prefers stale responses to errors.
fn lenient() -> Policy {
    Policy { stale_if_error: Duration::from_secs(600), request_directives: true, ..Policy::default() }
}

const HOUR_AGO: Fields =
    &[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("last-modified", "Sun, 06 Nov 1994 07:49:37 GMT")];

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = lifetimes();
    rows.extend(heuristics());
    rows.extend(ages());
    rows.extend(stale());
    rows
}

fn lifetimes() -> Vec<Row> {
    let s42 = "RFC 9111 §4.2";
    let s421 = "RFC 9111 §4.2.1";
    vec![
        row(s42, "fresh while the lifetime is above the age", then(FRESH, 59, Hit)),
        row(s42, "stale when they are equal", then(FRESH, 60, Upstream)),
        row(
            s42,
            "SHOULD match dates without regard to case",
            then(&[("expires", "SUN, 06 nov 1994 08:50:37 gmt")], 1, Hit),
        ),
        row(
            s42,
            "SHOULD take a zone other than GMT as invalid",
            then(&[("expires", "Sun, 06 Nov 1994 08:50:37 UTC")], 1, Upstream),
        ),
        row(
            s42,
            "all three formats of dates count: RFC 850",
            then(&[("expires", "Sunday, 06-Nov-94 08:50:37 GMT")], 1, Hit),
        ),
        row(s42, "all three formats of dates count: asctime", then(&[("expires", "Sun Nov  6 08:50:37 1994")], 1, Hit)),
        row(
            s421,
            "s-maxage comes before max-age: shorter",
            then(&[("cache-control", "max-age=60, s-maxage=1")], 1, Upstream),
        ),
        row(
            s421,
            "s-maxage comes before max-age: longer",
            then(&[("cache-control", "max-age=1, s-maxage=60")], 5, Hit),
        ),
        row(s421, "s-maxage comes before Expires", {
            then(&[("cache-control", "max-age=0, s-maxage=60"), ("expires", "Sun, 06 Nov 1994 08:00:00 GMT")], 5, Hit)
        }),
        row(s421, "max-age comes before Expires", {
            then(&[("cache-control", "max-age=60"), ("expires", "Sun, 06 Nov 1994 08:00:00 GMT")], 5, Hit)
        }),
        row(s421, "Expires counts from Date", {
            then(&[("expires", "Sun, 06 Nov 1994 09:00:10 GMT"), ("date", "Sun, 06 Nov 1994 09:00:00 GMT")], 9, Hit)
        }),
        row(s421, "Expires counts from Date: it is over", {
            then(
                &[("expires", "Sun, 06 Nov 1994 09:00:10 GMT"), ("date", "Sun, 06 Nov 1994 09:00:00 GMT")],
                10,
                Upstream,
            )
        }),
        row(s421, "Expires before Date is stale, whatever the clock says", {
            then(
                &[("expires", "Sun, 06 Nov 1994 09:00:00 GMT"), ("date", "Sun, 06 Nov 1994 09:01:00 GMT")],
                1,
                Upstream,
            )
        }),
        row(s421, "without a valid Date, Expires counts from the receipt", {
            then(&[("expires", "Sun, 06 Nov 1994 08:49:47 GMT"), ("date", "foo")], 9, Hit)
        }),
        row(
            s421,
            "of two values the first counts, or it is stale",
            then(&[("cache-control", "max-age=5, max-age=60")], 6, Upstream),
        ),
        row(s421, "of two values the first counts, or it is stale: on two lines", {
            then(&[("cache-control", "max-age=60"), ("cache-control", "max-age=5")], 4, Hit)
        }),
        row(s421, "two lines of Expires", {
            then(&[("expires", "0"), ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")], 1, Upstream)
        }),
        row(
            s421,
            "the most restrictive of conflicting directives counts",
            [
                get(0).origin(200, &[("cache-control", "max-age=60, no-cache"), ("etag", "\"a\"")]),
                get(1).origin(304, &[]).from(Validated),
            ],
        ),
        row(s421, "invalid freshness is stale: no integer", then(&[("cache-control", "max-age=60.5")], 0, Upstream)),
        row(s421, "invalid freshness is stale: negative", then(&[("cache-control", "max-age=-60")], 0, Upstream)),
        row(s421, "invalid freshness is stale: single quotes", then(&[("cache-control", "max-age='60'")], 0, Upstream)),
    ]
}

fn heuristics() -> Vec<Row> {
    let s422 = "RFC 9111 §4.2.2";
    let with = |status, source| [get(0).origin(status, HOUR_AGO), get(359).from(source)];
    let mut rows = vec![
        row(s422, "MAY assign a heuristic time: a tenth of the time since Last-Modified", with(200, Hit))
            .under(heuristic()),
        row(s422, "and it ends", [get(0).origin(200, HOUR_AGO), get(360).from(Upstream)]).under(heuristic()),
        row(s422, "this cache does so only where asked", with(200, Upstream)),
        row(
            s422,
            "MUST NOT use heuristics with an explicit time",
            [
                get(0)
                    .origin(200, &[("last-modified", "Sun, 06 Nov 1994 07:49:37 GMT"), ("cache-control", "max-age=5")]),
                get(5).origin(304, &[]).from(Validated),
            ],
        )
        .under(heuristic()),
        row(
            s422,
            "MUST NOT use heuristics with an explicit time: invalid Expires",
            [
                get(0).origin(200, &[("last-modified", "Sun, 06 Nov 1994 07:49:37 GMT"), ("expires", "0")]),
                get(5).origin(304, &[]).from(Validated),
            ],
        )
        .under(heuristic()),
        row(
            s422,
            "other statuses with public",
            [
                get(0).origin(599, &[("last-modified", "Sun, 06 Nov 1994 07:49:37 GMT"), ("cache-control", "public")]),
                get(5).from(Hit),
            ],
        )
        .under(heuristic()),
        row(
            s422,
            "a default lifetime of the policy",
            [get(0).origin(200, &[]), get(9).from(Hit), get(10).from(Upstream)],
        )
        .under(Policy { default_lifetime: Some(Duration::from_secs(10)), ..Policy::default() }),
        row(
            s422,
            "negative caching of the policy",
            [get(0).origin(404, &[]), get(4).from(Hit).status(404), get(5).from(Upstream)],
        )
        .under(Policy { negative: vec![(StatusCode::NOT_FOUND, Duration::from_secs(5))], ..Policy::default() }),
    ];
    for status in [203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        rows.push(row(s422, "statuses that are heuristically cacheable", with(status, Hit)).under(heuristic()));
    }
    for status in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
        rows.push(row(s422, "statuses that are not", with(status, Upstream)).under(heuristic()));
    }
    rows
}

fn ages() -> Vec<Row> {
    let s423 = "RFC 9111 §4.2.3";
    vec![
        row(s423, "resident time counts", [get(0).origin(200, FRESH), get(7).from(Hit).has(&[("age", "7")])]),
        row(s423, "Age counts", then(&[("cache-control", "max-age=60"), ("age", "55")], 5, Upstream)),
        row(s423, "Age counts for Expires too", {
            then(
                &[
                    ("expires", "Sun, 06 Nov 1994 08:49:57 GMT"),
                    ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                    ("age", "25"),
                ],
                0,
                Upstream,
            )
        }),
        row(
            s423,
            "MUST interpret Age relative to the time of the request",
            [
                get(0).delay(4).origin(200, &[("cache-control", "max-age=60"), ("age", "10")]),
                get(5).from(Hit).has(&[("age", "15")]),
            ],
        ),
        row(
            s423,
            "the corrected age MAY be the initial age: Date does not count",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("date", "Sun, 06 Nov 1994 08:00:00 GMT")]),
                get(1).from(Hit).has(&[("age", "1")]),
            ],
        ),
        row(
            s423,
            "or the apparent age, if it is more",
            [
                get(0).origin(200, &[("cache-control", "max-age=60"), ("date", "Sun, 06 Nov 1994 08:49:07 GMT")]),
                get(1).from(Hit).has(&[("age", "31")]),
                get(30).from(Upstream),
            ],
        )
        .under(Policy { age_from_date: true, ..Policy::default() }),
        row(
            s423,
            "a response that was validated is as old as its validation",
            [
                get(0).origin(200, &[("cache-control", "max-age=5"), ("etag", "\"a\"")]),
                get(10).origin(304, &[]).from(Validated).lacks(&["age"]),
                get(12).from(Hit).has(&[("age", "2")]),
            ],
        ),
    ]
}

fn stale() -> Vec<Row> {
    let s424 = "RFC 9111 §4.2.4";
    let forbidden: [Fields; 4] = [
        &[("cache-control", "max-age=2, must-revalidate")],
        &[("cache-control", "max-age=2, proxy-revalidate")],
        &[("cache-control", "max-age=60, no-cache"), ("etag", "\"a\"")],
        &[("cache-control", "s-maxage=2")],
    ];
    let mut rows = vec![
        row(s424, "MUST NOT send a stale response unless disconnected or permitted", then(FRESH, 61, Upstream)),
        row(s424, "disconnected is no permission by itself", then_fails(FRESH, 61, Error)),
        row(s424, "permitted by configuration, when disconnected", then_fails(FRESH, 61, StaleOnError))
            .under(lenient()),
        row(
            s424,
            "permitted by the client",
            [
                get(0).origin(200, FRESH),
                get(61).with(&[("cache-control", "max-stale=5")]).from(Stale).has(&[("age", "61")]),
            ],
        )
        .under(lenient()),
    ];
    for fields in forbidden {
        rows.push(
            row(s424, "MUST NOT where a directive prohibits, also when disconnected", then_fails(fields, 5, Error))
                .under(lenient()),
        );
        rows.push(
            row(
                s424,
                "MUST NOT where a directive prohibits, also if the client would take it",
                [get(0).origin(200, fields), get(5).with(&[("cache-control", "max-stale")]).from(Upstream)],
            )
            .under(lenient()),
        );
    }
    rows
}
