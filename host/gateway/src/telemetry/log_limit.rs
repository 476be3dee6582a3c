//! How many lines one place in the code may write to the operational log: so many a second, the rest dropped, counted and told in a
//! summary. What a peer does must not fill the log at the peer's own rate, and lines of other places must not be lost to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::h2_refusals;
use super::metrics::Metrics;
use crate::coarse;

/// Lines of one place in a second.
const LINES_PER_SECOND: u64 = 100;
/// Lines of filters, which have a limit of their own for each filter.
const OF_FILTERS: &str = "sluice::filter";

/// Clones share their counts.
#[derive(Clone)]
pub(super) struct LogLimit {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Arc<Metrics>,
    /// As many as there are places in the code that log.
    places: Mutex<HashMap<Identifier, Place>>,
    /// Dropped lines that a summary has told.
    told: AtomicU64,
}

/// A place in the code that writes lines.
struct Place {
    metadata: &'static Metadata<'static>,
    second: u64,
    /// Lines in that second.
    lines: u64,
    /// Dropped lines that no summary has told yet.
    dropped: u64,
}

impl LogLimit {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        LogLimit { shared: Arc::new(Shared { metrics, places: Mutex::default(), told: AtomicU64::new(0) }) }
    }

    /// Whether a place may write one more line now. A refused line is counted.
    fn allow(&self, metadata: &'static Metadata<'static>, second: u64) -> bool {
        let mut places = self.shared.places.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Place { metadata, second, lines: 0, dropped: 0 };
        let place = places.entry(metadata.callsite()).or_insert_with(new);
        if place.second != second {
            (place.second, place.lines) = (second, 0);
        }
        place.lines += 1;
        let allowed = place.lines <= LINES_PER_SECOND;
        if !allowed {
            place.dropped += 1;
            self.shared.metrics.log_dropped.add(1);
        }
        allowed
    }

    /// Writes how many lines were dropped since the last time, if any were.
    pub(super) fn summarize(&self) {
        let total = self.shared.metrics.log_dropped.value();
        let mut lost = total.saturating_sub(self.shared.told.swap(total, Relaxed));
        if lost == 0 {
            return;
        }
        let limited: Vec<(&'static Metadata<'static>, u64)> = {
            let mut places = self.shared.places.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = places.values_mut().map(|place| (place.metadata, std::mem::take(&mut place.dropped)));
            taken.filter(|(_, dropped)| *dropped > 0).collect()
        };
        for (metadata, dropped) in limited {
            lost = lost.saturating_sub(dropped);
            let (source, level) = (metadata.target(), metadata.level().as_str());
            tracing::warn!(source, level, dropped, "lines dropped: more than {LINES_PER_SECOND} a second of one kind");
        }
        if lost > 0 {
            tracing::warn!(dropped = lost, "lines dropped: the log was not written fast enough");
        }
    }
}

impl<S: Subscriber> Layer<S> for LogLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if h2_refusals::reports(metadata) {
            h2_refusals::note(event);
            return false;
        }
        metadata.target() == OF_FILTERS || self.allow(metadata, coarse::now_ms() / 1000)
    }
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Counts the events that reach it.
    #[derive(Clone, Default)]
    struct Written(Arc<AtomicU64>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn one_place_does_not_take_the_lines_of_others() {
        let (limit, written) = (LogLimit::new(Metrics::new()), Written::default());
        let count = || written.0.load(Relaxed);
        with_default(tracing_subscriber::registry().with(limit.clone()).with(written.clone()), || {
            for n in 0..10_000 {
                tracing::warn!(n, "a peer does odd things");
            }
            // The loop may have seen more than one second.
            let passed = count();
            assert!((LINES_PER_SECOND..10_000).contains(&passed), "{passed}");
            assert_eq!(limit.shared.metrics.log_dropped.value(), 10_000 - passed);
            tracing::warn!("something else");
            assert_eq!(count(), passed + 1);
            limit.summarize();
            assert_eq!(count(), passed + 2, "one line tells of all that was dropped");
            limit.summarize();
            assert_eq!(count(), passed + 2, "and only once");
            for n in 0..200 {
                tracing::info!(target: "sluice::filter", n, "a filter has its own limit");
            }
            assert_eq!(count(), passed + 202);
        });
    }
}
