//! What was seen of a step: one tree of values, with the places that expectations name.

use http::HeaderMap;
use serde_json::{Map, Value as Json, json};

use crate::exchange::{Exchange, ResponseHead, ResponseSource, Value};
use crate::services::{Exposition, FilterMetrics};
use crate::wasm::LogLine;

/// The request as the upstream gets it.
pub(super) fn upstream(exchange: &Exchange, body: &[u8]) -> Json {
    let request = &exchange.request;
    let body = match &exchange.request_body {
        Some(replaced) if exchange.request_body_replaced => replaced,
        _ => body,
    };
    let mut seen = json!({
        "method": request.method.as_str(),
        "path": request.target.path(),
        "headers": headers(&request.headers),
        "body": String::from_utf8_lossy(body),
    });
    if let (Some(query), Some(members)) = (request.target.query(), seen.as_object_mut()) {
        members.insert("query".into(), query.into());
    }
    seen
}

/// The response as the client gets it; `body` is the upstream's.
pub(super) fn response(response: &ResponseHead, is_replaced: bool, body: &[u8]) -> Json {
    let body = match &response.body {
        Some(replaced) if is_replaced => replaced,
        _ => body,
    };
    let origin = match response.origin {
        ResponseSource::Upstream => "upstream",
        ResponseSource::Filter => "filter",
        ResponseSource::Gateway => "gateway",
    };
    let mut seen = json!({
        "status": response.status.as_u16(),
        "origin": origin,
        "headers": headers(&response.headers),
        "body": String::from_utf8_lossy(body),
    });
    if let (Some(trailers), Some(members)) = (&response.trailers, seen.as_object_mut()) {
        members.insert("trailers".into(), headers(trailers));
    }
    seen
}

/// Fields by their names; the length of a body is the gateway's to say.
fn headers(map: &HeaderMap) -> Json {
    let names = map.keys().filter(|name| *name != http::header::CONTENT_LENGTH);
    let of = |name: &http::HeaderName| {
        let values: Vec<Json> =
            map.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into()).collect();
        match <[Json; 1]>::try_from(values) {
            Ok([value]) => value,
            Err(values) => values.into(),
        }
    };
    names.map(|name| (name.as_str().to_owned(), of(name))).collect::<Map<_, _>>().into()
}

/// The facts in the context.
pub(super) fn context(exchange: &Exchange) -> Json {
    let facts = exchange.context.entries().map(|entry| (entry.key.clone(), fact(&entry.value)));
    facts.collect::<Map<_, _>>().into()
}

fn fact(value: &Value) -> Json {
    match value {
        Value::Text(text) => text.as_str().into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Boolean(value) => (*value).into(),
        Value::Texts(texts) => texts.as_slice().into(),
        Value::Json(text) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
    }
}

/// What `select-upstream` has chosen.
pub(super) fn selection(exchange: &Exchange) -> Json {
    let chosen = &exchange.selection;
    let mut seen = Map::new();
    if let Some(upstream) = &chosen.upstream {
        seen.insert("upstream".into(), (**upstream).into());
    }
    if let Some(endpoints) = &chosen.endpoints {
        seen.insert("endpoints".into(), endpoints.as_slice().into());
    }
    if let Some(key) = &chosen.hash_key {
        seen.insert("hash_key".into(), key.as_str().into());
    }
    seen.into()
}

/// `warn: what is wrong`
pub(super) fn log(lines: &[LogLine]) -> Json {
    let line = |line: &LogLine| format!("{}: {}", line.level.as_str().to_ascii_lowercase(), line.text);
    lines.iter().map(line).collect()
}

/// The metrics of a filter by their names with their labels, without what the gateway adds to both.
pub(super) fn metrics(metrics: &FilterMetrics, filter: &str) -> Json {
    let mut exposition = Exposition::default();
    metrics.render(&mut exposition);
    let own = format!("filter=\"{filter}\"");
    let text = exposition.finish();
    let samples =
        text.lines().filter_map(|line| line.strip_prefix("sluice_")?.strip_prefix("filter_")?.rsplit_once(' '));
    let samples = samples.filter(|(name, _)| !name.starts_with("series_dropped_total"));
    let seen = samples.map(|(name, value)| {
        let name =
            name.replace(&format!("{own},"), "").replace(&format!(",{own}"), "").replace(&format!("{{{own}}}"), "");
        let number = value.parse::<i64>().map(Json::from).or_else(|_| value.parse::<f64>().map(Json::from));
        (name, number.unwrap_or_else(|_| value.into()))
    });
    seen.collect::<Map<_, _>>().into()
}
