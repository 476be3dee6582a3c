//! A connection in use, which goes back to its pool with the last byte of the response.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::Response;
use hyper::body::Incoming;

use super::super::endpoints::Record;
use super::super::lifetime::Lifetime;
use super::super::limits::EndpointPermit;
use super::super::retry::Unprocessed;
use super::{Pool, Session};
use crate::http::body::Body;
use crate::http1::{self, Keeper};

/// A connection in use.
pub(crate) enum Leased {
    Http1(http1::Connection),
    Http2(Rc<Session>),
}

/// A connection lent to one request. Dropped with the last byte of the response, it puts the connection back if that is in it
/// again.
pub(crate) struct Lease {
    pub(crate) pool: Rc<Pool>,
    pub(crate) connection: Option<Leased>,
    /// How long the connection had been idle; `None` for a new one or a shared one.
    pub(crate) idle: Option<Duration>,
    /// Time taken to open it; `None` when it was open already.
    pub(crate) connect: Option<Duration>,
    /// That of a connection of HTTP/1. A session has its own.
    pub(super) lifetime: Lifetime,
    /// Where the endpoint has limits or a circuit.
    pub(crate) permit: Option<Rc<EndpointPermit>>,
}

impl Lease {
    /// The response of a shared connection, which is in use until its last byte.
    pub(crate) fn hold(self, response: Response<Incoming>) -> Response<Body> {
        response.map(|body| match Body::from_upstream(body) {
            Body::Empty => Body::Empty,
            body => body.guarded(self),
        })
    }

    /// The server has not processed the request. A session that it refused a stream of is healthy, and has no room for the moment.
    pub(crate) fn unprocessed(&self, how: Unprocessed) {
        match (how, &self.connection) {
            (Unprocessed::GoAway, _) => self.forget(),
            (Unprocessed::RefusedStream, Some(Leased::Http2(session))) => {
                session.refused.set(Some(Instant::now()));
                // The one that refused last comes last.
                let mut sessions = self.pool.sessions.borrow_mut();
                if let Some(at) = sessions.iter().position(|other| Rc::ptr_eq(other, session)) {
                    sessions[at..].rotate_left(1);
                }
            }
            (Unprocessed::RefusedStream, _) => {}
        }
    }

    /// Gives no more requests to a session that did not take one.
    pub(crate) fn forget(&self) {
        if let Some(Leased::Http2(session)) = &self.connection {
            self.pool.sessions.borrow_mut().retain(|other| !Rc::ptr_eq(other, session));
        }
    }
}

/// Counts a request as active while its connection is being opened: an address that takes none is no idle one.
pub(crate) struct Opening<'a>(&'a Record);

impl<'a> Opening<'a> {
    pub(crate) fn new(record: &'a Record) -> Self {
        record.enter();
        Opening(record)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Keeper for Lease {
    fn keep(mut self, connection: http1::Connection) {
        self.connection = Some(Leased::Http1(connection));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.record.leave();
        match self.connection.take() {
            None => {}
            Some(Leased::Http2(session)) => {
                session.streams.set(session.streams.get().saturating_sub(1));
                if session.streams.get() == 0 {
                    session.since.set(Instant::now());
                }
                self.pool.freed(&session);
            }
            Some(Leased::Http1(connection)) => self.pool.put_back(connection, self.lifetime),
        }
    }
}
