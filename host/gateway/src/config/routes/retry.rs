//! Reads `[routes.*.retry]` and `[routes.*.deadline]`.

use http::StatusCode;

use crate::config::defaults;
use crate::config::gateway::header_name;
use crate::config::item::Item;
use crate::config::model::{
    Backoff, ByteSize, DeadlinePolicy, RetryBudget, RetryCondition, RetryConditions, RetryPolicy,
};
use crate::config::read::Table;
use crate::http::headers::is_framing;

/// More would be a storm of its own.
const MAX_ATTEMPTS: u32 = 100;
/// More is a matter of files and not of requests that are repeated at once.
const MAX_BODY: ByteSize = ByteSize(64 << 20);

pub(super) fn retry(table: &Table<'_>) -> RetryPolicy {
    let attempts = table
        .key("attempts", "How many attempts a request has in all, the first one included.", "2")
        .or(defaults::RETRY_ATTEMPTS, |item| item.integer(1..=MAX_ATTEMPTS));
    let on = table
        .key(
            "on",
            "How an attempt ends that is worth another one, in Envoy's words: `connect-failure` (no connection), `refused-stream` (the server has not processed it), `reset` (the connection broke, or no valid head came in time), `gateway-error` (502, 503, 504), `retriable-status-codes` (those of `status_codes`); and the statuses of gRPC `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted` and `unavailable` in the head of a response.",
            r#"["connect-failure", "unavailable"]"#,
        )
        .or(defaults::RETRY_ON, |item| item.list(Item::word).map(|list| RetryConditions::of(&list)));
    let status_codes = table
        .key("status_codes", "The statuses of `retriable-status-codes`.", "[429, 500]")
        .or(Vec::new(), |item| item.list(|item| StatusCode::from_u16(item.integer(400..=599u16)?).ok()));
    if !status_codes.is_empty() && !on.contains(RetryCondition::RetriableStatusCodes) {
        table.fail("`status_codes` needs `retriable-status-codes` in `on`");
    }
    let per_try_timeout = table
        .key(
            "per_try_timeout",
            "For each attempt, from its connection to the head of the response. `off`: only `timeouts` bound an attempt.",
            r#""2s""#,
        )
        .or(defaults::PER_TRY_TIMEOUT, Item::timeout);
    let body = table
        .key(
            "body",
            "The largest request body that is kept to be sent again, charged to `gateway.max_buffered_memory`. A request with a larger one is not repeated.",
            r#""1MiB""#,
        )
        .or(defaults::RETRY_BODY, |item| item.size_within(ByteSize(0)..=MAX_BODY));
    let non_idempotent = table
        .key(
            "non_idempotent",
            "Whether methods that are not idempotent (POST, PATCH) are repeated, too, where the upstream may have processed the request.",
            "true",
        )
        .or(defaults::RETRY_NON_IDEMPOTENT, Item::boolean);
    let max_retry_after = table
        .key(
            "max_retry_after",
            "How long an upstream may have a request wait by `Retry-After` or `grpc-retry-pushback-ms`. An answer that asks for more is passed on.",
            r#""1s""#,
        )
        .or(defaults::MAX_RETRY_AFTER, Item::duration);
    let attempt_header = table
        .key(
            "attempt_header",
            "The header in which the upstream gets the number of the attempt, from 1 on.",
            r#""x-envoy-attempt-count""#,
        )
        .get("none", own_header);
    RetryPolicy {
        attempts,
        on,
        status_codes,
        per_try_timeout,
        backoff: backoff(&table.table("backoff")),
        budget: budget(&table.table("budget")),
        body,
        non_idempotent,
        max_retry_after,
        attempt_header,
    }
}

fn backoff(table: &Table<'_>) -> Backoff {
    let base = table
        .key(
            "base",
            "The longest wait before the second attempt; it doubles with each further one. The wait is random, from nothing to that.",
            r#""100ms""#,
        )
        .or(defaults::BACKOFF_BASE, Item::duration);
    let max =
        table.key("max", "The longest wait before any attempt.", r#""1s""#).or(defaults::BACKOFF_MAX, Item::duration);
    if base > max {
        table.fail("`base` is above `max`");
    }
    Backoff { base, max }
}

fn budget(table: &Table<'_>) -> RetryBudget {
    RetryBudget {
        percent: table
            .key(
                "percent",
                "How many retries an upstream gets, in percent of its requests of the last 10 s. All routes and workers count together.",
                "10",
            )
            .or(defaults::RETRY_BUDGET_PERCENT, |item| item.integer(0..=100)),
        min_per_second: table
            .key("min_per_second", "How many retries it gets in each second, however few requests it has.", "10")
            .or(defaults::RETRY_BUDGET_MIN_PER_SECOND, |item| item.integer(0..=1_000_000)),
    }
}

pub(super) fn deadline(table: &Table<'_>) -> DeadlinePolicy {
    let grpc = table
        .key(
            "grpc",
            "Whether the `grpc-timeout` of a client bounds its call, its stream included, and the upstream gets what is left of that and of `timeouts.max_stream_duration`.",
            "true",
        )
        .or(defaults::GRPC_DEADLINE, Item::boolean);
    let header = table
        .key(
            "header",
            "The header in which the upstream gets how long it may take, in milliseconds: what is left of `timeouts.request`, of the client's deadline and of the attempt.",
            r#""x-request-timeout-ms""#,
        )
        .get("none", own_header);
    let trust_header = table
        .key(
            "trust_header",
            "Whether the same header of a client bounds the request. Otherwise it is replaced.",
            "true",
        )
        .or(defaults::TRUST_DEADLINE_HEADER, Item::boolean);
    if trust_header && !table.has("header") {
        table.fail("`trust_header` needs `header`");
    }
    DeadlinePolicy { grpc, header, trust_header }
}

/// A header that the gateway may set.
fn own_header(item: Item<'_>) -> Option<http::HeaderName> {
    let name = header_name(item.clone())?;
    if is_framing(&name) {
        item.fail(format!("`{name}` is set by the gateway itself"));
        return None;
    }
    Some(name)
}
