//! Reads `[routes]`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::defaults;
use super::gateway::{host_pattern, network};
use super::item::Item;
use super::model::*;
use super::read::Table;
use super::upstreams;
use crate::http::headers::is_framing;
use crate::route::{PathPattern, Template};

/// What routes can name.
pub(super) struct Known<'k> {
    pub(super) upstreams: &'k BTreeSet<String>,
    pub(super) filters: &'k BTreeSet<String>,
    pub(super) pipelines: &'k BTreeMap<String, Vec<Name>>,
    /// The upstreams that routes name by their address.
    pub(super) anonymous: RefCell<Vec<Upstream>>,
}

/// The parameters that every match of a route has; none where a match is wrong and they can't be known.
type Params = Option<BTreeSet<String>>;

pub(super) fn route(name: &str, table: &Table<'_>, known: &Known<'_>) -> Option<Route> {
    let mut params = None;
    let matches = table.require("match", |item| {
        if item.is_empty_list() {
            item.fail("expected at least one match");
        }
        let items = item.one_or_more();
        let read: Vec<_> = items.into_iter().map(|item| item.table().and_then(|table| route_match(&table))).collect();
        let (matches, of_each): (Vec<RouteMatch>, Vec<BTreeSet<String>>) = read.into_iter().collect::<Option<_>>()?;
        params = of_each.into_iter().reduce(|all, these| &all & &these);
        Some(matches)
    });
    let action = action(table, known, &params);
    let rewrite = rewrite(table, matches.as_deref(), &params);
    let host = table.get("host", host_policy);
    let forwards = table.has("upstream") || table.has("upstreams");
    for key in ["rewrite", "host"].into_iter().filter(|key| !forwards && table.has(key)) {
        table.fail(format!("`{key}` is only for routes with an upstream"));
    }
    let pipeline = table.get("pipeline", |item| pipeline(&item, known));
    let priority = table.or("priority", defaults::PRIORITY, |item| item.integer(-1_000_000..=1_000_000));
    let timeouts = timeouts(&table.table("timeouts"));
    let body = table.table("limits").or("body", Some(defaults::BODY_LIMIT), Item::limit);
    let upgrade = table.or("upgrade", defaults::UPGRADE, Item::boolean);
    Some(Route {
        name: Name::from(name),
        matches: matches?,
        action: action?,
        rewrite,
        host: host.unwrap_or(HostPolicy::Keep),
        pipeline: pipeline.unwrap_or_else(|| known.pipelines.get(DEFAULT_PIPELINE).cloned().unwrap_or_default()),
        priority,
        timeouts,
        limits: RouteLimits { body },
        upgrade,
    })
}

/// The pipeline of the routes that name none.
const DEFAULT_PIPELINE: &str = "default";

fn route_match(table: &Table<'_>) -> Option<(RouteMatch, BTreeSet<String>)> {
    let hosts = table.or("host", Vec::new(), |item| {
        if item.is_empty_list() {
            item.fail("expected at least one");
        }
        Some(item.one_or_more().into_iter().filter_map(host_pattern).collect())
    });
    let pattern = table.get("path", |item| {
        let params = item.clone().check(|text| PathPattern::parse(text).map(|pattern| names(&pattern)))?;
        Some((PathMatch::Pattern(item.string()?), params))
    });
    let regex = table.get("path_regex", |item| {
        let params = item.clone().check(|text| PathPattern::regex(text).map(|pattern| names(&pattern)))?;
        Some((PathMatch::Regex(item.string()?), params))
    });
    if table.has("path") && table.has("path_regex") {
        table.fail("has both `path` and `path_regex`");
    }
    let wrong = table.has("path") && pattern.is_none() || table.has("path_regex") && regex.is_none();
    let (path, params) = pattern.or(regex).unwrap_or_default();
    let methods = table.or("methods", Vec::new(), |item| item.filled(method));
    let headers = values(table, "headers", header_name);
    let text = |_: &Item<'_>, name: &str| Some(name.to_owned());
    let query = values(table, "query", text);
    let cookies = values(table, "cookies", text);
    let client_ip = table.or("client_ip", Vec::new(), |item| item.filled(network));
    (!wrong).then_some((RouteMatch { hosts, path, methods, headers, query, cookies, client_ip }, params))
}

fn names(pattern: &PathPattern) -> BTreeSet<String> {
    pattern.params().into_iter().map(str::to_owned).collect()
}

fn method(item: Item<'_>) -> Option<Method> {
    item.parse(r#"a method like "GET""#, |text| {
        // Methods have case (RFC 9110 §9.1): `get` would never match.
        let lower = text.bytes().any(|b| b.is_ascii_lowercase());
        Method::from_bytes(text.as_bytes()).ok().filter(|_| !lower)
    })
}

fn values<N: PartialEq>(
    table: &Table<'_>,
    key: &'static str,
    name: impl Fn(&Item<'_>, &str) -> Option<N>,
) -> Vec<(N, ValueMatch)> {
    let Some(table) = table.optional_table(key) else {
        return Vec::new();
    };
    let mut found: Vec<(N, ValueMatch)> = Vec::new();
    for (key, item) in table.named() {
        let name = name(&item, &key);
        // Header names have no case, keys do.
        if found.iter().any(|(known, _)| Some(known) == name.as_ref()) {
            item.fail("is named twice");
        }
        found.extend(name.zip(value_match(item)));
    }
    found
}

fn value_match(item: Item<'_>) -> Option<ValueMatch> {
    if let Some(text) = item.as_str() {
        return Some(ValueMatch::Exact(text.to_owned()));
    }
    if !item.is_table() {
        item.expected("a string, `{ regex = \"…\" }` or `{ present = true }`");
        return None;
    }
    let table = item.table()?;
    let regex = table.get("regex", |item| {
        let text = item.clone().string()?;
        item.check(|text| PathPattern::regex(text).map(|_| ()))?;
        Some(ValueMatch::Regex(text))
    });
    let present = table.get("present", |item| match item.clone().boolean()? {
        true => Some(ValueMatch::Present),
        false => {
            item.fail("can only be true");
            None
        }
    });
    if table.has("regex") == table.has("present") {
        table.fail("needs either `regex` or `present`");
        return None;
    }
    regex.or(present)
}

fn action(table: &Table<'_>, known: &Known<'_>, params: &Params) -> Option<Action> {
    let upstream = table.get("upstream", |item| upstream(&item, known)).map(|name| vec![(name, 1)]);
    let upstreams = table.optional_table("upstreams").map(|upstreams| {
        let mut list = Vec::new();
        for (name, item) in upstreams.named() {
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
    let redirect = table.optional_table("redirect").map(|table| redirect(&table, params));
    let respond = table.optional_table("respond").map(|table| respond(&table));
    let keys = ["upstream", "upstreams", "redirect", "respond"];
    if keys.iter().filter(|key| table.has(key)).count() != 1 {
        table.fail("needs exactly one of `upstream`, `upstreams`, `redirect` and `respond`");
        return None;
    }
    let forward = upstream.or(upstreams).map(Action::Forward);
    forward.or(redirect.map(Action::Redirect)).or(respond.map(Action::Respond))
}

fn upstream(item: &Item<'_>, known: &Known<'_>) -> Option<Name> {
    if !item.as_str().is_some_and(|text| text.contains("://")) {
        return item.clone().reference("upstream", known.upstreams);
    }
    let upstream = upstreams::anonymous(item)?;
    let name = upstream.name.clone();
    let mut anonymous = known.anonymous.borrow_mut();
    if !anonymous.iter().any(|other| other.name == name) {
        anonymous.push(upstream);
    }
    Some(name)
}

fn redirect(table: &Table<'_>, params: &Params) -> Redirect {
    let status = table.get("status", |item| {
        let allowed = [301, 302, 303, 307, 308];
        let status = item.clone().integer(301..=308u16)?;
        if !allowed.contains(&status) {
            item.expected("301, 302, 303, 307 or 308");
        }
        StatusCode::from_u16(status).ok()
    });
    let scheme = table.get("scheme", |item| item.choice(&[("http", Scheme::Http), ("https", Scheme::Https)]));
    let host = table.get("host", exact_host);
    let port = table.get("port", |item| item.integer(1..=u16::MAX));
    let path = table.get("path", |item| template(&item, params));
    if !["scheme", "host", "port", "path"].iter().any(|key| table.has(key)) {
        table.fail("leads to where it comes from: needs `scheme`, `host`, `port` or `path`");
    }
    Redirect { status: status.unwrap_or(defaults::REDIRECT_STATUS), scheme, host, port, path }
}

fn exact_host(item: Item<'_>) -> Option<String> {
    match host_pattern(item.clone())? {
        HostPattern::Exact(host) => Some(host),
        HostPattern::Subdomains(_) => {
            item.expected("a host name");
            None
        }
    }
}

fn respond(table: &Table<'_>) -> DirectResponse {
    let status = table.get("status", |item| StatusCode::from_u16(item.integer(200..=599u16)?).ok());
    let mut headers = Vec::new();
    for (name, item) in table.table("headers").named() {
        let value = item.clone().parse("a header value", |text| HeaderValue::from_str(text).ok());
        let name = header_name(&item, &name).filter(|name| {
            if is_framing(name) {
                item.fail(format!("`{name}` is set by the gateway itself"));
            }
            !is_framing(name)
        });
        headers.extend(name.zip(value));
    }
    let body = table.or("body", String::new(), Item::string);
    let status = status.unwrap_or(defaults::RESPOND_STATUS);
    // RFC 9110 §6.4.1: these have no content.
    if !body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304) {
        table.fail(format!("a response with status {} has no body", status.as_u16()));
    }
    DirectResponse { status, headers, body }
}

/// The header that is the key of a value.
fn header_name(item: &Item<'_>, name: &str) -> Option<HeaderName> {
    let parsed = name.parse().ok();
    if parsed.is_none() {
        item.fail(format!("`{name}` is not a header name"));
    }
    parsed
}

fn rewrite(table: &Table<'_>, matches: Option<&[RouteMatch]>, params: &Params) -> Option<Rewrite> {
    let table = table.optional_table("rewrite")?;
    let strip = table.get("strip_prefix", prefix);
    let replace = table.get("replace_prefix", prefix);
    let path = table.get("path", |item| template(&item, params));
    match (table.has("strip_prefix"), table.has("replace_prefix"), table.has("path")) {
        (false, false, true) => path.map(Rewrite::Path),
        (true, false, false) => strip.map(|from| Rewrite::Prefix { from: Some(from), to: "/".to_owned() }),
        (true, true, false) => strip.zip(replace).map(|(from, to)| Rewrite::Prefix { from: Some(from), to }),
        (false, true, false) => {
            if matches.is_some_and(|list| list.iter().any(|one| one.literal_prefix().is_none())) {
                table
                    .fail("`replace_prefix` needs `strip_prefix`, as not every match has a path of literals and `/**`");
            }
            replace.map(|to| Rewrite::Prefix { from: None, to })
        }
        (_, _, true) => {
            table.fail("`path` excludes `strip_prefix` and `replace_prefix`");
            None
        }
        (false, false, false) => {
            table.fail("needs `strip_prefix`, `replace_prefix` or `path`");
            None
        }
    }
}

/// Literal segments, without a slash at the end.
fn prefix(item: Item<'_>) -> Option<String> {
    item.parse("a path like \"/api\"", |text| {
        PathPattern::parse(text).ok()?;
        let literal = !text.contains(['*', '{']);
        (literal && (text == "/" || !text.ends_with('/'))).then(|| text.to_owned())
    })
}

fn template(item: &Item<'_>, params: &Params) -> Option<String> {
    let template = item.clone().check(Template::parse)?;
    let known = params.as_ref();
    for name in template.params().filter(|name| known.is_some_and(|known| !known.contains(&***name))) {
        item.fail(format!("the parameter `{name}` is not in the path of every match"));
    }
    item.clone().string()
}

fn host_policy(item: Item<'_>) -> Option<HostPolicy> {
    match item.as_str() {
        Some("keep") => Some(HostPolicy::Keep),
        Some("upstream") => Some(HostPolicy::Upstream),
        _ => item.parse(r#""keep", "upstream" or a host name"#, |text| {
            crate::http::target::parse_authority(text.as_bytes())
                .ok()
                .map(|authority| HostPolicy::Fixed(authority.as_str().to_owned()))
        }),
    }
}

fn pipeline(item: &Item<'_>, known: &Known<'_>) -> Option<Vec<Name>> {
    if item.as_str().is_none() {
        return item.clone().list(|item| item.reference("filter", known.filters));
    }
    let names = known.pipelines.keys().cloned().collect();
    let name = item.clone().reference("pipeline", &names)?;
    known.pipelines.get(name.as_str()).cloned()
}

fn timeouts(table: &Table<'_>) -> RouteTimeouts {
    RouteTimeouts {
        request: table.or("request", Some(defaults::REQUEST_TIMEOUT), Item::timeout),
        connect: table.or("connect", defaults::CONNECT_TIMEOUT, Item::duration),
        first_byte: table.or("first_byte", Some(defaults::FIRST_BYTE_TIMEOUT), Item::timeout),
        idle: table.or("idle", Some(defaults::BODY_IDLE_TIMEOUT), Item::timeout),
    }
}
