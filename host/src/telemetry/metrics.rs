//! Counters and histograms. Each worker owns its cells and is their only writer, so that counting is a plain load and store;
//! a scrape adds the workers up while they run. Series are keyed by name and live as long as the process: a reload loses
//! nothing.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use super::plugin_metrics::PluginMetrics;
use super::render::{self, Exposition};

/// A route's place in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteId(u32);

/// An upstream's place in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamId(u32);

/// A filter's place in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FilterId(u32);

/// Where a filter is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    Configure,
    OnRequest,
    OnRequestBody,
    SelectUpstream,
    OnResponse,
    OnResponseBody,
    OnResponseTrailers,
    OnComplete,
}

impl Hook {
    const ALL: [Hook; 8] = [
        Hook::Configure,
        Hook::OnRequest,
        Hook::OnRequestBody,
        Hook::SelectUpstream,
        Hook::OnResponse,
        Hook::OnResponseBody,
        Hook::OnResponseTrailers,
        Hook::OnComplete,
    ];

    /// The name as in the WIT package.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Configure => "configure",
            Hook::OnRequest => "on-request",
            Hook::OnRequestBody => "on-request-body",
            Hook::SelectUpstream => "select-upstream",
            Hook::OnResponse => "on-response",
            Hook::OnResponseBody => "on-response-body",
            Hook::OnResponseTrailers => "on-response-trailers",
            Hook::OnComplete => "on-complete",
        }
    }
}

/// How a filter call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallResult {
    Continue,
    Respond,
    Failed,
}

impl CallResult {
    const ALL: [CallResult; 3] = [CallResult::Continue, CallResult::Respond, CallResult::Failed];

    fn name(self) -> &'static str {
        match self {
            CallResult::Continue => "continue",
            CallResult::Respond => "respond",
            CallResult::Failed => "failed",
        }
    }
}

/// Who is to blame for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    Client,
    Gateway,
    Filter,
    Upstream,
}

impl Side {
    /// The label value and the access log's word.
    pub fn name(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Gateway => "gateway",
            Side::Filter => "filter",
            Side::Upstream => "upstream",
        }
    }
}

/// A counter that any thread may add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// For gauges: takes `n` back.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Adds without a locked instruction; right only where one thread writes.
    fn bump(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
}

/// What happens at one listener on one worker.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    pub accepted: Counter,
    pub active: Counter,
    /// Closed at once, since a connection limit was reached.
    pub refused: Counter,
    pub tls_failures: Counter,
    /// Connections that ended with a protocol error or a timeout.
    pub connection_errors: Counter,
    /// Failed `accept` calls, among them those for want of file descriptors.
    pub accept_errors: Counter,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
}

/// All metrics of the process.
pub struct Metrics {
    routes: Names<Arc<str>>,
    upstreams: Names<Arc<str>>,
    filters: Names<(Arc<str>, Arc<str>)>,
    listeners: Mutex<Vec<(Arc<str>, Arc<ListenerCounters>)>>,
    workers: Mutex<Vec<Arc<Cells>>>,
    collectors: Mutex<Vec<Collector>>,
    started: SystemTime,
    /// What filters count by `metrics.count` and its siblings.
    pub plugins: PluginMetrics,
    pub reloads: Counter,
    pub reloads_refused: Counter,
    /// Seconds since the Unix epoch.
    pub last_reload: Counter,
    /// Body bytes held in memory at this moment.
    pub buffered_bytes: Counter,
    /// Access log lines lost since the reader of the log was too slow or gone.
    pub access_log_dropped: Counter,
    /// Operational log lines lost for the same reason.
    pub log_dropped: Counter,
}

type Collector = Box<dyn Fn(&mut Exposition) + Send + Sync>;

impl Metrics {
    pub fn new() -> Arc<Self> {
        Arc::new(Metrics {
            routes: Names::new(Arc::from("(other)")),
            upstreams: Names::new(Arc::from("(other)")),
            filters: Names::new((Arc::from("(other)"), Arc::from("(other)"))),
            listeners: Mutex::default(),
            workers: Mutex::default(),
            collectors: Mutex::default(),
            started: SystemTime::now(),
            plugins: PluginMetrics::default(),
            reloads: Counter::default(),
            reloads_refused: Counter::default(),
            last_reload: Counter::default(),
            buffered_bytes: Counter::default(),
            access_log_dropped: Counter::default(),
            log_dropped: Counter::default(),
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

    /// The id of a filter, by its name and that of its plugin; see [`Metrics::route`].
    pub fn filter(&self, name: &str, plugin: &str) -> FilterId {
        FilterId(self.filters.intern((Arc::from(name), Arc::from(plugin))))
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

    /// Adds families that another module keeps, such as gauges of pools; called at each scrape, from the admin thread.
    pub fn collect(&self, collector: impl Fn(&mut Exposition) + Send + Sync + 'static) {
        lock(&self.collectors).push(Box::new(collector));
    }

    /// The Prometheus text exposition, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = Exposition::default();
        let workers = lock(&self.workers).clone();
        self.render_requests(&workers, &mut out);
        self.render_filters(&workers, &mut out);
        self.render_listeners(&mut out);
        self.render_process(&workers, &mut out);
        self.plugins.render(&mut out);
        for collector in lock(&self.collectors).iter() {
            collector(&mut out);
        }
        out.finish()
    }

    fn render_requests(&self, workers: &[Arc<Cells>], out: &mut Exposition) {
        let routes: Vec<(Arc<str>, Traffic)> = sum_traffic(&self.routes, workers, |cells| &cells.routes);
        let upstreams: Vec<(Arc<str>, Traffic)> = sum_traffic(&self.upstreams, workers, |cells| &cells.upstreams);
        for (label, requests, duration, series) in [
            ("route", "sluice_requests_total", "sluice_request_duration_seconds", &routes),
            ("upstream", "sluice_upstream_requests_total", "sluice_upstream_duration_seconds", &upstreams),
        ] {
            let (of_requests, of_duration) = if label == "route" {
                ("Exchanges by route and response status (0: no response was sent).", "Whole exchanges.")
            } else {
                ("Responses of upstreams by status.", "Time from sending a request upstream to its response head.")
            };
            out.family(requests, "counter", of_requests);
            for (name, traffic) in series {
                for (slot, count) in traffic.codes.iter().enumerate().filter(|(_, count)| count.value() > 0) {
                    out.sample(requests, &[(label, name), ("code", code_name(slot))], count.value() as f64);
                }
            }
            out.family(duration, "histogram", of_duration);
            for (name, traffic) in series {
                traffic.duration.render(duration, &[(label, name)], out);
            }
        }

        let mut errors: HashMap<(RouteId, Side, &'static str), u64> = HashMap::new();
        let mut attempts: HashMap<(UpstreamId, &'static str), u64> = HashMap::new();
        for cells in workers {
            for (key, count) in lock(&cells.errors).iter() {
                *errors.entry(*key).or_default() += count;
            }
            for (key, count) in lock(&cells.failed_attempts).iter() {
                *attempts.entry(*key).or_default() += count;
            }
        }
        out.family("sluice_errors_total", "counter", "Errors by route, guilty side and kind.");
        for ((route, side, kind), count) in sorted(errors, |(route, side, kind)| (route.0, *side, *kind)) {
            let route = self.routes.name(route.0);
            out.sample(
                "sluice_errors_total",
                &[("route", &*route), ("side", side.name()), ("kind", kind)],
                count as f64,
            );
        }
        out.family("sluice_upstream_errors_total", "counter", "Attempts without a response, by upstream and kind.");
        for ((upstream, kind), count) in sorted(attempts, |(upstream, kind)| (upstream.0, *kind)) {
            let upstream = self.upstreams.name(upstream.0);
            out.sample("sluice_upstream_errors_total", &[("upstream", &*upstream), ("kind", kind)], count as f64);
        }
    }

    fn render_filters(&self, workers: &[Arc<Cells>], out: &mut Exposition) {
        let filters: Vec<((Arc<str>, Arc<str>), FilterCells)> = self
            .filters
            .all()
            .into_iter()
            .enumerate()
            .map(|(id, name)| {
                let sum = FilterCells::default();
                workers.iter().filter_map(|cells| cells.filters.peek(id as u32)).for_each(|cells| sum.add_all(cells));
                (name, sum)
            })
            .collect();
        out.family("sluice_filter_calls_total", "counter", "Calls of filters by hook and result.");
        for ((filter, plugin), cells) in &filters {
            for hook in Hook::ALL {
                for result in CallResult::ALL {
                    let count = cells.calls[hook as usize][result as usize].value();
                    if count > 0 {
                        let labels = [
                            ("filter", &**filter),
                            ("plugin", plugin),
                            ("hook", hook.name()),
                            ("result", result.name()),
                        ];
                        out.sample("sluice_filter_calls_total", &labels, count as f64);
                    }
                }
            }
        }
        out.family("sluice_filter_seconds_total", "counter", "Wall time inside filters by hook.");
        for ((filter, plugin), cells) in &filters {
            for hook in Hook::ALL {
                let nanos = cells.nanos[hook as usize].value();
                if nanos > 0 {
                    let labels = [("filter", &**filter), ("plugin", plugin), ("hook", hook.name())];
                    out.sample("sluice_filter_seconds_total", &labels, nanos as f64 / 1e9);
                }
            }
        }
        let mut failures: HashMap<(FilterId, Hook, &'static str), u64> = HashMap::new();
        for cells in workers {
            for (key, count) in lock(&cells.filter_failures).iter() {
                *failures.entry(*key).or_default() += count;
            }
        }
        out.family("sluice_filter_failures_total", "counter", "Filter calls without a verdict, by kind.");
        for ((filter, hook, kind), count) in sorted(failures, |(filter, hook, kind)| (filter.0, *hook as u8, *kind)) {
            let (filter, _) = self.filters.name(filter.0);
            let labels = [("filter", &*filter), ("hook", hook.name()), ("kind", kind)];
            out.sample("sluice_filter_failures_total", &labels, count as f64);
        }
    }

    fn render_listeners(&self, out: &mut Exposition) {
        type Read = fn(&ListenerCounters) -> u64;
        let families: [(&str, &str, &str, Read); 8] = [
            ("sluice_connections_total", "counter", "Accepted connections.", |l| l.accepted.value()),
            ("sluice_connections_active", "gauge", "Open connections.", |l| l.active.value()),
            ("sluice_connections_refused_total", "counter", "Connections over a limit.", |l| l.refused.value()),
            ("sluice_connection_errors_total", "counter", "Connections ended by an error.", |l| {
                l.connection_errors.value()
            }),
            ("sluice_tls_failures_total", "counter", "Failed TLS handshakes.", |l| l.tls_failures.value()),
            ("sluice_accept_errors_total", "counter", "Failed accepts.", |l| l.accept_errors.value()),
            ("sluice_received_bytes_total", "counter", "Bytes from clients, as on the wire.", |l| l.bytes_in.value()),
            ("sluice_sent_bytes_total", "counter", "Bytes to clients.", |l| l.bytes_out.value()),
        ];
        let mut listeners: BTreeMap<Arc<str>, Vec<Arc<ListenerCounters>>> = BTreeMap::new();
        for (name, counters) in lock(&self.listeners).iter() {
            listeners.entry(Arc::clone(name)).or_default().push(Arc::clone(counters));
        }
        for (name, kind, help, read) in families {
            out.family(name, kind, help);
            for (listener, workers) in &listeners {
                let sum: u64 = workers.iter().map(|counters| read(counters)).sum();
                out.sample(name, &[("listener", listener)], sum as f64);
            }
        }
    }

    fn render_process(&self, workers: &[Arc<Cells>], out: &mut Exposition) {
        let total = |read: fn(&Cells) -> &Counter| workers.iter().map(|cells| read(cells).value()).sum::<u64>();
        out.family("sluice_completions_dropped_total", "counter", "on-complete calls dropped from a full queue.");
        out.sample("sluice_completions_dropped_total", &[], total(|cells| &cells.completions_dropped) as f64);
        out.family("sluice_panics_total", "counter", "Panics caught in connection tasks: bugs of the gateway.");
        out.sample("sluice_panics_total", &[], total(|cells| &cells.panics) as f64);
        out.family("sluice_reloads_total", "counter", "Configuration reloads by result.");
        out.sample("sluice_reloads_total", &[("result", "ok")], self.reloads.value() as f64);
        out.sample("sluice_reloads_total", &[("result", "refused")], self.reloads_refused.value() as f64);
        out.family("sluice_last_reload_timestamp_seconds", "gauge", "When the running configuration was loaded.");
        out.sample("sluice_last_reload_timestamp_seconds", &[], self.last_reload.value() as f64);
        out.family("sluice_buffered_bytes", "gauge", "Body bytes held in memory.");
        out.sample("sluice_buffered_bytes", &[], self.buffered_bytes.value() as f64);
        out.family("sluice_log_lines_dropped_total", "counter", "Log lines lost to a slow or closed reader.");
        out.sample("sluice_log_lines_dropped_total", &[("log", "access")], self.access_log_dropped.value() as f64);
        out.sample("sluice_log_lines_dropped_total", &[("log", "operational")], self.log_dropped.value() as f64);
        render::process(self.started, out);
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

    /// A response head of an upstream.
    pub fn upstream(&self, upstream: UpstreamId, status: u16, to_first_byte: Duration) {
        self.cells.upstreams.cell(upstream.0).record(status, to_first_byte);
    }

    /// An attempt that brought no response.
    pub fn upstream_failed(&self, upstream: UpstreamId, kind: &'static str) {
        *lock(&self.cells.failed_attempts).entry((upstream, kind)).or_default() += 1;
    }

    /// An error of an exchange. Takes a lock that only a scrape shares.
    pub fn error(&self, route: RouteId, side: Side, kind: &'static str) {
        *lock(&self.cells.errors).entry((route, side, kind)).or_default() += 1;
    }

    /// A filter call that ended.
    pub fn filter_call(&self, filter: FilterId, hook: Hook, result: CallResult, elapsed: Duration) {
        let cells = self.cells.filters.cell(filter.0);
        cells.calls[hook as usize][result as usize].bump(1);
        cells.nanos[hook as usize].bump(nanos(elapsed));
    }

    /// Why a filter call gave no verdict. Takes a lock that only a scrape shares.
    pub fn filter_failed(&self, filter: FilterId, hook: Hook, kind: &'static str) {
        *lock(&self.cells.filter_failures).entry((filter, hook, kind)).or_default() += 1;
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

#[derive(Default)]
struct Cells {
    routes: Table<Traffic>,
    upstreams: Table<Traffic>,
    filters: Table<FilterCells>,
    errors: Mutex<HashMap<(RouteId, Side, &'static str), u64>>,
    failed_attempts: Mutex<HashMap<(UpstreamId, &'static str), u64>>,
    filter_failures: Mutex<HashMap<(FilterId, Hook, &'static str), u64>>,
    completions_dropped: Counter,
    panics: Counter,
}

const SEGMENT: usize = 64;
const SEGMENTS: usize = 1024;

/// Cells by id that grow without moving, in segments made on first use.
struct Table<T> {
    segments: Box<[OnceLock<Box<[T]>>]>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { segments: (0..SEGMENTS).map(|_| OnceLock::new()).collect() }
    }
}

impl<T: Default> Table<T> {
    fn cell(&self, id: u32) -> &T {
        let id = id as usize;
        let segment = self.segments[id / SEGMENT].get_or_init(|| (0..SEGMENT).map(|_| T::default()).collect());
        &segment[id % SEGMENT]
    }

    fn peek(&self, id: u32) -> Option<&T> {
        let id = id as usize;
        self.segments.get(id / SEGMENT)?.get()?.get(id % SEGMENT)
    }
}

/// Names and their ids. Id 0 is what is counted when the ids are used up.
struct Names<N> {
    known: Mutex<(HashMap<N, u32>, Vec<N>)>,
}

impl<N: Clone + Eq + Hash> Names<N> {
    fn new(other: N) -> Self {
        Names { known: Mutex::new((HashMap::new(), vec![other])) }
    }

    fn intern(&self, name: N) -> u32 {
        let mut known = lock(&self.known);
        let (ids, names) = &mut *known;
        if let Some(id) = ids.get(&name) {
            return *id;
        }
        if names.len() >= SEGMENT * SEGMENTS {
            return 0;
        }
        let id = names.len() as u32;
        names.push(name.clone());
        ids.insert(name, id);
        id
    }

    fn name(&self, id: u32) -> N {
        let known = lock(&self.known);
        known.1.get(id as usize).unwrap_or(&known.1[0]).clone()
    }

    fn all(&self) -> Vec<N> {
        lock(&self.known).1.clone()
    }
}

/// Statuses that are counted by themselves; the others share a slot for their class.
const CODES: [u16; 46] = [
    0, 101, 200, 201, 202, 203, 204, 205, 206, 207, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405,
    406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431, 500, 501, 502, 503, 504,
];
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];
const CODE_NAMES: [&str; 46] = [
    "0", "101", "200", "201", "202", "203", "204", "205", "206", "207", "300", "301", "302", "303", "304", "307",
    "308", "400", "401", "402", "403", "404", "405", "406", "408", "409", "410", "411", "412", "413", "414", "415",
    "416", "417", "421", "422", "425", "426", "428", "429", "431", "500", "501", "502", "503", "504",
];
const SLOTS: usize = CODES.len() + CLASSES.len();

fn slot(status: u16) -> usize {
    match CODES.binary_search(&status) {
        Ok(slot) => slot,
        Err(_) => match status / 100 {
            class @ 1..=5 => CODES.len() + class as usize,
            _ => CODES.len(),
        },
    }
}

fn code_name(slot: usize) -> &'static str {
    CODE_NAMES.get(slot).or_else(|| CLASSES.get(slot - CODES.len())).copied().unwrap_or("other")
}

/// Responses by status and their times.
struct Traffic {
    codes: [Counter; SLOTS],
    duration: Histogram,
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic { codes: std::array::from_fn(|_| Counter::default()), duration: Histogram::default() }
    }
}

impl Traffic {
    fn record(&self, status: u16, elapsed: Duration) {
        self.codes[slot(status)].bump(1);
        self.duration.record(elapsed);
    }

    fn add_all(&self, other: &Traffic) {
        for (sum, count) in self.codes.iter().zip(&other.codes) {
            sum.bump(count.value());
        }
        self.duration.add_all(&other.duration);
    }
}

/// Upper bounds of the latency buckets in nanoseconds: 0.5 ms to 60 s, about three for each power of ten.
const BOUNDS: [u64; 16] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

#[derive(Default)]
struct Histogram {
    /// Not cumulative; the last one is for what is over all bounds.
    buckets: [Counter; BOUNDS.len() + 1],
    sum_nanos: Counter,
}

impl Histogram {
    fn record(&self, elapsed: Duration) {
        let nanos = nanos(elapsed);
        let bucket = BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].bump(1);
        self.sum_nanos.bump(nanos);
    }

    fn add_all(&self, other: &Histogram) {
        for (sum, count) in self.buckets.iter().zip(&other.buckets) {
            sum.bump(count.value());
        }
        self.sum_nanos.bump(other.sum_nanos.value());
    }

    fn render(&self, name: &str, labels: &[(&str, &str)], out: &mut Exposition) {
        let counts: Vec<u64> = self.buckets.iter().map(Counter::value).collect();
        if counts.iter().all(|count| *count == 0) {
            return;
        }
        let bounds: Vec<f64> = BOUNDS.iter().map(|nanos| *nanos as f64 / 1e9).collect();
        out.histogram(name, labels, &bounds, &counts, self.sum_nanos.value() as f64 / 1e9);
    }
}

#[derive(Default)]
struct FilterCells {
    calls: [[Counter; CallResult::ALL.len()]; Hook::ALL.len()],
    nanos: [Counter; Hook::ALL.len()],
}

impl FilterCells {
    fn add_all(&self, other: &FilterCells) {
        for (sum, count) in self.calls.iter().flatten().zip(other.calls.iter().flatten()) {
            sum.bump(count.value());
        }
        for (sum, count) in self.nanos.iter().zip(&other.nanos) {
            sum.bump(count.value());
        }
    }
}

fn sum_traffic(
    names: &Names<Arc<str>>,
    workers: &[Arc<Cells>],
    table: fn(&Cells) -> &Table<Traffic>,
) -> Vec<(Arc<str>, Traffic)> {
    let mut sums = Vec::new();
    for (id, name) in names.all().into_iter().enumerate() {
        let sum = Traffic::default();
        workers.iter().filter_map(|cells| table(cells).peek(id as u32)).for_each(|cells| sum.add_all(cells));
        sums.push((name, sum));
    }
    sums
}

fn sorted<K, V, S: Ord>(map: HashMap<K, V>, key: impl Fn(&K) -> S) -> Vec<(K, V)> {
    let mut entries: Vec<(K, V)> = map.into_iter().collect();
    entries.sort_by_key(|(entry, _)| key(entry));
    entries
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Metrics stay readable after a panic elsewhere: a half-made update of a counter is no danger.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            worker.error(route, Side::Upstream, "connect");
            let filter = metrics.filter("auth", "jwt-auth");
            worker.filter_call(filter, Hook::OnRequest, CallResult::Respond, Duration::from_micros(10));
            worker.filter_failed(filter, Hook::OnRequest, "trap");
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
            r#"sluice_filter_calls_total{filter="auth",plugin="jwt-auth",hook="on-request",result="respond"} 2"#,
            r#"sluice_filter_failures_total{filter="auth",hook="on-request",kind="trap"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
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

    #[test]
    fn code_tables_agree() {
        assert!(CODES.is_sorted());
        for (code, name) in CODES.iter().zip(CODE_NAMES) {
            assert_eq!(code.to_string(), name);
        }
        assert_eq!(code_name(slot(418)), "4xx");
        assert_eq!(code_name(slot(999)), "other");
    }

    #[test]
    fn ids_that_run_out_share_a_series() {
        let names = Names::new(0usize);
        for name in 1..SEGMENT * SEGMENTS {
            assert_eq!(names.intern(name), name as u32);
        }
        assert_eq!(names.intern(usize::MAX), 0);
    }
}
