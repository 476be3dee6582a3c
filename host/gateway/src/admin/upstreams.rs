//! Upstreams in the API: how each is configured, and for one of them what is known of its addresses.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::api::Timestamp;
use super::problem::Problem;
use super::{Context, limits};
use crate::upstream::{self, DiscoveryState, EndpointState, TargetSpec};

/// Addresses of one upstream that are shown.
const MAX_ADDRESSES: usize = 4096;

#[derive(Serialize, JsonSchema)]
pub(super) struct Upstreams {
    upstreams: Vec<Upstream>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Upstream {
    name: String,
    /// `echo` or `status` where it is built into the gateway.
    builtin: Option<&'static str>,
    /// The folder that the gateway serves, where it is one of files.
    files: Option<String>,
    balance: Balance,
    protocol: Protocol,
    /// Where it has a circuit breaker as a whole.
    circuit: Option<limits::Circuit>,
    limits: Vec<limits::RequestLimit>,
    connection_limits: Vec<limits::ConnectionLimit>,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Balance {
    RoundRobin,
    LeastRequest,
    PeakEwma,
    Random,
    Maglev,
    RingHash,
}

#[derive(Serialize, JsonSchema)]
enum Protocol {
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "http/1.1")]
    Http1,
    #[serde(rename = "h2")]
    Http2,
    #[serde(rename = "h2c")]
    H2c,
}

#[derive(Serialize, JsonSchema)]
struct Endpoint {
    url: String,
    weight: u32,
    /// Those of higher numbers are for when those of lower ones are out.
    priority: u8,
    labels: BTreeMap<String, String>,
}

/// An upstream and what is known of its addresses.
#[derive(Serialize, JsonSchema)]
pub(super) struct UpstreamState {
    #[serde(flatten)]
    upstream: Upstream,
    /// The source of its endpoints; none where the configuration has them.
    discovery: Option<Discovery>,
    /// Those of all endpoints, as all workers know them; the first 4,096.
    addresses: Vec<Address>,
}

#[derive(Serialize, JsonSchema)]
struct Discovery {
    /// `consul`, `srv` or `file`.
    source: &'static str,
    /// Time since it has last told the endpoints, also if they were the same; none before the first time.
    age_seconds: Option<f64>,
    /// How often they have changed.
    updates: u64,
    /// Why the source has told nothing since then; none if the last answer was good.
    last_error: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Address {
    /// `host:port` of the endpoint, as written.
    endpoint: String,
    /// None while no address of the name is known.
    address: Option<String>,
    state: State,
    /// Since when the state is what it is.
    since: Timestamp,
    /// Why it is out.
    out: Vec<Out>,
    /// Requests under way.
    active: u32,
    /// Time to the response head, moving average; none before the first response.
    latency_ms: Option<f64>,
    /// Checks that have passed, and that have failed.
    checks: Checks,
    /// The last changes of its state, oldest first.
    changes: Vec<Change>,
}

/// Requests go to what is `healthy`; to what is `out` only to try it again, or where there is nothing else. An open circuit is tried again by
/// its probes, and is closed to all others.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    Healthy,
    Out,
}

#[derive(Serialize, JsonSchema)]
struct Out {
    /// `unreachable`, `check-failed`, `ejected` or `circuit-open`.
    reason: &'static str,
    since: Timestamp,
    /// What was seen.
    evidence: String,
}

#[derive(Serialize, JsonSchema)]
struct Checks {
    passed: u64,
    failed: u64,
}

#[derive(Serialize, JsonSchema)]
struct Change {
    at: Timestamp,
    /// `out` or `back`.
    change: Direction,
    reason: &'static str,
    evidence: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Direction {
    Out,
    Back,
}

pub(super) fn upstreams(context: &Context) -> Upstreams {
    let snapshot = context.control.snapshot();
    Upstreams { upstreams: snapshot.upstreams.iter().map(|(upstream, _)| Upstream::from(&**upstream)).collect() }
}

pub(super) fn upstream(context: &Context, name: &str) -> Result<UpstreamState, Problem> {
    let snapshot = context.control.snapshot();
    let found = snapshot.upstreams.iter().find(|(upstream, _)| **upstream.name() == *name);
    let (found, _) = found.ok_or_else(|| Problem::unknown("upstream", name))?;
    let addresses = found.endpoint_states(MAX_ADDRESSES).into_iter().map(Address::from).collect();
    let discovery = found.discovery_state().map(Discovery::from);
    Ok(UpstreamState { upstream: Upstream::from(&**found), discovery, addresses })
}

impl From<&upstream::Upstream> for Upstream {
    fn from(upstream: &upstream::Upstream) -> Self {
        let spec = upstream.spec();
        let builtin = match &spec.target {
            TargetSpec::Echo => Some("echo"),
            TargetSpec::Status => Some("status"),
            TargetSpec::Endpoints(_) | TargetSpec::Discovered(_) | TargetSpec::Files(_) => None,
        };
        let files = match &spec.target {
            TargetSpec::Files(files) => Some(files.root.display().to_string()),
            TargetSpec::Endpoints(_) | TargetSpec::Discovered(_) | TargetSpec::Echo | TargetSpec::Status => None,
        };
        Upstream {
            name: spec.name.to_string(),
            builtin,
            files,
            balance: match &spec.balancing.algorithm {
                upstream::Balance::RoundRobin => Balance::RoundRobin,
                upstream::Balance::LeastRequest => Balance::LeastRequest,
                upstream::Balance::PeakEwma => Balance::PeakEwma,
                upstream::Balance::Random => Balance::Random,
                upstream::Balance::Hash(hash) => match hash.algorithm {
                    upstream::HashAlgorithm::Maglev => Balance::Maglev,
                    upstream::HashAlgorithm::RingHash => Balance::RingHash,
                },
            },
            protocol: match spec.protocol {
                upstream::Protocol::Auto => Protocol::Auto,
                upstream::Protocol::Http1 => Protocol::Http1,
                upstream::Protocol::Http2 => Protocol::Http2,
                upstream::Protocol::H2c => Protocol::H2c,
            },
            circuit: limits::circuit(upstream),
            limits: limits::request_limits(upstream),
            connection_limits: limits::connection_limits(upstream),
            endpoints: upstream.endpoint_specs().iter().map(Endpoint::from).collect(),
        }
    }
}

impl From<&upstream::EndpointSpec> for Endpoint {
    fn from(endpoint: &upstream::EndpointSpec) -> Self {
        Endpoint {
            url: endpoint.url(),
            weight: endpoint.weight,
            priority: endpoint.priority,
            labels: endpoint.labels.iter().cloned().collect(),
        }
    }
}

impl From<DiscoveryState> for Discovery {
    fn from(state: DiscoveryState) -> Self {
        Discovery {
            source: state.source,
            age_seconds: state.age.map(|age| age.as_secs_f64()),
            updates: state.updates,
            last_error: state.last_error,
        }
    }
}

impl From<EndpointState> for Address {
    fn from(state: EndpointState) -> Self {
        let [passed, failed] = state.checks;
        Address {
            endpoint: state.endpoint.to_string(),
            address: state.address.map(|address| address.to_string()),
            state: if state.healthy { State::Healthy } else { State::Out },
            since: state.since.into(),
            out: (state.out.into_iter())
                .map(|out| Out { reason: out.reason.name(), since: out.at.into(), evidence: out.evidence })
                .collect(),
            active: state.active,
            latency_ms: state.latency.map(|latency: Duration| latency.as_secs_f64() * 1000.0),
            checks: Checks { passed, failed },
            changes: state.history.into_iter().map(Change::from).collect(),
        }
    }
}

impl From<upstream::StateChange> for Change {
    fn from(change: upstream::StateChange) -> Self {
        Change {
            at: change.at.into(),
            change: if change.is_out { Direction::Out } else { Direction::Back },
            reason: change.reason.name(),
            evidence: change.evidence,
        }
    }
}
