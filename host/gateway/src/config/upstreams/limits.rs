//! Reads `[upstreams.*.limits]`.

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::{EndpointLimits, UpstreamLimits};
use crate::config::read::Table;

/// As good as no limit, and far from what the counts can hold.
const MOST: u32 = 1_000_000_000;

pub(super) fn read(table: &Table<'_>) -> UpstreamLimits {
    let limits = UpstreamLimits {
        max_requests: table
            .key("max_requests", "Requests under way at the upstream, on all workers together, until the last byte of each response.", "1000")
            .get("no limit", count),
        max_connections: table
            .key("max_connections", "Open connections to the endpoints, on all workers together, idle ones included.", "200")
            .get("no limit", count),
        max_pending_requests: table
            .key(
                "max_pending_requests",
                "Requests that may wait while `max_requests` or `max_connections` is reached, or all endpoints are full. More are refused, as all are without a queue.",
                "100",
            )
            .or(defaults::MAX_PENDING_REQUESTS, |item| item.integer(0..=1_000_000)),
        queue_timeout: table
            .key("queue_timeout", "How long a request waits there before it is refused.", r#""50ms""#)
            .or(defaults::QUEUE_TIMEOUT, Item::duration),
        per_endpoint: per_endpoint(&table.table("per_endpoint")),
    };
    let EndpointLimits { max_requests, max_connections, .. } = limits.per_endpoint;
    let has_limit =
        [limits.max_requests, limits.max_connections, max_requests, max_connections].iter().any(Option::is_some);
    if !has_limit && limits.max_pending_requests > 0 {
        table.fail(
            "`max_pending_requests` is for requests over `max_requests` or `max_connections`, also of `per_endpoint`",
        );
    }
    limits
}

fn per_endpoint(table: &Table<'_>) -> EndpointLimits {
    let limits = EndpointLimits {
        max_requests: table
            .key(
                "max_requests",
                "Requests under way at each address, on all workers together. A full one is passed over.",
                "50",
            )
            .get("no limit", count),
        max_connections: table
            .key("max_connections", "Open connections to each address, on all workers together, idle ones included.", "100")
            .get("no limit", count),
        max_pending_requests: table
            .key(
                "max_pending_requests",
                "Requests that may wait for a place at each address. One that may go to several waits at all of them, and is refused only if each has so many.",
                "20",
            )
            .get("that of `limits`", |item| item.integer(0..=1_000_000)),
        queue_timeout: table
            .key("queue_timeout", "How long a request waits there before it is refused.", r#""50ms""#)
            .get("that of `limits`", Item::duration),
    };
    let has_limit = limits.max_requests.or(limits.max_connections).is_some();
    if !has_limit && limits.max_pending_requests.is_some_and(|most| most > 0) {
        table.fail("`max_pending_requests` is for requests over `max_requests` or `max_connections`");
    }
    limits
}

pub(in crate::config) fn count(item: Item<'_>) -> Option<u32> {
    item.integer(1..=MOST)
}
