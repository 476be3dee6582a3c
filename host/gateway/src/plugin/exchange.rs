//! The exchange of a step, as the gateway would have it when its route is known, and the bodies of its messages.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, Version};
use serde_json::Value as Json;

use super::foreseen::header_map;
use crate::config::model::cases::{CaseEndpoint, CaseHeaders, CaseRequest, CaseResponse, CaseStep};
use crate::exchange::{
    Caller, Candidate, Candidates, Exchange, KnownConsumer, RequestHead, ResponseHead, ResponseSource, RetryState,
    RouteFacts, Value,
};
use crate::filter::{BodySource, BodySourceError};
use crate::http::forwarded::ClientAddress;
use crate::services::Consumers;

/// Every exchange of a case has this id.
const ID: &str = "00000000000000000000000000000001";
/// Whose URL is a path.
const BASE: &str = "http://localhost";
/// Who has left the facts that a case begins with.
const BEFORE: &str = "case";

/// The exchange of a step; `Err` says what of it can't be.
pub(super) fn exchange(step: &CaseStep, consumers: &Consumers) -> Result<Box<Exchange>, String> {
    let request = request(&step.request)?;
    let route = &step.route;
    let upstreams = route.upstreams.iter().map(|name| name.as_str().into()).collect();
    let facts = Arc::new(RouteFacts { name: route.name.as_str().into(), upstreams, snapshot: 1 });
    let client = step.request.client.map_or(ClientAddress::Unix, ClientAddress::Ip);
    let mut exchange = Exchange::new(HeaderValue::from_static(ID), client, request, facts);
    exchange.client_certificate = step.request.certificate.as_deref().map(Into::into);
    exchange.params = route.params.iter().map(|(name, value)| (name.as_str().into(), value.clone())).collect();
    for (key, value) in &step.context {
        let value = fact(value);
        exchange.context.set(key, value, BEFORE.into()).map_err(|error| format!("context.{key}: {error}"))?;
    }
    let caller = step.caller.as_ref().map(|name| {
        let consumer = consumers.current().named(name).cloned();
        let known = consumer.map(|consumer| KnownConsumer { consumer, method: BEFORE.into() });
        Caller { name: name.as_str().into(), known }
    });
    exchange.context.set_caller(caller);
    Ok(exchange)
}

fn request(request: &CaseRequest) -> Result<RequestHead, String> {
    let url = match request.url.starts_with('/') {
        true => format!("{BASE}{}", request.url),
        false => request.url.clone(),
    };
    let uri: Uri = url.parse().map_err(|error| format!("request.url: `{url}`: {error}"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err(format!("request.url: `{url}` is neither a path nor an absolute URL"));
    };
    if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
        return Err(format!("request.url: the scheme of `{url}` is neither http nor https"));
    }
    Ok(RequestHead {
        method: request.method.clone(),
        scheme: scheme.clone(),
        authority: authority.as_str().to_ascii_lowercase().parse().map_err(|error| format!("request.url: {error}"))?,
        target: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        version: if request.http2 { Version::HTTP_2 } else { Version::HTTP_11 },
        headers: fields(&request.headers, request.body.as_ref()),
    })
}

/// The fields of a message, with the length of its body.
fn fields(headers: &CaseHeaders, body: Option<&String>) -> HeaderMap {
    let mut map = header_map(headers);
    if let Some(body) = body {
        map.entry(CONTENT_LENGTH).or_insert(body.len().into());
    }
    map
}

/// The upstream's response.
pub(super) fn response(response: &CaseResponse) -> Box<ResponseHead> {
    let mut head = ResponseHead::new(ResponseSource::Upstream, response.status);
    head.headers = fields(&response.headers, response.body.as_ref());
    head.trailers = response.trailers.as_ref().map(header_map);
    Box::new(head)
}

/// What `select-upstream` can choose from: at least one endpoint of each upstream.
pub(super) fn candidates(step: &CaseStep) -> (Candidates, RetryState) {
    let route = &step.route;
    let said = route.endpoints.iter().map(candidate);
    let missing = route.upstreams.iter().filter(|name| !route.endpoints.iter().any(|other| other.upstream == **name));
    let made = missing.map(|name| {
        candidate(&CaseEndpoint {
            upstream: name.clone(),
            address: "127.0.0.1:80".to_owned(),
            weight: 1,
            healthy: true,
            labels: Vec::new(),
        })
    });
    (Candidates::fixed(said.chain(made).collect()), RetryState { attempt: 1, left: 0, budget: None })
}

fn candidate(endpoint: &CaseEndpoint) -> Candidate {
    Candidate {
        upstream: endpoint.upstream.as_str().into(),
        address: endpoint.address.as_str().into(),
        weight: endpoint.weight,
        healthy: endpoint.healthy,
        active: 0,
        latency_us: 0,
        labels: Arc::new(endpoint.labels.clone()),
        out: if endpoint.healthy { Vec::new() } else { vec!["unhealthy"] },
        ewma_us: 0,
    }
}

/// A fact as JSON says it.
fn fact(value: &Json) -> Value {
    match value {
        Json::String(text) => Value::Text(text.clone()),
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Integer(number),
            (None, Some(number)) => Value::Float(number),
            (None, None) => Value::Json(number.to_string()),
        },
        Json::Array(items) if items.iter().all(Json::is_string) => {
            Value::Texts(items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect())
        }
        Json::Null | Json::Array(_) | Json::Object(_) => Value::Json(value.to_string()),
    }
}

/// The access log of the exchange, for `on-complete`: what of it a case decides.
pub(super) fn summary(exchange: &Exchange, status: StatusCode) -> String {
    let summary = serde_json::json!({
        "request_id": ID,
        "method": exchange.request.method.as_str(),
        "path": exchange.request.target.path(),
        "route": &*exchange.route.name,
        "consumer": exchange.context.consumer().map(|name| &**name),
        "status": status.as_u16(),
    });
    summary.to_string()
}

/// A body that is at hand.
pub(super) struct Held(pub(super) Bytes);

impl Held {
    pub(super) fn of(body: Option<&String>) -> Held {
        Held(body.map_or_else(Bytes::new, |body| Bytes::from(body.clone())))
    }
}

/// The parts of a body.
pub(super) fn parts(parts: &[String]) -> Vec<Bytes> {
    parts.iter().map(|part| Bytes::from(part.clone())).collect()
}

impl BodySource for Held {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    async fn buffer(&mut self, max_bytes: u64) -> Result<Bytes, BodySourceError> {
        if self.0.len() as u64 > max_bytes { Err(BodySourceError::TooLarge(max_bytes)) } else { Ok(self.0.clone()) }
    }
}
