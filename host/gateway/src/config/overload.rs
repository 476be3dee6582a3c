//! Reads `[gateway.overload]`.

use super::defaults;
use super::item::Item;
use super::model::Overload;
use super::read::Table;

pub(super) fn read(table: &Table<'_>) -> Overload {
    Overload {
        max_memory: table
            .key(
                "max_memory",
                "The resident memory of the process at which all requests and connections are refused. From 80 % of it, those of routes that are less critical are.",
                r#""2GiB""#,
            )
            .or(defaults::OVERLOAD_MAX_MEMORY, Item::limit),
        max_connections: table
            .key(
                "max_connections",
                "The open connections from clients at which new ones are closed. From 80 % of it, requests of `sheddable` routes are refused; from 90 % of it, idle connections are closed. `gateway.max_connections` closes new ones only, at once.",
                "9000",
            )
            .get("no bound", |item| item.integer(1..=10_000_000)),
        max_event_loop_delay: table
            .key(
                "max_event_loop_delay",
                "The time that a task waits for its worker at which all requests are refused. From 80 % of it, those of routes that are less critical are. Each worker measures its own.",
                r#""100ms""#,
            )
            .or(defaults::OVERLOAD_MAX_EVENT_LOOP_DELAY, Item::timeout),
    }
}
