//! Reads `[upstreams.*.dns]`.

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::DnsPolicy;
use crate::config::read::Table;

pub(super) fn read(table: &Table<'_>) -> DnsPolicy {
    let min = table
        .key("min_ttl", "How long an answer of the DNS is used at least.", r#""5s""#)
        .or(defaults::MIN_TTL, Item::duration);
    let max = table
        .key("max_ttl", "How long an answer of the DNS is used at most.", r#""1m""#)
        .or(defaults::MAX_TTL, Item::duration);
    if min > max {
        table.fail("`min_ttl` is above `max_ttl`");
    }
    let max_stale = table
        .key(
            "max_stale",
            "How long an answer stays in use after that while the name servers fail. Their answer that there is no address ends it at once.",
            r#""1h""#,
        )
        .or(defaults::MAX_STALE, Item::duration);
    let lookup_family = table
        .key(
            "lookup_family",
            "Which addresses of a name are used: all; IPv6 and only without it IPv4 (`auto`); IPv4 and only without it IPv6 (`v4_preferred`); or one kind.",
            r#""v4_only""#,
        )
        .word_or(defaults::LOOKUP_FAMILY);
    DnsPolicy { min_ttl: min, max_ttl: max, max_stale, lookup_family }
}
