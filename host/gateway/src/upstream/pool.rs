//! The connections of one worker to one address: idle ones of HTTP/1.1, last used first, and shared sessions of HTTP/2. Upstreams and
//! outbound calls have pools of this kind, with limits of their own.

mod lease;
mod limited;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::http2::SendRequest;

pub(crate) use self::lease::{Lease, Leased, Opening};
use self::limited::Limited;
pub(crate) use self::limited::Turn;
use super::address::Address;
use super::connect::{self, ConnectError, Connection, Speak};
use super::endpoints::{Record, Responses};
use super::error::{AttemptError, UpstreamErrorKind};
use super::health::outliers::Failure;
use super::http2::{MAX_STREAMS, ServerSettings};
use super::lifetime::Lifetime;
use super::limits::{ConnectionLimits, ConnectionPermit};
use super::spec::Endpoint;
use crate::coarse;
use crate::http::body::Body;
use crate::http1;
use crate::proxy_protocol::Proxied;

/// How long a connection that has refused a stream comes after others.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// What may be kept, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Idle connections.
    pub(crate) max_idle: usize,
    /// How long one may be idle.
    pub(crate) idle_timeout: Duration,
    /// How long a connection of HTTP/2 with open streams may be silent before it is pinged.
    pub(crate) ping_interval: Option<Duration>,
    /// How long a connection is given requests.
    pub(crate) max_connection_age: Option<Duration>,
    /// How many requests a connection is given.
    pub(crate) max_requests_per_connection: Option<u32>,
}

impl Limits {
    /// Keeps nothing, and ends nothing.
    pub(crate) const NONE: Self = Limits {
        max_idle: 0,
        idle_timeout: Duration::ZERO,
        ping_interval: None,
        max_connection_age: None,
        max_requests_per_connection: None,
    };
}

/// Which connection a request needs.
#[derive(Clone)]
pub(crate) struct Wanted {
    /// The request can't go over HTTP/2.
    pub(crate) http1_only: bool,
    /// Whom a PROXY header names.
    pub(crate) proxied: Proxied,
    /// What was waited for, where connections are limited. The first that is opened takes it.
    pub(crate) permit: Option<Rc<Cell<Option<ConnectionPermit>>>>,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted { http1_only: false, proxied: Proxied::Own, permit: None }
    }
}

/// One address as one worker sees it.
pub(crate) struct Pool {
    /// The endpoint's name, as this worker's own text.
    name: Rc<str>,
    endpoint: Arc<Endpoint>,
    address: Address,
    record: Arc<Record>,
    responses: Arc<Responses>,
    me: Weak<Self>,
    limits: Cell<Limits>,
    /// Who has this pool in its list. Without anybody it drains: nothing is kept any more.
    users: Cell<usize>,
    idle: RefCell<VecDeque<Idle>>,
    sessions: RefCell<Vec<Rc<Session>>>,
    /// Held while a connection is opened that others could share.
    opening: tokio::sync::Semaphore,
    /// How many such connections may be opened at the same time: as many as it takes to serve [`MAX_STREAMS`] requests.
    openings: Cell<u32>,
    /// The last failure to open a shared connection, for those who waited for it.
    failed: Cell<Option<(Instant, UpstreamErrorKind)>>,
    /// ALPN said HTTP/1.1, so that there is nothing to share.
    speaks_http1: Cell<bool>,
    sweeping: Cell<bool>,
    limited: Option<Limited>,
}

struct Idle {
    connection: http1::Connection,
    lifetime: Lifetime,
    /// By [`coarse::now_ms`].
    since: u64,
    /// What tests make it older by: the clock may have begun a moment ago.
    #[cfg(test)]
    age: Duration,
}

impl Idle {
    fn duration(&self) -> Duration {
        let passed = Duration::from_millis(coarse::now_ms().saturating_sub(self.since));
        #[cfg(test)]
        let passed = passed + self.age;
        passed
    }
}

/// A connection of HTTP/2, which many requests share.
pub(crate) struct Session {
    pub(crate) sender: SendRequest<Body>,
    streams: Cell<u32>,
    settings: ServerSettings,
    lifetime: Cell<Lifetime>,
    /// When its last stream ended.
    since: Cell<Instant>,
    /// When the server refused a stream of it.
    refused: Cell<Option<Instant>>,
}

impl Session {
    fn has_room(&self) -> bool {
        self.streams.get() < self.settings.streams()
    }

    /// Whether it may get requests.
    fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.lifetime.get().is_over()
    }

    /// Whether its server takes an extended CONNECT.
    pub(crate) fn takes_extended_connect(&self) -> bool {
        self.settings.extended_connect()
    }

    fn has_refused(&self) -> bool {
        self.refused.get().is_some_and(|at| at.elapsed() < REFUSAL_PAUSE)
    }
}

impl Pool {
    pub(crate) fn new(endpoint: Arc<Endpoint>, address: Address, record: Arc<Record>, limits: Limits) -> Rc<Self> {
        Self::limited(endpoint, address, record, limits, None)
    }

    /// A pool whose connections count under limits.
    pub(super) fn limited(
        endpoint: Arc<Endpoint>,
        address: Address,
        record: Arc<Record>,
        limits: Limits,
        connections: Option<ConnectionLimits>,
    ) -> Rc<Self> {
        let pool = Rc::new_cyclic(|me| Pool {
            name: Rc::from(&*endpoint.name),
            endpoint,
            address,
            responses: record.open_responses(),
            record,
            me: me.clone(),
            limits: Cell::new(limits),
            users: Cell::new(0),
            idle: RefCell::default(),
            sessions: RefCell::default(),
            opening: tokio::sync::Semaphore::new(1),
            openings: Cell::new(1),
            failed: Cell::new(None),
            speaks_http1: Cell::new(false),
            sweeping: Cell::new(false),
            limited: connections.map(Limited::new),
        });
        pool.watch();
        pool
    }

    /// The name of its endpoint, as this worker's own text.
    pub(crate) fn name(&self) -> &Rc<str> {
        &self.name
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Counts a response of this address.
    pub(crate) fn responded(&self, status: u16) {
        self.responses.count(status);
    }

    /// Counts a request that this address has failed.
    pub(crate) fn failed_request(&self, failure: Failure) {
        self.responses.count_failure(failure);
    }

    /// Whether a list with this endpoint, address and record may go on with this pool.
    pub(super) fn serves(
        &self,
        endpoint: &Endpoint,
        address: &Address,
        record: &Arc<Record>,
        connections: Option<&ConnectionLimits>,
    ) -> bool {
        // Connections that were not counted can't be counted later.
        let counts = match (&self.limited, connections) {
            (Some(limited), Some(connections)) => limited.limits.are(connections),
            (None, None) => true,
            _ => false,
        };
        counts && self.address == *address && Arc::ptr_eq(&self.record, record) && self.endpoint.connects_like(endpoint)
    }

    /// A list takes it in, with these limits.
    pub(crate) fn join(&self, limits: Limits) {
        self.limits.set(limits);
        self.users.set(self.users.get() + 1);
    }

    /// A list has it no more. With the last one idle connections are closed, and those in use when their request is over.
    pub(crate) fn part(&self) {
        self.users.set(self.users.get().saturating_sub(1));
        if self.users.get() == 0 {
            self.clear();
        }
    }

    /// Closes what is idle. A server that has closed one connection has often closed all.
    pub(crate) fn clear(&self) {
        self.idle.take();
        self.sessions.take();
        self.note_idle();
    }

    /// Whether it has a connection, idle or in use.
    pub(crate) fn is_used(&self) -> bool {
        self.record.active() > 0 || !self.idle.borrow().is_empty() || !self.sessions.borrow().is_empty()
    }

    /// A connection that is open as far as is known: before a request is written the server's goodbye is looked for. Those that were
    /// idle too long go on the way.
    pub(crate) fn checkout(self: &Rc<Self>, http1_only: bool) -> Option<Lease> {
        if !self.is_shared() {
            return None;
        }
        let may_share = !http1_only || self.endpoint.speak == Speak::Http2;
        if may_share && let Some(session) = self.session() {
            return Some(self.lease_session(session, None));
        }
        let last = self.last_idle();
        self.note_idle();
        let (Idle { connection, lifetime, .. }, since) = last?;
        Some(self.lease(Leased::Http1(connection), Some(since), None, lifetime))
    }

    fn last_idle(&self) -> Option<(Idle, Duration)> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let last = idle.pop_back()?;
            let since = last.duration();
            if since > self.limits.get().idle_timeout {
                // Those below have been idle for longer.
                idle.clear();
                return None;
            }
            if !last.lifetime.is_over() {
                return Some((last, since));
            }
        }
    }

    /// Whether its connections serve one client after the other. Behind a PROXY header each belongs to one client, and to one request of
    /// it: who connects may be another client each time, so there is hardly ever a second use.
    fn is_shared(&self) -> bool {
        self.endpoint.proxy_protocol.is_none()
    }

    /// A session with room. Where the only one has refused a stream a moment ago, another one is opened, for the request that was
    /// refused; but a server that refuses everything gets no connection for each request.
    fn session(&self) -> Option<Rc<Session>> {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.is_empty() {
            return None;
        }
        sessions.retain(|session| session.is_open());
        let mut with_room = sessions.iter().filter(|session| session.has_room());
        let first = with_room.next()?;
        if !first.has_refused() {
            return Some(Rc::clone(first));
        }
        let willing = with_room.clone().find(|session| !session.has_refused());
        willing.or_else(|| with_room.next().map(|_| first)).cloned()
    }

    fn lease(
        self: &Rc<Self>,
        connection: Leased,
        idle: Option<Duration>,
        connect: Option<Duration>,
        lifetime: Lifetime,
    ) -> Lease {
        self.record.enter();
        let lifetime = lifetime.after_request();
        Lease { pool: self.clone(), connection: Some(connection), idle, connect, lifetime, permit: None }
    }

    fn lease_session(self: &Rc<Self>, session: Rc<Session>, connect: Option<Duration>) -> Lease {
        let lifetime = session.lifetime.get();
        session.lifetime.set(lifetime.after_request());
        session.streams.set(session.streams.get() + 1);
        self.note_idle();
        self.lease(Leased::Http2(session), None, connect, lifetime)
    }

    /// Opens a connection. Where HTTP/2 is possible, one request opens it and the others wait to share it; where a server allows few
    /// streams, several are opened at the same time. The caller bounds the time and says so by [`Self::timed_out`].
    pub(crate) async fn open(self: &Rc<Self>, wanted: Wanted) -> Result<Lease, AttemptError> {
        let begun = Instant::now();
        let endpoint = &self.endpoint;
        let speak = if wanted.http1_only && endpoint.speak == Speak::Either { Speak::Http1 } else { endpoint.speak };
        let is_shared = self.is_shared();
        let may_share = || is_shared && (speak == Speak::Http2 || speak == Speak::Either && !self.speaks_http1.get());
        let turn = if may_share() { self.opening.acquire().await.ok() } else { None };
        if turn.is_some() {
            if let Some(session) = self.session() {
                return Ok(self.lease_session(session, None));
            }
            if let Some((_, kind)) = self.failed.get().filter(|(at, _)| *at > begun) {
                return Err(AttemptError::new(kind));
            }
        }
        // Nothing to share after all: those who waited open their own at the same time.
        let _turn = turn.filter(|_| may_share());
        self.open_now(speak, &wanted, begun).await.inspect_err(|attempt| {
            // The gateway itself has refused it.
            if attempt.kind == UpstreamErrorKind::Busy {
                return;
            }
            let now = Instant::now();
            self.failed.set(Some((now, attempt.kind)));
            self.record.failed(begun, now);
        })
    }

    /// A connection did not open in time.
    pub(crate) fn timed_out(&self, begun: Instant) {
        let now = Instant::now();
        self.failed.set(Some((now, UpstreamErrorKind::ConnectTimeout)));
        self.record.failed(begun, now);
    }

    async fn open_now(self: &Rc<Self>, speak: Speak, wanted: &Wanted, begun: Instant) -> Result<Lease, AttemptError> {
        let permit = self.limited.as_ref().map(|limited| limited.permit(wanted)).transpose()?;
        let tls = self.endpoint.tls.as_ref().map(|tls| if speak == Speak::Http1 { &tls.http1 } else { &tls.usual });
        let (header, ping_interval) = (self.endpoint.proxy_header(wanted.proxied), self.limits.get().ping_interval);
        let connection = connect::connect(&self.address, &header, tls, speak, ping_interval, permit).await;
        let connection = connection.map_err(|error| match error {
            ConnectError::Socket { .. } => AttemptError::because(UpstreamErrorKind::Connect, error),
            ConnectError::Tls(_) | ConnectError::NoHttp2 => AttemptError::because(UpstreamErrorKind::Tls, error),
            ConnectError::Http(_) | ConnectError::Closed => AttemptError::because(UpstreamErrorKind::Protocol, error),
            ConnectError::NoStreams => AttemptError::because(UpstreamErrorKind::Refused, error),
        })?;
        let (connect, lifetime) = (Some(begun.elapsed()), Lifetime::of(&self.limits.get()));
        Ok(match connection {
            Connection::Http1(connection) => {
                self.speaks_http1.set(self.speaks_http1.get() || speak == Speak::Either);
                self.lease(Leased::Http1(connection), None, connect, lifetime)
            }
            Connection::Http2(opened) => {
                self.speaks_http1.set(false);
                let openings = MAX_STREAMS / opened.settings.streams().max(1);
                if let Some(more @ 1..) = openings.checked_sub(self.openings.get()) {
                    self.openings.set(openings);
                    self.opening.add_permits(more as usize);
                }
                let session = Rc::new(Session {
                    sender: opened.sender,
                    streams: Cell::new(0),
                    settings: opened.settings,
                    lifetime: Cell::new(lifetime),
                    since: Cell::new(begun),
                    refused: Cell::new(None),
                });
                let is_listed = self.users.get() > 0 && self.is_shared();
                if is_listed {
                    self.sessions.borrow_mut().push(session.clone());
                    self.sweep();
                }
                let lease = self.lease_session(Rc::clone(&session), connect);
                if is_listed {
                    self.share(&session);
                }
                lease
            }
        })
    }

    fn put_back(&self, connection: http1::Connection, lifetime: Lifetime) {
        let Limits { max_idle, .. } = self.limits.get();
        if max_idle == 0 || self.users.get() == 0 || !self.is_shared() || lifetime.is_over() {
            return;
        }
        let Some(connection) = self.hand_on(connection, lifetime) else { return };
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= max_idle {
            idle.pop_front();
        }
        idle.push_back(Idle {
            connection,
            lifetime,
            since: coarse::now_ms(),
            #[cfg(test)]
            age: Duration::ZERO,
        });
        drop(idle);
        self.note_idle();
        self.sweep();
    }

    /// Closes connections that were idle too long, as long as there are any.
    fn sweep(&self) {
        if self.sweeping.replace(true) {
            return;
        }
        let me = self.me.clone();
        tokio::task::spawn_local(async move {
            // Read each time: a reload may change it.
            while let Some(Limits { idle_timeout: timeout, max_connection_age, .. }) =
                me.upgrade().map(|me| me.limits.get())
            {
                let shortest = max_connection_age.map_or(timeout, |age| age.min(timeout));
                tokio::time::sleep(shortest.max(Duration::from_millis(10)) / 2).await;
                let Some(me) = me.upgrade() else { return };
                let mut idle = me.idle.borrow_mut();
                idle.retain_mut(|idle| {
                    idle.duration() < timeout && !idle.lifetime.is_over() && idle.connection.is_quiet()
                });
                let mut sessions = me.sessions.borrow_mut();
                sessions.retain(|session| {
                    session.is_open() && (session.streams.get() > 0 || session.since.get().elapsed() < timeout)
                });
                let is_empty = idle.is_empty() && sessions.is_empty();
                drop((idle, sessions));
                me.note_idle();
                if is_empty {
                    me.sweeping.set(false);
                    return;
                }
            }
        });
    }

    /// Makes idle connections and refusals look older than they are.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        for idle in self.idle.borrow_mut().iter_mut() {
            idle.age += by;
        }
        for session in self.sessions.borrow().iter() {
            session.refused.set(session.refused.get().and_then(|at| at.checked_sub(by)));
        }
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.idle.borrow().len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.record.close_responses(&self.responses);
        if let Some(limited) = &self.limited {
            limited.limits.end();
        }
    }
}
