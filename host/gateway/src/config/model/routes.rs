//! What selects a request, and what is done with it.

use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, StatusCode};

use super::{
    ByteSize, Compression, Criticality, DeadlinePolicy, Fault, Mirror, Name, RetryPolicy, RouteCache, Step, Sticky,
};
use crate::config::defaults;
use crate::route::{MatchSpec, PathRewrite, Redirect};

/// What is done with the requests that match.
#[derive(Debug, Clone)]
pub struct Route {
    pub name: Name,
    /// At least one; the route is for requests that satisfy one of them.
    pub matches: Vec<MatchSpec>,
    pub action: Action,
    pub rewrite: Option<PathRewrite>,
    pub host: HostPolicy,
    /// Of names in `Config::filters`, resolved from a named pipeline, a list or the default pipeline.
    pub pipeline: Vec<Step<Name>>,
    /// Higher goes first, before all other rules of precedence.
    pub priority: i64,
    pub timeouts: RouteTimeouts,
    pub limits: RouteLimits,
    /// Which requests are refused first when the gateway is overloaded.
    pub criticality: Criticality,
    /// None: a request is sent again only where no endpoint has processed it.
    pub retry: Option<RetryPolicy>,
    /// None: deadlines of clients are passed on as they are.
    pub deadline: Option<DeadlinePolicy>,
    /// Whether a request may switch protocols (WebSocket).
    pub upgrade: bool,
    /// None: nothing is stored. Only with an upstream.
    pub cache: Option<RouteCache>,
    /// None: responses go out as they are.
    pub compression: Option<Compression>,
    /// Whether upstreams get the bodies of requests without their content coding.
    pub decompress_requests: bool,
    pub subset: Option<Subset>,
    /// Only with several upstreams.
    pub sticky: Option<Sticky>,
    /// These two only with an upstream.
    pub mirror: Option<Mirror>,
    pub fault: Option<Fault>,
}

/// How filters call upstreams: as routes send requests by default.
#[derive(Debug, Clone)]
pub struct Calls {
    pub timeouts: RouteTimeouts,
    pub retry: Option<RetryPolicy>,
}

/// The endpoints that a route uses of its upstreams: those with all of these labels, which are sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset(pub Vec<(String, String)>);

/// What answers.
#[derive(Debug, Clone)]
pub enum Action {
    /// Names in `Config::upstreams` with their weights, at least one, with a sum above 0.
    Forward(Vec<(Name, u32)>),
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        to: Redirect,
    },
    /// The gateway itself.
    Respond { status: StatusCode, headers: HeaderMap, body: Bytes },
}

/// The `Host` that the upstream gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPolicy {
    /// What the client sent.
    Keep,
    /// The endpoint's host and port.
    Upstream,
    Fixed(Authority),
}

/// None is no deadline.
#[derive(Debug, Clone)]
pub struct RouteTimeouts {
    /// From the request head to the response head, retries and filters included.
    pub request: Option<Duration>,
    /// One attempt to connect to an endpoint, TLS included.
    pub connect: Duration,
    /// From the end of the request to the response head of one attempt.
    pub first_byte: Option<Duration>,
    /// Between two parts of a body, in either direction.
    pub idle: Option<Duration>,
    /// From the request head to the last byte of the response, or of a tunnel.
    pub max_stream_duration: Option<Duration>,
}

/// The defaults of `gateway.toml`.
impl Default for RouteTimeouts {
    fn default() -> Self {
        RouteTimeouts {
            request: Some(defaults::REQUEST_TIMEOUT),
            connect: defaults::CONNECT_TIMEOUT,
            first_byte: Some(defaults::FIRST_BYTE_TIMEOUT),
            idle: Some(defaults::BODY_IDLE_TIMEOUT),
            max_stream_duration: defaults::MAX_STREAM_DURATION,
        }
    }
}

impl RouteTimeouts {
    /// What there is for the response head.
    pub fn to_head(&self) -> Option<Duration> {
        match (self.request, self.max_stream_duration) {
            (Some(request), Some(whole)) => Some(request.min(whole)),
            (request, whole) => request.or(whole),
        }
    }
}

#[derive(Debug, Clone)]
pub struct RouteLimits {
    /// The request body; none is no limit.
    pub body: Option<ByteSize>,
    /// Requests under way; none is no limit.
    pub max_requests: Option<u32>,
    /// Requests that may wait.
    pub max_pending_requests: u32,
    pub queue_timeout: Duration,
}
