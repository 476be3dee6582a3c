//! Cases: what a filter is to do with a request, as a file beside its plugin says it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::super::Location;
use super::Filter;
use crate::services::consumers::ConsumerSpec;

/// A file of cases.
#[derive(Debug)]
pub struct CaseFile {
    /// The component, where the file names it.
    pub component: Option<CaseComponent>,
    pub consumers: Vec<ConsumerSpec>,
    pub cases: Vec<Case>,
}

/// What a file of cases tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseComponent {
    File(PathBuf),
    Shipped(String),
}

/// A filter with its config in a world of its own, and the exchanges that pass it one after the other.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub at: Location,
    pub filter: Filter,
    /// A text of the message with which the filter is to refuse its config; there are no exchanges then.
    pub refused: Option<String>,
    /// Microseconds since 1970.
    pub clock: u64,
    pub seed: u64,
    /// Space, key and value.
    pub kv: Vec<(String, String, String)>,
    pub http: Vec<CaseAnswer>,
    /// Whether lines of `debug` and `trace` count.
    pub verbose: bool,
    /// Whether the case is written as one step, without a list of them.
    pub is_single: bool,
    pub steps: Vec<CaseStep>,
}

/// An exchange of a case, and what is expected of it.
#[derive(Debug)]
pub struct CaseStep {
    pub at: Location,
    /// By which the clock moves before it.
    pub advance: Duration,
    pub repeat: u32,
    pub request: CaseRequest,
    pub response: CaseResponse,
    /// Who calls, as a filter before this one has found out.
    pub caller: Option<String>,
    pub context: Vec<(String, Value)>,
    pub route: CaseRoute,
    pub expected: Vec<Expected>,
    pub budget: Vec<Budget>,
}

/// Names with their values.
pub type CaseHeaders = Vec<(String, Vec<String>)>;

#[derive(Debug)]
pub struct CaseRequest {
    pub method: http::Method,
    /// Absolute, or a path of `http://localhost`.
    pub url: String,
    pub http2: bool,
    pub headers: CaseHeaders,
    pub body: Option<String>,
    /// The parts in which the body comes.
    pub parts: Vec<String>,
    /// None: over a Unix socket.
    pub client: Option<IpAddr>,
    /// JSON text, as `request.client-certificate` answers it.
    pub certificate: Option<String>,
}

/// What the upstream answers.
#[derive(Debug)]
pub struct CaseResponse {
    pub status: http::StatusCode,
    pub headers: CaseHeaders,
    pub body: Option<String>,
    /// The parts in which the body comes.
    pub parts: Vec<String>,
    pub trailers: Option<CaseHeaders>,
}

/// The route, as far as a filter sees it.
#[derive(Debug)]
pub struct CaseRoute {
    pub name: String,
    pub upstreams: Vec<String>,
    pub params: Vec<(String, String)>,
    pub endpoints: Vec<CaseEndpoint>,
}

#[derive(Debug)]
pub struct CaseEndpoint {
    pub upstream: String,
    pub address: String,
    pub weight: u32,
    pub healthy: bool,
    pub labels: Vec<(String, String)>,
}

/// An answer to an outbound call, or to the fetch of a key set.
#[derive(Debug, Clone)]
pub struct CaseAnswer {
    pub method: String,
    pub url: String,
    pub result: Result<CaseReply, CaseFailure>,
}

#[derive(Debug, Clone)]
pub struct CaseReply {
    pub status: http::StatusCode,
    pub headers: CaseHeaders,
    pub body: String,
}

/// How an outbound call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseFailure {
    Timeout,
    Unavailable,
}

/// What is expected at one place of what is seen: its path, from the outside in, and its value; `false` where there is to be nothing.
#[derive(Debug, Clone)]
pub struct Expected {
    pub path: Vec<String>,
    pub value: Value,
    pub at: Location,
}

/// The most that a step may use.
#[derive(Debug, Clone)]
pub struct Budget {
    pub of: Resource,
    pub most: u64,
    pub at: Location,
}

/// What a budget bounds, over all hooks of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Microseconds.
    Time,
    Instructions,
    /// Bytes of linear memory.
    Memory,
    HostCalls,
}
