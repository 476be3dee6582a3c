//! Reads `[cache]` and `[routes.*.cache]`.

use std::collections::BTreeSet;

use http::StatusCode;
use sluice_cache::key::{KeyRule, QueryRule};
use sluice_cache::policy::{Heuristic, Normalise, Policy};

use super::header_name;
use crate::config::defaults;
use crate::config::gateway::{network, token};
use crate::config::item::Item;
use crate::config::model::{ByteSize, Cache, CacheState, PurgeGrant, RouteCache};
use crate::config::read::Table;

/// The least memory that a cache can work with, and the most that is no mistake.
const MEMORY: std::ops::RangeInclusive<ByteSize> = ByteSize(1 << 20)..=ByteSize(1 << 44);

/// A larger value would hold up all others of its connection.
const STATE_MAX_OBJECT: std::ops::RangeInclusive<ByteSize> = ByteSize(0)..=ByteSize(16 << 20);

/// Parts of a key: fields, cookies or parameters of the query.
const MAX_PARTS: usize = 64;

pub(in crate::config) fn process(table: &Table<'_>, states: &BTreeSet<String>) -> Cache {
    Cache {
        memory: table
            .key(
                "memory",
                "What the stored responses of all routes may take together, heads and keys included. The least used ones go first. One \
                 response takes an eighth of it at most.",
                r#""1GiB""#,
            )
            .or(defaults::CACHE_MEMORY, |item| item.size_within(MEMORY)),
        state: state(table, states),
    }
}

fn state(table: &Table<'_>, states: &BTreeSet<String>) -> Option<CacheState> {
    let name = table
        .key(
            "state",
            "The table of `[state]` behind the memory: gateways with the same one share stored responses, and each purge reaches all of them.",
            r#""shared""#,
        )
        .get("none", |item| item.reference("state", states));
    let max_object = table
        .key("state_max_object", "A response with more bytes is kept in the memory of its gateway only.", r#""1MiB""#)
        .or(defaults::CACHE_STATE_MAX_OBJECT, |item| item.size_within(STATE_MAX_OBJECT));
    name.map(|name| CacheState { name, max_object })
}

pub(super) fn read(table: &Table<'_>) -> RouteCache {
    RouteCache {
        key: key(table),
        policy: policy(table),
        max_object: table
            .key("max_object", "A response with more content is passed on and not stored.", r#""8MiB""#)
            .or(defaults::CACHE_MAX_OBJECT, Item::size),
        collapse_timeout: table
            .key(
                "collapse_timeout",
                "Of requests for the same that find nothing stored, one goes to the upstream. The others wait so long for the head of \
                 its response, and then go there themselves. With `off`, nobody waits.",
                r#""5s""#,
            )
            .or(defaults::CACHE_COLLAPSE_TIMEOUT, Item::timeout),
        status_field: table
            .key("status_field", "Whether clients get the field `Cache-Status`, which says what the cache did and why.", "false")
            .or(defaults::CACHE_STATUS_FIELD, Item::boolean),
        tag_fields: table
            .key(
                "tag_fields",
                "Whether clients get the fields `Surrogate-Key` and `Cache-Tag`, by whose words responses can be purged.",
                "true",
            )
            .or(defaults::CACHE_TAG_FIELDS, Item::boolean),
        purge: table.optional_table("purge").map(|table| purge(&table)),
    }
}

fn purge(table: &Table<'_>) -> PurgeGrant {
    let grant = PurgeGrant {
        token: table
            .key("token", "The bearer token that a request with the method `PURGE` needs.", r#""${env:PURGE_TOKEN}""#)
            .get("none is asked for", token),
        addresses: table
            .key("addresses", "The networks that it has to come from.", r#"["10.0.0.0/8"]"#)
            .get("it may come from anywhere", |item| item.filled(network)),
        consumers: table
            .key("consumers", "The callers that may send it, as a filter of the pipeline names them.", r#"["deploy"]"#)
            .get("any caller", |item| item.filled(Item::string)),
    };
    if !["token", "addresses", "consumers"].iter().any(|key| table.has(key)) {
        table.fail("expected at least one of `token`, `addresses` and `consumers`: otherwise, anybody may purge");
    }
    grant
}

/// What tells two requests apart, besides method, host and path.
fn key(table: &Table<'_>) -> KeyRule {
    let only = table
        .key(
            "query",
            "The parameters of the query that belong to the key of a response, in this order; all others do not. `[]`: none.",
            r#"["page", "size"]"#,
        )
        .get("the whole query, as it is", names);
    let except = table
        .key(
            "ignore_query",
            "In place of `query`: the parameters that do not belong to the key. The upstream must not heed them.",
            r#"["utm_source", "utm_medium"]"#,
        )
        .get("none", names);
    let query = match (only, except) {
        (Some(_), Some(_)) => {
            table.fail("has `query` and `ignore_query`, expected one of them");
            QueryRule::All
        }
        (Some(only), None) => QueryRule::Only(only),
        (None, Some(except)) => QueryRule::Except(except),
        (None, None) => QueryRule::All,
    };
    KeyRule {
        query,
        headers: table
            .key(
                "headers",
                "Fields of the request that belong to the key. `Vary` of a response needs no mention here.",
                r#"["x-tenant"]"#,
            )
            .or(Vec::new(), |item| {
                let place = item.clone();
                let list = item.list(|item| item.clone().string().and_then(|name| header_name(&item, &name)))?;
                few(&place, list)
            }),
        cookies: table
            .key("cookies", "Cookies of the request that belong to the key.", r#"["currency"]"#)
            .or(Vec::new(), names),
        consumer: table
            .key(
                "consumer",
                "Whether each caller that a filter has named has stored responses of its own. Otherwise a response to a named caller is \
                 stored only if it says that it may be shared.",
                "true",
            )
            .or(defaults::CACHE_CONSUMER, Item::boolean),
    }
}

fn names(item: Item<'_>) -> Option<Vec<String>> {
    let place = item.clone();
    few(&place, item.list(Item::string)?)
}

fn few<T>(place: &Item<'_>, list: Vec<T>) -> Option<Vec<T>> {
    if list.len() > MAX_PARTS {
        place.fail(format!("expected at most {MAX_PARTS} names"));
        return None;
    }
    Some(list)
}

fn policy(table: &Table<'_>) -> Policy {
    let default_lifetime = table
        .key(
            "ttl",
            "How long a response is fresh that says nothing of that itself. It has to have a status that can be cached by default (RFC \
             9110 §15.1), as 200 and 404.",
            r#""1m""#,
        )
        .get("it is not stored", Item::duration);
    let heuristic = table.optional_table("heuristic").map(|table| Heuristic {
        percent: table
            .key(
                "percent",
                "How long a response with `Last-Modified` is fresh that says nothing of that itself, in percent of the time since then.",
                "20",
            )
            .or(defaults::CACHE_HEURISTIC_PERCENT, |item| item.integer(1..=100)),
        limit: table.key("max", "At most so long.", r#""1h""#).or(defaults::CACHE_HEURISTIC_MAX, Item::duration),
    });
    let negative_ttl = table
        .key(
            "negative_ttl",
            "How long a response with one of `negative_statuses` is fresh that says nothing of that itself.",
            r#""10s""#,
        )
        .get("as `ttl`", Item::duration);
    let negative_statuses = table
        .key("negative_statuses", "The statuses that `negative_ttl` is for.", "[404, 410, 503]")
        .get("404, 405, 410 and 451", |item| {
            item.taking("a list of statuses").filled(|item| StatusCode::from_u16(item.integer(300..=599u16)?).ok())
        });
    if negative_statuses.is_some() && negative_ttl.is_none() {
        table.fail("`negative_statuses` is for a `negative_ttl`");
    }
    let negative_statuses = negative_statuses.unwrap_or_else(|| {
        defaults::CACHE_NEGATIVE_STATUSES.iter().filter_map(|code| StatusCode::from_u16(*code).ok()).collect()
    });
    Policy {
        heuristic,
        default_lifetime,
        negative: negative_ttl.map(|ttl| negative_statuses.into_iter().map(|status| (status, ttl)).collect()).unwrap_or_default(),
        stale_while_revalidate: table
            .key(
                "stale_while_revalidate",
                "How long a stale response is still sent, while another one is fetched (RFC 5861). A response can say so itself.",
                r#""30s""#,
            )
            .or(None, Item::timeout)
            .unwrap_or_default(),
        stale_if_error: table
            .key(
                "stale_if_error",
                "How long a stale response is sent in place of an error: a 500, 502, 503 or 504 of the upstream, or none of its \
                 responses, also for an open circuit, a full limit or without an endpoint (RFC 5861). A response can say so itself.",
                r#""1h""#,
            )
            .or(None, Item::timeout)
            .unwrap_or_default(),
        implied_with_credentials: table
            .key(
                "ttl_with_credentials",
                "Whether `ttl`, `heuristic` and `negative_ttl` count for the response to a request with a cookie, a token, an API key or a client certificate, \
                 too. Such a response may be one user's, and is then sent to all.",
                "true",
            )
            .or(defaults::CACHE_TTL_WITH_CREDENTIALS, Item::boolean),
        set_cookie: table
            .key(
                "set_cookie",
                "What becomes of a response that sets a cookie: it is not stored (`refuse`), stored without the cookie (`omit`), or \
                 stored, so that each hit sets it (`store`).",
                r#""omit""#,
            )
            .word_or(defaults::CACHE_SET_COOKIE),
        request_directives: table
            .key(
                "request_directives",
                "Whether `no-cache`, `max-age` and other directives of requests count, so that any client can have the upstream work. \
                 `no-store` and `only-if-cached` always do.",
                "true",
            )
            .or(defaults::CACHE_REQUEST_DIRECTIVES, Item::boolean),
        age_from_date: table
            .key(
                "age_from_date",
                "Whether the age of a response is also taken from its `Date`: for caches before the gateway that send no `Age`, with \
                 clocks that agree.",
                "true",
            )
            .or(defaults::CACHE_AGE_FROM_DATE, Item::boolean),
        normalise: normalise(&table.table("normalise")),
    }
}

fn normalise(table: &Table<'_>) -> Normalise {
    let default = Normalise::default();
    Normalise {
        accept_encoding: table
            .key(
                "accept_encoding",
                "Whether requests with the same set of content codings in `Accept-Encoding` are the same for `Vary`.",
                "false",
            )
            .or(default.accept_encoding, Item::boolean),
        accept_language: table
            .key(
                "accept_language",
                "Whether `Accept-Language` is compared by preference for `Vary`, and a stored response in the language that a client \
                 wants most is one for it.",
                "true",
            )
            .or(default.accept_language, Item::boolean),
    }
}
