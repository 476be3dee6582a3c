//! Reads `[routes]`.

pub(super) mod cache;
pub(super) mod compression;
mod limits;
mod matches;
mod releases;
mod retry;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::header::{HeaderValue, UPGRADE};
use http::{HeaderMap, StatusCode};

use super::defaults;
use super::gateway::{host_name, redirect_status};
use super::item::Item;
use super::model::*;
use super::pipelines;
use super::read::{Level, Table};
use super::upstreams;
use crate::http::headers::is_framing;
use crate::http::path::normalise_path;
use crate::http::target::parse_authority;
use crate::route::{MatchSpec, PathPattern, PathRewrite, Redirect, Template};

pub(in crate::config) use self::matches::{header_name, method};

/// What routes can name.
pub(super) struct Known<'k> {
    pub(super) listeners: &'k BTreeSet<String>,
    pub(super) upstreams: &'k BTreeSet<String>,
    pub(super) filters: &'k BTreeSet<String>,
    pub(super) pipelines: &'k BTreeMap<String, Vec<Step<Name>>>,
    pub(super) upstream_defaults: Option<Level<'k>>,
    /// `[compression]`: what routes that compress leave out.
    pub(super) compression_defaults: Option<Level<'k>>,
    /// The upstreams that routes name by their address.
    pub(super) anonymous: RefCell<Vec<Upstream>>,
}

/// The parameters that every match of a route has; none where a match is wrong and they can't be known.
type Params = Option<BTreeSet<String>>;

/// What a route can have in common with others: what is left out of it comes from its group, then from `[defaults.route]`. What a
/// route is for and what answers it are its own.
pub(super) struct Shared {
    host: HostPolicy,
    pipeline: Vec<Step<Name>>,
    priority: i64,
    timeouts: RouteTimeouts,
    limits: RouteLimits,
    criticality: Criticality,
    retry: Option<RetryPolicy>,
    deadline: Option<DeadlinePolicy>,
    upgrade: bool,
    cache: Option<RouteCache>,
    compression: Option<Compression>,
    decompress_requests: bool,
}

/// Reads a route, here with the tables that it inherits from.
pub(super) fn route(name: &str, table: &Table<'_>, known: &Known<'_>) -> Option<Route> {
    let mut params = None;
    let matches = table
        .key(
            "match",
            "Which requests the route is for: a table of conditions that all have to hold, or a list of such tables of which one has to.",
            r#"[{ path = "/a/**" }, { path = "/b/**" }]"#,
        )
        .require(|item| {
            if item.is_empty_list() {
                item.fail("expected at least one match");
            }
            let items = item.taking("a table or a list of tables").one_or_more();
            let read: Vec<_> =
                items.into_iter().map(|item| item.table().and_then(|table| matches::read(&table, known))).collect();
            let matches: Vec<MatchSpec> = read.into_iter().collect::<Option<_>>()?;
            params = matches.iter().map(|one| matches::names(&one.path)).reduce(|all, these| &all & &these);
            Some(matches)
        });
    let action = action(table, known, matches.as_deref(), &params);
    let rewrite = rewrite(table, matches.as_deref(), &params);
    let forwards = table.has("upstream") || table.has("upstreams");
    for key in ["rewrite", "host", "subset", "mirror", "fault", "cache"]
        .into_iter()
        .filter(|key| !forwards && table.has_own(key))
    {
        table.fail(format!("`{key}` is only for routes with an upstream"));
    }
    let subset = subset(table);
    let sticky = releases::sticky(table);
    if table.has_own("sticky") && !table.has("upstreams") {
        table.fail("`sticky` is only for routes with `upstreams`");
    }
    let mirror = releases::mirror(table, known);
    let fault = releases::fault(table);
    let Shared {
        host,
        pipeline,
        priority,
        timeouts,
        limits,
        criticality,
        retry,
        deadline,
        upgrade,
        cache,
        compression,
        decompress_requests,
    } = shared(table, known);
    Some(Route {
        name: Name::from(name),
        matches: matches?,
        action: action?,
        rewrite,
        host,
        pipeline,
        priority,
        timeouts,
        limits,
        criticality,
        retry,
        deadline,
        upgrade,
        cache: cache.filter(|_| forwards),
        compression,
        decompress_requests,
        subset,
        sticky,
        mirror,
        fault,
    })
}

/// The pipeline of the routes that name none.
const DEFAULT_PIPELINE: &str = "default";

/// How filters call upstreams, by the defaults of routes.
pub(super) fn calls(defaults: Option<Shared>) -> Calls {
    match defaults {
        Some(Shared { timeouts, retry, .. }) => Calls { timeouts, retry },
        None => Calls { timeouts: RouteTimeouts::default(), retry: None },
    }
}

pub(super) fn shared(table: &Table<'_>, known: &Known<'_>) -> Shared {
    let host = table
        .key(
            "host",
            "The `Host` that the upstream gets: what the client sent (`keep`), the endpoint's own (`upstream`), or a name.",
            r#""upstream""#,
        )
        .or(HostPolicy::Keep, host_policy);
    let pipeline = table
        .key(
            "pipeline",
            "The filters and groups of filters that a request passes, in this order (a response in reverse), or the name of a pipeline. `[]` is no filter.",
            r#"["login", "quota"]"#,
        )
        .get("the pipeline `default`, if there is one", |item| pipelines::of_route(&item, known.filters, known.pipelines));
    let priority = table
        .key("priority", "A route of higher priority wins, whatever else the matches say.", "10")
        .or(defaults::PRIORITY, |item| item.integer(-1_000_000..=1_000_000));
    let timeouts = timeouts(&table.table("timeouts"));
    let limits = limits::read(&table.table("limits"));
    let criticality = table
        .key(
            "criticality",
            "Which requests are refused first when the gateway is overloaded: `sheddable` before `standard` before `critical`.",
            r#""sheddable""#,
        )
        .word_or(defaults::CRITICALITY);
    let upgrade = table
        .key("upgrade", "Whether a request may change the protocol (WebSocket).", "false")
        .or(defaults::UPGRADE, Item::boolean);
    let decompress_requests = table
        .key(
            "decompress_requests",
            "Whether the upstream gets the bodies of requests without their content coding (gzip, deflate, Brotli, zstd). They are read as \
             a whole, within `limits.body`; what can't be decoded is refused with 415.",
            "true",
        )
        .or(defaults::DECOMPRESS_REQUESTS, Item::boolean);
    Shared {
        decompress_requests,
        host,
        pipeline: pipeline.unwrap_or_else(|| known.pipelines.get(DEFAULT_PIPELINE).cloned().unwrap_or_default()),
        priority,
        timeouts,
        limits,
        criticality,
        retry: table.optional_table("retry").map(|table| retry::retry(&table)),
        deadline: table.optional_table("deadline").map(|table| retry::deadline(&table)),
        upgrade,
        cache: table.optional_table("cache").map(|table| cache::read(&table)),
        compression: table
            .switched_table(
                "compression",
                "Whether responses are compressed for clients that accept it: `true`, or a table with what differs from `[compression]`.",
                "true",
            )
            .map(|mut table| {
                table.inherit(known.compression_defaults.clone());
                compression::read(&table)
            }),
    }
}

fn action(table: &Table<'_>, known: &Known<'_>, matches: Option<&[MatchSpec]>, params: &Params) -> Option<Action> {
    let upstream = table
        .key("upstream", "The upstream that answers, by its name or by its only address.", r#""http://localhost:3000""#)
        .get("-", |item| upstream(&item, known))
        .map(|name| vec![(name, 1)]);
    let upstreams = table.optional_table("upstreams").map(|upstreams| {
        let mut list = Vec::new();
        let meaning = "In place of `upstream`: several upstreams, each with its share of the requests as a weight.";
        for (name, item) in upstreams.named(meaning, "90") {
            let name = item.name_of(&name, "upstream", known.upstreams);
            list.extend(name.zip(item.integer(0..=1_000_000u32)));
        }
        if upstreams.is_empty() {
            upstreams.fail("expected at least one upstream");
        } else if !list.is_empty() && list.iter().all(|(_, weight)| *weight == 0) {
            upstreams.fail("at least one upstream needs a weight above 0");
        }
        list
    });
    let redirect = table.optional_table("redirect").map(|table| redirect(&table, matches, params));
    let respond = table.optional_table("respond").map(|table| {
        let FixedResponse { status, headers, body } = respond(&table);
        Action::Respond { status, headers, body }
    });
    let keys = ["upstream", "upstreams", "redirect", "respond"];
    if keys.iter().filter(|key| table.has(key)).count() != 1 {
        table.fail("needs exactly one of `upstream`, `upstreams`, `redirect` and `respond`");
        return None;
    }
    upstream.or(upstreams).map(Action::Forward).or(redirect).or(respond)
}

fn upstream(item: &Item<'_>, known: &Known<'_>) -> Option<Name> {
    if !item.as_str().is_some_and(|text| text.contains("://") || text.starts_with(UNIX)) {
        let item = item.clone().taking("the name or the address of an upstream");
        return item.reference("upstream", known.upstreams);
    }
    let upstream = upstreams::anonymous(item, known.upstream_defaults.clone())?;
    let name = upstream.name.clone();
    let mut anonymous = known.anonymous.borrow_mut();
    if !anonymous.iter().any(|other| other.name == name) {
        anonymous.push(upstream);
    }
    Some(name)
}

fn redirect(table: &Table<'_>, matches: Option<&[MatchSpec]>, params: &Params) -> Action {
    let status = table
        .key("status", "The status of the redirect.", "308")
        .or(defaults::REDIRECT_STATUS, |item| redirect_status(&item));
    let unset = "that of the request";
    let scheme = table.key("scheme", "The scheme to go to.", r#""https""#).get(unset, Item::word);
    let host = table.key("host", "The host to go to.", r#""www.example.com""#).get(unset, host_name);
    let port = table
        .key("port", "The port to go to.", "8443")
        .get("that of the new scheme, or of the request", |item| item.integer(1..=u16::MAX));
    let path = path_rewrite(table, matches, params);
    if !["scheme", "host", "port"].iter().chain(&PATH_KEYS).any(|key| table.has(key)) {
        table.fail(
            "leads to where it comes from: needs `scheme`, `host`, `port`, `path`, `strip_prefix` or `replace_prefix`",
        );
    }
    Action::Redirect { status, to: Redirect { scheme, host, port, path, drop_query: false } }
}

/// Reads a response that the gateway gives itself.
pub(super) fn respond(table: &Table<'_>) -> FixedResponse {
    let status = table
        .key("status", "The status of the answer.", "503")
        .or(defaults::RESPOND_STATUS, |item| StatusCode::from_u16(item.integer(200..=599u16)?).ok());
    let mut headers = HeaderMap::new();
    for (name, item) in table.table("headers").named("A header of the answer.", r#""text/plain""#) {
        let value = item.clone().parse("a header value", |text| HeaderValue::from_str(text).ok());
        let name = header_name(&item, &name).filter(|name| {
            // RFC 9110 §15.5.22: a 426 says which protocols the client needs.
            let refused = is_framing(name) && !(status.as_u16() == 426 && *name == UPGRADE);
            if refused {
                item.fail(format!("`{name}` is set by the gateway itself"));
            }
            !refused
        });
        if let Some((name, value)) = name.zip(value) {
            headers.append(name, value);
        }
    }
    let body = table.key("body", "The body of the answer.", r#""closed\n""#).or(String::new(), Item::string);
    // RFC 9110 §6.4.1: these have no content.
    if !body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304) {
        table.fail(format!("a response with status {} has no body", status.as_u16()));
    }
    FixedResponse { status, headers, body: Bytes::from(body) }
}

fn rewrite(table: &Table<'_>, matches: Option<&[MatchSpec]>, params: &Params) -> Option<PathRewrite> {
    let table = table.optional_table("rewrite")?;
    if !PATH_KEYS.iter().any(|key| table.has(key)) {
        table.fail("needs `strip_prefix`, `replace_prefix` or `path`");
    }
    path_rewrite(&table, matches, params)
}

const PATH_KEYS: [&str; 3] = ["path", "strip_prefix", "replace_prefix"];

/// The keys of a rewrite, which a redirect has as well.
fn path_rewrite(table: &Table<'_>, matches: Option<&[MatchSpec]>, params: &Params) -> Option<PathRewrite> {
    let strip = table
        .key("strip_prefix", "What is taken away from the start of the path, by whole segments.", r#""/api""#)
        .get("-", prefix);
    let replace = table
        .key(
            "replace_prefix",
            "What is put in the place of `strip_prefix`, or else of the part of the match before its `/**`; `/` takes it away.",
            r#""/v2""#,
        )
        .get("-", prefix);
    let path = table
        .key("path", "A whole new path, with parameters of the match. The query stays.", r#""/items/{id}""#)
        .get("-", |item| template(item, params));
    match (table.has("strip_prefix"), table.has("replace_prefix"), table.has("path")) {
        (false, false, true) => path.map(PathRewrite::Template),
        (true, false, false) => strip.map(PathRewrite::StripPrefix),
        (true, true, false) => strip.zip(replace).map(|(prefix, with)| PathRewrite::ReplacePrefix { prefix, with }),
        (false, true, false) => {
            let prefixes = matches.map(|list| list.iter().map(|one| one.path.literal_prefix()).collect::<Vec<_>>());
            if prefixes.as_ref().is_some_and(|list| list.iter().any(Option::is_none)) {
                table
                    .fail("`replace_prefix` needs `strip_prefix`, as not every match has a path of literals and `/**`");
            }
            let prefix = prefixes.and_then(|list| list.into_iter().next().flatten());
            prefix.zip(replace).map(|(prefix, with)| PathRewrite::ReplacePrefix { prefix, with })
        }
        (_, _, true) => {
            table.fail("`path` excludes `strip_prefix` and `replace_prefix`");
            None
        }
        (false, false, false) => None,
    }
}

/// Literal segments, without a slash at the end, in the form that paths of requests have.
fn prefix(item: Item<'_>) -> Option<String> {
    item.parse("a path like \"/api\"", |text| {
        PathPattern::parse(text).ok()?;
        let literal = !text.contains(['*', '{']) && (text == "/" || !text.ends_with('/'));
        normalise_path(text).ok().filter(|_| literal).map(|path| path.into_owned())
    })
}

fn template(item: Item<'_>, params: &Params) -> Option<Template> {
    let template = item.clone().check("a path, also with parameters", Template::parse)?;
    let known = params.as_ref();
    for name in template.params().filter(|name| known.is_some_and(|known| !known.contains(&***name))) {
        item.fail(format!("the parameter `{name}` is not in the path of every match"));
    }
    Some(template)
}

fn host_policy(item: Item<'_>) -> Option<HostPolicy> {
    match item.as_str() {
        Some("keep") => Some(HostPolicy::Keep),
        Some("upstream") => Some(HostPolicy::Upstream),
        _ => item.parse(r#""keep", "upstream" or a host name"#, |text| {
            parse_authority(text.as_bytes()).ok().map(HostPolicy::Fixed)
        }),
    }
}

fn subset(table: &Table<'_>) -> Option<Subset> {
    let table = table.optional_table("subset")?;
    let meaning = "Only endpoints with this label are used, in all upstreams of the route.";
    let labels = table.named(meaning, r#""v2""#).into_iter();
    let mut labels: Vec<_> = labels.filter_map(|(name, item)| Some((name, item.string()?))).collect();
    if labels.is_empty() {
        table.fail("expected at least one label");
    }
    labels.sort();
    Some(Subset(labels))
}

fn timeouts(table: &Table<'_>) -> RouteTimeouts {
    let default = RouteTimeouts::default();
    RouteTimeouts {
        request: table
            .key(
                "request",
                "From the request's head to the response's head, filters and further attempts included.",
                r#""10s""#,
            )
            .or(default.request, Item::timeout),
        connect: table
            .key("connect", "For an attempt to connect to an endpoint, TLS included.", r#""500ms""#)
            .or(default.connect, Item::duration),
        first_byte: table
            .key("first_byte", "From the end of the request to the head of the response, for each attempt.", r#""5s""#)
            .or(default.first_byte, Item::timeout),
        idle: table
            .key("idle", "Between two parts of a body, in either direction.", r#""5m""#)
            .or(default.idle, Item::timeout),
        max_stream_duration: table
            .key(
                "max_stream_duration",
                "The longest life of an exchange, from the request's head to the last byte of the response or of a WebSocket connection. What goes on then is broken off.",
                r#""1h""#,
            )
            .or(default.max_stream_duration, Item::timeout),
    }
}
