//! One check of one address, on a connection of its own: how a request would be served that finds no idle connection.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use tokio_rustls::TlsConnector;

use super::grpc;
use crate::config::model::{HealthCheck, HttpProbe, Probe};
use crate::http::body::{Body, BodyError};
use crate::http1::{self, Keeper, Reply, SendError};
use crate::proxy_protocol::Proxied;
use crate::upstream::address::Address;
use crate::upstream::connect::{self, ConnectError, Connection, Speak, Stream};
use crate::upstream::head;
use crate::upstream::http2;
use crate::upstream::spec::Endpoint;

/// How much of a body is searched.
const SEARCHED: usize = 64 << 10;
/// What a check says that it is, unless its headers say so.
const AGENT: HeaderValue = HeaderValue::from_static("sluice-health-check");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";

/// Why a check has failed, as the evidence says it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("no result after {0:?}")]
    Timeout(Duration),
    #[error("{}", crate::chain(.0))]
    Connect(ConnectError),
    #[error("{what}: {}", crate::chain(.error))]
    Http1 { what: String, error: SendError },
    #[error("{what}: {}", crate::chain(.error))]
    Http2 { what: String, error: hyper::Error },
    #[error("{what}: the response broke off: {}", crate::chain(.error))]
    Body { what: String, error: BodyError },
    #[error("{what} can't be a request of HTTP/2")]
    Request { what: String },
    #[error("{what} answered {status}")]
    Status { what: String, status: u16 },
    #[error("{what} answered without the expected text")]
    Text { what: String },
    #[error("{what} answered with the gRPC status {status}")]
    GrpcStatus { what: String, status: String },
    #[error("{what} did not answer with the gRPC health protocol")]
    NotGrpc { what: String },
    #[error("the service is {0}")]
    NotServing(&'static str),
}

/// Checks an address, for as long as a check may take.
pub(super) async fn probe(endpoint: &Endpoint, address: &Address, check: &HealthCheck) -> Result<(), ProbeError> {
    let address = address.at_port(check.port);
    let outcome = tokio::time::timeout(check.timeout, unbounded(endpoint, &address, &check.probe)).await;
    outcome.unwrap_or(Err(ProbeError::Timeout(check.timeout)))
}

async fn unbounded(endpoint: &Endpoint, address: &Address, probe: &Probe) -> Result<(), ProbeError> {
    match probe {
        Probe::Tcp => connect::open(address, &own(endpoint)).await.map(drop).map_err(ProbeError::Connect),
        Probe::Tls => {
            let opened = connect::open(address, &own(endpoint)).await.map_err(ProbeError::Connect)?;
            let Some(tls) = &endpoint.tls else { return Ok(()) };
            let connector = TlsConnector::from(tls.usual.config.clone());
            let name = tls.usual.server_name.clone();
            let handshake = match opened {
                Stream::Tcp(tcp) => connector.connect(name, tcp).await.map(drop),
                Stream::Unix(unix) => connector.connect(name, unix).await.map(drop),
            };
            handshake.map_err(|error| ProbeError::Connect(ConnectError::Tls(error)))
        }
        Probe::Http(probe) => http(endpoint, address, probe).await,
        Probe::Grpc { service_name, host } => grpc(endpoint, address, service_name, host.as_ref()).await,
    }
}

async fn http(endpoint: &Endpoint, address: &Address, probe: &HttpProbe) -> Result<(), ProbeError> {
    let what = || format!("{} {}", probe.method, probe.path);
    let mut request = Request::new(Body::Empty);
    *request.method_mut() = probe.method.clone();
    *request.uri_mut() = Uri::from(probe.path.clone());
    request.headers_mut().insert(USER_AGENT, AGENT);
    for (name, value) in &probe.headers {
        request.headers_mut().insert(name, value.clone());
    }
    name_host(&mut request, probe.host.as_ref());
    let (response, _open) = send(endpoint, address, endpoint.speak, request, what).await?;
    let status = response.status().as_u16();
    if !probe.expected_statuses.contains(status) {
        return Err(ProbeError::Status { what: what(), status });
    }
    let Some(text) = &probe.body_contains else { return Ok(()) };
    let (body, _) = read(response.into_body(), SEARCHED, what).await?;
    match body.windows(text.len().max(1)).any(|part| part == text.as_bytes()) || text.is_empty() {
        true => Ok(()),
        false => Err(ProbeError::Text { what: what() }),
    }
}

async fn grpc(
    endpoint: &Endpoint,
    address: &Address,
    service_name: &str,
    host: Option<&HeaderValue>,
) -> Result<(), ProbeError> {
    let what = || GRPC_PATH.to_owned();
    let mut request = Request::new(Body::full(grpc::request(service_name)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(GRPC_PATH);
    request.headers_mut().insert(USER_AGENT, AGENT);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    name_host(&mut request, host);
    let (response, _open) = send(endpoint, address, Speak::Http2, request, what).await?;
    let (head, body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(ProbeError::Status { what: what(), status: head.status.as_u16() });
    }
    let (body, trailers) = read(body, grpc::MAX_RESPONSE, what).await?;
    // A response without a message has its status in the head.
    let status = trailers.as_ref().and_then(|trailers| trailers.get(GRPC_STATUS)).or(head.headers.get(GRPC_STATUS));
    match status.map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(status) => {
            let status = String::from_utf8_lossy(&status[..status.len().min(8)]).into_owned();
            return Err(ProbeError::GrpcStatus { what: what(), status });
        }
        None => return Err(ProbeError::NotGrpc { what: what() }),
    }
    match grpc::status(&body) {
        Some(grpc::SERVING) => Ok(()),
        Some(2) => Err(ProbeError::NotServing("NOT_SERVING")),
        Some(3) => Err(ProbeError::NotServing("SERVICE_UNKNOWN")),
        Some(_) => Err(ProbeError::NotServing("UNKNOWN")),
        None => Err(ProbeError::NotGrpc { what: what() }),
    }
}

fn name_host(request: &mut Request<Body>, host: Option<&HeaderValue>) {
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host.clone());
    }
}

/// The PROXY header of a connection that has no client, for an endpoint that reads one.
fn own(endpoint: &Endpoint) -> Vec<u8> {
    endpoint.proxy_header(Proxied::Own)
}

/// Opens a connection, sends the request and waits for the head of the response. The body can be read as long as the second part is
/// kept.
async fn send(
    endpoint: &Endpoint,
    address: &Address,
    speak: Speak,
    mut request: Request<Body>,
    what: impl Fn() -> String,
) -> Result<(Response<Body>, Option<http2::Session>), ProbeError> {
    let tls = endpoint.tls.as_ref().map(|tls| &tls.usual);
    match connect::connect(address, &own(endpoint), tls, speak, None, None).await.map_err(ProbeError::Connect)? {
        Connection::Http1(connection) => {
            head::for_http1(&mut request, endpoint);
            match connection.send(&mut request, None, None, endpoint.tolerance, Closed).await {
                Ok(Reply::Response(response) | Reply::Upgraded(response, _)) => Ok((*response, None)),
                Err(unanswered) => Err(ProbeError::Http1 { what: what(), error: unanswered.error }),
            }
        }
        Connection::Http2(mut session) => {
            if !head::for_http2(&mut request, endpoint) {
                return Err(ProbeError::Request { what: what() });
            }
            match session.sender.send_request(request).await {
                Ok(response) => Ok((response.map(Body::from_upstream), Some(session))),
                Err(error) => Err(ProbeError::Http2 { what: what(), error }),
            }
        }
    }
}

/// The connection of a check is closed after it.
struct Closed;

impl Keeper for Closed {
    fn keep(self, _: http1::Connection) {}
}

/// The first `most` bytes of a body, and its trailers if it has no more.
async fn read(
    mut body: Body,
    most: usize,
    what: impl Fn() -> String,
) -> Result<(Vec<u8>, Option<HeaderMap>), ProbeError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ProbeError::Body { what: what(), error })?;
        match frame.into_data() {
            Ok(data) => {
                let room = most - bytes.len();
                bytes.extend_from_slice(&Bytes::slice(&data, ..data.len().min(room)));
                if data.len() >= room {
                    return Ok((bytes, None));
                }
            }
            Err(frame) => return Ok((bytes, frame.into_trailers().ok())),
        }
    }
    Ok((bytes, None))
}
