//! Counters and histograms; `scrape` writes them out. Each worker owns its cells and is their only writer, so that counting is a plain load and store;
//! a scrape adds the workers up while they run. Series are keyed by name and live as long as the process: a reload loses
//! nothing.
//!
//! The families, with their labels. Written here:
//!
//! | family | labels |
//! |---|---|
//! | `sluice_requests_total` | `route`, `code` |
//! | `sluice_request_duration_seconds` (histogram) | `route` |
//! | `sluice_errors_total` | `route`, `side`, `kind` |
//! | `sluice_response_reasons_total` | `filter`, `reason` |
//! | `sluice_grpc_responses_total` | `route`, `grpc_status` |
//! | `sluice_mirrored_requests_total` | `route`, `outcome` |
//! | `sluice_faults_injected_total` | `route`, `fault` |
//! | `sluice_cache_requests_total`, `sluice_cache_sent_bytes_total` | `route`, `result` |
//! | `sluice_cache_shared_usable`, `sluice_cache_purges_waiting` (`gateway.rs`) | |
//! | `sluice_compressed_responses_total`, `sluice_compression_input_bytes_total`, `sluice_compression_output_bytes_total` | `route`, `encoding` |
//! | `sluice_compression_skipped_total` | `route`, `reason` |
//! | `sluice_cache_bytes`, `sluice_cache_encoded_bytes`, `sluice_cache_objects`, `sluice_cache_evictions_total` (`gateway.rs`) | |
//! | `sluice_upstream_requests_total` | `upstream`, `code` |
//! | `sluice_upstream_duration_seconds` (histogram) | `upstream` |
//! | `sluice_upstream_errors_total` | `upstream`, `kind` |
//! | `sluice_upstream_attempt_failures_total` | `upstream`, `endpoint`, `outcome` |
//! | `sluice_upstream_calls_total` | `upstream`, `outcome` |
//! | `sluice_upstream_retries_total` | `upstream`, `reason` |
//! | `sluice_upstream_retries_denied_total` | `upstream`, `cause` |
//! | `sluice_connections_total`, `sluice_connections_active`, `sluice_connections_refused_total` | `listener` |
//! | `sluice_connection_errors_total`, `sluice_accept_errors_total`, `sluice_stalled_streams_total` | `listener` |
//! | `sluice_tls_handshakes_total` (`tls.rs`) | `listener`, `version`, `cipher_suite`, `group`, `resumed` |
//! | `sluice_tls_server_names_total` | `listener`, `server_name` |
//! | `sluice_tls_failures_total`, `sluice_tls_handshakes_refused_total` | `listener`, `reason` |
//! | `sluice_proxy_protocol_failures_total` | `listener` |
//! | `sluice_received_bytes_total`, `sluice_sent_bytes_total` | `listener` |
//! | `sluice_completions_dropped_total`, `sluice_panics_total`, `sluice_background_panics_total` | |
//! | `sluice_reloads_total` | `result` |
//! | `sluice_last_reload_timestamp_seconds`, `sluice_reload_in_progress` | |
//! | `sluice_log_lines_dropped_total` | `log` |
//! | `sluice_overload_step`, `sluice_overload_usage_ratio`, `sluice_overload_shed_total` (`gateway.rs`) | `resource` |
//! | `sluice_state_calls_total` (`snapshot/expose_state.rs`) | `state`, `outcome` |
//! | `sluice_state_connections`, `sluice_state_waiting_calls`, `sluice_state_unreported_limits` | `state` |
//! | `sluice_consumers`, `sluice_consumers_bytes`, `sluice_consumer_files_refused_total` (`consumers/`) | |
//! | `sluice_consumer_key_set_fetches_total` (`consumers/`) | `result` |
//! | `sluice_consumer_key_sets` (`snapshot/expose.rs`) | `keys` |
//! | `sluice_consumer_key_set_age_seconds` (`snapshot/expose.rs`) | |
//! | `sluice_build_info` | `version` |
//! | `process_start_time_seconds`, `process_resident_memory_bytes`, `process_open_fds` | |
//!
//! Of endpoints, key sets and certificates, from the running snapshot (`snapshot/expose.rs`):
//!
//! | family | labels |
//! |---|---|
//! | `sluice_upstream_panic_requests_total`, `sluice_upstream_spilled_requests_total` | `upstream` |
//! | `sluice_endpoint_healthy`, `sluice_endpoint_active_requests`, `sluice_endpoint_latency_seconds` | `upstream`, `endpoint`, `address` |
//! | `sluice_endpoint_responses_total` | `upstream`, `endpoint`, `address`, `code` |
//! | `sluice_circuit_open`, `sluice_circuit_opens_total`, `sluice_circuit_refused_total` (`snapshot/expose_limits.rs`) | `upstream` |
//! | `sluice_limit_max_requests`, `sluice_limit_active_requests`, `sluice_limit_pending_requests` | `scope`, `name` |
//! | `sluice_limit_waits_total`, `sluice_limit_wait_seconds_total` | `scope`, `name` |
//! | `sluice_limit_refused_total` | `scope`, `name`, `reason` |
//! | `sluice_limit_max_connections`, `sluice_limit_open_connections`, `sluice_limit_pending_connections` | `scope`, `name` |
//! | `sluice_limit_connection_waits_total`, `sluice_limit_connections_refused_total` | `scope`, `name` |
//! | `sluice_endpoint_out`, `sluice_endpoint_outs_total` | `upstream`, `endpoint`, `address`, `reason` |
//! | `sluice_endpoint_checks_total` | `upstream`, `endpoint`, `address`, `result` |
//! | `sluice_discovery_endpoints`, `sluice_discovery_age_seconds`, `sluice_discovery_updates_total` | `upstream`, `source` |
//! | `sluice_discovery_errors_total` | `upstream`, `source`, `kind` |
//! | `sluice_key_set_keys`, `sluice_key_set_age_seconds` | `url` |
//! | `sluice_key_set_fetches_total` | `url`, `result` |
//! | `sluice_certificate_expiry_timestamp_seconds` | `certificate` |
//! | `sluice_acme_orders_total` (`snapshot/expose_acme.rs`) | `certificate`, `result` |
//! | `sluice_acme_next_order_timestamp_seconds`, `sluice_acme_on_demand_certificates` | `certificate` |
//!
//! Of filters, from the accounts of the running snapshot (`snapshot/expose.rs`):
//!
//! | family | labels |
//! |---|---|
//! | `sluice_filter_calls_total`, `sluice_filter_cpu_seconds_total`, `sluice_filter_seconds_total` | `filter`, `plugin`, `hook` |
//! | `sluice_filter_failures_total` | `filter`, `plugin`, `hook`, `kind` |
//! | `sluice_filter_instances`, `sluice_filter_instances_started_total` | `filter`, `plugin` |
//! | `sluice_filter_instances_prewarmed_total`, `sluice_filter_instance_waits_total` | `filter`, `plugin` |
//! | `sluice_filter_memory_peak_bytes` | `filter`, `plugin` |
//! | `sluice_filter_unseen_bodies_total` | `filter`, `plugin`, `reason` |
//! | `sluice_filter_refused_bodies_total` | `filter`, `plugin`, `hook`, `reason` |
//! | `sluice_filter_info`: 1, with the way its hooks are called (`direct` or `component`) | `filter`, `plugin`, `called` |
//! | `sluice_filter_series_dropped_total`, `sluice_filter_log_lines_dropped_total` | `filter` |
//! | `sluice_buffered_bytes` | |
//! | `sluice_filter_NAME`: what filters count themselves | `filter` and their own |

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::Exposition;
use super::cells::{Counter, GrpcStatuses, Names, Table, Traffic, lock};
use super::tls::TlsCounters;

/// What stands for all names beyond a limit.
const OTHER: &str = "(other)";
/// Endpoints of one upstream that have series of their own for each outcome.
const MAX_ENDPOINTS: usize = 4096;
/// Reasons of one filter that have series of their own.
const MAX_REASONS: usize = 100;

/// A route's place in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteId(pub(super) u32);

/// An upstream's place in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub(super) u32);

/// Who is to blame for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorSource {
    Client,
    Gateway,
    Filter,
    Upstream,
}

impl ErrorSource {
    /// The label value and the access log's word.
    pub fn name(self) -> &'static str {
        match self {
            ErrorSource::Client => "client",
            ErrorSource::Gateway => "gateway",
            ErrorSource::Filter => "filter",
            ErrorSource::Upstream => "upstream",
        }
    }
}

/// What happens at one listener on one worker.
// On cache lines of their own: two workers count at the same time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerCounters {
    pub accepted: Counter,
    pub active: Counter,
    /// Closed at once, since a connection limit was reached.
    pub refused: Counter,
    pub tls: TlsCounters,
    /// Connections of trusted peers without a good PROXY header.
    pub proxy_protocol_failures: Counter,
    /// Connections that ended with a protocol error or a timeout.
    pub connection_errors: Counter,
    /// HTTP/2 streams that were reset since the client took nothing of them.
    pub stalled_streams: Counter,
    /// Failed `accept` calls, among them those for want of file descriptors.
    pub accept_errors: Counter,
    /// These two are counted on every request, by the worker alone: with `Counter::bump`.
    pub bytes_in: Counter,
    pub bytes_out: Counter,
}

/// All metrics of the process.
pub struct Metrics {
    pub(super) routes: Names<Arc<str>>,
    pub(super) upstreams: Names<Arc<str>>,
    pub(super) listeners: Mutex<Vec<(Arc<str>, Arc<ListenerCounters>)>>,
    pub(super) workers: Mutex<Vec<Arc<Cells>>>,
    pub(super) collectors: Mutex<Vec<Collector>>,
    pub(super) started: SystemTime,
    pub reloads: Counter,
    pub reloads_refused: Counter,
    /// Seconds since the Unix epoch.
    pub last_reload: Counter,
    /// 1 while a configuration is being loaded.
    pub reload_in_progress: Counter,
    /// Access log lines lost since the reader of the log was too slow or gone.
    pub access_log_dropped: Counter,
    /// Operational log lines lost for the same reason.
    pub log_dropped: Counter,
    /// Tasks of the background runtime that a panic has ended.
    pub background_panics: Counter,
}

type Collector = Box<dyn Fn(&mut Exposition) + Send + Sync>;

impl Metrics {
    pub fn new() -> Arc<Self> {
        Arc::new(Metrics {
            routes: Names::new(Arc::from(OTHER)),
            upstreams: Names::new(Arc::from(OTHER)),
            listeners: Mutex::default(),
            workers: Mutex::default(),
            collectors: Mutex::default(),
            started: SystemTime::now(),
            reloads: Counter::default(),
            reloads_refused: Counter::default(),
            last_reload: Counter::default(),
            reload_in_progress: Counter::default(),
            access_log_dropped: Counter::default(),
            log_dropped: Counter::default(),
            background_panics: Counter::default(),
        })
    }

    /// The id of a route, by name; the same name has the same id for ever. After 65,536 names all further ones share
    /// the series `(other)`.
    pub fn route(&self, name: &str) -> RouteId {
        RouteId(self.routes.intern(Arc::from(name)))
    }

    /// The id of an upstream, by name; see [`Metrics::route`].
    pub fn upstream(&self, name: &str) -> UpstreamId {
        UpstreamId(self.upstreams.intern(Arc::from(name)))
    }

    /// Counters of a listener for one worker; those of the same name are added up.
    pub fn listener(&self, name: &str) -> Arc<ListenerCounters> {
        let counters = Arc::new(ListenerCounters::default());
        lock(&self.listeners).push((Arc::from(name), Arc::clone(&counters)));
        counters
    }

    /// Cells for one worker. Call it once on each worker's thread.
    pub fn worker(&self) -> WorkerMetrics {
        let cells = Arc::new(Cells::default());
        lock(&self.workers).push(Arc::clone(&cells));
        WorkerMetrics { cells, _one_writer: PhantomData }
    }

    /// Adds families that another module keeps, such as gauges of pools; called at each scrape, on the blocking thread of the background runtime.
    pub fn collect(&self, collector: impl Fn(&mut Exposition) + Send + Sync + 'static) {
        lock(&self.collectors).push(Box::new(collector));
    }
}

/// The metrics of one worker. Not `Send`: its thread is the only writer.
#[derive(Clone)]
pub struct WorkerMetrics {
    cells: Arc<Cells>,
    _one_writer: PhantomData<*mut ()>,
}

impl WorkerMetrics {
    /// A finished exchange. `status` is what was sent, 0 when nothing was.
    pub fn request(&self, route: RouteId, status: u16, elapsed: Duration) {
        self.cells.routes.cell(route.0).record(status, elapsed);
    }

    /// Why a filter has given a response.
    pub fn response_reason(&self, filter: &Arc<str>, reason: &str) {
        let mut all = lock(&self.cells.reasons);
        if !all.contains_key(filter) {
            all.insert(Arc::clone(filter), HashMap::new());
        }
        let Some(reasons) = all.get_mut(filter) else { return };
        if let Some(count) = reasons.get_mut(reason) {
            *count += 1;
            return;
        }
        let name = if reasons.len() < MAX_REASONS { reason } else { OTHER };
        *reasons.entry(Arc::from(name)).or_default() += 1;
    }

    /// A response to a client of gRPC.
    pub fn grpc_response(&self, route: RouteId, status: u8) {
        self.cells.grpc.cell(route.0).record(status);
    }

    /// A response head of an upstream.
    pub fn upstream(&self, upstream: UpstreamId, status: u16, to_first_byte: Duration) {
        self.cells.upstreams.cell(upstream.0).record(status, to_first_byte);
    }

    /// An attempt at one endpoint that brought no response.
    pub fn attempt_failed(&self, upstream: UpstreamId, endpoint: &str, outcome: &'static str) {
        let mut all = lock(&self.cells.attempt_failures);
        let endpoints = all.entry((upstream, outcome)).or_default();
        if let Some(count) = endpoints.get_mut(endpoint) {
            *count += 1;
            return;
        }
        // Endpoints come and go with discovery, and series live as long as the process.
        let name = if endpoints.len() < MAX_ENDPOINTS { endpoint } else { OTHER };
        *endpoints.entry(Arc::from(name)).or_default() += 1;
    }

    /// A call of a filter.
    pub fn called(&self, upstream: UpstreamId, outcome: &'static str) {
        *lock(&self.cells.calls).entry((upstream, outcome)).or_default() += 1;
    }

    /// Another attempt, for what happened to the one before.
    pub fn retried(&self, upstream: UpstreamId, reason: &'static str) {
        *lock(&self.cells.retries).entry((upstream, reason)).or_default() += 1;
    }

    /// No other attempt, though what happened is worth one.
    pub fn retry_denied(&self, upstream: UpstreamId, cause: &'static str) {
        *lock(&self.cells.retries_denied).entry((upstream, cause)).or_default() += 1;
    }

    /// A request that got no response of an upstream.
    pub fn upstream_failed(&self, upstream: UpstreamId, kind: &'static str) {
        *lock(&self.cells.upstream_errors).entry((upstream, kind)).or_default() += 1;
    }

    /// An error of an exchange. Takes a lock that only a scrape shares.
    pub fn error(&self, route: RouteId, side: ErrorSource, kind: &'static str) {
        *lock(&self.cells.errors).entry((route, side, kind)).or_default() += 1;
    }

    /// What became of a copy of a request.
    pub fn mirrored(&self, route: RouteId, outcome: &'static str) {
        *lock(&self.cells.mirrored).entry((route, outcome)).or_default() += 1;
    }

    /// A fault that a route has injected.
    pub fn fault_injected(&self, route: RouteId, fault: &'static str) {
        *lock(&self.cells.faults).entry((route, fault)).or_default() += 1;
    }

    /// What the cache of a route did with a request.
    pub fn cached(&self, route: RouteId, result: &'static str) {
        *lock(&self.cells.cached).entry((route, result)).or_default() += 1;
    }

    /// Bytes of content that a client of a route with a cache got.
    pub fn cache_sent(&self, route: RouteId, result: &'static str, bytes: u64) {
        *lock(&self.cells.cache_sent).entry((route, result)).or_default() += bytes;
    }

    /// A response that was compressed: the bytes of its content, and those that were sent in their place.
    pub fn compressed(&self, route: RouteId, encoding: &'static str, input: u64, output: u64) {
        let mut all = lock(&self.cells.compressed);
        let sums = all.entry((route, encoding)).or_default();
        sums.responses += 1;
        sums.input += input;
        sums.output += output;
    }

    /// A response of a route with compression that was sent as it is.
    pub fn compression_skipped(&self, route: RouteId, reason: &'static str) {
        *lock(&self.cells.compression_skipped).entry((route, reason)).or_default() += 1;
    }

    /// An `on-complete` call that did not fit into its queue.
    pub fn completion_dropped(&self) {
        self.cells.completions_dropped.bump(1);
    }

    /// A panic caught at the edge of a task.
    pub fn panicked(&self) {
        self.cells.panics.bump(1);
    }
}

/// By filter, then by reason.
type Reasons = HashMap<Arc<str>, HashMap<Arc<str>, u64>>;

pub(super) type ByRoute = HashMap<(RouteId, &'static str), u64>;

/// Responses that were compressed, and their bytes before and after.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Compressed {
    pub(super) responses: u64,
    pub(super) input: u64,
    pub(super) output: u64,
}

/// By upstream and outcome, then by endpoint.
type AttemptFailures = HashMap<(UpstreamId, &'static str), HashMap<Arc<str>, u64>>;

#[derive(Default)]
pub(super) struct Cells {
    pub(super) routes: Table<Traffic>,
    pub(super) upstreams: Table<Traffic>,
    pub(super) errors: Mutex<HashMap<(RouteId, ErrorSource, &'static str), u64>>,
    pub(super) upstream_errors: Mutex<HashMap<(UpstreamId, &'static str), u64>>,
    pub(super) attempt_failures: Mutex<AttemptFailures>,
    pub(super) calls: Mutex<HashMap<(UpstreamId, &'static str), u64>>,
    pub(super) retries: Mutex<HashMap<(UpstreamId, &'static str), u64>>,
    pub(super) retries_denied: Mutex<HashMap<(UpstreamId, &'static str), u64>>,
    pub(super) reasons: Mutex<Reasons>,
    /// These five by route and outcome, fault, result or reason.
    pub(super) cached: Mutex<ByRoute>,
    pub(super) cache_sent: Mutex<ByRoute>,
    pub(super) mirrored: Mutex<ByRoute>,
    pub(super) faults: Mutex<ByRoute>,
    pub(super) compression_skipped: Mutex<ByRoute>,
    /// By encoding.
    pub(super) compressed: Mutex<HashMap<(RouteId, &'static str), Compressed>>,
    pub(super) grpc: Table<GrpcStatuses>,
    pub(super) completions_dropped: Counter,
    pub(super) panics: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up_by_name() {
        let metrics = Metrics::new();
        let route = metrics.route("orders");
        assert_eq!(route, metrics.route("orders"), "a reload finds the same series");
        for _ in 0..2 {
            let worker = metrics.worker();
            worker.request(route, 200, Duration::from_millis(3));
            worker.request(route, 599, Duration::from_secs(90));
            worker.error(route, ErrorSource::Upstream, "connect");
            worker.attempt_failed(metrics.upstream("orders"), "10.0.0.1:80", "connect");
            worker.retried(metrics.upstream("orders"), "gateway-error");
            worker.retry_denied(metrics.upstream("orders"), "budget");
            worker.response_reason(&Arc::from("auth"), "token-expired");
            worker.grpc_response(route, 14);
            worker.grpc_response(route, 99);
        }
        let text = metrics.render();
        for line in [
            r#"sluice_requests_total{route="orders",code="200"} 2"#,
            r#"sluice_requests_total{route="orders",code="5xx"} 2"#,
            r#"sluice_request_duration_seconds_bucket{route="orders",le="0.0025"} 0"#,
            r#"sluice_request_duration_seconds_bucket{route="orders",le="0.005"} 2"#,
            r#"sluice_request_duration_seconds_bucket{route="orders",le="+Inf"} 4"#,
            r#"sluice_request_duration_seconds_count{route="orders"} 4"#,
            r#"sluice_errors_total{route="orders",side="upstream",kind="connect"} 2"#,
            r#"sluice_upstream_attempt_failures_total{upstream="orders",endpoint="10.0.0.1:80",outcome="connect"} 2"#,
            r#"sluice_upstream_retries_total{upstream="orders",reason="gateway-error"} 2"#,
            r#"sluice_upstream_retries_denied_total{upstream="orders",cause="budget"} 2"#,
            r#"sluice_response_reasons_total{filter="auth",reason="token-expired"} 2"#,
            r#"sluice_grpc_responses_total{route="orders",grpc_status="14"} 2"#,
            r#"sluice_grpc_responses_total{route="orders",grpc_status="other"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_filter_that_invents_reasons_has_few_series() {
        let metrics = Metrics::new();
        let worker = metrics.worker();
        for number in 0..MAX_REASONS + 50 {
            worker.response_reason(&Arc::from("odd"), &format!("reason-{number}"));
        }
        let text = metrics.render();
        let series = text.lines().filter(|line| line.starts_with("sluice_response_reasons_total{")).count();
        assert_eq!(series, MAX_REASONS + 1);
        assert!(text.contains(r#"sluice_response_reasons_total{filter="odd",reason="(other)"} 50"#), "{text}");
    }

    #[test]
    fn every_line_parses_and_every_sample_has_a_type() {
        let metrics = Metrics::new();
        metrics.listener("a\"b\\c\nd").accepted.add(1);
        metrics.collect(|out| {
            out.family("sluice_test", "gauge", "A gauge.");
            out.sample("sluice_test", &[], 1.5);
        });
        let text = metrics.render();
        let mut types = HashMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                assert!(types.insert(name, kind).is_none(), "{name} twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().expect("a name");
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                assert!(types.contains_key(name) || types.contains_key(base), "no type for {line}");
                let value = line.rsplit(' ').next().expect("a value");
                value.parse::<f64>().expect("a number");
            }
        }
        assert!(text.contains(r#"sluice_connections_total{listener="a\"b\\c\nd"} 1"#), "{text}");
        assert!(text.ends_with('\n'));
        assert_eq!(types.get("sluice_test"), Some(&"gauge"));
    }
}
