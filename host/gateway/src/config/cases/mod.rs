//! Reads files of cases, by which `sluice plugin test` tries a filter. What filters, consumers and grants are is read as in
//! `gateway.toml`.

mod expect;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use http::{Method, StatusCode};

use super::consumers::consumer;
use super::error::{ConfigErrors, Location};
use super::filters::{filter, json_of, json_value};
use super::item::Item;
use super::key::{KeyDoc, Words};
use super::model::ByteSize;
use super::model::cases::*;
use super::read::{Reader, Table};
use super::routes::method;
use super::tree::{Sources, Value};

/// Where the clock of a case stands: 2026-01-01T00:00:00Z.
const CLOCK_US: u64 = 1_767_225_600_000_000;
const SEED: u64 = 1;
/// A case is no load test.
const MOST_REPEATS: u32 = 100_000;
/// The name of the filter in its cases.
const FILTER: &str = "filter";

/// Reads a file of cases. Finds all errors at once.
pub fn load_cases(path: &Path) -> Result<CaseFile, ConfigErrors> {
    let (sources, root) = Sources::load(path);
    if sources.incomplete {
        return Err(ConfigErrors::new(sources.errors));
    }
    let reader = Reader::new(sources);
    let file = read(&reader.root(&root));
    let errors = std::mem::take(&mut reader.into_sources().errors);
    if errors.is_empty() { Ok(file) } else { Err(ConfigErrors::new(errors)) }
}

/// Every key of a file of cases.
pub fn case_keys() -> Vec<KeyDoc> {
    let reader = Reader::listing();
    read(&reader.root(&[]));
    reader.into_keys()
}

fn read(root: &Table<'_>) -> CaseFile {
    let component = root
        .key(
            "component",
            "What is tried: a file, by its path from here, or the name of a shipped plugin.",
            r#""../build/stamp.wasm""#,
        )
        .get("what `sluice plugin test` is given, or finds in the folder of the plugin", component);
    let upstreams: BTreeSet<String> = root
        .key("upstreams", "Names of upstreams, for grants.", r#"["users"]"#)
        .get("none", |item| item.list(Item::string))
        .unwrap_or_default()
        .into_iter()
        .collect();
    let consumers = root.section("consumers", |name, table| consumer(name, &table));
    // Once as it is written, for what is wrong with it. Each case reads it again.
    filter(FILTER, FILTER, &root.table("filter"), &mut Vec::new(), &upstreams);
    let shared = answers(root);
    let cases = root.key("case", "A case.", "[[case]]").get("none", |item| {
        item.taking("a list of tables").list(|item| {
            let at = located(&item);
            case(item.table()?, at, root, &upstreams, &shared)
        })
    });
    CaseFile { component, consumers, cases: cases.unwrap_or_default() }
}

fn component(item: Item<'_>) -> Option<CaseComponent> {
    let directory = item.directory();
    let text = item.taking("a path or a name").string()?;
    let is_name = !text.contains('/') && !text.ends_with(".wasm");
    Some(if is_name { CaseComponent::Shipped(text) } else { CaseComponent::File(directory.join(text)) })
}

fn case<'r>(
    mut table: Table<'r>,
    at: Location,
    root: &Table<'r>,
    upstreams: &BTreeSet<String>,
    shared: &[CaseAnswer],
) -> Option<Case> {
    table.inherit(root.level(&["filter"]));
    let name = table.key("name", "What it promises.", r#""a request without a key is refused""#).require(Item::string);
    let filter = filter(FILTER, FILTER, &table, &mut Vec::new(), upstreams);
    let refused = table
        .key("refused", "The filter refuses its config, with a message that has this text.", r#""places[0]""#)
        .get("it takes it", Item::string);
    let clock = table
        .key("clock", "Where the clock stands, as RFC 3339 has it.", r#""2026-11-21T08:00:00Z""#)
        .get("2026-01-01T00:00:00Z", instant);
    let seed = table
        .key("seed", "What random numbers follow from.", "7")
        .or(SEED, |item| item.integer(0..=u32::MAX).map(u64::from));
    let verbose =
        table.key("verbose", "Whether lines of the levels `debug` and `trace` count.", "true").or(false, Item::boolean);
    let mut http = answers(&table);
    http.extend_from_slice(shared);
    let kv = values(&table);
    let level = table.level(&[]);
    let steps = table
        .key("step", "Exchanges, one after the other, each with keys of the case for itself.", "[[case.step]]")
        .get("the case is one", |item| {
            item.taking("a list of tables").filled(|item| {
                let at = located(&item);
                let mut inner = item.table()?;
                inner.inherit(level.clone());
                Some(step(&inner, at))
            })
        });
    if steps.is_some() && table.has_own("expect") {
        table.fail("it has steps: each of them has its own `expect`");
    }
    let own = step(&table, at.clone());
    let is_single = steps.is_none();
    let steps = steps.unwrap_or_else(|| vec![own]);
    Some(Case {
        name: name?,
        at,
        filter,
        refused,
        clock: clock.unwrap_or(CLOCK_US),
        seed,
        kv,
        http,
        verbose,
        is_single,
        steps,
    })
}

/// An exchange, of the keys of a case or of one of its steps.
fn step(table: &Table<'_>, at: Location) -> CaseStep {
    let advance = table
        .key("advance", "By which the clock moves before it.", r#""10s""#)
        .get("it stands still", Item::duration)
        .unwrap_or_default();
    let repeat = table
        .key("repeat", "How often it takes place; what is expected holds for the last time.", "5")
        .or(1, |item| item.integer(1..=MOST_REPEATS));
    let caller = table
        .key(
            "consumer",
            "Who calls, as a filter before this one has found out: a name in `[consumers]`, or another one.",
            r#""acme""#,
        )
        .get("nobody knows", Item::string);
    let context = table.optional_table("context").map_or_else(Vec::new, |table| {
        let named = table.named("A fact in the context, as a filter before this one has left it.", r#""eu""#);
        named.into_iter().map(|(name, item)| (name, json_value(&item))).collect()
    });
    let request = request(&table.table("request"));
    let response = response(&table.table("response"));
    let route = route(&table.table("route"));
    let (expected, budget) = expect::read(&table.table("expect"));
    CaseStep { at, advance, repeat, request, response, caller, context, route, expected, budget }
}

fn request(table: &Table<'_>) -> CaseRequest {
    let method = table.key("method", "Its method.", r#""POST""#).or(Method::GET, method);
    let url = table
        .key("url", "Its URL, or the path with the query of one of `http://localhost`.", r#""/orders?page=2""#)
        .or("/".to_owned(), Item::string);
    let http2 = table.key("http2", "Whether it came over HTTP/2.", "true").or(false, Item::boolean);
    let client = table.key("client", "The address of the client, or `unix:`.", r#""203.0.113.7""#).or(
        "127.0.0.1".to_owned(),
        |item| {
            item.parse("an IP address or \"unix:\"", |text| {
                (text == "unix:" || text.parse::<std::net::IpAddr>().is_ok()).then(|| text.to_owned())
            })
        },
    );
    let certificate = table
        .key(
            "certificate",
            "The verified certificate of the client: a table as `request.client-certificate` answers it.",
            r#"{ subject = "CN=acme", sha256 = "…" }"#,
        )
        .get("none", |item| json_of(&item));
    let (headers, parts) = message(table);
    if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        table.fail("filters see no field `host`: the authority is that of the `url`, such as `http://acme.example/`");
    }
    let body = parts.as_ref().map(|parts| parts.concat());
    let parts = parts.unwrap_or_default();
    CaseRequest { method, url, http2, headers, body, parts, client: client.parse().ok(), certificate }
}

fn response(table: &Table<'_>) -> CaseResponse {
    let status = table.key("status", "The status that the upstream answers with.", "404").or(StatusCode::OK, status);
    let (headers, parts) = message(table);
    let body = parts.as_ref().map(|parts| parts.concat());
    let parts = parts.unwrap_or_default();
    let trailers = table.optional_table("trailers").map(|table| headers_of(&table));
    CaseResponse { status, headers, body, parts, trailers }
}

/// Headers of a message, and the parts in which its body comes.
fn message(table: &Table<'_>) -> (CaseHeaders, Option<Vec<String>>) {
    let mut headers = headers_of(&table.table("headers"));
    let text = table
        .key("body", "The body, as text, or the parts in which it comes to a hook for pieces.", r#"["a=1", "&b=2"]"#)
        .get("none", |item| Some(item.one_or_more().into_iter().filter_map(Item::string).collect::<Vec<_>>()));
    let json = table
        .key("json", "The body, as JSON: its content type is `application/json` if none is said.", r#"{ amount = 3 }"#)
        .get("none", |item| Some(json_value(&item)));
    if text.is_some() && json.is_some() {
        table.fail("it has both `body` and `json`");
    }
    if json.is_some() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        headers.push(("content-type".to_owned(), vec!["application/json".to_owned()]));
    }
    (headers, text.or_else(|| json.map(|json| vec![json.to_string()])))
}

fn headers_of(table: &Table<'_>) -> CaseHeaders {
    let named = table.named("A field, or a list of its values.", r#"["a", "b"]"#).into_iter();
    named
        .map(|(name, item)| {
            if name.parse::<http::HeaderName>().is_err() && name != "*" {
                item.fail(format!("`{name}` is not a header name"));
            }
            let value = |item: Item<'_>| {
                let is_value = |text: &str| http::HeaderValue::from_str(text).is_ok();
                item.parse("a value of a header field", |text| is_value(text).then(|| text.to_owned()))
            };
            let values = item.one_or_more().into_iter().filter_map(value).collect();
            (name, values)
        })
        .collect()
}

fn route(table: &Table<'_>) -> CaseRoute {
    let name = table.key("name", "Its name.", r#""orders""#).or("case".to_owned(), Item::string);
    let upstreams = table
        .key("upstreams", "The names of its upstreams.", r#"["orders", "orders-next"]"#)
        .get("`[\"upstream\"]`", |item| item.list(Item::string));
    let params = table.optional_table("params").map_or_else(Vec::new, |table| {
        let named = table.named("What a `{name}` of its path stands for.", r#""42""#).into_iter();
        named.filter_map(|(name, item)| Some((name, item.string()?))).collect()
    });
    let endpoints = table
        .key("endpoints", "Endpoints that `select-upstream` can choose from.", r#"[{ address = "10.0.0.1:80" }]"#)
        .get("one", |item| item.taking("a list of tables").list(|item| endpoint(&item.table()?)));
    let upstreams = upstreams.unwrap_or_else(|| vec!["upstream".to_owned()]);
    CaseRoute { name, upstreams, params, endpoints: endpoints.unwrap_or_default() }
}

fn endpoint(table: &Table<'_>) -> Option<CaseEndpoint> {
    let upstream =
        table.key("upstream", "The upstream that it is of.", r#""orders""#).or("upstream".to_owned(), Item::string);
    let address = table.key("address", "Its address.", r#""10.0.0.1:80""#).require(Item::string);
    let weight = table.key("weight", "Its weight.", "2").or(1, |item| item.integer(0..=1_000_000u32));
    let healthy = table.key("healthy", "Whether it is.", "false").or(true, Item::boolean);
    let labels = table.optional_table("labels").map_or_else(Vec::new, |table| {
        let named = table.named("A label.", r#""b""#).into_iter();
        named.filter_map(|(name, item)| Some((name, item.string()?))).collect()
    });
    Some(CaseEndpoint { upstream, address: address?, weight, healthy, labels })
}

/// The answers to outbound calls.
fn answers(table: &Table<'_>) -> Vec<CaseAnswer> {
    let found = table
        .key(
            "http",
            "Answers to outbound calls and to fetches of key sets: of those that fit, the first one that was not given yet, or the last one. A call without one fails the case.",
            "[[case.http]]",
        )
        .get("none", |item| item.taking("a list of tables").list(|item| answer(&item.table()?)));
    found.unwrap_or_default()
}

fn answer(table: &Table<'_>) -> Option<CaseAnswer> {
    let method = table.key("method", "The method of the call.", r#""POST""#).or(Method::GET, method);
    let url = table
        .key("url", "The URL of the call.", r#""https://auth.example/check""#)
        .require(|item| item.check("a URL", |text| url::Url::parse(text).map(|url| url.to_string())));
    let error = table.key("error", "The call fails.", r#""timeout""#).get("it is answered", Item::word::<CaseFailure>);
    let status = table.key("status", "The status of the answer.", "401").or(StatusCode::OK, status);
    let (headers, body) = message(table);
    let reply = CaseReply { status, headers, body: body.unwrap_or_default().concat() };
    Some(CaseAnswer { method: method.to_string(), url: url?, result: error.map_or(Ok(reply), Err) })
}

/// The values that are in `kv` before.
fn values(table: &Table<'_>) -> Vec<(String, String, String)> {
    let Some(spaces) = table.optional_table("kv") else { return Vec::new() };
    let mut found = Vec::new();
    for (space, item) in spaces.named("A space with the values that are in it before, by their keys.", r#"{ a = "1" }"#)
    {
        let Some(keys) = item.taking("a table").table() else { continue };
        for (key, item) in keys.named("A value that is there before.", r#""1""#) {
            found.extend(item.string().map(|value| (space.clone(), key, value)));
        }
    }
    found
}

/// Microseconds since 1970.
fn instant(item: Item<'_>) -> Option<u64> {
    let text = match item.node.map(|node| &node.value) {
        Some(Value::String(text) | Value::Datetime(text)) => text.as_str(),
        _ => "",
    };
    let micros = text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_microsecond()).ok());
    if micros.is_none() {
        item.expected(r#"a time like "2026-11-21T08:00:00Z""#);
    }
    micros
}

fn status(item: Item<'_>) -> Option<StatusCode> {
    item.integer(200..=599u16).and_then(|code| StatusCode::from_u16(code).ok())
}

fn located(item: &Item<'_>) -> Location {
    item.reader.sources.borrow().locate(item.place)
}

impl Words for CaseFailure {
    const WORDS: &'static [(&'static str, Self)] =
        &[("timeout", CaseFailure::Timeout), ("unavailable", CaseFailure::Unavailable)];
}

/// The limits of what can be said of sizes.
fn bytes(item: Item<'_>) -> Option<u64> {
    item.size_within(ByteSize(0)..=ByteSize(4 << 30)).map(|size| size.0)
}

/// How long a duration is in the unit of budgets.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
