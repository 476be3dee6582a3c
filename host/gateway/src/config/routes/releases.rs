//! Reads `sticky`, `mirror` and `fault` of a route.

use http::StatusCode;

use super::matches::fields;
use super::{Known, header_name, upstream};
use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::{Abort, AbortWith, Delay, Fault, HashKey, Mirror, Share, SlowBody, Sticky};
use crate::config::read::Table;
use crate::config::tree::Value;
use crate::config::upstreams::hash_keys;

/// The longest that a fault may delay a request.
const MAX_DELAY: std::time::Duration = std::time::Duration::from_secs(3600);

pub(super) fn sticky(table: &Table<'_>) -> Option<Sticky> {
    let table = table.optional_table("sticky")?;
    let by = table
        .key(
            "by",
            "What a caller of a route with `upstreams` is known by, or a list, of which the first counts that the request has. The \
             caller stays with its upstream while weights change: it only moves to one whose weight has grown in relation to that of \
             its own. A caller without a key gets the cookie, if one is named, or else is placed anew with each request.",
            r#"["consumer", "cookie:release"]"#,
        )
        .require(hash_keys);
    let max_age = table
        .key("max_age", "How long a browser keeps the cookie that the gateway sets.", r#""7d""#)
        .get("until the browser is closed", Item::duration);
    let by = by?;
    let cookies = by.iter().filter(|key| matches!(key, HashKey::Cookie(_))).count();
    if table.has("max_age") && cookies == 0 {
        table.fail("`max_age` is only for a cookie: `by` names none");
    }
    if cookies > 1 {
        table.fail("`by` names more than one cookie");
    }
    Some(Sticky { by, max_age })
}

pub(super) fn mirror(table: &Table<'_>, known: &Known<'_>) -> Option<Mirror> {
    let table = table.optional_table("mirror")?;
    let upstream = table
        .key(
            "upstream",
            "Gets a copy of the requests; its responses are discarded. Its name or its only address.",
            r#""orders-next""#,
        )
        .require(|item| upstream(&item, known));
    let percent = percent(&table, "The share of the requests that is mirrored, in percent.", "0.5");
    let timeout = table
        .key("timeout", "For a mirrored request, from its first attempt to the end of its response.", r#""2s""#)
        .or(defaults::MIRROR_TIMEOUT, Item::duration);
    let max_requests = table
        .key(
            "max_requests",
            "The mirrored requests of this route that are under way at the same time, on all workers; more are not sent.",
            "20",
        )
        .or(defaults::MIRROR_MAX_REQUESTS, |item| item.integer(1..=1_000_000));
    let max_body = table
        .key("max_body", "A request with a larger body is not mirrored.", r#""64KiB""#)
        .or(defaults::MIRROR_MAX_BODY, Item::size);
    Some(Mirror { upstream: upstream?, percent, timeout, max_requests, max_body })
}

pub(super) fn fault(table: &Table<'_>) -> Option<Fault> {
    let table = table.optional_table("fault")?;
    let headers = fields(
        &table,
        "headers",
        "Only requests with this value of a header get a fault; of several lines one has to have it.",
        header_name,
    );
    let delay = table.optional_table("delay").and_then(|table| {
        let duration = table
            .key("duration", "How long the request waits before it is sent.", r#""2s""#)
            .require(|item| item.duration_up_to(MAX_DELAY));
        let percent = percent(&table, "The share of the requests that waits, in percent.", "10");
        Some(Delay { duration: duration?, percent })
    });
    let abort = table.optional_table("abort").and_then(|table| {
        let status = table
            .key("status", "The request gets this status of HTTP and is not sent.", "503")
            .get("-", |item| StatusCode::from_u16(item.integer(200..=599u16)?).ok());
        let grpc_status = table
            .key("grpc_status", "The request gets this status of gRPC and is not sent.", "14")
            .get("-", |item| item.integer(0..=16u8));
        let percent = percent(&table, "The share of the requests that is not sent, in percent.", "10");
        if table.has("status") == table.has("grpc_status") && !table.reader.is_listing() {
            table.fail("needs either `status` or `grpc_status`");
            return None;
        }
        let with = status.map(AbortWith::Status).or(grpc_status.map(AbortWith::Grpc))?;
        Some(Abort { with, percent })
    });
    let slow_body = table.optional_table("slow_body").and_then(|table| {
        let bytes_per_second = table
            .key("bytes_per_second", "The client gets the upstream's body at no more than this rate.", r#""10KiB""#)
            .require(|item| {
                let size = item.clone().size()?.0;
                if size == 0 {
                    item.fail("expected more than 0 bytes");
                }
                (size > 0).then_some(size)
            });
        let percent = percent(&table, "The share of the responses that comes slowly, in percent.", "10");
        Some(SlowBody { bytes_per_second: bytes_per_second?, percent })
    });
    if !["delay", "abort", "slow_body"].iter().any(|key| table.has(key)) && !table.reader.is_listing() {
        table.fail("needs `delay`, `abort` or `slow_body`");
    }
    Some(Fault { headers, delay, abort, slow_body })
}

fn percent(table: &Table<'_>, meaning: &'static str, example: &'static str) -> Share {
    table.key("percent", meaning, example).or(Share::ALL, |item| {
        let number = match item.node.map(|node| &node.value) {
            Some(Value::Float(number)) => Some(*number),
            Some(Value::Integer(number)) => Some(*number as f64),
            _ => None,
        };
        let share = number.and_then(Share::percent);
        if share.is_none() {
            item.expected("a number from 0 to 100");
        }
        share
    })
}
