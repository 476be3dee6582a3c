//! What an upstream is: its description, and the form that all workers share. What is known of its endpoints is in `endpoints`, what a
//! worker has of it in `local`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use super::address::Place;
use super::discover::{self, Discovery, DiscoveryState, Listed, Located, Sources};
pub(crate) use super::endpoint::{Endpoint, EndpointMaker, TlsConfigs};
use super::endpoints::{EndpointRegistry, EndpointSet, EndpointState, Record};
use super::files::{self, FilesError};
use super::health;
use super::health::outliers::OutlierDetector;
use super::limits::{
    BulkheadState, Busy, CircuitPass, CircuitState, ConnectionLimits, Permit, Unadmitted, UpstreamState,
    upstream_breaker,
};
use super::pool::Limits;
use super::resolver::{DnsPolicy, Resolver};
use super::retry::RetryLoad;
use super::tls::{TlsError, TlsSpec};
use crate::background::{Background, Task};
pub use crate::config::model::{Balance, Balancing, Protocol, Subset};
use crate::config::model::{
    CircuitBreaker, CircuitScope, Files, HTTPS_UNIX, HealthCheck, OutlierDetection, UNIX, UnixName, UpstreamLimits,
};
use crate::config::{defaults, model};
use crate::http1::Tolerance;
use crate::proxy_protocol;

/// An upstream as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSpec {
    pub name: Arc<str>,
    pub target: TargetSpec,
    pub balancing: Balancing,
    pub protocol: Protocol,
    pub tls: TlsSpec,
    /// Idle connections kept for each endpoint by each worker.
    pub max_idle: usize,
    /// How long an idle connection is kept. Less than what the servers allow avoids requests on dying connections.
    pub idle_timeout: Duration,
    /// How long a connection of HTTP/2 with open streams may be silent before it is pinged.
    pub ping_interval: Option<Duration>,
    /// How long a connection is given requests.
    pub max_connection_age: Option<Duration>,
    /// How many requests a connection is given.
    pub max_requests_per_connection: Option<u32>,
    pub dns: DnsPolicy,
    /// The header in front of each connection. A connection then belongs to one client: it serves one request and is not kept.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// What its servers may do that is refused otherwise.
    pub tolerance: Tolerance,
    pub circuit_breaker: Option<CircuitBreaker>,
    pub limits: UpstreamLimits,
    /// How many endpoints are tried for one request while connecting fails; 0 means all.
    pub max_tries: usize,
    /// The checks of its endpoints.
    pub health: Option<HealthCheck>,
    pub outlier_detection: Option<OutlierDetection>,
}

impl UpstreamSpec {
    /// An upstream with defaults for all but the name and the target.
    pub fn new(name: &str, target: TargetSpec) -> Self {
        UpstreamSpec {
            name: name.into(),
            target,
            balancing: Balancing::default(),
            protocol: defaults::PROTOCOL,
            tls: TlsSpec::default(),
            max_idle: defaults::MAX_IDLE as usize,
            idle_timeout: defaults::POOL_IDLE_TIMEOUT,
            ping_interval: defaults::PING_INTERVAL,
            max_connection_age: defaults::MAX_CONNECTION_AGE,
            max_requests_per_connection: None,
            dns: DnsPolicy::default(),
            proxy_protocol: None,
            tolerance: Tolerance::default(),
            circuit_breaker: None,
            limits: UpstreamLimits::default(),
            max_tries: 0,
            health: None,
            outlier_detection: None,
        }
    }
}

impl UpstreamSpec {
    /// Whether anything has to be known of it as a whole.
    fn has_state(&self) -> bool {
        let UpstreamLimits { max_requests, max_connections, per_endpoint, .. } = &self.limits;
        let limits_connections = max_connections.or(per_endpoint.max_connections).is_some();
        self.circuit_breaker.is_some() || max_requests.is_some() || limits_connections || self.admits_endpoints()
    }

    /// Whether its endpoints have limits or circuits. A built-in upstream has no endpoints.
    pub(super) fn admits_endpoints(&self) -> bool {
        !self.target.is_builtin()
            && (self.limits.per_endpoint.max_requests.is_some() || self.endpoint_breaker().is_some())
    }

    /// The settings of the circuits of its endpoints, where they have some.
    pub(super) fn endpoint_breaker(&self) -> Option<&CircuitBreaker> {
        self.circuit_breaker.as_ref().filter(|breaker| breaker.per == CircuitScope::Endpoint)
    }
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetSpec {
    Endpoints(Vec<EndpointSpec>),
    /// Endpoints that a source lists.
    Discovered(model::Discovery),
    /// Built in: answers with what it received, as JSON.
    Echo,
    /// Built in: `/…/503` answers with that status.
    Status,
    /// The gateway serves a folder.
    Files(Arc<Files>),
}

/// One endpoint of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    pub https: bool,
    pub place: Place,
    /// Share of the traffic; 0 only when chosen by address, or when no other is left.
    pub weight: u32,
    pub labels: Vec<(String, String)>,
    /// Those of higher numbers are for when those of lower ones are out.
    pub priority: u8,
}

/// Why an upstream can't be.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("`{0}` is not a URL of the form `http://host:port` or `https://host:port`")]
    Url(String),
    #[error("`{0}`: {1}")]
    Unix(String, &'static str),
    #[error("upstream `{0}` has no endpoint")]
    NoEndpoint(Arc<str>),
    #[error("upstream `{0}` lists endpoint `{1}` twice")]
    Twice(Arc<str>, String),
    #[error("`{0}` is not a host name or address")]
    Host(String),
    #[error("protocol `h2c` is for cleartext, and endpoint `{0}` is `https`")]
    H2cOverTls(Arc<str>),
    #[error("protocol `h2` is for TLS, and endpoint `{0}` has none")]
    H2OverCleartext(Arc<str>),
    #[error(transparent)]
    Files(FilesError),
    #[error("TLS of upstream `{name}`: {source}")]
    Tls { name: Arc<str>, source: TlsError },
}

impl EndpointSpec {
    /// Reads `http://host[:port]` or `https://host[:port]`, without path, `unix:/path` or `https://unix:/path`. Weight 1, no labels.
    pub fn from_url(url: &str) -> Result<Self, SpecError> {
        let at = |https, place| EndpointSpec { https, place, weight: 1, labels: Vec::new(), priority: 0 };
        let unix = url.strip_prefix(UNIX).map(|name| (false, name));
        if let Some((https, name)) = unix.or_else(|| url.strip_prefix(HTTPS_UNIX).map(|name| (true, name))) {
            let name = UnixName::to_connect(name).map_err(|why| SpecError::Unix(url.to_owned(), why))?;
            return Ok(at(https, Place::Unix(Arc::new(name))));
        }
        let bad = || SpecError::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(bad());
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str().ends_with(authority.host()) => {
                if https {
                    443
                } else {
                    80
                }
            }
            None => return Err(bad()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || port == 0 {
            return Err(bad());
        }
        Ok(at(https, Place::host(&host, port)))
    }

    /// Its origin, with the port in any case, or `unix:/path`.
    pub fn url(&self) -> String {
        match (&self.place, self.https) {
            (_, true) => format!("https://{}", self.place),
            (Place::Host { .. }, false) => format!("http://{}", self.place),
            (Place::Unix(name), false) => name.to_string(),
        }
    }
}

impl TargetSpec {
    /// Whether the gateway itself answers.
    pub(super) fn is_builtin(&self) -> bool {
        match self {
            TargetSpec::Echo | TargetSpec::Status | TargetSpec::Files(_) => true,
            TargetSpec::Endpoints(_) | TargetSpec::Discovered(_) => false,
        }
    }

    /// Whether there are endpoints of `https`, or may be.
    fn needs_tls(&self) -> bool {
        match self {
            TargetSpec::Endpoints(list) => list.iter().any(|endpoint| endpoint.https),
            TargetSpec::Discovered(source) => source.may_be_https(),
            TargetSpec::Echo | TargetSpec::Status | TargetSpec::Files(_) => false,
        }
    }
}

/// An upstream, checked and ready; part of a snapshot.
pub struct Upstream {
    spec: UpstreamSpec,
    /// Shared by all endpoints of `https`; `None` where there is none.
    tls: Option<TlsConfigs>,
    resolver: Arc<Resolver>,
    set: Arc<EndpointSet>,
    /// Where it has limits or a circuit breaker.
    state: Option<Arc<UpstreamState>>,
    /// Of all that have had this name.
    retries: Arc<RetryLoad>,
    outliers: Option<OutlierDetector>,
}

impl Upstream {
    /// Checks a description and reads its keys and certificates. `before` is the upstream of this name that is running: what has not
    /// changed is shared with it. The records of endpoints that stay are found in the registry.
    pub fn new(
        spec: UpstreamSpec,
        registry: &Arc<EndpointRegistry>,
        resolver: &Arc<Resolver>,
        before: Option<&Upstream>,
    ) -> Result<Self, SpecError> {
        Self::with_sources(spec, registry, resolver, &Sources::none(), before)
    }

    /// The same for one whose endpoints may come from a source.
    pub fn with_sources(
        spec: UpstreamSpec,
        registry: &Arc<EndpointRegistry>,
        resolver: &Arc<Resolver>,
        sources: &Arc<Sources>,
        before: Option<&Upstream>,
    ) -> Result<Self, SpecError> {
        let tls = match before.filter(|before| before.spec.tls == spec.tls && before.spec.protocol == spec.protocol) {
            _ if !spec.target.needs_tls() => None,
            Some(Upstream { tls: Some(configs), .. }) => Some(configs.clone()),
            _ => Some(TlsConfigs::new(&spec)?),
        };
        let maker = EndpointMaker::new(&spec, tls.clone());
        let discovery = match &spec.target {
            TargetSpec::Discovered(source) => {
                let names = (resolver, spec.dns);
                Discovery::Listed(Listed::new(&spec.name, source, maker, names, sources, before))
            }
            TargetSpec::Endpoints(list) if list.is_empty() => return Err(SpecError::NoEndpoint(spec.name)),
            TargetSpec::Endpoints(list) => {
                Discovery::Configured(Located::of(maker.all(&spec.name, list)?, resolver, spec.dns), resolver.clone())
            }
            TargetSpec::Files(folder) => {
                files::check(folder).map_err(SpecError::Files)?;
                Discovery::Configured(Located::of(Vec::new(), resolver, spec.dns), resolver.clone())
            }
            TargetSpec::Echo | TargetSpec::Status => {
                Discovery::Configured(Located::of(Vec::new(), resolver, spec.dns), resolver.clone())
            }
        };
        let set = EndpointSet::new(spec.name.clone(), &spec.balancing, discovery, registry.clone());
        let state = spec.has_state().then(|| registry.upstream(&spec));
        let retries = before.map(|before| before.retries.clone()).unwrap_or_default();
        let watched = before.and_then(|before| before.outliers.as_ref());
        let outliers = spec.outlier_detection.clone().map(|policy| OutlierDetector::new(policy, watched));
        Ok(Upstream { spec, tls, resolver: resolver.clone(), set, state, retries, outliers })
    }

    /// Whether it is what these would make.
    pub fn is_of(&self, spec: &UpstreamSpec, resolver: &Arc<Resolver>) -> bool {
        self.spec == *spec && Arc::ptr_eq(&self.resolver, resolver)
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    /// What it was made from.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.spec
    }

    /// Its requests and retries of late, for the budget of the latter.
    pub fn retries(&self) -> &RetryLoad {
        &self.retries
    }

    pub(super) fn set(&self) -> &Arc<EndpointSet> {
        &self.set
    }

    /// What is known of it as a whole, where it has limits or a circuit breaker.
    pub fn state(&self) -> Option<&Arc<UpstreamState>> {
        self.state.as_ref()
    }

    /// Whether its circuit lets a request pass; if not, for how long. `None`: it has none.
    pub fn pass_circuit(&self) -> Option<Result<CircuitPass, Duration>> {
        let (state, breaker) = self.state.as_ref().zip(upstream_breaker(&self.spec))?;
        Some(state.pass(breaker))
    }

    /// Whether it takes a copy of a request: its circuit is closed, and it has room. The permit is none where it has no limit.
    pub fn admit_copy(&self) -> Result<Option<Permit>, Unadmitted> {
        let Some(state) = &self.state else { return Ok(None) };
        if upstream_breaker(&self.spec).is_some() && state.circuit().state != "closed" {
            return Err(Unadmitted::CircuitOpen(Duration::ZERO));
        }
        let Some(limit) = self.spec.limits.max_requests else { return Ok(None) };
        state.requests().try_enter().map(Some).ok_or(Unadmitted::Busy(Busy::Full { limit, pending: 0 }))
    }

    /// The circuit of the upstream as a whole; `None`: it has none.
    pub fn circuit(&self) -> Option<CircuitState> {
        self.state.as_ref().zip(upstream_breaker(&self.spec)).map(|(state, _)| state.circuit())
    }

    /// Its limits and circuit breaker hold from now on: it is about to be served.
    pub fn apply_limits(&self) {
        if let Some(state) = &self.state {
            state.set(&self.spec);
        }
        for host in &self.set.members().hosts {
            host.record.set_circuit(self.spec.endpoint_breaker().map(|breaker| breaker.window));
            if let Some(connections) = host.record.connections() {
                let limits = &self.spec.limits;
                connections.set(limits.per_endpoint.max_connections, limits.endpoint_queue().max_pending);
            }
            // The limit may have been raised.
            if let Some(state) = &self.state {
                state.offer(&host.record);
            }
        }
    }

    /// The open connections where they are limited: of all endpoints together, and of each, added up.
    pub fn connections(&self) -> Vec<(&'static str, BulkheadState)> {
        let Some(state) = &self.state else { return Vec::new() };
        let of_all = self.spec.limits.max_connections.map(|_| ("upstream", state.connections().state()));
        let of_each = self.spec.limits.per_endpoint.max_connections.map(|limit| {
            let none = BulkheadState { active: Some(0), limit: Some(limit), ..BulkheadState::default() };
            let members = self.set.members();
            let states = members.hosts.iter().filter_map(|host| host.record.connections().map(|known| known.state()));
            ("endpoints", states.fold(none, BulkheadState::and))
        });
        of_all.into_iter().chain(of_each).collect()
    }

    /// What limits the connections of a pool for this address, if anything does.
    pub(super) fn connection_limits(&self, record: &Record) -> Option<ConnectionLimits> {
        self.state.as_ref()?.connection_limits(&self.spec.limits, record)
    }

    pub(super) fn outliers(&self) -> Option<&OutlierDetector> {
        self.outliers.as_ref()
    }

    /// Its list of endpoints, if a source tells it.
    pub(super) fn listed(&self) -> Option<&Arc<Listed>> {
        match self.set.discovery() {
            Discovery::Listed(listed) => Some(listed),
            Discovery::Configured(..) => None,
        }
    }

    /// Its endpoints as they are now: those of the configuration, or those that its source has told.
    pub fn endpoint_specs(&self) -> Vec<EndpointSpec> {
        match (&self.spec.target, self.listed()) {
            (TargetSpec::Endpoints(list), _) => list.clone(),
            (_, Some(listed)) => listed.specs(),
            (TargetSpec::Discovered(_) | TargetSpec::Echo | TargetSpec::Status | TargetSpec::Files(_), None) => {
                Vec::new()
            }
        }
    }

    /// What its source of endpoints has done so far; `None` without one.
    pub fn discovery_state(&self) -> Option<DiscoveryState> {
        self.listed().map(|listed| listed.state())
    }

    /// Why its source of endpoints could not be read, for the log and `check`.
    pub fn warning(&self) -> Option<String> {
        self.listed()?.warning()
    }

    /// Whether its endpoints are known.
    pub fn has_endpoints(&self) -> bool {
        self.listed().is_none_or(|listed| listed.is_known())
    }

    /// **Blocks** until its endpoints are known, until this time at most. Answers why they are not.
    pub fn wait_for_endpoints(&self, until: Instant) -> Option<String> {
        let listed = self.listed().filter(|listed| !listed.wait_until_known(until))?;
        Some(format!("upstream `{}` has no endpoints yet: {}", self.spec.name, listed.missing()))
    }

    /// Its endpoints as all workers know them, one entry for each address, and at most `most`.
    pub fn endpoint_states(&self, most: usize) -> Vec<EndpointState> {
        self.set.members().hosts.iter().take(most).map(|host| host.record.state()).collect()
    }

    /// Requests that were balanced among endpoints that are out, since too few were available.
    pub fn panic_requests(&self) -> u64 {
        self.set.changes().panic_requests()
    }

    /// Requests that have left the gateway's own zone, as that had too many under way.
    pub fn spilled_requests(&self) -> u64 {
        self.set.changes().spilled_requests()
    }

    /// Whether it is balanced by latencies.
    pub(super) fn is_balanced_by_latency(&self) -> bool {
        self.spec.balancing.algorithm == Balance::PeakEwma
    }

    /// Starts what it has done in the background while it is running.
    pub(super) fn tasks(self: &Arc<Self>, background: &Background) -> Vec<Task> {
        let mut tasks = health::tasks(self, background);
        tasks.extend(discover::tasks(&self.set, background));
        tasks
    }

    /// What each worker keeps for each address.
    pub(super) fn limits(&self) -> Limits {
        let UpstreamSpec { max_idle, idle_timeout, ping_interval, .. } = self.spec;
        let UpstreamSpec { max_connection_age, max_requests_per_connection, .. } = self.spec;
        Limits { max_idle, idle_timeout, ping_interval, max_connection_age, max_requests_per_connection }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.spec).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_from_urls() {
        let read = |url| EndpointSpec::from_url(url).map(|e| (e.https, e.place.to_string())).ok();
        assert_eq!(read("http://Localhost:3000"), Some((false, "localhost:3000".into())));
        assert_eq!(read("https://api.example/"), Some((true, "api.example:443".into())));
        assert_eq!(read("http://[::1]:81"), Some((false, "[::1]:81".into())));
        for bad in
            ["localhost:1", "ftp://a", "http://a/b", "http://a:0", "http://a:99999", "http://u@a", "http://a?b", ""]
        {
            assert!(read(bad).is_none(), "{bad}");
        }
    }

    fn upstream(spec: UpstreamSpec) -> Result<Upstream, SpecError> {
        Upstream::new(spec, &EndpointRegistry::new(), &Resolver::new(&[], None), None)
    }

    #[test]
    fn contradictions_are_refused() {
        let endpoint = EndpointSpec::from_url("https://a.example").unwrap();
        let mut spec = UpstreamSpec::new("u", TargetSpec::Endpoints(vec![endpoint.clone()]));
        spec.protocol = Protocol::H2c;
        assert!(matches!(upstream(spec), Err(SpecError::H2cOverTls(_))));
        let none = UpstreamSpec::new("u", TargetSpec::Endpoints(vec![]));
        assert!(matches!(upstream(none), Err(SpecError::NoEndpoint(_))));
        let twice = UpstreamSpec::new("u", TargetSpec::Endpoints(vec![endpoint.clone(), endpoint]));
        assert!(matches!(upstream(twice), Err(SpecError::Twice(..))));
    }
}
