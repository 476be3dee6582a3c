//! How many lines one place in the code may write to the operational log: so many a second, the rest dropped, counted and told in a
//! summary. What a peer does must not fill the log at the peer's own rate, and lines of other places must not be lost to it. A place
//! that logs for all routes has the limit for each route and kind of error, so that one route's failures do not hide another's.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
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
/// What the operator does, at start and by a reload: as many lines as the configuration gives cause for.
const OF_OPERATOR: [&str; 2] = ["sluice::gateway", "sluice::control"];
/// The summaries: at most one a second for each limit that was reached.
const OF_SUMMARIES: &str = module_path!();

/// Clones share their counts.
#[derive(Clone)]
pub(super) struct LogLimit {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Arc<Metrics>,
    /// As many as there are places in the code that log, and those of one place that have logged in this second or the one before.
    places: Mutex<HashMap<(Identifier, Subject), Place>>,
    /// Dropped lines that a summary has told.
    told: AtomicU64,
}

/// What a line is about, as far as the configuration names it. Empty where the line does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Subject {
    route: String,
    kind: String,
    upstream: String,
}

impl Subject {
    fn of(event: &Event<'_>) -> Self {
        let mut subject = Subject::default();
        let fields = event.metadata().fields();
        if fields.field("route").or_else(|| fields.field("upstream")).is_some() {
            event.record(&mut subject);
        }
        subject
    }

    fn place(&mut self, field: &Field) -> Option<&mut String> {
        match field.name() {
            "route" => Some(&mut self.route),
            "kind" => Some(&mut self.kind),
            "upstream" => Some(&mut self.upstream),
            _ => None,
        }
    }
}

impl Visit for Subject {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(place) = self.place(field) {
            place.push_str(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(place) = self.place(field) {
            *place = format!("{value:?}");
        }
    }
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

/// A place, what its lines were about, and how many of them were dropped.
type Dropped = (&'static Metadata<'static>, Subject, u64);

impl LogLimit {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        LogLimit { shared: Arc::new(Shared { metrics, places: Mutex::default(), told: AtomicU64::new(0) }) }
    }

    /// Whether a place may write one more line now. A refused line is counted.
    fn allow(&self, metadata: &'static Metadata<'static>, subject: Subject, second: u64) -> bool {
        let mut places = self.shared.places.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Place { metadata, second, lines: 0, dropped: 0 };
        let place = places.entry((metadata.callsite(), subject)).or_insert_with(new);
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
        let (limited, total) = self.take_dropped(coarse::now_ms() / 1000);
        let mut lost = total.saturating_sub(self.shared.told.swap(total, Relaxed));
        for (metadata, subject, dropped) in limited {
            lost = lost.saturating_sub(dropped);
            let (source, level) = (metadata.target(), metadata.level().as_str());
            let [route, kind, upstream] =
                [&subject.route, &subject.kind, &subject.upstream].map(|name| (!name.is_empty()).then_some(&**name));
            tracing::warn!(
                source,
                level,
                route,
                kind,
                upstream,
                dropped,
                "lines dropped: more than {LINES_PER_SECOND} a second of one kind"
            );
        }
        if lost > 0 {
            tracing::warn!(dropped = lost, "lines dropped: the log was not written fast enough");
        }
    }

    /// What no summary has told yet, and how many lines were dropped in all. Subjects without a line in this second are forgotten: a reload may have new names at any time.
    fn take_dropped(&self, second: u64) -> (Vec<Dropped>, u64) {
        let mut places = self.shared.places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.iter_mut().map(|((_, subject), place)| {
            let dropped = std::mem::take(&mut place.dropped);
            (dropped > 0).then(|| (place.metadata, subject.clone(), dropped))
        });
        let limited = taken.flatten().collect();
        places.retain(|_, place| place.second >= second);
        // Under the lock, so that no line is in one of the two only.
        (limited, self.shared.metrics.log_dropped.value())
    }
}

impl<S: Subscriber> Layer<S> for LogLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if h2_refusals::reports(metadata) {
            h2_refusals::note(event);
            return false;
        }
        unlimited(metadata.target()) || self.allow(metadata, Subject::of(event), coarse::now_ms() / 1000)
    }
}

/// Whether lines of a part of the gateway are none that a peer can cause.
fn unlimited(target: &str) -> bool {
    let of_operator =
        |part: &str| target.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    target == OF_FILTERS || target == OF_SUMMARIES || OF_OPERATOR.into_iter().any(of_operator)
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

    #[test]
    fn one_route_does_not_take_the_lines_of_another() {
        let (limit, written) = (LogLimit::new(Metrics::new()), Written::default());
        let count = || written.0.load(Relaxed);
        let fail = |route: &str, kind: &str| tracing::warn!(request_id = count(), route, kind, "exchange failed");
        with_default(tracing_subscriber::registry().with(limit.clone()).with(written.clone()), || {
            (0..10_000).for_each(|_| fail("a", "connect-failed"));
            let passed = count();
            assert!((LINES_PER_SECOND..10_000).contains(&passed), "{passed}");
            for (route, kind) in [("b", "connect-failed"), ("a", "out-of-memory"), ("", "out-of-memory")] {
                fail(route, kind);
            }
            assert_eq!(count(), passed + 3);
            let told: Vec<_> = limit.take_dropped(0).0.into_iter().map(|(_, subject, n)| (subject.route, n)).collect();
            assert_eq!(told, [("a".to_owned(), 10_000 - passed)]);
            assert_eq!(limit.shared.places.lock().unwrap().len(), 4);
            limit.take_dropped(u64::MAX);
            assert!(limit.shared.places.lock().unwrap().is_empty(), "names are not kept");
        });
    }

    #[test]
    fn warnings_of_a_configuration_are_all_written() {
        let (limit, written) = (LogLimit::new(Metrics::new()), Written::default());
        with_default(tracing_subscriber::registry().with(limit).with(written.clone()), || {
            for n in 0..1000 {
                tracing::warn!(target: "sluice::gateway", "warning {n}");
                tracing::warn!(target: "sluice::control::replace", "warning {n}");
            }
        });
        assert_eq!(written.0.load(Relaxed), 2000);
        assert!(!unlimited("sluice::gateways") && unlimited(module_path!().trim_end_matches("::tests")));
    }
}
