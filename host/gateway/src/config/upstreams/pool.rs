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
    }
}
