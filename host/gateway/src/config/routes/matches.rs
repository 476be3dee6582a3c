//! Reads `[routes.*.match]`.

use std::collections::BTreeSet;

use http::Method;
use http::header::HeaderName;

use super::Known;
use crate::config::gateway::{host_pattern, network};
use crate::config::item::Item;
use crate::config::read::Table;
use crate::route::{FieldSpec, MatchSpec, PathPattern, ValuePattern};

/// Reads one match of a route.
pub(super) fn read(table: &Table<'_>, known: &Known<'_>) -> Option<MatchSpec> {
    let listeners = table
        .key("listener", "The listener that the request came in at, or one of a list.", r#"["internal"]"#)
        .get("any listener", |item| {
            if item.is_empty_list() {
                item.fail("expected at least one");
            }
            let names = item.one_or_more().into_iter();
            Some(names.filter_map(|item| item.reference("listener", known.listeners)).map(Into::into).collect())
        });
    let scheme = table
        .key(
            "scheme",
            "How the client spoke: to this gateway, or to a trusted proxy before it that says so.",
            r#""http""#,
        )
        .get("any", Item::word);
    let sni = table
        .key(
            "sni",
            "The server name of the client's TLS handshake, or one of a list; `*.` at the start stands for one or more labels.",
            r#""*.example.com""#,
        )
        .get("any, or none", |item| {
            if item.is_empty_list() {
                item.fail("expected at least one");
            }
            Some(item.one_or_more().into_iter().filter_map(host_pattern).collect())
        });
    let hosts = table
        .key(
            "host",
            "The host, or one of a list; `*.` at the start stands for one or more labels.",
            r#""*.example.com""#,
        )
        .get("any host", |item| {
            if item.is_empty_list() {
                item.fail("expected at least one");
            }
            Some(item.one_or_more().into_iter().filter_map(host_pattern).collect())
        });
    let pattern = table
        .key(
            "path",
            "The path by segments: literal ones, `{name}` for one that gets a name, `*` for any one, and at the end `**` for all the rest, or `{name=**}` for the rest with a name.",
            r#""/users/{id}/**""#,
        )
        .get("any path", |item| item.check("a path pattern", PathPattern::parse));
    let regex = table
        .key(
            "path_regex",
            "In place of `path`: a regular expression for the whole path. Its named groups become parameters.",
            r#""/v[0-9]+/.*""#,
        )
        .get("any path", |item| item.check("a regular expression", PathPattern::regex));
    if table.has("path") && table.has("path_regex") {
        table.fail("has both `path` and `path_regex`");
    }
    let wrong = table.has("path") && pattern.is_none() || table.has("path_regex") && regex.is_none();
    let path = pattern.or(regex).unwrap_or_else(PathPattern::any);
    let methods = table
        .key("methods", "The method is one of these. `GET` stands for `HEAD`, too.", r#"["GET", "POST"]"#)
        .get("any", |item| item.filled(method));
    let text = |_: &Item<'_>, name: &str| Some(name.to_owned());
    let headers = fields(table, "headers", "A header has this value; of several lines one has to.", header_name);
    let query = fields(table, "query", "A parameter of the query has this value; of several the first counts.", text);
    let cookies = fields(table, "cookies", "A cookie has this value; of several the first counts.", text);
    let client_ip = table
        .key("client_ip", "The client's address is in one of these networks.", r#"["10.0.0.0/8"]"#)
        .get("any", |item| item.filled(network));
    let spec = MatchSpec {
        listeners: listeners.unwrap_or_default(),
        scheme,
        sni: sni.unwrap_or_default(),
        hosts: hosts.unwrap_or_default(),
        path,
        methods: methods.unwrap_or_default(),
        headers,
        query,
        cookies,
        client_ip: client_ip.unwrap_or_default(),
    };
    (!wrong).then_some(spec)
}

/// The parameters of a path.
pub(super) fn names(pattern: &PathPattern) -> BTreeSet<String> {
    pattern.params().into_iter().map(str::to_owned).collect()
}

pub(in crate::config) fn method(item: Item<'_>) -> Option<Method> {
    item.parse(r#"a method like "GET""#, |text| {
        // Methods have case (RFC 9110 §9.1): `get` would never match.
        let lower = text.bytes().any(|b| b.is_ascii_lowercase());
        Method::from_bytes(text.as_bytes()).ok().filter(|_| !lower)
    })
}

pub(super) fn fields<N: PartialEq>(
    table: &Table<'_>,
    key: &'static str,
    meaning: &'static str,
    name: impl Fn(&Item<'_>, &str) -> Option<N>,
) -> Vec<FieldSpec<N>> {
    let Some(table) = table.optional_table(key) else {
        return Vec::new();
    };
    let mut found: Vec<FieldSpec<N>> = Vec::new();
    for (key, item) in table.named(meaning, r#""1""#) {
        let name = name(&item, &key);
        // Header names have no case, keys do.
        if found.iter().any(|known| Some(&known.name) == name.as_ref()) {
            item.fail("is named twice");
        }
        found.extend(name.zip(value_pattern(item)).map(|(name, value)| FieldSpec { name, value }));
    }
    found
}

fn value_pattern(item: Item<'_>) -> Option<ValuePattern> {
    if let Some(text) = item.as_str() {
        return Some(ValuePattern::Exact(text.to_owned()));
    }
    let item = item.taking(VALUE);
    if !item.is_table() {
        item.expected(VALUE);
        return None;
    }
    let table = item.table()?;
    let regex = table
        .key("regex", "A regular expression for the whole value.", r#""[0-9]+""#)
        .get("-", |item| item.check("a regular expression", ValuePattern::regex));
    let present = table.key("present", "Whatever the value is, it is there.", "true").get("-", |item| {
        match item.clone().boolean()? {
            true => Some(ValuePattern::Present),
            false => {
                item.fail("can only be true");
                None
            }
        }
    });
    if table.has("regex") == table.has("present") {
        table.fail("needs either `regex` or `present`");
        return None;
    }
    regex.or(present)
}

/// What a value in a match can be.
const VALUE: &str = "a string, `{ regex = \"…\" }` or `{ present = true }`";

/// The header that is the key of a value.
pub(in crate::config) fn header_name(item: &Item<'_>, name: &str) -> Option<HeaderName> {
    let parsed = name.parse().ok();
    if parsed.is_none() {
        item.fail(format!("`{name}` is not a header name"));
    }
    parsed
}
