//! Endpoints of a service that Consul knows, by blocking queries: each is answered when something has changed, or after `wait`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::document::MAX_WEIGHT;
use super::listed::{Last, Pauses};
use super::statistics::{Fault, FaultKind};
use super::{Feed, Fetch, Fetched, Get};
use crate::config::{defaults, model};
use crate::upstream::spec::{EndpointSpec, Place};

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
/// The most bytes of an answer: a service of 10,000 instances has some 15 MB.
const MAX_ANSWER: usize = 32 << 20;
/// How long an answer may take beyond the time that was asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the begins of two queries: answers that follow each other at once must not take a processor.
const SHORTEST: Duration = Duration::from_millis(50);
/// The same where the answer was that of before, or had no index to wait for.
const SHORTEST_UNCHANGED: Duration = Duration::from_millis(500);

pub(super) async fn follow(consul: &model::Consul, feed: &Feed) {
    // The reader of the configuration has found that it can be parsed.
    let authorities = consul.ca.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes())).flatten();
    let fetch = feed.listed.sources().connect(authorities.collect());
    let mut pauses = Pauses::new(feed.listed.upstream());
    let (mut last, mut index) = (Last::none(), 0);
    loop {
        let begun = Instant::now();
        let pause = match ask(consul, index, &fetch).await {
            Ok((told, body)) => {
                let https = consul.https;
                let is_new = feed.read(&mut last, body, move |body| parse(body, https)).await;
                pauses.succeeded();
                // An index that goes back is that of another server, or of one that was restored: what it counts is not known.
                index = if told < index { 0 } else { told };
                if is_new && index > 0 { SHORTEST } else { pauses.jittered(SHORTEST_UNCHANGED) }
            }
            Err(fault) => {
                feed.listed.fault(&fault);
                // What has happened meanwhile is asked for without waiting.
                index = 0;
                pauses.failed()
            }
        };
        tokio::time::sleep_until(begun + pause).await;
    }
}

/// One query. Answers the index to wait for next, and the body.
async fn ask(consul: &model::Consul, index: u64, fetch: &Fetch) -> Result<(u64, Bytes), Fault> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(token) = &consul.token {
        let mut value = HeaderValue::from_str(token.expose())
            .map_err(|_| Fault::new(FaultKind::Invalid, "the token can't be sent in a header"))?;
        value.set_sensitive(true);
        headers.insert(TOKEN, value);
    }
    let limit = match index {
        0 => PATIENCE,
        // Consul adds up to a sixteenth, so that clients do not come back at the same time.
        _ => consul.wait + consul.wait / 16 + PATIENCE,
    };
    let get = Get { url: url(consul, index), headers, max_body: MAX_ANSWER };
    let answer = match tokio::time::timeout(limit, fetch(get)).await {
        Ok(answer) => answer.map_err(|reason| Fault::new(FaultKind::Unavailable, reason))?,
        Err(_) => return Err(Fault::new(FaultKind::Timeout, format!("no answer within {limit:?}"))),
    };
    let Fetched { status, headers, body } = answer;
    if status != StatusCode::OK {
        return Err(Fault::new(FaultKind::Status, format!("the answer is {status}{}", excerpt(&body))));
    }
    let told = headers.get(INDEX).and_then(|value| value.to_str().ok()?.parse().ok());
    Ok((told.unwrap_or(0), body))
}

/// The beginning of what Consul says with an error, which is a line of text.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() { String::new() } else { format!(": {}", line.escape_debug()) }
}

fn url(consul: &model::Consul, index: u64) -> Url {
    let mut url = consul.address.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.clear().extend(["v1", "health", "service", &consul.service]);
    }
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("passing", "1");
        for (name, value) in [("tag", &consul.tag), ("dc", &consul.dc), ("ns", &consul.namespace)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if index > 0 {
            query.append_pair("index", &index.to_string());
            query.append_pair("wait", &format!("{}ms", consul.wait.as_millis()));
        }
    }
    url
}

/// What is used of an instance of a service. `null` stands for what is absent.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    /// That of the node where it is empty.
    #[serde(default)]
    address: String,
    port: i64,
    weights: Option<Weights>,
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
}

/// The instances of an answer. One without a port is none that a gateway can reach; the others are used.
fn parse(body: &[u8], https: bool) -> Result<Vec<EndpointSpec>, Fault> {
    let invalid = |reason: String| Fault::new(FaultKind::Invalid, reason);
    let instances: Vec<Instance> = serde_json::from_slice(body)
        .map_err(|error| invalid(format!("the answer is no list of a service: {error}")))?;
    let some = !instances.is_empty();
    let endpoint = |Instance { node, service }: Instance| {
        let address = if service.address.is_empty() { node.address } else { service.address };
        let weight = service.weights.map_or(i64::from(defaults::ENDPOINT_WEIGHT), |weights| weights.passing);
        Some(EndpointSpec {
            https,
            place: Place::host(
                &address.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase(),
                u16::try_from(service.port).ok().filter(|port| *port > 0)?,
            ),
            weight: u32::try_from(weight.clamp(0, i64::from(MAX_WEIGHT))).unwrap_or(MAX_WEIGHT),
            labels: service.meta.unwrap_or_default().into_iter().collect(),
            priority: defaults::ENDPOINT_PRIORITY,
        })
    };
    let specs: Vec<_> = instances.into_iter().filter_map(endpoint).collect();
    if some && specs.is_empty() {
        return Err(invalid("no instance of the service has a port".to_owned()));
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consul() -> model::Consul {
        model::Consul {
            service: "orders".to_owned(),
            address: "http://127.0.0.1:8500".parse().unwrap(),
            tag: None,
            dc: None,
            namespace: None,
            token: None,
            wait: Duration::from_secs(60),
            ca: None,
            https: false,
        }
    }

    #[test]
    fn queries_name_the_service_and_what_to_wait_for() {
        assert_eq!(url(&consul(), 0).as_str(), "http://127.0.0.1:8500/v1/health/service/orders?passing=1");
        let all = model::Consul {
            service: "a/b c".to_owned(),
            tag: Some("v2&x".to_owned()),
            dc: Some("eu".to_owned()),
            namespace: Some("team".to_owned()),
            ..consul()
        };
        let expected =
            "http://127.0.0.1:8500/v1/health/service/a%2Fb%20c?passing=1&tag=v2%26x&dc=eu&ns=team&index=7&wait=60000ms";
        assert_eq!(url(&all, 7).as_str(), expected);
    }

    #[test]
    fn instances_have_address_port_weight_and_meta() {
        let shown = |json: serde_json::Value| match parse(json.to_string().as_bytes(), true) {
            Ok(specs) => {
                let one = |spec: &EndpointSpec| format!("{} {} {:?}", spec.url(), spec.weight, spec.labels);
                specs.iter().map(one).collect::<Vec<_>>().join("; ")
            }
            Err(fault) => format!("{}: {fault}", fault.kind.name()),
        };
        let node = serde_json::json!({ "Node": "n", "Address": "10.0.0.9", "Meta": null });
        let service =
            |service: serde_json::Value| serde_json::json!({ "Node": node, "Service": service, "Checks": [] });
        let full = service(serde_json::json!({
            "ID": "a", "Address": "10.0.0.1", "Port": 80, "Weights": { "Passing": 3, "Warning": 1 }, "Meta": { "version": "2" },
        }));
        let bare = service(serde_json::json!({ "Address": "", "Port": 81, "Weights": null, "Meta": null }));
        let without_port = service(serde_json::json!({ "Address": "10.0.0.2", "Port": 0 }));
        let all = serde_json::json!([full, bare, without_port]);
        assert_eq!(shown(all), r#"https://10.0.0.1:80 3 [("version", "2")]; https://10.0.0.9:81 1 []"#);
        assert_eq!(shown(serde_json::json!([without_port])), "invalid: no instance of the service has a port");
        assert_eq!(shown(serde_json::json!([])), "");
        assert!(shown(serde_json::json!({ "error": 1 })).starts_with("invalid: the answer is no list of a service"));
    }
}
