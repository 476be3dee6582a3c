//! One store: its calls, with their bounds, and what is counted of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::connect::Connector;
use super::link::{Link, Usable};
use super::{StoreSpec, Topology};
use crate::log_limit::visible;

/// How often errors of the store are logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// A time without the store is over when it has answered, and nothing was decided without it for this long. That a connection is made again says so,
/// too, but in a cluster the crate makes it, and calls may have an end in time without one.
const OVER_AFTER: Duration = Duration::from_secs(10);

/// A Redis or Valkey service that gateways share.
pub struct Store {
    spec: StoreSpec,
    connector: Connector,
    /// Of this process; never given twice.
    id: u64,
    /// Ends the tasks that keep the connections when the store is dropped.
    open: watch::Sender<()>,
    pub(super) waiting: AtomicUsize,
    connections: AtomicUsize,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Whether the last that was logged is that it is away.
    said_away: AtomicBool,
    /// The number of the present time without it, or of the next.
    outage: AtomicU64,
    /// When something was decided without it last, in milliseconds after `made`, and how many calls it had answered then.
    decided_ms: AtomicU64,
    answered_then: AtomicU64,
    made: Instant,
    /// When an error was logged last, in seconds after `made`; 0 for never.
    complained: AtomicU64,
}

/// How a call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// Without an answer in time.
    Timeout,
    /// With an error of the store or of the connection.
    Error,
    /// Not made, since there was no connection.
    Away,
    /// Not made, since as many as may wait did.
    Busy,
}

impl Outcome {
    pub const ALL: [Outcome; 5] = [Outcome::Answered, Outcome::Timeout, Outcome::Error, Outcome::Away, Outcome::Busy];

    /// The value of the label `outcome`.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Timeout => "timeout",
            Outcome::Error => "error",
            Outcome::Away => "away",
            Outcome::Busy => "busy",
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    #[error("no connection")]
    Away,
    #[error("{0} calls wait for it")]
    Busy(usize),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection has ended, or the store can't serve now.
    #[error("{0}")]
    Lost(String),
    /// The store has answered this call with an error. It says nothing of the next one: memory is full, a right is missing.
    #[error("{0}")]
    Refused(String),
    /// The key has a value of another kind, which some other program has put there.
    #[error("{0}")]
    WrongType(String),
    /// The store has no such script.
    #[error("an unknown script")]
    NoScript,
}

impl Store {
    pub(super) fn new(spec: StoreSpec) -> Result<Store, RedisError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Store {
            connector: Connector::new(&spec)?,
            spec,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            open: watch::channel(()).0,
            waiting: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            outcomes: Default::default(),
            said_away: AtomicBool::new(false),
            outage: AtomicU64::new(next_outage()),
            decided_ms: AtomicU64::new(0),
            answered_then: AtomicU64::new(0),
            made: Instant::now(),
            complained: AtomicU64::new(0),
        })
    }

    /// The number of the present time without it, in which something is decided now. No other store of this process has the same.
    pub(super) fn outage(&self) -> u64 {
        self.outage_at(self.made.elapsed())
    }

    fn outage_at(&self, now: Duration) -> u64 {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let quiet = now.saturating_sub(self.decided_ms.swap(now, Ordering::Relaxed));
        let answered = self.calls(Outcome::Answered);
        let before = self.answered_then.swap(answered, Ordering::Relaxed);
        if u128::from(quiet) >= OVER_AFTER.as_millis() && answered != before {
            self.outage.store(next_outage(), Ordering::Relaxed);
        }
        self.outage.load(Ordering::Relaxed)
    }

    pub fn spec(&self) -> &StoreSpec {
        &self.spec
    }

    /// Calls that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Threads that are connected.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Calls that have ended so.
    pub fn calls(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(outcome as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Changes when the store is dropped.
    pub(super) fn closed(&self) -> watch::Receiver<()> {
        self.open.subscribe()
    }

    /// Until when a call that begins now may wait. For one behind the requests nobody waits, so it has more time: what is told twice counts twice.
    pub(super) fn deadline(&self, behind: bool) -> Instant {
        Instant::now() + if behind { self.spec.connect_timeout.max(self.spec.timeout) } else { self.spec.timeout }
    }

    /// Sends a command on the connection of this thread and waits for its answer. Those behind the requests do not count among those that wait.
    pub(super) async fn call(
        self: &Arc<Self>,
        command: &Cmd,
        until: Instant,
        behind: bool,
    ) -> Result<Value, CallError> {
        let answer = self.attempt(command, until, behind).await;
        let outcome = match &answer {
            Ok(_) | Err(CallError::NoScript) => Outcome::Answered,
            Err(CallError::Timeout(_)) => Outcome::Timeout,
            Err(CallError::Lost(_) | CallError::Refused(_) | CallError::WrongType(_)) => Outcome::Error,
            Err(CallError::Away) => Outcome::Away,
            Err(CallError::Busy(_)) => Outcome::Busy,
        };
        if let Some(count) = self.outcomes.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    async fn attempt(self: &Arc<Self>, command: &Cmd, until: Instant, behind: bool) -> Result<Value, CallError> {
        let link = Link::here(self);
        let _waiting = if behind { None } else { Some(link.enter(self)?) };
        let connection = timeout_at(until, link.connection()).await;
        // The first attempt may take longer than a call may.
        let Ok(Some(mut usable)) = connection else { return Err(CallError::Away) };
        match timeout_at(until, usable.connection.send(command)).await {
            Ok(Ok(answer)) => {
                link.answered();
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.failed(&link, &usable, &error)),
            Err(_) => {
                link.timed_out(&usable);
                Err(CallError::Timeout(self.spec.timeout))
            }
        }
    }

    fn failed(&self, link: &Link, on: &Usable, error: &RedisError) -> CallError {
        let why = || visible(&error.to_string()).into_owned();
        // The crate repairs the connections to the nodes of a cluster, and one node says nothing of the others.
        let is_cluster = self.spec.topology == Topology::Cluster;
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => CallError::NoScript,
            // It starts, or after a failover it is a replica, and another is to be asked for.
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown,
            ) => {
                if !is_cluster {
                    link.is_broken(on);
                }
                CallError::Lost(why())
            }
            // In a cluster the crate times out, too.
            _ if error.is_timeout() => {
                link.timed_out(on);
                CallError::Timeout(self.spec.timeout)
            }
            _ if error.is_unrecoverable_error() || error.is_io_error() => {
                if is_cluster {
                    link.timed_out(on);
                } else {
                    link.is_broken(on);
                }
                CallError::Lost(why())
            }
            _ => {
                link.answered();
                self.complain(&error.to_string());
                match why() {
                    // Older servers put what a command of a script answers into a text of their own.
                    why if why.contains("WRONGTYPE") => CallError::WrongType(why),
                    why => CallError::Refused(why),
                }
            }
        }
    }

    /// An answer that none of this program's can be. Its call has been counted as answered, so the log tells of it.
    pub(super) fn nonsense(&self, what: &str) -> CallError {
        let why = format!("it has answered what is no {what}");
        self.complain(&why);
        CallError::Refused(why)
    }

    /// Tells of an error that the store itself answers, such as a right that is missing: `on_unavailable` would hide it.
    fn complain(&self, reason: &str) {
        let now = self.made.elapsed().as_secs();
        let before = self.complained.load(Ordering::Relaxed);
        let is_due = before == 0 || now >= before + COMPLAIN_EVERY.as_secs();
        if is_due && self.complained.compare_exchange(before, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let state = &*self.spec.name;
            warn!(state, reason = %visible(reason), "the state that gateways share refuses calls");
        }
    }

    pub(super) fn count_connection(self: &Arc<Self>) -> CountedConnection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        CountedConnection(Arc::downgrade(self))
    }

    /// Says so once, whichever thread finds it first.
    pub(super) fn is_away(&self, why: &str) {
        if !self.said_away.swap(true, Ordering::Relaxed) {
            let state = &*self.spec.name;
            warn!(state, reason = %visible(why), "the state that gateways share can't be reached; on_unavailable says what becomes of calls");
        }
    }

    pub(super) fn is_back(&self) {
        // Also after a time so short that nobody has said so: calls have been decided without it all the same.
        self.outage.store(next_outage(), Ordering::Relaxed);
        if self.said_away.swap(false, Ordering::Relaxed) {
            tracing::info!(state = &*self.spec.name, "the state that gateways share is reached again");
        }
    }
}

fn next_outage() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A connection, as it is counted. It does not keep the store open.
pub(super) struct CountedConnection(std::sync::Weak<Store>);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        if let Some(store) = self.0.upgrade() {
            store.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Away, Login, TlsFiles};

    #[test]
    fn a_time_without_the_store_ends_also_without_another_connection() {
        let spec = StoreSpec {
            name: "s".into(),
            servers: vec!["redis://127.0.0.1:1".parse().unwrap()],
            topology: Topology::Single,
            login: Login::default(),
            sentinel_login: Login::default(),
            database: 0,
            tls: TlsFiles::default(),
            timeout: Duration::from_millis(1),
            connect_timeout: Duration::from_millis(1),
            max_waiting: 1,
            away: Away::Local,
            prefix: "x:".into(),
        };
        let store = Store::new(spec).unwrap();
        let answers = || store.outcomes[Outcome::Answered as usize].fetch_add(1, Ordering::Relaxed);
        let first = store.outage_at(Duration::ZERO);
        let mut now = OVER_AFTER * 100;
        assert_eq!(store.outage_at(now), first, "it has not answered, however long ago that was");
        answers();
        now += OVER_AFTER / 2;
        assert_eq!(store.outage_at(now), first, "other nodes of a cluster answer all the time");
        answers();
        now += OVER_AFTER;
        let second = store.outage_at(now);
        assert_ne!(second, first);
        assert_eq!(store.outage_at(now), second);
    }
}
