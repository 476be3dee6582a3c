//! Reads `[upstreams.*.circuit_breaker]`.

use std::sync::Arc;
use std::time::Duration;

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::{CircuitAnswer, CircuitBreaker, FailureWindow, MAX_OUTCOMES, Name};
use crate::config::read::Table;
use crate::config::routes;

pub(super) fn read(table: &Table<'_>) -> CircuitBreaker {
    let failures = table
        .key("failures", "How many failures open the circuit.", "5")
        .or(defaults::CIRCUIT_FAILURES, |item| item.integer(1..=MAX_OUTCOMES));
    let of = table
        .key("of", "Of how many of the last outcomes.", "100")
        .or(defaults::CIRCUIT_OF, |item| item.integer(1..=MAX_OUTCOMES));
    let window = table
        .key("window", "In place of `of`: in how long a time.", r#""30s""#)
        .get("the last outcomes count, however old they are", |item| {
            item.duration_up_to(Duration::from_secs(24 * 3600))
        });
    let percent = table
        .key(
            "failure_percent",
            "With `window`: of the outcomes in it, so many percent at least must be failures.",
            "25",
        )
        .or(defaults::CIRCUIT_FAILURE_PERCENT, |item| item.integer(1..=100));
    if table.has("of") && table.has("window") {
        table.fail("has both `of` and `window`");
    }
    if window.is_none() && failures > of {
        table.fail(format!("{failures} `failures` of the last {of} are not possible"));
    }
    let open = table
        .key("open", "How long the circuit is open before it lets probes through.", r#""30s""#)
        .or(defaults::CIRCUIT_OPEN, |item| item.duration_up_to(Duration::from_secs(24 * 3600)));
    let max_open = table
        .key("max_open", "What `open` grows to: it doubles each time that a probe has failed.", r#""2m""#)
        .or_as("open", open, |item| item.duration_up_to(Duration::from_secs(24 * 3600)));
    if max_open < open {
        table.fail("`max_open` is below `open`");
    }
    let half_open = table
        .key(
            "half_open",
            "How many probes pass at a time once the open time is over. So many have to succeed for the circuit to close; one that fails opens it again.",
            "1",
        )
        .or(defaults::CIRCUIT_HALF_OPEN, |item| item.integer(1..=100));
    let status_codes = table
        .key(
            "status_codes",
            "The statuses of responses that count as failures, beside connections that fail, timeouts, resets, malformed responses and bodies that break off. Statuses of gRPC count as 503 (`UNAVAILABLE`), 504 (`DEADLINE_EXCEEDED`) or 500 (`INTERNAL`, `UNKNOWN`).",
            "[500, 502, 503, 504]",
        )
        .or(StatusCodes(defaults::CIRCUIT_STATUS_CODES.to_vec()), |item| {
            item.list(|item| item.integer(200..=599)).map(StatusCodes)
        });
    let per = table
        .key(
            "per",
            "What has a circuit: the upstream, which counts the final outcome of each request, or each of its addresses, which counts each attempt.",
            r#""endpoint""#,
        )
        .word_or(defaults::CIRCUIT_PER);
    let respond =
        table.optional_whole_table("respond").map(|table| CircuitAnswer::Respond(Arc::new(routes::respond(&table))));
    let fallback = table
        .key("fallback", "The upstream that gets the requests while the circuit is open.", r#""orders-readonly""#)
        .get("a 503 with `Retry-After`", Item::string)
        .map(|name| CircuitAnswer::Fallback(Name::from(name.as_str())));
    if respond.is_some() && fallback.is_some() {
        table.fail("has both `respond` and `fallback`");
    }
    CircuitBreaker {
        failures,
        window: match window {
            Some(window) => FailureWindow::Time { window, percent },
            None => FailureWindow::Last(of),
        },
        open,
        max_open,
        half_open,
        status_codes: status_codes.0,
        per,
        answer: respond.or(fallback).unwrap_or(CircuitAnswer::Unavailable),
    }
}

/// So that the default is shown with its numbers.
struct StatusCodes(Vec<u16>);

impl crate::config::key::Written for StatusCodes {
    fn written(&self) -> String {
        format!("{:?}", self.0)
    }
}
