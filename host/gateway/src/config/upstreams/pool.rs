//! Reads `[upstreams.*.pool]`.

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::Pool;
use crate::config::read::Table;

pub(super) fn read(table: &Table<'_>) -> Pool {
    Pool {
        max_idle: table
            .key("max_idle", "Idle connections that each worker keeps to each endpoint.", "64")
            .or(defaults::MAX_IDLE, |item| item.integer(0..=100_000)),
        idle_timeout: table
            .key(
                "idle_timeout",
                "How long an idle connection is kept. It should be less than what the servers allow.",
                r#""30s""#,
            )
            .or(defaults::POOL_IDLE_TIMEOUT, Item::duration),
        ping_interval: table
            .key(
                "ping_interval",
                "How long an HTTP/2 connection with open streams may be silent before it is pinged, or `off`. gRPC servers close a connection that is pinged more than once in 5 minutes.",
                r#""10m""#,
            )
            .or(defaults::PING_INTERVAL, Item::timeout),
        max_connection_age: table
            .key(
                "max_connection_age",
                "How long a connection is given requests, or `off`. Each has up to a tenth less, so that they do not end together; requests under way finish.",
                r#""10m""#,
            )
            .or(defaults::MAX_CONNECTION_AGE, Item::timeout),
        max_requests_per_connection: table
            .key(
                "max_requests_per_connection",
                "How many requests a connection is given before another one takes its place.",
                "1000",
            )
            .get("no limit", |item| item.integer(1..=u32::MAX)),
    }
}
