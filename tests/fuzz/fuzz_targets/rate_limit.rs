//! Keys, costs and plans of rate-limit: no failure whatever a request says, the same caller has the same counter, callers with different values
//! do not share one, and no cost gives anything back.
#![no_main]

#[path = "../../../plugins/rate-limit/src/lib.rs"]
mod plugin;

use std::time::Duration;

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sluice_filter::Verdict;
use sluice_filter::context;
use sluice_filter::testing::{Exchange, Harness, KnownConsumer, ResponseMessage};

type Filter = Harness<plugin::RateLimit>;

/// The parts of a key, and a key of all of them.
const PARTS: [&str; 4] = ["header:x-tenant", "cookie:s", "param:tenant", "claim:org.id"];
/// Past all windows.
const NEXT: Duration = Duration::from_secs(120);

thread_local! {
    static EACH: [Filter; 4] = PARTS.map(|key| filter(json!({ "limits": [limit(json!(key))] })));
    static ALL: Filter = filter(json!({ "limits": [limit(json!(PARTS))] }));
    static COSTS: Filter = filter(json!({
        "limits": [{ "amount": 10, "window": "1m", "algorithm": "fixed-window", "plans": { "gold": 1000, "staff": "unlimited" } }],
        "cost": "header:x-cost",
        "response_cost": "header:x-cost",
    }));
}

fn limit(key: Value) -> Value {
    json!({ "key": key, "amount": 1, "window": "1m", "algorithm": "fixed-window" })
}

fn filter(config: Value) -> Filter {
    Harness::new(config).expect("a config")
}

/// What a request has of each part.
#[derive(Default)]
struct Caller {
    header: Option<Vec<u8>>,
    cookie: Option<Vec<u8>>,
    param: Option<String>,
    claim: Option<Value>,
}

impl Caller {
    fn read<'d>(mut line: impl FnMut() -> &'d [u8]) -> Self {
        // What is valid in a field, as a parser of HTTP hands it on.
        let mut field = || HeaderValue::from_bytes(line()).ok().map(|value| value.as_bytes().trim_ascii().to_vec());
        let (header, cookie) = (field(), field());
        // With more than 16 values, a request is refused.
        let cookie = cookie.filter(|cookie| cookie.iter().filter(|byte| **byte == b';').count() < 16);
        let param = String::from_utf8(line().to_vec()).ok();
        let claim = serde_json::from_slice::<Value>(line()).ok();
        // The gateway takes no JSON into the context that is nested deeper than this.
        let claim = claim.filter(|claim| !claim.is_null() && serde_json::from_str::<Value>(&claims(claim)).is_ok());
        Self { header, cookie, param, claim }
    }

    fn request(&self) -> Exchange {
        let mut exchange = Exchange::get("/");
        if let Some(value) = &self.header {
            exchange.request.headers.append("x-tenant", value);
        }
        if let Some(value) = &self.cookie {
            exchange.request.headers.append("cookie", [b"a=1; s=", &value[..]].concat());
        }
        exchange.route.params.extend(self.param.clone().map(|value| ("tenant".to_owned(), value)));
        if let Some(claim) = &self.claim {
            let value = context::Value::Json(claims(claim));
            exchange.context.insert("auth.claims".to_owned(), (value, "auth".to_owned()));
        }
        exchange
    }

    /// Whether this request and another one are of one caller, by each part: none where the request lacks it, or where both are known to have
    /// one text.
    fn is(&self, other: &Caller) -> [Option<Option<bool>>; 4] {
        [
            both(&self.header, &other.header).map(|(one, other)| is_one(one, other)),
            both(&self.cookie, &other.cookie).map(|(one, other)| share_one(&of_cookie(one), &of_cookie(other))),
            both(&self.param, &other.param).map(|(one, other)| Some(one == other)),
            both(&self.claim, &other.claim).map(|(one, other)| match one == other {
                true => Some(true),
                // A text is written as it is, so that it may read as a number or a list does, and some numbers are rounded.
                false if one.is_string() && other.is_string() || is_exact(one) && is_exact(other) => Some(false),
                false => None,
            }),
        ]
    }
}

fn claims(claim: &Value) -> String {
    json!({ "org": { "id": claim } }).to_string()
}

fn both<'t, T>(one: &'t Option<T>, other: &'t Option<T>) -> Option<(&'t T, &'t T)> {
    Some((one.as_ref()?, other.as_ref()?))
}

/// All values of the cookie `s` in what follows its name: each of them counts.
fn of_cookie(text: &[u8]) -> Vec<&[u8]> {
    let mut pairs = text.split(|byte| *byte == b';');
    let first = pairs.next().unwrap_or_default();
    let others = pairs.filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let is_graphic = |byte: &&u8| byte.is_ascii_graphic();
        let begin = pair[..at].iter().position(|byte| is_graphic(&byte))?;
        let end = pair[..at].iter().rposition(|byte| is_graphic(&byte))?;
        (pair[begin..=end] == *b"s").then_some(&pair[at + 1..])
    });
    std::iter::once(first).chain(others).map(<[u8]>::trim_ascii).collect()
}

/// Whether two callers have a value in common.
fn share_one(one: &[&[u8]], other: &[&[u8]]) -> Option<bool> {
    let pairs: Vec<_> = one.iter().flat_map(|one| other.iter().map(|other| is_one(one, other))).collect();
    if pairs.contains(&Some(true)) { Some(true) } else { (!pairs.contains(&None)).then_some(false) }
}

/// A value that is not UTF-8 is written with `%`, so that it may read as another one does.
fn is_one(one: &[u8], other: &[u8]) -> Option<bool> {
    let is_same_kind = std::str::from_utf8(one).is_ok() == std::str::from_utf8(other).is_ok();
    if one == other || is_same_kind { Some(one == other) } else { None }
}

fn is_exact(value: &Value) -> bool {
    match value {
        Value::String(_) => false,
        Value::Number(number) => !number.is_f64(),
        Value::Array(_) | Value::Object(_) => !has_float(value),
        Value::Null | Value::Bool(_) => true,
    }
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(members) => members.values().any(has_float),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

fn allows(filter: &Filter, mut exchange: Exchange) -> bool {
    let verdict = filter.on_request(&mut exchange).expect("whatever is sent is no failure");
    assert!(verdict == Verdict::Continue || exchange.response.status == 429);
    verdict == Verdict::Continue
}

/// The first caller has one request, its second one is over the limit, and so is one of the other caller only where both are the same.
/// `is_same`: as [`Caller::is`] has it.
fn check_key(filter: &Filter, one: &Caller, has_key: bool, other: &Caller, is_same: Option<Option<bool>>) {
    filter.advance(NEXT);
    assert!(allows(filter, one.request()));
    assert_eq!(allows(filter, one.request()), !has_key, "the same caller has the same counter");
    let is_allowed = allows(filter, other.request());
    match is_same {
        // One of them lacks the key, and is not counted.
        None => assert!(is_allowed),
        Some(Some(is_same)) => assert_eq!(is_allowed, !is_same),
        Some(None) => {}
    }
}

// Lines: header, cookie, parameter and claim of a caller, and of another one; then the costs of a request and of its response, and a plan.
fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (one, other) = (Caller::read(&mut line), Caller::read(&mut line));
    let has = [one.header.is_some(), one.cookie.is_some(), one.param.is_some(), one.claim.is_some()];
    let is = one.is(&other);
    EACH.with(|filters| {
        for ((filter, has), is) in filters.iter().zip(has).zip(is) {
            check_key(filter, &one, has, &other, is);
        }
    });
    let is_same = is.into_iter().collect::<Option<Vec<_>>>().map(|parts| match parts.contains(&Some(false)) {
        true => Some(false),
        false => (!parts.contains(&None)).then_some(true),
    });
    ALL.with(|filter| check_key(filter, &one, has == [true; 4], &other, is_same));
    COSTS.with(|filter| check_costs(filter, line(), line(), line()));
});

fn check_costs(filter: &Filter, cost: &[u8], of_response: &[u8], plan: &[u8]) {
    filter.advance(NEXT);
    let field = |value: &[u8]| HeaderValue::from_bytes(value).ok().map(|value| value.as_bytes().trim_ascii().to_vec());
    let plan = String::from_utf8_lossy(plan).into_owned();
    let amount: u64 = if plan == "gold" { 1000 } else { 10 };
    let is_limited = plan != "staff";
    let mut exchange = Exchange::get("/");
    exchange.consumer = Some("c".to_owned());
    exchange.known_consumer = Some(KnownConsumer { plan: Some(plan), ..KnownConsumer::default() });
    field(cost).into_iter().for_each(|value| exchange.request.headers.append("x-cost", value));
    let left = |exchange: &Exchange| {
        let text = exchange.response.headers.get("x-ratelimit-remaining")?;
        Some(text.parse::<u64>().expect("a number"))
    };
    let mut response = ResponseMessage::new(200);
    field(of_response).into_iter().for_each(|value| response.headers.append("x-cost", value));
    if filter.on_request(&mut exchange).expect("no failure") == Verdict::Respond {
        assert!(is_limited && exchange.response.status == 429 && left(&exchange) == Some(0));
        return;
    }
    exchange.respond(response);
    filter.on_response(&mut exchange).expect("no failure");
    // Both count one at least.
    let left = left(&exchange);
    assert!(if is_limited { left.is_some_and(|left| left <= amount - 2) } else { left.is_none() }, "{left:?}");
    let mut next = Exchange::get("/");
    next.consumer = exchange.consumer.clone();
    next.known_consumer = exchange.known_consumer.clone();
    let is_allowed = allows(filter, next);
    assert!(left.is_none_or(|left| is_allowed == (left > 0)));
}
