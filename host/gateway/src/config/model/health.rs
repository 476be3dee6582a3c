//! How the gateway learns whether endpoints are well: by checks of its own, and by what requests meet.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};

use crate::config::defaults;

/// Checks of each address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub probe: Probe,
    /// From the beginning of a check to that of the next one of the same address.
    pub interval: Duration,
    /// What is added to the interval at random, in percent of it at most.
    pub interval_jitter_percent: u32,
    /// For a whole check, the connection included.
    pub timeout: Duration,
    /// Checks that have to pass in a row before an address is used again.
    pub healthy_threshold: u32,
    /// Checks that have to fail in a row before an address is out.
    pub unhealthy_threshold: u32,
    /// In place of the endpoint's port.
    pub port: Option<u16>,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// An HTTP request, over the upstream's protocol.
    Http(HttpProbe),
    /// `grpc.health.v1.Health/Check`.
    Grpc { service_name: String, host: Option<HeaderValue> },
    /// A TCP connection.
    Tcp,
    /// A TLS handshake; a TCP connection where the endpoint has no TLS.
    Tls,
}

/// The request of a check, and which response is a good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    pub method: Method,
    pub path: PathAndQuery,
    /// In place of the endpoint's own name.
    pub host: Option<HeaderValue>,
    pub headers: HeaderMap,
    pub expected_statuses: Statuses,
    /// What the body has to have in it.
    pub body_contains: Option<String>,
}

/// A set of statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(pub Vec<RangeInclusive<u16>>);

impl Statuses {
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// When an address is ejected for how it answers requests. A number of 0 switches its rule off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Gateway errors (502, 503, 504, and no response) in a row.
    pub consecutive_gateway_errors: u32,
    /// Responses of any status from 500 on, and none, in a row.
    pub consecutive_5xx: u32,
    /// From one comparison of the addresses to the next.
    pub interval: Duration,
    /// How long the first ejection takes; the nth takes n times as long …
    pub base_ejection_time: Duration,
    /// … up to this.
    pub max_ejection_time: Duration,
    /// The share of an upstream's addresses that may be ejected.
    pub max_ejection_percent: u32,
    /// Addresses with enough requests that a comparison of success rates needs.
    pub success_rate_minimum_hosts: u32,
    /// Requests in an interval that an address needs to be compared.
    pub success_rate_request_volume: u32,
    /// How far below the mean a success rate has to be, in thousandths of the standard deviation.
    pub success_rate_stdev_factor: u32,
    /// How many times the median of the others a latency has to be.
    pub latency_factor: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            consecutive_gateway_errors: defaults::CONSECUTIVE_GATEWAY_ERRORS,
            consecutive_5xx: defaults::CONSECUTIVE_5XX,
            interval: defaults::OUTLIER_INTERVAL,
            base_ejection_time: defaults::BASE_EJECTION_TIME,
            max_ejection_time: defaults::MAX_EJECTION_TIME,
            max_ejection_percent: defaults::MAX_EJECTION_PERCENT,
            success_rate_minimum_hosts: defaults::SUCCESS_RATE_MINIMUM_HOSTS,
            success_rate_request_volume: defaults::SUCCESS_RATE_REQUEST_VOLUME,
            success_rate_stdev_factor: defaults::SUCCESS_RATE_STDEV_FACTOR,
            latency_factor: defaults::LATENCY_FACTOR,
        }
    }
}
