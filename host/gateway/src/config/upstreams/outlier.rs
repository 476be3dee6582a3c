//! Reads `[upstreams.*.outlier_detection]`.

use crate::config::defaults;
use crate::config::item::Item;
use crate::config::model::OutlierDetection;
use crate::config::read::Table;

pub(super) fn read(upstream: &Table<'_>) -> Option<OutlierDetection> {
    let table = upstream.optional_table("outlier_detection")?;
    let count = |item: Item<'_>| item.integer(0..=1_000_000u32);
    let detection = OutlierDetection {
        consecutive_gateway_errors: table
            .key(
                "consecutive_gateway_errors",
                "How many gateway errors in a row eject an address: a 502, 503 or 504, `UNAVAILABLE` or `DEADLINE_EXCEEDED` of gRPC, or no response (Envoy: `consecutive_gateway_failure`). 0: none do.",
                "10",
            )
            .or(defaults::CONSECUTIVE_GATEWAY_ERRORS, count),
        consecutive_5xx: table
            .key(
                "consecutive_5xx",
                "How many responses of a status from 500 on, or gateway errors, in a row eject an address. 0: none do.",
                "20",
            )
            .or(defaults::CONSECUTIVE_5XX, count),
        interval: table
            .key("interval", "From one comparison of the addresses with each other to the next.", r#""30s""#)
            .or(defaults::OUTLIER_INTERVAL, Item::duration),
        base_ejection_time: table
            .key("base_ejection_time", "How long the first ejection of an address takes; the nth takes n times as long.", r#""10s""#)
            .or(defaults::BASE_EJECTION_TIME, Item::duration),
        max_ejection_time: table
            .key("max_ejection_time", "The longest ejection.", r#""10m""#)
            .or(defaults::MAX_EJECTION_TIME, Item::duration),
        max_ejection_percent: table
            .key(
                "max_ejection_percent",
                "The share of the addresses of the upstream that may be ejected at a time. Of several addresses, one may always be.",
                "25",
            )
            .or(defaults::MAX_EJECTION_PERCENT, |item| item.integer(1..=100)),
        success_rate_minimum_hosts: table
            .key("success_rate_minimum_hosts", "How many addresses need enough requests before their success rates are compared.", "3")
            .or(defaults::SUCCESS_RATE_MINIMUM_HOSTS, |item| item.integer(2..=1_000_000)),
        success_rate_request_volume: table
            .key("success_rate_request_volume", "How many requests within an interval are enough to compare an address.", "20")
            .or(defaults::SUCCESS_RATE_REQUEST_VOLUME, |item| item.integer(1..=1_000_000_000)),
        success_rate_stdev_factor: table
            .key(
                "success_rate_stdev_factor",
                "By how many thousandths of the standard deviation a success rate has to be below the mean to eject its address. 0: success rates are not compared.",
                "1500",
            )
            .or(defaults::SUCCESS_RATE_STDEV_FACTOR, count),
        latency_factor: table
            .key(
                "latency_factor",
                "How many times the median of the others an address's time to the response head has to be to eject it. It needs three addresses with enough requests, and a difference of 10 ms. 0: latencies are not compared.",
                "5",
            )
            .or(defaults::LATENCY_FACTOR, |item| item.integer(0..=1000)),
    };
    if detection.interval < defaults::SHORTEST_INTERVAL {
        table.fail(format!("an `interval` is at least {:?}", defaults::SHORTEST_INTERVAL));
    }
    if detection.max_ejection_time < detection.base_ejection_time {
        table.fail("`max_ejection_time` is below `base_ejection_time`");
    }
    if detection.latency_factor == 1 {
        table
            .fail("a `latency_factor` of 1 ejects whoever is slower than half of the others: expected 0, or 2 or more");
    }
    Some(detection)
}
