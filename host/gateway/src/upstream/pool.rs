//! The connections of one worker to one endpoint: idle HTTP/1.1 ones, last used first, and shared HTTP/2 sessions.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::http2;

use super::connect::{self, ConnectError, Connected, Connection, MAX_STREAMS, Speak};
use super::dns::{Answer, Dns};
use super::error::{AttemptError, UpstreamErrorKind};
use super::spec::{Endpoint, Upstream};
use crate::coarse;
use crate::deadline;
use crate::http::body::Body;
use crate::http1::{self, Keeper};

/// One endpoint as one worker sees it.
pub(super) struct LocalEndpoint {
    address: Rc<str>,
    upstream: Arc<Upstream>,
    index: usize,
    dns: Rc<Dns>,
    me: Weak<Self>,
    idle: RefCell<VecDeque<Idle>>,
    sessions: RefCell<Vec<Rc<Session>>>,
    /// Held while a connection is opened that others could share.
    dialling: tokio::sync::Mutex<()>,
    /// The last failure to open a shared connection, for those who waited for it.
    failed: Cell<Option<(Instant, UpstreamErrorKind)>>,
    /// ALPN said HTTP/1.1, so that there is nothing to share.
    speaks_http1: Cell<bool>,
    rotation: Cell<usize>,
    /// When to look whether the name still leads to the same addresses.
    refresh_at: Cell<Option<Instant>>,
    sweeping: Cell<bool>,
    /// Requests being served, and those that a connection is being opened for.
    pub(super) active: Cell<u32>,
    /// Time to first byte, moving average in microseconds.
    pub(super) latency_us: Cell<u64>,
}

struct Idle {
    connection: http1::Connection,
    peer: IpAddr,
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

pub(super) struct Session {
    pub(super) sender: http2::SendRequest<Body>,
    streams: Cell<u32>,
    /// When its last stream ended.
    since: Cell<Instant>,
    peer: IpAddr,
}

/// A connection in use.
pub(super) enum Line {
    Http1(http1::Connection),
    Http2(Rc<Session>),
}

/// A connection lent to one request. Dropped with the last byte of the response, it puts the connection back if that is in it
/// again.
pub(super) struct Lease {
    endpoint: Rc<LocalEndpoint>,
    pub(super) line: Option<Line>,
    peer: IpAddr,
    /// How long the connection had been idle; `None` for a new one or a shared one.
    pub(super) idle: Option<Duration>,
    /// Time taken to open it; `None` when it was open already.
    pub(super) connect: Option<Duration>,
}

impl LocalEndpoint {
    pub(super) fn new(upstream: Arc<Upstream>, index: usize, dns: Rc<Dns>) -> Rc<Self> {
        Rc::new_cyclic(|me| LocalEndpoint {
            address: Rc::from(&*upstream.endpoints()[index].address),
            upstream,
            index,
            dns,
            me: me.clone(),
            idle: RefCell::default(),
            sessions: RefCell::default(),
            dialling: tokio::sync::Mutex::new(()),
            failed: Cell::new(None),
            speaks_http1: Cell::new(false),
            rotation: Cell::new(0),
            refresh_at: Cell::new(None),
            sweeping: Cell::new(false),
            active: Cell::new(0),
            latency_us: Cell::new(0),
        })
    }

    /// Its address, as this worker's own text.
    pub(super) fn address(&self) -> &Rc<str> {
        &self.address
    }

    pub(super) fn shared(&self) -> &Endpoint {
        &self.upstream.endpoints()[self.index]
    }

    /// A connection that is open as far as is known: before a request is written the server's goodbye is looked for. Those that were
    /// idle too long go on the way.
    pub(super) fn checkout(self: &Rc<Self>, now: Instant, http1_only: bool) -> Option<Lease> {
        if self.refresh_at.get().is_some_and(|at| at <= now) {
            self.refresh();
        }
        if !http1_only && let Some(session) = self.session() {
            let peer = session.peer;
            return Some(self.lease(Line::Http2(session), peer, None, None));
        }
        let mut idle = self.idle.borrow_mut();
        let last = idle.pop_back()?;
        let since = last.duration();
        if since > self.upstream.spec().idle_timeout {
            // Those below have been idle for longer.
            idle.clear();
            return None;
        }
        drop(idle);
        Some(self.lease(Line::Http1(last.connection), last.peer, Some(since), None))
    }

    fn session(&self) -> Option<Rc<Session>> {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.is_empty() {
            return None;
        }
        sessions.retain(|session| !session.sender.is_closed());
        sessions.iter().find(|session| session.streams.get() < MAX_STREAMS).cloned()
    }

    fn lease(self: &Rc<Self>, line: Line, peer: IpAddr, idle: Option<Duration>, connect: Option<Duration>) -> Lease {
        self.active.set(self.active.get() + 1);
        if let Line::Http2(session) = &line {
            session.streams.set(session.streams.get() + 1);
        }
        Lease { endpoint: self.clone(), line: Some(line), peer, idle, connect }
    }

    /// Opens a connection within `limit`. Where HTTP/2 is possible, one request opens it and the others wait to share it.
    pub(super) async fn dial(self: &Rc<Self>, limit: Duration, http1_only: bool) -> Result<Lease, AttemptError> {
        let begun = Instant::now();
        let _opening = Opening::new(self);
        match deadline::timeout(limit, self.dial_now(begun, http1_only)).await {
            Ok(outcome) => outcome,
            Err(deadline::Passed) => {
                self.failed.set(Some((Instant::now(), UpstreamErrorKind::ConnectTimeout)));
                Err(AttemptError::new(UpstreamErrorKind::ConnectTimeout))
            }
        }
    }

    async fn dial_now(self: &Rc<Self>, begun: Instant, http1_only: bool) -> Result<Lease, AttemptError> {
        let shared = self.shared();
        let speak = if http1_only && shared.speak == Speak::Either { Speak::Http1 } else { shared.speak };
        let may_share = || speak == Speak::Http2 || speak == Speak::Either && !self.speaks_http1.get();
        let turn = if may_share() { Some(self.dialling.lock().await) } else { None };
        if turn.is_some() {
            if let Some(session) = self.session() {
                let peer = session.peer;
                return Ok(self.lease(Line::Http2(session), peer, None, None));
            }
            if let Some((_, kind)) = self.failed.get().filter(|(at, _)| *at > begun) {
                return Err(AttemptError::new(kind));
            }
        }
        // Nothing to share after all: those who waited open their own at the same time.
        let _turn = turn.filter(|_| may_share());
        let outcome = self.open(speak, begun).await;
        if let Err(attempt) = &outcome {
            self.failed.set(Some((Instant::now(), attempt.kind)));
        }
        outcome
    }

    async fn open(self: &Rc<Self>, speak: Speak, begun: Instant) -> Result<Lease, AttemptError> {
        let shared = self.shared();
        let answer = self.dns.resolve(&shared.host, self.upstream.spec().dns).await;
        let answer = answer.map_err(|error| AttemptError::because(UpstreamErrorKind::Dns, error))?;
        self.keep_only(&answer);
        let first = self.rotation.replace(self.rotation.get().wrapping_add(1));
        let tls = shared.tls.as_ref().map(|tls| if speak == Speak::Http1 { &tls.http1 } else { &tls.usual });
        let Connected { connection, peer } =
            connect::connect(&answer.addresses, shared.port, first, tls, speak).await.map_err(|error| match error {
                ConnectError::Tcp { .. } => AttemptError::because(UpstreamErrorKind::Connect, error),
                ConnectError::Tls(_) | ConnectError::NoHttp2 => AttemptError::because(UpstreamErrorKind::Tls, error),
                ConnectError::Http(_) => AttemptError::because(UpstreamErrorKind::Protocol, error),
            })?;
        let line = match connection {
            Connection::Http1(connection) => {
                self.speaks_http1.set(self.speaks_http1.get() || speak == Speak::Either);
                Line::Http1(connection)
            }
            Connection::Http2(sender) => {
                self.speaks_http1.set(false);
                let session = Rc::new(Session { sender, streams: Cell::new(0), since: Cell::new(begun), peer });
                self.sessions.borrow_mut().push(session.clone());
                self.sweep();
                Line::Http2(session)
            }
        };
        Ok(self.lease(line, peer, None, Some(begun.elapsed())))
    }

    /// Asks for the addresses again, beside the requests.
    fn refresh(&self) {
        self.refresh_at.set(None);
        let me = self.me.clone();
        tokio::task::spawn_local(async move {
            let Some(me) = me.upgrade() else { return };
            if let Ok(answer) = me.dns.resolve(&me.shared().host, me.upstream.spec().dns).await {
                me.keep_only(&answer);
            }
        });
    }

    /// Forgets connections to addresses that the name no longer has.
    fn keep_only(&self, answer: &Answer) {
        self.refresh_at.set(Some(answer.fresh_until));
        let known = |peer: &IpAddr| answer.addresses.contains(peer);
        self.idle.borrow_mut().retain(|idle| known(&idle.peer));
        self.sessions.borrow_mut().retain(|session| known(&session.peer));
    }

    /// Gives no more requests to a session that did not take one.
    pub(super) fn forget(&self, lease: &Lease) {
        if let Some(Line::Http2(session)) = &lease.line {
            self.sessions.borrow_mut().retain(|other| !Rc::ptr_eq(other, session));
        }
    }

    fn put_back(self: &Rc<Self>, connection: http1::Connection, peer: IpAddr) {
        let spec = self.upstream.spec();
        if spec.max_idle == 0 {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= spec.max_idle {
            idle.pop_front();
        }
        idle.push_back(Idle {
            connection,
            peer,
            since: coarse::now_ms(),
            #[cfg(test)]
            age: Duration::ZERO,
        });
        drop(idle);
        self.sweep();
    }

    /// Closes connections that were idle too long, as long as there are any.
    fn sweep(&self) {
        if self.sweeping.replace(true) {
            return;
        }
        let me = self.me.clone();
        let timeout = self.upstream.spec().idle_timeout;
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(timeout.max(Duration::from_millis(10)) / 2).await;
                let Some(me) = me.upgrade() else { return };
                let mut idle = me.idle.borrow_mut();
                idle.retain_mut(|idle| idle.duration() < timeout && idle.connection.is_quiet());
                let mut sessions = me.sessions.borrow_mut();
                sessions.retain(|session| {
                    !session.sender.is_closed()
                        && (session.streams.get() > 0 || session.since.get().elapsed() < timeout)
                });
                if idle.is_empty() && sessions.is_empty() {
                    me.sweeping.set(false);
                    return;
                }
            }
        });
    }

    /// Notes a time to first byte.
    pub(super) fn note_latency(&self, taken: Duration) {
        let now = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.latency_us.get();
        self.latency_us.set(if before == 0 { now } else { before - before / 8 + now / 8 }.max(1));
    }

    /// Makes idle connections look older than they are.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        for idle in self.idle.borrow_mut().iter_mut() {
            idle.age += by;
        }
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.idle.borrow().len()
    }
}

/// Counts a request as active while its connection is being opened: an endpoint that takes none is no idle one.
struct Opening<'a>(&'a Cell<u32>);

impl<'a> Opening<'a> {
    fn new(endpoint: &'a LocalEndpoint) -> Self {
        endpoint.active.set(endpoint.active.get() + 1);
        Opening(&endpoint.active)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Keeper for Lease {
    fn keep(mut self, connection: http1::Connection) {
        self.line = Some(Line::Http1(connection));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.active.set(self.endpoint.active.get().saturating_sub(1));
        match self.line.take() {
            None => {}
            Some(Line::Http2(session)) => {
                session.streams.set(session.streams.get().saturating_sub(1));
                if session.streams.get() == 0 {
                    session.since.set(Instant::now());
                }
            }
            Some(Line::Http1(connection)) => self.endpoint.put_back(connection, self.peer),
        }
    }
}
