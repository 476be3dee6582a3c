//! The metrics that filters keep: counters, gauges and histograms with labels, within a bound of series for each filter.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::ServiceError;
use crate::Exposition;

/// The series a filter may have; more are dropped and counted.
pub const MAX_SERIES: usize = 1_000;
/// The labels of a series.
pub const MAX_LABELS: usize = 16;
/// The longest name of a metric or a label, in bytes.
pub const MAX_NAME: usize = 64;
/// The longest value of a label, in bytes.
pub const MAX_VALUE: usize = 256;

/// What the gateway itself says of each filter as `sluice_filter_<name>`: a family can't have two meanings.
const TAKEN: [&str; 14] = [
    "calls_total",
    "cpu_seconds_total",
    "failures_total",
    "info",
    "instances",
    "instance_waits_total",
    "instances_prewarmed_total",
    "instances_started_total",
    "log_lines_dropped_total",
    "memory_peak_bytes",
    "refused_bodies_total",
    "seconds_total",
    "series_dropped_total",
    "unseen_bodies_total",
];

/// The upper bounds of a histogram's buckets; the one above all is implied.
const BOUNDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What the name of a histogram is followed by in its series: those names can't be families of their own beside it.
const SUFFIXES: [&str; 3] = ["_bucket", "_count", "_sum"];

/// The names in use: their kinds, and how many series have them.
type Kinds = Arc<Mutex<HashMap<Box<str>, (Kind, usize)>>>;

/// The metrics of all filters. A name has one kind, whichever filter uses it, for as long as a filter has a series of this name.
#[derive(Debug, Default)]
pub struct FilterMetrics {
    kinds: Kinds,
    filters: RwLock<BTreeMap<Box<str>, Arc<FilterSeries>>>,
}

impl FilterMetrics {
    /// The series of a filter, to be kept by its instances; they survive reloads.
    pub fn filter(&self, name: &str) -> Arc<FilterSeries> {
        if let Some(series) = self.filters.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return series.clone();
        }
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(FilterSeries {
                kinds: self.kinds.clone(),
                hasher: RandomState::default(),
                table: RwLock::default(),
                dropped: AtomicU64::new(0),
                released: AtomicBool::new(false),
            })
        };
        filters.entry(name.into()).or_insert_with(new).clone()
    }

    /// Forgets the filters that are no more, after a reload.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        for (_, series) in filters.extract_if(.., |name, _| !keep(name)) {
            series.release();
        }
    }

    /// Writes the series as `sluice_filter_<name>` with the label `filter`, and how many values were dropped for want of room as
    /// `sluice_filter_series_dropped_total`.
    pub fn render(&self, out: &mut Exposition) {
        let filters: Vec<_> = {
            let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
            filters.iter().map(|(name, series)| (name.clone(), series.clone())).collect()
        };
        let mut families: BTreeMap<String, (Kind, Exposition)> = BTreeMap::new();
        for (filter, series) in &filters {
            let table = series.table.read().unwrap_or_else(PoisonError::into_inner);
            let mut sorted: Vec<_> = table.iter().collect();
            sorted.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
            for one in sorted {
                let family = format!("sluice_filter_{}", one.name);
                let labels = one.labels(filter);
                let (_, samples) =
                    families.entry(family.clone()).or_insert_with(|| (one.value.kind(), Exposition::default()));
                one.value.render(&family, &labels, samples);
            }
        }
        for (name, (kind, samples)) in families {
            out.family(&name, kind.name(), "Kept by filters.");
            out.append(samples);
        }
        const DROPPED: &str = "sluice_filter_series_dropped_total";
        out.family(DROPPED, "counter", "Values of filters' own metrics over their maximum of series.");
        for (filter, series) in &filters {
            out.sample(DROPPED, &[("filter", filter)], series.dropped() as f64);
        }
    }
}

/// The series of one filter. A value for a known series takes a read lock for the look-up and one atomic step.
#[derive(Debug)]
pub struct FilterSeries {
    kinds: Kinds,
    hasher: RandomState,
    table: RwLock<HashTable<Series>>,
    dropped: AtomicU64,
    /// Set, under the lock of the table, once the filter is no more. Exchanges may still be on their way through it.
    released: AtomicBool,
}

#[derive(Debug)]
struct Series {
    hash: u64,
    name: Box<str>,
    labels: Vec<(Box<str>, Box<str>)>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Counter(AtomicU64),
    /// The bits of an `f64`.
    Gauge(AtomicU64),
    Histogram(Box<Histogram>),
}

#[derive(Debug, Default)]
struct Histogram {
    /// Values of each bucket alone; the last is above all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl FilterSeries {
    /// Adds to a counter.
    pub fn count(&self, name: &str, labels: &[(&str, &str)], delta: u64) -> Result<(), ServiceError> {
        self.with(name, labels, Kind::Counter, |value| {
            if let Value::Counter(counter) = value {
                counter.fetch_add(delta, Ordering::Relaxed);
            }
        })
    }

    /// Sets a gauge.
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)], to: f64) -> Result<(), ServiceError> {
        self.with(name, labels, Kind::Gauge, |value| {
            if let Value::Gauge(gauge) = value {
                gauge.store(to.to_bits(), Ordering::Relaxed);
            }
        })
    }

    /// Adds a value to a histogram. A value that is not finite is refused: it would spoil the sum for good.
    pub fn observe(&self, name: &str, labels: &[(&str, &str)], seen: f64) -> Result<(), ServiceError> {
        if !seen.is_finite() {
            return Err(ServiceError::Invalid(format!("`{seen}` is no value of a histogram")));
        }
        self.with(name, labels, Kind::Histogram, |value| {
            if let Value::Histogram(histogram) = value {
                let bucket = BOUNDS.iter().position(|bound| seen <= *bound).unwrap_or(BOUNDS.len());
                if let Some(bucket) = histogram.buckets.get(bucket) {
                    bucket.fetch_add(1, Ordering::Relaxed);
                }
                let add = |bits| Some((f64::from_bits(bits) + seen).to_bits());
                let _ = histogram.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
            }
        })
    }

    /// Values that were dropped because their series would have been one too many.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Runs `update` on the series, which is made if there is room. Errors: `Invalid` for a malformed name or label, or
    /// when the name is of another kind; `TooLarge` for too many labels or too long a value.
    fn with(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        kind: Kind,
        update: impl Fn(&Value),
    ) -> Result<(), ServiceError> {
        if labels.len() > MAX_LABELS {
            return Err(ServiceError::TooLarge(MAX_LABELS as u64));
        }
        // The order of labels has no meaning.
        let mut labels: smallvec::SmallVec<[(&str, &str); MAX_LABELS]> = labels.into();
        labels.sort_unstable();
        let hash = self.hasher.hash_one((name, &labels[..]));
        let is = |series: &Series| {
            *series.name == *name
                && series.labels.len() == labels.len()
                && series.labels.iter().zip(&labels).all(|((n, v), (name, value))| **n == **name && **v == **value)
        };
        {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(series) = table.find(hash, is) {
                series.value.check(name, kind)?;
                update(&series.value);
                return Ok(());
            }
        }
        check_names(name, &labels)?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        // Nobody reads it any more, and it must not hold a name.
        if self.released.load(Ordering::Relaxed) {
            return Ok(());
        }
        if table.find(hash, is).is_none() {
            if table.len() >= MAX_SERIES {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            self.claim(name, kind)?;
            let labels = labels.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            let series = Series { hash, name: name.into(), labels, value: Value::new(kind) };
            table.insert_unique(hash, series, |series| series.hash);
        }
        if let Some(series) = table.find(hash, is) {
            series.value.check(name, kind)?;
            update(&series.value);
        }
        Ok(())
    }
}

impl FilterSeries {
    /// Takes a name for one more series of this kind.
    fn claim(&self, name: &str, kind: Kind) -> Result<(), ServiceError> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        match kinds.get_mut(name) {
            Some((known, series)) if *known == kind => {
                *series += 1;
                return Ok(());
            }
            Some((known, _)) => return Err(other_kind(name, *known)),
            None => {}
        }
        let is_taken = |suffix: &str| {
            let is_histogram = |base: &str| matches!(kinds.get(base), Some((Kind::Histogram, _)));
            name.strip_suffix(suffix).is_some_and(is_histogram)
                || kind == Kind::Histogram && kinds.contains_key(&*format!("{name}{suffix}"))
        };
        if let Some(suffix) = SUFFIXES.into_iter().find(|suffix| is_taken(suffix)) {
            return Err(ServiceError::Invalid(format!(
                "`{name}` can't be the name of this metric: a histogram has a series of its own with `{suffix}` at the end"
            )));
        }
        kinds.insert(name.into(), (kind, 1));
        Ok(())
    }
}

impl FilterSeries {
    /// Forgets all series, and frees their names for others.
    fn release(&self) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        self.released.store(true, Ordering::Relaxed);
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for series in table.drain() {
            let Some((_, left)) = kinds.get_mut(&series.name) else { continue };
            *left -= 1;
            if *left == 0 {
                kinds.remove(&series.name);
            }
        }
    }
}

impl Series {
    fn labels<'a>(&'a self, filter: &'a str) -> Vec<(&'a str, &'a str)> {
        let own = self.labels.iter().map(|(name, value)| (&**name, &**value));
        std::iter::once(("filter", filter)).chain(own).collect()
    }
}

impl Value {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Value::Counter(AtomicU64::new(0)),
            Kind::Gauge => Value::Gauge(AtomicU64::new(0)),
            Kind::Histogram => Value::Histogram(Box::default()),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Value::Counter(_) => Kind::Counter,
            Value::Gauge(_) => Kind::Gauge,
            Value::Histogram(_) => Kind::Histogram,
        }
    }

    fn render(&self, family: &str, labels: &[(&str, &str)], out: &mut Exposition) {
        match self {
            Value::Counter(counter) => out.sample(family, labels, counter.load(Ordering::Relaxed) as f64),
            Value::Gauge(gauge) => out.sample(family, labels, f64::from_bits(gauge.load(Ordering::Relaxed))),
            Value::Histogram(histogram) => {
                let counts: Vec<_> = histogram.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
                let sum = f64::from_bits(histogram.sum.load(Ordering::Relaxed));
                out.histogram(family, labels, &BOUNDS, &counts, sum);
            }
        }
    }

    fn check(&self, name: &str, kind: Kind) -> Result<(), ServiceError> {
        if self.kind() == kind { Ok(()) } else { Err(other_kind(name, self.kind())) }
    }
}

fn other_kind(name: &str, kind: Kind) -> ServiceError {
    ServiceError::Invalid(format!("the metric `{name}` is a {}", kind.name()))
}

fn check_names(name: &str, labels: &[(&str, &str)]) -> Result<(), ServiceError> {
    if !is_name(name) {
        return Err(ServiceError::Invalid(format!("`{name}` is no name of a metric: it has to be [a-z][a-z0-9_]*")));
    }
    if TAKEN.contains(&name) {
        return Err(ServiceError::Invalid(format!("`{name}` is a metric that the gateway keeps for each filter")));
    }
    for (at, (label, value)) in labels.iter().enumerate() {
        if !is_name(label) || matches!(*label, "filter" | "le" | "quantile") {
            return Err(ServiceError::Invalid(format!("`{label}` can't be the name of a label")));
        }
        if at.checked_sub(1).and_then(|before| labels.get(before)).is_some_and(|(before, _)| before == label) {
            return Err(ServiceError::Invalid(format!("the label `{label}` is given twice")));
        }
        if value.len() > MAX_VALUE {
            return Err(ServiceError::TooLarge(MAX_VALUE as u64));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_rendered_by_name_and_filter() {
        let metrics = FilterMetrics::default();
        let (a, b) = (metrics.filter("a"), metrics.filter("b\"\\\n"));
        a.count("hits", &[("x", "1"), ("b", "2")], 2).unwrap();
        a.count("hits", &[("b", "2"), ("x", "1")], 3).unwrap();
        b.count("hits", &[], 1).unwrap();
        a.gauge("depth", &[], -1.5).unwrap();
        for seen in [0.0005, 0.3, 99.0] {
            a.observe("took", &[], seen).unwrap();
        }
        let text = || {
            let mut out = Exposition::default();
            metrics.render(&mut out);
            out.finish()
        };
        let rendered = text();
        let expected = [
            "# TYPE sluice_filter_depth gauge\nsluice_filter_depth{filter=\"a\"} -1.5\n",
            "# TYPE sluice_filter_hits counter\nsluice_filter_hits{filter=\"a\",b=\"2\",x=\"1\"} 5\nsluice_filter_hits{filter=\"b\\\"\\\\\\n\"} 1\n",
            "sluice_filter_took_bucket{filter=\"a\",le=\"0.001\"} 1\n",
            "sluice_filter_took_bucket{filter=\"a\",le=\"0.25\"} 1\nsluice_filter_took_bucket{filter=\"a\",le=\"0.5\"} 2\n",
            "sluice_filter_took_bucket{filter=\"a\",le=\"+Inf\"} 3\nsluice_filter_took_sum{filter=\"a\"} 99.3005\nsluice_filter_took_count{filter=\"a\"} 3\n",
            "sluice_filter_series_dropped_total{filter=\"a\"} 0\n",
        ];
        for part in expected {
            assert!(rendered.contains(part), "{part} is not in {rendered}");
        }
        metrics.retain(|name| name == "none");
        assert!(!text().contains("{filter="));
    }

    #[test]
    fn names_labels_and_kinds_are_checked() {
        let series = FilterMetrics::default().filter("f");
        for name in ["", "Hits", "1x", "a-b", "é", "_a", "calls_total", &"a".repeat(65)] {
            assert!(matches!(series.count(name, &[], 1), Err(ServiceError::Invalid(_))), "{name}");
        }
        for labels in [&[("le", "1")][..], &[("filter", "1")], &[("A", "1")], &[("a", "1"), ("a", "2")]] {
            assert!(matches!(series.count("n", labels, 1), Err(ServiceError::Invalid(_))), "{labels:?}");
        }
        let long = "v".repeat(257);
        assert_eq!(series.count("n", &[("a", &long)], 1), Err(ServiceError::TooLarge(256)));
        assert_eq!(series.count("n", &[("a", ""); 17], 1), Err(ServiceError::TooLarge(16)));
        series.count("n", &[], 1).unwrap();
        assert!(matches!(series.gauge("n", &[], 1.0), Err(ServiceError::Invalid(_))));
        assert!(matches!(series.gauge("n", &[("a", "b")], 1.0), Err(ServiceError::Invalid(_))));
        assert!(matches!(series.observe("h", &[], f64::NAN), Err(ServiceError::Invalid(_))));
    }

    #[test]
    fn a_name_that_a_histogram_has_for_its_series_is_refused() {
        let metrics = FilterMetrics::default();
        let (a, b) = (metrics.filter("a"), metrics.filter("b"));
        a.observe("lat", &[], 1.0).unwrap();
        for name in ["lat_count", "lat_sum", "lat_bucket"] {
            assert!(matches!(b.count(name, &[], 1), Err(ServiceError::Invalid(_))), "{name}");
        }
        b.count("size_sum", &[], 1).unwrap();
        assert!(matches!(a.observe("size", &[], 1.0), Err(ServiceError::Invalid(_))));
        a.count("lat_other", &[], 1).unwrap();
        a.observe("lat_other_bucket", &[], 1.0).unwrap();
    }

    #[test]
    fn a_kind_is_free_again_when_no_filter_has_it() {
        let metrics = FilterMetrics::default();
        for name in ["old", "older"] {
            metrics.filter(name).count("n", &[("a", "1")], 1).unwrap();
            metrics.filter(name).count("n", &[("a", "2")], 1).unwrap();
        }
        metrics.retain(|name| name == "old");
        let held = metrics.filter("old");
        assert!(metrics.filter("new").gauge("n", &[], 1.0).is_err());
        metrics.retain(|name| name == "new");
        metrics.filter("new").gauge("n", &[], 1.0).unwrap();
        // By an exchange that is still on its way through the old filter.
        held.count("n", &[("a", "1")], 1).unwrap();
        held.count("m", &[], 1).unwrap();
        metrics.filter("new").gauge("m", &[], 1.0).unwrap();
    }

    #[test]
    fn series_are_bounded_and_drops_counted() {
        let metrics = FilterMetrics::default();
        let series = metrics.filter("f");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..1_100 {
                        series.count("n", &[("i", &i.to_string())], 1).unwrap();
                    }
                });
            }
        });
        assert_eq!(series.table.read().unwrap().len(), MAX_SERIES);
        assert_eq!(series.dropped(), 400);
        // Other filters have their own room.
        metrics.filter("g").count("n", &[], 1).unwrap();
        assert_eq!(metrics.filter("g").dropped(), 0);
    }
}
