//! What selects a request, and what is done with it.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use ipnet::IpNet;

use super::{ByteSize, Name, Scheme};

/// What is done with the requests that match.
#[derive(Debug, Clone)]
pub struct Route {
    pub name: Name,
    /// At least one; the route is for requests that satisfy one of them.
    pub matches: Vec<RouteMatch>,
    pub action: Action,
    pub rewrite: Option<Rewrite>,
    pub host: HostPolicy,
    /// Names in `Config::filters`, resolved from a named pipeline, a list or the default pipeline.
    pub pipeline: Vec<Name>,
    /// Higher goes first, before all other rules of precedence.
    pub priority: i32,
    pub timeouts: RouteTimeouts,
    pub limits: RouteLimits,
    /// Whether a request may switch protocols (WebSocket).
    pub upgrade: bool,
}

/// All conditions that are given have to hold; an empty list is no condition.
#[derive(Debug, Clone, Default)]
pub struct RouteMatch {
    /// One of these.
    pub hosts: Vec<HostPattern>,
    pub path: PathMatch,
    /// One of these.
    pub methods: Vec<Method>,
    /// All of these. A header may be named only once.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// All of these.
    pub query: Vec<(String, ValueMatch)>,
    /// All of these.
    pub cookies: Vec<(String, ValueMatch)>,
    /// One of these.
    pub client_ip: Vec<IpNet>,
}

/// A host name without port, lower-case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com`, here without the `*.`: names with at least one more label.
    Subdomains(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PathMatch {
    #[default]
    Any,
    /// Segments that are literal, `{param}`, `*` (any one) or, at the end, `**` (any number, also none).
    Pattern(String),
    /// A regular expression that has to match the whole path.
    Regex(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    /// A regular expression that has to match the whole value.
    Regex(String),
    Present,
}

/// What answers.
#[derive(Debug, Clone)]
pub enum Action {
    /// Names in `Config::upstreams` with their weights, at least one, with a sum above 0.
    Forward(Vec<(Name, u32)>),
    Redirect(Redirect),
    Respond(DirectResponse),
}

/// Where to send the client; what is none stays as the request had it.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    pub scheme: Option<Scheme>,
    pub host: Option<String>,
    pub port: Option<u16>,
    /// With `{param}`s of the match.
    pub path: Option<String>,
}

/// An answer that the gateway gives by itself.
#[derive(Debug, Clone)]
pub struct DirectResponse {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: String,
}

/// A change of the path before it is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    /// Replaces the whole segments of `from` at the start by `to`; both start with `/`. A `from` of none is the literal part of
    /// the matched pattern before its `/**` (`RouteMatch::literal_prefix`), which all matches then have.
    Prefix { from: Option<String>, to: String },
    /// The whole path, with `{param}`s of the match.
    Path(String),
}

/// The `Host` that the upstream gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPolicy {
    /// What the client sent.
    Keep,
    /// The endpoint's host and port.
    Upstream,
    /// `host` or `host:port`.
    Fixed(String),
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
}

#[derive(Debug, Clone)]
pub struct RouteLimits {
    /// The request body; none is no limit.
    pub body: Option<ByteSize>,
}

impl RouteMatch {
    /// What stands before the `/**` at the end of the pattern (`/` if nothing does), if all of it is literal.
    pub fn literal_prefix(&self) -> Option<&str> {
        let PathMatch::Pattern(pattern) = &self.path else {
            return None;
        };
        let prefix = pattern.strip_suffix("/**")?;
        let literal = !prefix.split('/').any(|s| s == "*" || s.starts_with('{'));
        literal.then_some(if prefix.is_empty() { "/" } else { prefix })
    }
}
