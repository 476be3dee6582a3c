//! Ejects addresses that answer requests badly: at once for failures in a row, and by comparison with the others once an interval.
//! Requests count what they count anyway; only a failure writes more.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::config::model::OutlierDetection;
use crate::upstream::endpoints::{EndpointSet, Host, Record, millis};
use crate::upstream::spec::Upstream;
use crate::upstream::verdict::{grpc_status, http_status_of};

/// Addresses that a comparison of latencies needs.
const LATENCY_HOSTS: usize = 3;
/// A smaller difference of latencies ejects nobody, whatever the factor.
const LATENCY_DIFFERENCE: Duration = Duration::from_millis(10);
/// [`Shared::compared`] before the first time.
const NEVER: u64 = u64::MAX;

/// How an endpoint has failed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A response of this status, from 500 on.
    Status(u16),
    /// `UNAVAILABLE` (14), `DEADLINE_EXCEEDED` (4), `INTERNAL` (13) or `UNKNOWN` (2).
    Grpc(u8),
    /// The body of a response broke off.
    Body,
    /// There was no response in time.
    Timeout,
    /// The connection broke before there was one.
    Reset,
    /// What came is no response.
    Malformed,
}

/// Where a response has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Up to its head, or to the status of a call of gRPC that has brought no message.
    Head,
    /// Behind what it was taken for a good one by.
    Body,
}

impl Failure {
    /// What a response tells of its endpoint: `None` if its head is a good one. gRPC has its status there where there is no message, which
    /// is how servers that fail answer.
    pub(crate) fn of_response(status: u16, headers: &HeaderMap) -> Option<Self> {
        if status >= 500 {
            return Some(Failure::Status(status));
        }
        Self::of_grpc(grpc_status(headers)?)
    }

    /// What a status of gRPC tells.
    pub(crate) fn of_grpc(status: u8) -> Option<Self> {
        http_status_of(status).map(|_| Failure::Grpc(status))
    }

    /// Whether it says that the endpoint could not serve, rather than that it refused to.
    fn is_of_gateway(self) -> bool {
        match self {
            Failure::Status(status) => matches!(status, 502..=504),
            Failure::Grpc(status) => matches!(http_status_of(status), Some(502..=504)),
            Failure::Body | Failure::Timeout | Failure::Reset | Failure::Malformed => true,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status(status) => write!(f, "the status {status}"),
            Failure::Grpc(2) => f.write_str("UNKNOWN of gRPC"),
            Failure::Grpc(4) => f.write_str("DEADLINE_EXCEEDED of gRPC"),
            Failure::Grpc(13) => f.write_str("INTERNAL of gRPC"),
            Failure::Grpc(14) => f.write_str("UNAVAILABLE of gRPC"),
            Failure::Grpc(status) => write!(f, "the status {status} of gRPC"),
            Failure::Body => f.write_str("a body that broke off"),
            Failure::Timeout => f.write_str("no response in time"),
            Failure::Reset => f.write_str("a connection that broke"),
            Failure::Malformed => f.write_str("a malformed response"),
        }
    }
}

/// What an address has done, and not done, since somebody began to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
}

impl Tally {
    pub(crate) fn since(self, before: Tally) -> Tally {
        Tally {
            requests: self.requests.saturating_sub(before.requests),
            failures: self.failures.saturating_sub(before.failures),
        }
    }

    fn success_rate(self) -> f64 {
        1.0 - self.failures as f64 / self.requests.max(1) as f64
    }
}

/// An address as a comparison sees it.
#[derive(Debug, Clone, Copy)]
struct Sample {
    tally: Tally,
    /// Time to first byte, moving average in microseconds; 0 when nothing was measured.
    latency_us: u64,
}

/// The outlier detection of one upstream.
#[derive(Debug)]
pub(crate) struct OutlierDetector {
    policy: OutlierDetection,
    shared: Arc<Shared>,
}

/// What one upstream has over all its reloads.
#[derive(Debug)]
struct Shared {
    /// Held while somebody ejects, so that never more are ejected than may be.
    ejecting: Mutex<()>,
    /// When the addresses were last compared, or what they had done was last left out, in milliseconds of the records' clock.
    compared: AtomicU64,
}

impl OutlierDetector {
    /// `before` is that of the upstream that is running.
    pub(crate) fn new(policy: OutlierDetection, before: Option<&OutlierDetector>) -> Self {
        let new = || Shared { ejecting: Mutex::default(), compared: AtomicU64::new(NEVER) };
        let shared = before.map_or_else(|| Arc::new(new()), |before| before.shared.clone());
        OutlierDetector { policy, shared }
    }

    /// Notes a failure of a request that the endpoint is to blame for.
    #[cold]
    pub(crate) fn failed(&self, set: &EndpointSet, record: &Record, failure: Failure, stage: Stage) {
        let (of_gateway, all) = record.note_failure(failure.is_of_gateway(), stage);
        let OutlierDetection { consecutive_gateway_errors, consecutive_5xx, .. } = self.policy;
        let reaches = |count: u32, limit: u32| limit > 0 && count >= limit;
        let evidence = if reaches(of_gateway, consecutive_gateway_errors) {
            format!("{of_gateway} gateway {} in a row, the last was {failure}", errors(of_gateway))
        } else if reaches(all, consecutive_5xx) {
            format!("{all} server {} in a row, the last was {failure}", errors(all))
        } else {
            return;
        };
        // Also where it may not be ejected: the next look at all addresses comes after as many failures.
        record.forget_failures(stage);
        self.eject(&set.members().hosts, record, &evidence, Instant::now());
    }

    /// Ejects an address, unless too many are.
    fn eject(&self, hosts: &[Host], record: &Record, evidence: &str, now: Instant) {
        let _ejecting = self.shared.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let ejected = hosts.iter().filter(|host| host.record.is_ejected(now)).count();
        if !record.is_ejected(now) && ejected < may_be_ejected(hosts.len(), self.policy.max_ejection_percent) {
            record.end_ejection(now);
            record.eject(&self.policy, evidence, now);
        }
    }

    /// What the addresses have done before anybody compared them is not what they did in an interval.
    fn begin(&self, hosts: &[Host], now: Instant) {
        if self.shared.compared.load(Relaxed) == NEVER {
            for host in hosts {
                host.record.tally_of_interval();
            }
            self.shared.compared.store(millis(now), Relaxed);
        }
    }

    /// Ends ejections whose time is over, and compares the addresses.
    fn compare(&self, hosts: &[Host], now: Instant) {
        let mut samples = Vec::with_capacity(hosts.len());
        for host in hosts {
            host.record.end_ejection(now);
            let tally = host.record.tally_of_interval();
            let is_ejected = host.record.is_ejected(now);
            if !is_ejected {
                host.record.relax_ejection();
            }
            let enough = tally.requests >= u64::from(self.policy.success_rate_request_volume);
            samples.push((enough && !is_ejected).then(|| Sample { tally, latency_us: host.record.latency_us() }));
        }
        for (at, evidence) in outliers(&samples, &self.policy) {
            self.eject(hosts, &hosts[at].record, &evidence, now);
        }
    }
}

fn errors(count: u32) -> &'static str {
    if count == 1 { "error" } else { "errors" }
}

/// How many of so many addresses may be ejected. One may always be where there are others: in a set of few, none could be otherwise.
fn may_be_ejected(hosts: usize, percent: u32) -> usize {
    (hosts * percent as usize / 100).max(1).min(if percent == 100 { hosts } else { hosts.saturating_sub(1) })
}

/// The addresses that are worse than the others, with the evidence; the worst first, since not all may be ejected.
fn outliers(samples: &[Option<Sample>], policy: &OutlierDetection) -> Vec<(usize, String)> {
    let mut found = failing(samples, policy);
    for (at, evidence) in slow(samples, policy) {
        if !found.iter().any(|(known, _)| *known == at) {
            found.push((at, evidence));
        }
    }
    found
}

/// Those that answer with fewer successes.
fn failing(samples: &[Option<Sample>], policy: &OutlierDetection) -> Vec<(usize, String)> {
    let rates: Vec<(usize, Tally, f64)> = (samples.iter().enumerate())
        .filter_map(|(at, sample)| sample.map(|sample| (at, sample.tally, sample.tally.success_rate())))
        .collect();
    if policy.success_rate_stdev_factor == 0 || rates.len() < policy.success_rate_minimum_hosts as usize {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, _, rate)| rate).sum::<f64>() / count;
    let deviation = (rates.iter().map(|(_, _, rate)| (rate - mean).powi(2)).sum::<f64>() / count).sqrt();
    let least = mean - deviation * f64::from(policy.success_rate_stdev_factor) / 1000.0;
    let mut found: Vec<_> = rates.into_iter().filter(|(_, tally, rate)| *rate < least && tally.failures > 0).collect();
    found.sort_by(|(_, _, one), (_, _, other)| one.total_cmp(other));
    let evidence = |(at, tally, rate): (usize, Tally, f64)| {
        let Tally { requests, failures } = tally;
        let [rate, mean, least] = [rate, mean, least].map(|rate| rate * 100.0);
        let evidence = format!(
            "{failures} of {requests} requests failed: a success rate of {rate:.1} %, where the mean is {mean:.1} % and {least:.1} % would do"
        );
        (at, evidence)
    };
    found.into_iter().map(evidence).collect()
}

/// Those that take much longer.
fn slow(samples: &[Option<Sample>], policy: &OutlierDetection) -> Vec<(usize, String)> {
    let mut sorted: Vec<(u64, usize)> = (samples.iter().enumerate())
        .filter_map(|(at, sample)| Some((sample.as_ref()?.latency_us, at)))
        .filter(|(latency, _)| *latency > 0)
        .collect();
    if policy.latency_factor == 0 || sorted.len() < LATENCY_HOSTS {
        return Vec::new();
    }
    sorted.sort_unstable();
    let mut found = Vec::new();
    for (place, (latency, at)) in sorted.iter().enumerate().rev() {
        // The median of the others: the list without this place.
        let middle = (sorted.len() - 2) / 2;
        let median = sorted[if middle >= place { middle + 1 } else { middle }].0;
        let limit = median.saturating_mul(u64::from(policy.latency_factor));
        if *latency < limit || *latency - median < LATENCY_DIFFERENCE.as_micros() as u64 {
            break;
        }
        let [latency, median] = [*latency, median].map(|us| us as f64 / 1000.0);
        found.push((*at, format!("it takes {latency:.1} ms to a response head, the others {median:.1} ms (median)")));
    }
    found
}

/// Compares the addresses of an upstream once an interval. Ends when it is dropped.
pub(super) async fn run(upstream: Arc<Upstream>) {
    let Some(detector) = upstream.outliers() else { return };
    let shared = &detector.shared;
    detector.begin(&upstream.set().members().hosts, Instant::now());
    loop {
        let since = millis(Instant::now()).saturating_sub(shared.compared.load(Relaxed));
        tokio::time::sleep(detector.policy.interval.saturating_sub(Duration::from_millis(since))).await;
        let now = Instant::now();
        shared.compared.store(millis(now), Relaxed);
        detector.compare(&upstream.set().members().hosts, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::resolver::Resolver;
    use crate::upstream::{EndpointRegistry, EndpointSpec, TargetSpec, UpstreamSpec};

    fn policy() -> OutlierDetection {
        OutlierDetection { latency_factor: 5, ..OutlierDetection::default() }
    }

    fn sample(failures: u64, latency_us: u64) -> Option<Sample> {
        Some(Sample { tally: Tally { requests: 100, failures }, latency_us })
    }

    fn places(found: &[(usize, String)]) -> Vec<usize> {
        found.iter().map(|(at, _)| *at).collect()
    }

    #[test]
    fn a_success_rate_is_compared_with_the_mean() {
        let rates = |failures: [u64; 6]| failures.map(|failures| sample(failures, 0));
        let found = failing(&rates([1, 0, 40, 2, 1, 0]), &policy());
        assert_eq!(places(&found), [2]);
        assert!(found[0].1.starts_with("40 of 100 requests failed: a success rate of 60.0 %"), "{}", found[0].1);
        assert!(failing(&rates([30, 31, 29, 30, 30, 30]), &policy()).is_empty(), "all the same: no one's fault");
        assert!(failing(&rates([0; 6]), &policy()).is_empty());
        assert!(failing(&rates([1, 0, 40, 2, 1, 0])[..4], &policy()).is_empty(), "too few to compare");
        let mut few = rates([1, 0, 40, 2, 1, 0]);
        few[0] = None;
        few[5] = None;
        assert!(failing(&few, &policy()).is_empty(), "too few with enough requests");
        assert!(
            failing(&rates([1, 0, 40, 2, 1, 0]), &OutlierDetection { success_rate_stdev_factor: 0, ..policy() })
                .is_empty()
        );
    }

    #[test]
    fn a_latency_is_compared_with_the_median_of_the_others() {
        let slow_of = |latencies: &[u64]| {
            let samples: Vec<_> = latencies.iter().map(|latency| sample(0, *latency)).collect();
            places(&slow(&samples, &policy()))
        };
        assert_eq!(slow_of(&[10_000, 12_000, 100_000, 9_000]), [2]);
        assert_eq!(slow_of(&[10_000, 200_000, 100_000, 9_000, 11_000]), [1, 2], "the worst first");
        assert!(slow_of(&[10_000, 12_000, 40_000, 9_000]).is_empty(), "four times as slow");
        assert!(slow_of(&[100, 110, 9_000, 100]).is_empty(), "less than 10 ms slower");
        assert!(slow_of(&[10_000, 100_000]).is_empty(), "one other is no measure");
        assert_eq!(slow_of(&[10_000, 100_000, 11_000]), [1]);
        assert!(slow_of(&[0, 0, 100_000, 10_000]).is_empty(), "nothing is known of two");
    }

    #[test]
    fn who_is_both_is_found_once() {
        let mut samples: Vec<_> = (0..6).map(|_| sample(0, 1_000)).collect();
        samples[3] = sample(50, 900_000);
        assert_eq!(places(&outliers(&samples, &policy())), [3]);
    }

    #[test]
    fn what_was_before_the_first_interval_is_not_compared() {
        let (registry, resolver) = (EndpointRegistry::new(), Resolver::new(&[], None));
        let endpoint = |i| EndpointSpec::from_url(&format!("http://10.0.0.{i}:80")).unwrap();
        let mut spec = UpstreamSpec::new("u", TargetSpec::Endpoints((1..=5).map(endpoint).collect()));
        let before = Upstream::new(spec.clone(), &registry, &resolver, None).unwrap();
        let (members, now) = (before.set().members(), Instant::now());
        let serve = || {
            for (at, host) in members.hosts.iter().enumerate() {
                let responses = host.record.open_responses();
                (0..200).for_each(|_| responses.count(if at == 2 { 500 } else { 200 }));
            }
        };
        let ejected = || members.hosts.iter().map(|host| host.record.is_ejected(now)).collect::<Vec<_>>();
        serve();
        spec.outlier_detection = Some(OutlierDetection::default());
        let upstream = Upstream::new(spec.clone(), &registry, &resolver, Some(&before)).unwrap();
        let detector = upstream.outliers().unwrap();
        detector.begin(&members.hosts, now);
        detector.compare(&members.hosts, now);
        assert_eq!(ejected(), [false; 5], "nobody watched it then");
        serve();
        let upstream = Upstream::new(spec, &registry, &resolver, Some(&upstream)).unwrap();
        let detector = upstream.outliers().unwrap();
        detector.begin(&members.hosts, now);
        detector.compare(&members.hosts, now);
        assert_eq!(ejected(), [false, false, true, false, false], "an interval goes on over a reload");
    }

    #[test]
    fn how_many_may_be_ejected() {
        for (hosts, percent, most) in
            [(1, 50, 0), (1, 100, 1), (2, 10, 1), (3, 50, 1), (4, 50, 2), (10, 99, 9), (10, 100, 10), (1000, 10, 100)]
        {
            assert_eq!(may_be_ejected(hosts, percent), most, "{percent} % of {hosts}");
        }
    }

    #[test]
    fn what_a_response_tells() {
        let mut headers = HeaderMap::new();
        assert_eq!(Failure::of_response(200, &headers), None);
        assert_eq!(Failure::of_response(404, &headers), None);
        assert_eq!(Failure::of_response(500, &headers).map(Failure::is_of_gateway), Some(false));
        assert_eq!(Failure::of_response(503, &headers).map(Failure::is_of_gateway), Some(true));
        for (status, failure) in [
            ("0", None),
            ("14", Some(Failure::Grpc(14))),
            ("4", Some(Failure::Grpc(4))),
            ("5", None),
            ("13", Some(Failure::Grpc(13))),
        ] {
            headers.insert("grpc-status", status.parse().unwrap());
            assert_eq!(Failure::of_response(200, &headers), failure, "{status}");
        }
    }
}
