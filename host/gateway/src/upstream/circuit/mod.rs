//! A circuit breaker: it opens when too many attempts have failed, refuses for a time, then lets a few requests through as probes, whose
//! results decide. All workers share one state, which is a word: a closed circuit without recent failures is only read.
//!
//! Settings are handed in with each call, since a reload may change them while the state stays.

mod window;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::window::{LastOutcomes, TimeWindow};
use super::attempt_log::Answer;
use super::endpoints::millis;
use super::error::UpstreamErrorKind;
use super::health::outliers::Failure;
use super::verdict::http_status_of;
use crate::config::model::{CircuitBreaker, FailureWindow};

/// What a refused client is told to wait for while probes are under way: nobody knows when they end.
const PROBING: Duration = Duration::from_secs(1);

/// What an attempt tells of whoever it was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure(Cause),
}

/// Why an attempt counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Status(u16),
    /// A status of gRPC.
    Grpc(u8),
    /// The body of the response broke off.
    Body,
    Error(UpstreamErrorKind),
}

/// The state of one circuit. No method waits.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    /// A [`State`] as one word, so that its parts change together; 0 while it is closed.
    state: AtomicU64,
    last: LastOutcomes,
    window: TimeWindow,
    /// When it opened, in milliseconds of the records' clock.
    since: AtomicU64,
    opened: AtomicU64,
    /// How the settings that are served count, once they have come; within that, `None` if they have no circuit breaker.
    window_of_settings: Mutex<Option<Option<FailureWindow>>>,
    /// They have none: what requests of before note must not open it.
    is_removed: AtomicBool,
}

/// Whether a request may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Pass,
    /// It passes, and its result decides whether the circuit closes.
    Probe(Probe),
    /// Not before this time has passed.
    Refused(Duration),
}

/// A request that passes while the circuit is half open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The half-open time that it belongs to, by how often the circuit had opened: a later one has probes of its own.
    opened: u64,
    /// Until when it is waited for. A result that comes later counts, but its place was given to another one.
    until: u64,
}

/// A change of state with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) is_open: bool,
    pub(crate) evidence: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    HalfOpen,
    /// Half open, with all its probes under way or successful: nothing else passes.
    Probing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    phase: Phase,
    /// How often in a row probes have failed.
    reopened: u8,
    /// Probes that are under way or have succeeded …
    started: u8,
    /// … and those of them that have succeeded.
    succeeded: u8,
    /// When an open circuit lets probes through, and when a half-open one stops waiting for the probes that it has let through.
    until: u64,
}

const CLOSED: State = State { phase: Phase::Closed, reopened: 0, started: 0, succeeded: 0, until: 0 };
/// Bits of [`State::until`]; 139 years.
const UNTIL: u32 = 42;
const MAX_REOPENED: u8 = 63;
const MAX_PROBES: u8 = 127;

impl State {
    fn of(word: u64) -> Self {
        State {
            phase: match word >> 62 {
                0 => Phase::Closed,
                1 => Phase::Open,
                2 => Phase::HalfOpen,
                _ => Phase::Probing,
            },
            reopened: (word >> 56 & 0x3f) as u8,
            started: (word >> 49 & 0x7f) as u8,
            succeeded: (word >> UNTIL & 0x7f) as u8,
            until: word & ((1 << UNTIL) - 1),
        }
    }

    fn word(self) -> u64 {
        (self.phase as u64) << 62
            | u64::from(self.reopened) << 56
            | u64::from(self.started) << 49
            | u64::from(self.succeeded) << UNTIL
            | self.until
    }

    /// Open from now on. The time doubles each time that probes have failed.
    fn opened(settings: &CircuitBreaker, reopened: u8, now: u64) -> Self {
        let open = settings.open.saturating_mul(1 << reopened.min(30)).min(settings.max_open.max(settings.open));
        State { phase: Phase::Open, reopened, until: now + open.as_millis() as u64, ..CLOSED }
    }

    /// Half open, with so many probes.
    fn probing(self, settings: &CircuitBreaker, started: u8) -> Self {
        let is_full = u32::from(started) >= settings.half_open;
        State { phase: if is_full { Phase::Probing } else { Phase::HalfOpen }, started, ..self }
    }
}

impl Circuit {
    /// Whether a request may pass now.
    pub(crate) fn admit(&self, settings: &CircuitBreaker) -> Admission {
        match self.state.load(Relaxed) {
            0 => Admission::Pass,
            word => self.admit_at(settings, word, millis(Instant::now())),
        }
    }

    /// For how long it would refuse a request, if one came now.
    pub(crate) fn refusal(&self, settings: &CircuitBreaker) -> Option<Duration> {
        match self.state.load(Relaxed) {
            0 => None,
            word => Self::admitted(settings, State::of(word), millis(Instant::now())).err(),
        }
    }

    /// Until when it refuses all requests, in milliseconds of the records' clock, as far as is known; `None`: it lets some pass.
    pub(crate) fn refuses_until(&self) -> Option<u64> {
        let State { phase, until, .. } = State::of(self.state.load(Relaxed));
        matches!(phase, Phase::Open | Phase::Probing).then_some(until)
    }

    fn admit_at(&self, settings: &CircuitBreaker, mut word: u64, now: u64) -> Admission {
        loop {
            if word == CLOSED.word() {
                return Admission::Pass;
            }
            let next = match Self::admitted(settings, State::of(word), now) {
                Ok(next) => next,
                Err(refused) => return Admission::Refused(refused),
            };
            match self.state.compare_exchange_weak(word, next.word(), Relaxed, Relaxed) {
                Ok(_) => {
                    return Admission::Probe(Probe { opened: self.opened.load(Relaxed), until: next.until });
                }
                Err(found) => word = found,
            }
        }
    }

    /// The state after a request that passes, or for how long none does.
    fn admitted(settings: &CircuitBreaker, state: State, now: u64) -> Result<State, Duration> {
        let begun = State { until: now + settings.open.as_millis() as u64, ..state };
        match state.phase {
            Phase::Closed => Ok(state),
            Phase::Open if now < state.until => Err(Duration::from_millis(state.until - now)),
            Phase::Open => Ok(begun.probing(settings, 1)),
            Phase::HalfOpen | Phase::Probing if u32::from(state.started) < settings.half_open => {
                Ok(state.probing(settings, state.started + 1))
            }
            // Probes that never end must not keep it half open for ever. Those that have succeeded count on.
            Phase::HalfOpen | Phase::Probing if now >= state.until => Ok(begun.probing(settings, state.succeeded + 1)),
            Phase::HalfOpen | Phase::Probing => Err(PROBING),
        }
    }

    /// Notes the outcome of a request that has passed.
    pub(crate) fn note(&self, settings: &CircuitBreaker, probe: Option<Probe>, outcome: Outcome) -> Option<Change> {
        match (probe, outcome) {
            (None, Outcome::Success) if self.is_quiet(settings) => None,
            (None, _) => self.note_passed(settings, outcome, millis(Instant::now())),
            (Some(probe), Outcome::Success) => self.probe_succeeded(settings, probe, millis(Instant::now())),
            (Some(probe), Outcome::Failure(cause)) => self.probe_failed(settings, probe, cause, millis(Instant::now())),
        }
    }

    /// A success changes nothing.
    fn is_quiet(&self, settings: &CircuitBreaker) -> bool {
        matches!(settings.window, FailureWindow::Last(_)) && self.last.has_no_failure()
    }

    fn note_passed(&self, settings: &CircuitBreaker, outcome: Outcome, now: u64) -> Option<Change> {
        // What began before it opened tells nothing new.
        if self.state.load(Relaxed) != 0 {
            return None;
        }
        let failed = matches!(outcome, Outcome::Failure(_));
        let counted = match settings.window {
            FailureWindow::Last(of) => (self.last.note(of, failed), of),
            FailureWindow::Time { window, .. } => self.window.note(window, failed, now),
        };
        let Outcome::Failure(cause) = outcome else { return None };
        self.open_after(settings, counted, cause, now)
    }

    /// Notes that a request has failed whose success was noted when its response head came.
    pub(crate) fn note_late(&self, settings: &CircuitBreaker, cause: Cause) -> Option<Change> {
        self.note_late_at(settings, cause, millis(Instant::now()))
    }

    fn note_late_at(&self, settings: &CircuitBreaker, cause: Cause, now: u64) -> Option<Change> {
        if self.state.load(Relaxed) != 0 {
            return None;
        }
        let counted = match settings.window {
            FailureWindow::Last(of) => (self.last.note_late(of), of),
            FailureWindow::Time { window, .. } => self.window.note_late(window, now),
        };
        self.open_after(settings, counted, cause, now)
    }

    /// Opens it, if so many failures are enough.
    fn open_after(
        &self,
        settings: &CircuitBreaker,
        (failures, of): (u32, u32),
        cause: Cause,
        now: u64,
    ) -> Option<Change> {
        let trips = failures >= settings.failures
            && match settings.window {
                FailureWindow::Last(_) => true,
                FailureWindow::Time { percent, .. } => u64::from(failures) * 100 >= u64::from(percent) * u64::from(of),
            };
        if !trips || self.is_removed.load(SeqCst) {
            return None;
        }
        self.state.compare_exchange(0, State::opened(settings, 0, now).word(), Relaxed, Relaxed).ok()?;
        self.since.store(now, Relaxed);
        self.opened.fetch_add(1, Relaxed);
        self.forget();
        let evidence = match settings.window {
            FailureWindow::Last(_) => format!("{failures} of the last {of} failed, the last: {cause}"),
            FailureWindow::Time { window, .. } => format!("{failures} of {of} in {window:?} failed, the last: {cause}"),
        };
        Some(Change { is_open: true, evidence: format!("open for {:?}: {evidence}", settings.open) })
    }

    fn probe_succeeded(&self, settings: &CircuitBreaker, probe: Probe, now: u64) -> Option<Change> {
        let next = |word| {
            let state = self.half_open_of(probe, word)?;
            let succeeded = (state.succeeded + 1).min(MAX_PROBES);
            Some(match u32::from(succeeded) >= settings.half_open {
                true => CLOSED.word(),
                // One that is late has no place among those that were let through since.
                false if state.until != probe.until => {
                    let started = (state.started + 1).min(MAX_PROBES);
                    State { succeeded, ..state.probing(settings, started) }.word()
                }
                false => State { succeeded, ..state }.word(),
            })
        };
        let before = self.state.fetch_update(Relaxed, Relaxed, next).ok()?;
        if next(before) != Some(0) {
            return None;
        }
        let open = Duration::from_millis(now.saturating_sub(self.since.load(Relaxed)));
        let evidence = format!("closed after {open:?}: {} probes succeeded", settings.half_open);
        Some(Change { is_open: false, evidence })
    }

    fn probe_failed(&self, settings: &CircuitBreaker, probe: Probe, cause: Cause, now: u64) -> Option<Change> {
        let next = |word| {
            let state = self.half_open_of(probe, word)?;
            Some(State::opened(settings, (state.reopened + 1).min(MAX_REOPENED), now))
        };
        let before = self.state.fetch_update(Relaxed, Relaxed, |word| next(word).map(State::word)).ok()?;
        let open = Duration::from_millis(next(before)?.until - now);
        self.opened.fetch_add(1, Relaxed);
        Some(Change { is_open: true, evidence: format!("open for {open:?} more: a probe failed: {cause}") })
    }

    /// The state, if it is that of the half-open time that a probe belongs to.
    fn half_open_of(&self, probe: Probe, word: u64) -> Option<State> {
        let state = State::of(word);
        let is_half_open = matches!(state.phase, Phase::HalfOpen | Phase::Probing);
        (is_half_open && self.opened.load(Relaxed) == probe.opened).then_some(state)
    }

    /// A probe has ended without a result: its client has left, or the gateway itself has refused it. Another request takes its place.
    /// Whether there is one to take.
    pub(crate) fn give_back(&self, probe: Probe) -> bool {
        let given_back = self.state.fetch_update(Relaxed, Relaxed, |word| {
            let state = self.half_open_of(probe, word)?;
            let has_place = state.until == probe.until && state.started > state.succeeded;
            has_place.then(|| State { phase: Phase::HalfOpen, started: state.started - 1, ..state }.word())
        });
        given_back.is_ok()
    }

    /// The settings that are about to be served count in this way, or have no circuit breaker: then it closes. What was counted in another
    /// way is forgotten. Whether it was not closed, and is now.
    pub(crate) fn configure(&self, window: Option<FailureWindow>) -> bool {
        let mut known = self.window_of_settings.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.replace(window);
        self.is_removed.store(window.is_none(), SeqCst);
        // Addresses that were found since the last reload have heard of no settings yet.
        if before.is_some_and(|before| before != window) {
            self.forget();
        }
        // Also when it comes back: requests of before may have opened it at the last moment.
        let is_new = window.is_none() || before == Some(None);
        is_new && self.state.swap(0, Relaxed) != 0
    }

    fn forget(&self) {
        self.last.clear();
        self.window.clear();
    }

    /// As metrics and the admin API show it.
    pub(crate) fn state(&self) -> &'static str {
        match State::of(self.state.load(Relaxed)).phase {
            Phase::Closed => "closed",
            Phase::Open => "open",
            Phase::HalfOpen | Phase::Probing => "half-open",
        }
    }

    /// How often it has opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }
}

impl Outcome {
    /// What an attempt tells; `None`: nothing.
    pub(crate) fn of(settings: &CircuitBreaker, outcome: Result<Answer, UpstreamErrorKind>) -> Option<Self> {
        match outcome {
            // Of gRPC, a response without a body has its status in the head.
            Ok(Answer { status, grpc }) => Some(Self::of_status(settings, status, grpc)),
            Err(kind) => Self::of_error(kind),
        }
    }

    /// What a response tells.
    fn of_status(settings: &CircuitBreaker, status: u16, grpc: Option<u8>) -> Self {
        let fails = |status| settings.status_codes.contains(&status);
        match grpc {
            Some(grpc) if http_status_of(grpc).is_some_and(fails) => Outcome::Failure(Cause::Grpc(grpc)),
            _ if fails(status) => Outcome::Failure(Cause::Status(status)),
            _ => Outcome::Success,
        }
    }

    /// What a failure behind the head tells.
    pub(crate) fn of_failure(settings: &CircuitBreaker, failure: Failure) -> Self {
        match failure {
            Failure::Status(status) => Self::of_status(settings, status, None),
            Failure::Grpc(grpc) => Self::of_status(settings, 200, Some(grpc)),
            Failure::Body => Outcome::Failure(Cause::Body),
            Failure::Timeout => Outcome::Failure(Cause::Error(UpstreamErrorKind::FirstByteTimeout)),
            Failure::Reset => Outcome::Failure(Cause::Error(UpstreamErrorKind::Reset)),
            Failure::Malformed => Outcome::Failure(Cause::Error(UpstreamErrorKind::Protocol)),
        }
    }

    /// What the lack of a response tells; `None`: nothing. What the gateway refuses itself, what the client has broken off, and a server
    /// that says that it has no room, speak of no failure.
    fn of_error(kind: UpstreamErrorKind) -> Option<Self> {
        match kind {
            UpstreamErrorKind::Connect
            | UpstreamErrorKind::ConnectTimeout
            | UpstreamErrorKind::Tls
            | UpstreamErrorKind::FirstByteTimeout
            | UpstreamErrorKind::Reset
            | UpstreamErrorKind::Files
            | UpstreamErrorKind::Protocol => Some(Outcome::Failure(Cause::Error(kind))),
            UpstreamErrorKind::NoEndpoint
            | UpstreamErrorKind::Busy
            | UpstreamErrorKind::CircuitOpen
            | UpstreamErrorKind::Dns
            | UpstreamErrorKind::DeadlineExceeded
            | UpstreamErrorKind::Refused
            | UpstreamErrorKind::RequestBody(_) => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Status(status) => write!(f, "status {status}"),
            Cause::Grpc(status) => write!(f, "grpc-status {status}"),
            Cause::Body => f.write_str("a body that broke off"),
            Cause::Error(kind) => f.write_str(kind.name()),
        }
    }
}

#[cfg(test)]
mod tests;
