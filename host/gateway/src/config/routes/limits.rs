//! Reads `[routes.*.limits]`.

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::RouteLimits;
use crate::config::read::Table;
use crate::config::upstreams::count;

pub(super) fn read(table: &Table<'_>) -> RouteLimits {
    let limits = RouteLimits {
        body: table
            .key("body", "The largest body of a request.", r#""100MiB""#)
            .or(Some(defaults::BODY_LIMIT), Item::limit),
        max_requests: table
            .key(
                "max_requests",
                "Requests of the route under way at its upstreams, on all workers together, until the last byte of each response.",
                "100",
            )
            .get("no limit", count),
        max_pending_requests: table
            .key(
                "max_pending_requests",
                "Requests that may wait while `max_requests` is reached. More are refused, as all are without a queue.",
                "50",
            )
            .or(defaults::MAX_PENDING_REQUESTS, |item| item.integer(0..=1_000_000)),
        queue_timeout: table
            .key("queue_timeout", "How long a request waits there before it is refused.", r#""100ms""#)
            .or(defaults::QUEUE_TIMEOUT, Item::duration),
    };
    if limits.max_requests.is_none() && limits.max_pending_requests > 0 {
        table.fail("`max_pending_requests` is for requests over `max_requests`");
    }
    limits
}
