//! Reads how an upstream's requests are spread over its endpoints.

use std::time::Duration;

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::{
    Balance, Balancing, ConsistentHash, HashKey, SlowStart, StickySession, ZonePreference, is_token,
};
use crate::config::read::Table;
use crate::config::tree::Value;

/// The longest that an endpoint may take to its full share.
const MAX_WINDOW: Duration = Duration::from_secs(3600);
/// The fewest bytes of a key that cookies are signed with.
const MIN_KEY: usize = 16;

pub(super) fn read(table: &Table<'_>) -> Balancing {
    let algorithm = table
        .key(
            "balance",
            "How an endpoint is chosen: in turn by weight; of two drawn by weight the one with fewer requests under way, or with less \
             latency for them (`peak_ewma`); by chance; or by a hash of a value of the request, as a table.",
            r#""least_request""#,
        )
        .or(defaults::BALANCE, balance);
    let panic_threshold = table
        .key(
            "panic_threshold",
            "If less than this percentage of a priority's weight is available, and other priorities can't make up for it, its endpoints \
             are used also where checks or outlier detection have taken them out. 0 is never.",
            "30",
        )
        .or(defaults::PANIC_THRESHOLD, |item| item.integer(0..=100));
    let subset_fallback = table
        .key(
            "subset_fallback",
            "What the requests of a route with a `subset` get if no endpoint is in it: a 503 (`no_fallback`), or any endpoint.",
            r#""any_endpoint""#,
        )
        .word_or(defaults::SUBSET_FALLBACK);
    Balancing {
        algorithm,
        panic_threshold,
        slow_start: slow_start(table),
        zone: zone(table),
        subset_fallback,
        sticky: sticky(table),
    }
}

fn balance(item: Item<'_>) -> Option<Balance> {
    let takes = r#""round_robin", "least_request", "peak_ewma", "random" or a table with `hash`"#;
    let item = item.taking(takes);
    if !item.is_table() {
        return item.word();
    }
    let table = item.table()?;
    let on = table
        .key(
            "hash",
            "Requests with the same value go to the same endpoint. `param` is a parameter of the path. Of a list, the first that the \
             request has counts; a request without any goes to an endpoint by chance.",
            r#"["cookie:session", "ip"]"#,
        )
        .require(hash_keys);
    let algorithm = table
        .key(
            "algorithm",
            "How the hash finds its endpoint. `maglev` spreads evenly; `ring_hash` moves fewer values when endpoints change.",
            r#""ring_hash""#,
        )
        .word_or(defaults::HASH_ALGORITHM);
    let bounded_load = table
        .key(
            "bounded_load",
            "The most requests under way of an endpoint, as a multiple of its fair share; values beyond it go to the next endpoint of \
             their hash. Envoy's `hash_balance_factor` is a hundred times this.",
            "1.25",
        )
        .get("no bound", factor);
    Some(Balance::Hash(ConsistentHash { on: on?, algorithm, bounded_load }))
}

/// What a request is known by: one key or a list of them.
pub(in crate::config) fn hash_keys(item: Item<'_>) -> Option<Vec<HashKey>> {
    let keys = r#""ip", "consumer", "header:NAME", "cookie:NAME", "query:NAME" or "param:NAME""#;
    if item.is_empty_list() {
        item.fail("expected at least one");
    }
    let items = item.taking(format_args!("{keys}, or a list of them")).one_or_more();
    let read = items.into_iter().map(|item| item.parse(keys, HashKey::parse));
    read.collect::<Option<Vec<_>>>().filter(|list| !list.is_empty())
}

/// A factor from 1.01 to 10, in percent.
fn factor(item: Item<'_>) -> Option<u32> {
    let number = match item.node.map(|node| &node.value) {
        Some(Value::Float(number)) => Some(*number),
        Some(Value::Integer(number)) => Some(*number as f64),
        _ => None,
    };
    let percent = number.map(|number| (number * 100.0).round()).filter(|percent| (101.0..=1000.0).contains(percent));
    if percent.is_none() {
        item.expected("a number from 1.01 to 10");
    }
    percent.map(|percent| percent as u32)
}

fn slow_start(table: &Table<'_>) -> Option<SlowStart> {
    let table = table.optional_table("slow_start")?;
    let window = table
        .key(
            "window",
            "How long an endpoint that is new, or back after it was out, takes from its first requests to its full share.",
            r#""30s""#,
        )
        .require(|item| item.duration_up_to(MAX_WINDOW));
    let min_weight_percent = table
        .key("min_weight_percent", "What it gets at first, in percent of its weight.", "25")
        .or(defaults::MIN_WEIGHT_PERCENT, |item| item.integer(1..=100));
    Some(SlowStart { window: window?, min_weight_percent })
}

fn zone(table: &Table<'_>) -> Option<ZonePreference> {
    let table = table.optional_table("zone")?;
    let local = table
        .key(
            "local",
            "The gateway's own zone: endpoints of it are preferred while enough of them are available.",
            r#""${env:ZONE}""#,
        )
        .require(Item::string);
    let label = table
        .key("label", "The label that has the zone of an endpoint.", r#""topology.kubernetes.io/zone""#)
        .or(defaults::ZONE_LABEL.to_owned(), Item::string);
    let spill_above = table
        .key(
            "spill_above",
            "The requests under way for each available address of the own zone, on the average, from which on further ones go to other zones \
             of the priority, as long as those have less under way.",
            "50",
        )
        .get("no request leaves the zone for its load", |item| item.integer(1..=1_000_000));
    Some(ZonePreference { local: local?, label, spill_above })
}

fn sticky(table: &Table<'_>) -> Option<StickySession> {
    let table = table.optional_table("sticky")?;
    let cookie = table
        .key(
            "cookie",
            "The name of a cookie that keeps a client at its endpoint. Its value is signed and does not show the endpoint.",
            r#""orders-session""#,
        )
        .require(|item| item.parse("the name of a cookie", |text| is_token(text).then(|| text.to_owned())));
    let key = table
        .key(
            "key",
            "What cookies are signed with, at least 16 bytes. Several gateways, and one that starts again, need the same key.",
            r#""${file:session.key}""#,
        )
        .get("a random key of the process", |item| {
            let secret = item.clone().secret()?;
            if secret.expose().len() < MIN_KEY {
                item.fail(format!("expected at least {MIN_KEY} bytes"));
                return None;
            }
            Some(secret)
        });
    let path =
        table.key("path", "The `Path` of the cookie.", r#""/shop""#).or(defaults::COOKIE_PATH.to_owned(), |item| {
            item.parse("a path like \"/shop\"", |text| {
                let fits = |byte: u8| byte.is_ascii_graphic() && byte != b';';
                (text.starts_with('/') && text.bytes().all(fits)).then(|| text.to_owned())
            })
        });
    let max_age = table
        .key("max_age", "The `Max-Age` of the cookie: how long a client keeps it.", r#""8h""#)
        .get("until the client ends its session", Item::duration);
    let http_only = table
        .key("http_only", "Whether the cookie is `HttpOnly`, which scripts can't read.", "false")
        .or(defaults::COOKIE_HTTP_ONLY, Item::boolean);
    let same_site = table
        .key("same_site", "The `SameSite` of the cookie. `none` needs `secure`.", r#""strict""#)
        .word_or(defaults::COOKIE_SAME_SITE);
    let secure = table
        .key("secure", "Whether the cookie is `Secure`.", "true")
        .get("where the client comes by https", Item::boolean);
    Some(StickySession { cookie: cookie?, key, path, max_age, http_only, same_site, secure })
}
