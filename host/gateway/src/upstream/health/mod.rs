//! Whether an address may be asked: the reasons why one is out, each with its evidence. The state belongs to the address's record, so it
//! is one for all workers, routes and reloads. A choice reads two words of one line; all else happens when a state changes.
//!
//! - `unreachable`: it takes no connections. Noted by requests, which also try it again.
//! - `circuit-open`: too many of the last attempts have failed (`circuit`).
//! - `check-failed`: the gateway's own checks fail (`checks`, `probe`).
//! - `ejected`: it answers requests worse than it should, or than the others (`outliers`).

mod checked;
mod checks;
mod ejection;
mod grpc;
mod history;
pub(crate) mod outliers;
mod probe;
pub(crate) mod unreachable;

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::checked::{Checked, Verdict};
use self::ejection::Ejection;
use self::history::History;
pub use self::history::StateChange;
use self::outliers::Stage;
pub(crate) use self::unreachable::Trial;
use self::unreachable::Unreachable;
use super::endpoints::millis;
use super::spec::Upstream;
use crate::background::{Background, Task};
use crate::config::model::{HealthCheck, OutlierDetection};

/// Why an address is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It took no connection.
    Unreachable,
    /// The gateway's own checks have failed.
    CheckFailed,
    /// It has answered requests badly.
    Ejected,
    /// Too many attempts have failed: its circuit is open.
    CircuitOpen,
}

impl Reason {
    pub const ALL: [Reason; 4] = [Reason::Unreachable, Reason::CheckFailed, Reason::Ejected, Reason::CircuitOpen];
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// As metrics, logs and the admin API show it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Unreachable => "unreachable",
            Reason::CircuitOpen => "circuit-open",
            Reason::CheckFailed => "check-failed",
            Reason::Ejected => "ejected",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn is_in(self, bits: u8) -> bool {
        bits & self.bit() != 0
    }
}

/// In [`Health::state`]: failures in a row were counted, and a success has to clear them.
const COUNTING: u8 = 1 << 7;
/// The same of failures behind the response head.
const COUNTING_BODIES: u8 = 1 << 6;

/// The state of one address. Changed rarely; kept apart from what every request writes. In this order, since what a choice and a good
/// response read should be together.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct Health {
    /// A bit for each reason why it is out, [`COUNTING`] and [`COUNTING_BODIES`].
    state: AtomicU8,
    in_a_row: InARow,
    /// Those behind the response head. A good head ends the others, so these would never be in a row with them.
    bodies_in_a_row: InARow,
    unreachable: Unreachable,
    ejection: Ejection,
    checked: Checked,
    /// How often it went out, by reason.
    outs: [AtomicU64; Reason::COUNT],
    history: Mutex<History>,
}

/// Failures in a row.
#[derive(Debug, Default)]
struct InARow {
    gateway_errors: AtomicU32,
    all: AtomicU32,
}

impl InARow {
    /// One more. Answers how many of those of a gateway there are, and of all.
    fn count(&self, is_gateway_error: bool) -> (u32, u32) {
        let of_gateway = match is_gateway_error {
            true => self.gateway_errors.fetch_add(1, Relaxed) + 1,
            false => {
                self.gateway_errors.store(0, Relaxed);
                0
            }
        };
        (of_gateway, self.all.fetch_add(1, Relaxed) + 1)
    }

    fn forget(&self) {
        self.gateway_errors.store(0, Relaxed);
        self.all.store(0, Relaxed);
    }
}

/// A change of state, to be told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) is_out: bool,
    pub(crate) reason: Reason,
    pub(crate) evidence: String,
}

impl Health {
    fn out(&self) -> u8 {
        self.state.load(Relaxed) & !(COUNTING | COUNTING_BODIES)
    }

    /// Whether nothing speaks against it.
    pub(crate) fn is_healthy(&self) -> bool {
        self.out() == 0
    }

    /// Whether a request may go there: nothing speaks against it, or it is time to try again.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        let out = self.out();
        out == 0 || self.may_try_again(out, millis(now))
    }

    #[cold]
    fn may_try_again(&self, out: u8, now: u64) -> bool {
        !Reason::CheckFailed.is_in(out)
            && (!Reason::Ejected.is_in(out) || self.ejection.is_over(now))
            && (!Reason::Unreachable.is_in(out) || self.unreachable.may_try(now))
    }

    /// When [`Self::may_try`] may change though nothing happens, by [`millis`].
    pub(crate) fn retry_at(&self) -> Option<u64> {
        let out = self.out();
        let of_ejection = Reason::Ejected.is_in(out).then(|| self.ejection.until());
        let of_trial = Reason::Unreachable.is_in(out).then(|| self.unreachable.retry_at()).flatten();
        [of_trial, of_ejection].into_iter().flatten().min()
    }

    /// Half open: the request that is sent to see whether an address is back keeps the others away until that is known.
    pub(crate) fn claim(&self, now: Instant) -> Trial {
        // There is no trial of one that is out for another reason, and used all the same.
        match Reason::Unreachable.is_in(self.out()) {
            true => self.unreachable.claim(millis(now)),
            false => Trial::Needless,
        }
    }

    /// The address took a connection and answered on it.
    pub(crate) fn reached(&self) -> Option<Told> {
        if !Reason::Unreachable.is_in(self.state.load(Relaxed)) {
            return None;
        }
        // Also where no failure is left: another success at the same moment has taken them, before the failure that they were of took the
        // address out.
        let evidence = self.unreachable.reached(millis(Instant::now()));
        self.put_back(Reason::Unreachable, evidence)
    }

    /// The address did not take a connection that was tried from `begun` on.
    pub(crate) fn not_reached(&self, begun: Instant, now: Instant) -> Option<Told> {
        // Each time: a success at the same moment may have put it back.
        let evidence = self.unreachable.not_reached(millis(begun), millis(now))?;
        self.take_out(Reason::Unreachable, evidence)
    }

    /// Its circuit has opened or closed. Whether requests may pass it, the circuit knows.
    pub(crate) fn circuit_changed(&self, is_open: bool, evidence: String) -> Option<Told> {
        match is_open {
            true => self.take_out(Reason::CircuitOpen, evidence),
            false => self.put_back(Reason::CircuitOpen, evidence),
        }
    }

    /// A response that is no failure: failures are no longer in a row.
    pub(crate) fn well(&self) {
        if self.state.load(Relaxed) & COUNTING != 0 {
            // The bit first: a failure at the same moment sets it after its count, so that no count stays without it.
            self.state.fetch_and(!COUNTING, Relaxed);
            self.in_a_row.forget();
        }
    }

    /// A response that came to its end: failures behind the head are no longer in a row.
    pub(crate) fn ended_well(&self) {
        if self.state.load(Relaxed) & COUNTING_BODIES != 0 {
            self.state.fetch_and(!COUNTING_BODIES, Relaxed);
            self.bodies_in_a_row.forget();
        }
    }

    /// One more failure in a row. Answers how many of those of a gateway there are, and of all.
    pub(crate) fn failed(&self, is_gateway_error: bool, stage: Stage) -> (u32, u32) {
        let (in_a_row, bit) = match stage {
            Stage::Head => (&self.in_a_row, COUNTING),
            Stage::Body => (&self.bodies_in_a_row, COUNTING_BODIES),
        };
        let counted = in_a_row.count(is_gateway_error);
        self.state.fetch_or(bit, Relaxed);
        counted
    }

    pub(crate) fn forget_failures(&self, stage: Stage) {
        match stage {
            Stage::Head => self.in_a_row.forget(),
            Stage::Body => self.bodies_in_a_row.forget(),
        }
    }

    /// Whether it is ejected, and not for longer than it should be.
    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        Reason::Ejected.is_in(self.out()) && !self.ejection.is_over(millis(now))
    }

    /// Ejects it. `evidence` says what it has done. Called by one thread at a time.
    pub(crate) fn eject(&self, policy: &OutlierDetection, evidence: &str, now: Instant) -> Option<Told> {
        let _changing = self.ejection.change();
        let takes = self.ejection.begin(policy, millis(now));
        self.take_out(Reason::Ejected, format!("ejected for {takes:?}: {evidence}"))
    }

    /// Ends an ejection whose time is over. Called by requests, too.
    pub(crate) fn end_ejection(&self, now: Instant) -> Option<Told> {
        let is_over = || Reason::Ejected.is_in(self.out()) && self.ejection.is_over(millis(now));
        if !is_over() {
            return None;
        }
        // Or the end of an old one would be that of a new one, which has begun since.
        let _changing = self.ejection.change();
        if !is_over() {
            return None;
        }
        self.put_back(Reason::Ejected, "the time of its ejection is over".to_owned())
    }

    /// An interval has passed in which it was not ejected.
    pub(crate) fn relax_ejection(&self) {
        self.ejection.relax();
    }

    /// A check begins.
    pub(crate) fn check(&self, now: Instant) {
        self.checked.begin(millis(now));
    }

    /// How long ago the last check began.
    pub(crate) fn since_check(&self, now: Instant) -> Option<Duration> {
        self.checked.begun().map(|begun| Duration::from_millis(millis(now).saturating_sub(begun)))
    }

    /// Whether checks have failed and not said yet whether it is out.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.checked.is_in_doubt()
    }

    /// A check has ended, and why it failed.
    pub(crate) fn checked(&self, check: &HealthCheck, failure: Option<&dyn fmt::Display>) -> Option<Told> {
        let verdict = match failure {
            None => self.checked.passed(check),
            Some(why) => self.checked.failed(check, why),
        };
        match verdict {
            Verdict::Out(evidence) => self.take_out(Reason::CheckFailed, evidence),
            Verdict::Back(evidence) => self.put_back(Reason::CheckFailed, evidence),
            Verdict::Unchanged => None,
        }
    }

    /// Nobody finds out about this reason any more.
    pub(crate) fn forget(&self, reason: Reason) -> Option<Told> {
        match reason {
            Reason::CheckFailed => self.checked.forget(),
            Reason::Unreachable | Reason::Ejected | Reason::CircuitOpen => {}
        }
        self.put_back(reason, "the configuration does not ask for it any more".to_owned())
    }

    /// Takes the address out. `None`: it is out for this reason already.
    fn take_out(&self, reason: Reason, evidence: String) -> Option<Told> {
        let before = self.state.fetch_or(reason.bit(), Relaxed);
        if reason.is_in(before) {
            return None;
        }
        self.outs[reason as usize].fetch_add(1, Relaxed);
        Some(self.told(true, reason, evidence))
    }

    /// Puts it back as far as this reason goes. `None`: it was not out for it.
    fn put_back(&self, reason: Reason, evidence: String) -> Option<Told> {
        let before = self.state.fetch_and(!reason.bit(), Relaxed);
        reason.is_in(before).then(|| self.told(false, reason, evidence))
    }

    /// How often it went out, by reason.
    pub(crate) fn outs(&self) -> [u64; Reason::COUNT] {
        std::array::from_fn(|reason| self.outs[reason].load(Relaxed))
    }

    /// Checks that have passed, and that have failed.
    pub(crate) fn checks(&self) -> [u64; 2] {
        self.checked.counts()
    }

    /// The reasons why it is out.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = Reason> {
        let out = self.out();
        Reason::ALL.into_iter().filter(move |reason| reason.is_in(out))
    }

    /// The same with their evidence.
    pub(crate) fn evidence(&self) -> Vec<StateChange> {
        self.lock().out()
    }

    /// Its last changes, oldest first.
    pub(crate) fn history(&self) -> Vec<StateChange> {
        self.lock().changes()
    }

    fn told(&self, is_out: bool, reason: Reason, evidence: String) -> Told {
        let at = std::time::SystemTime::now();
        self.lock().push(StateChange { at, is_out, reason, evidence: evidence.clone() });
        Told { is_out, reason, evidence }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts what an upstream needs to know of its endpoints' health. What a former configuration has found out, and this one does not ask
/// for, is forgotten on the same thread: behind the last word of the tasks that have just ended.
pub(super) fn tasks(upstream: &Arc<Upstream>, background: &Background) -> Vec<Task> {
    if upstream.spec().target.is_builtin() {
        return Vec::new();
    }
    let (checked, watched) = (Arc::clone(upstream), Arc::clone(upstream));
    let mut tasks = Vec::new();
    match &upstream.spec().health {
        Some(_) => tasks.push(background.spawn("health checks", move || checks::run(checked))),
        None => forget(checked, Reason::CheckFailed, background),
    }
    match upstream.outliers() {
        Some(_) => tasks.push(background.spawn("outlier detection", move || outliers::run(watched))),
        None => forget(watched, Reason::Ejected, background),
    }
    tasks
}

fn forget(upstream: Arc<Upstream>, reason: Reason, background: &Background) {
    let forget = async move || upstream.set().members().hosts.iter().for_each(|host| host.record.forget(reason));
    background.spawn("forgotten states", forget).detach();
}

#[cfg(test)]
mod tests;
