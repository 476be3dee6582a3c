//! What metrics are stored in: counters, histograms, tables that grow while they are read, and names with their ids.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sluice_services::Exposition;

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
    pub fn bump(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
}

const SEGMENT: usize = 64;
const SEGMENTS: usize = 1024;

/// Cells by id that grow without moving, in segments made on first use.
pub(super) struct Table<T> {
    segments: Box<[OnceLock<Box<[T]>>]>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { segments: (0..SEGMENTS).map(|_| OnceLock::new()).collect() }
    }
}

impl<T: Default> Table<T> {
    pub(super) fn cell(&self, id: u32) -> &T {
        let id = id as usize;
        let segment = self.segments[id / SEGMENT].get_or_init(|| (0..SEGMENT).map(|_| T::default()).collect());
        &segment[id % SEGMENT]
    }

    pub(super) fn peek(&self, id: u32) -> Option<&T> {
        let id = id as usize;
        self.segments.get(id / SEGMENT)?.get()?.get(id % SEGMENT)
    }
}

/// Names and their ids. Id 0 is what is counted when the ids are used up.
pub(super) struct Names<N> {
    known: Mutex<(HashMap<N, u32>, Vec<N>)>,
}

impl<N: Clone + Eq + Hash> Names<N> {
    pub(super) fn new(other: N) -> Self {
        Names { known: Mutex::new((HashMap::new(), vec![other])) }
    }

    pub(super) fn intern(&self, name: N) -> u32 {
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

    pub(super) fn name(&self, id: u32) -> N {
        let known = lock(&self.known);
        known.1.get(id as usize).unwrap_or(&known.1[0]).clone()
    }

    pub(super) fn all(&self) -> Vec<N> {
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

pub(super) fn code_name(slot: usize) -> &'static str {
    CODE_NAMES.get(slot).or_else(|| CLASSES.get(slot - CODES.len())).copied().unwrap_or("other")
}

/// Responses by status and their times.
pub(super) struct Traffic {
    pub(super) codes: [Counter; SLOTS],
    pub(super) duration: Histogram,
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic { codes: std::array::from_fn(|_| Counter::default()), duration: Histogram::default() }
    }
}

impl Traffic {
    pub(super) fn record(&self, status: u16, elapsed: Duration) {
        self.codes[slot(status)].bump(1);
        self.duration.record(elapsed);
    }

    pub(super) fn add_all(&self, other: &Traffic) {
        for (sum, count) in self.codes.iter().zip(&other.codes) {
            sum.bump(count.value());
        }
        self.duration.add_all(&other.duration);
    }
}

/// Responses by status of gRPC: those that are defined (0 to 16), and the others together.
#[derive(Default)]
pub(super) struct GrpcStatuses([Counter; 18]);

impl GrpcStatuses {
    pub(super) fn record(&self, status: u8) {
        self.0[usize::from(status).min(self.0.len() - 1)].bump(1);
    }

    pub(super) fn add_all(&self, other: &GrpcStatuses) {
        for (sum, count) in self.0.iter().zip(&other.0) {
            sum.bump(count.value());
        }
    }

    /// Those that have occurred.
    pub(super) fn counts(&self) -> impl Iterator<Item = (String, u64)> {
        let name = |status: usize| if status > 16 { "other".to_owned() } else { status.to_string() };
        let counts = self.0.iter().map(Counter::value).enumerate();
        counts.filter(|(_, count)| *count > 0).map(move |(status, count)| (name(status), count))
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
pub(super) struct Histogram {
    /// Not cumulative; the last one is for what is over all bounds.
    buckets: [Counter; BOUNDS.len() + 1],
    sum_nanos: Counter,
}

impl Histogram {
    pub(super) fn record(&self, elapsed: Duration) {
        let nanos = nanos(elapsed);
        let bucket = BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].bump(1);
        self.sum_nanos.bump(nanos);
    }

    pub(super) fn add_all(&self, other: &Histogram) {
        for (sum, count) in self.buckets.iter().zip(&other.buckets) {
            sum.bump(count.value());
        }
        self.sum_nanos.bump(other.sum_nanos.value());
    }

    pub(super) fn render(&self, name: &str, labels: &[(&str, &str)], out: &mut Exposition) {
        let counts: Vec<u64> = self.buckets.iter().map(Counter::value).collect();
        if counts.iter().all(|count| *count == 0) {
            return;
        }
        let bounds: Vec<f64> = BOUNDS.iter().map(|nanos| *nanos as f64 / 1e9).collect();
        out.histogram(name, labels, &bounds, &counts, self.sum_nanos.value() as f64 / 1e9);
    }
}

pub(super) fn nanos(elapsed: Duration) -> u64 {
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
