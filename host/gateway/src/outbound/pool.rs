//! The connections a worker keeps for outbound calls: idle ones of HTTP/1.1 and one shared session of HTTP/2 per origin.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::client::conn::http2;
use rustls_pki_types::ServerName;

use super::Tls;
use crate::http::body::Body;
use crate::http1::{self, Keeper, Reply};
use crate::services::grants::Origin;
use crate::upstream::connect::{Connection, Speak, TlsClient, connect};
use crate::upstream::dns::{Dns, TtlBounds};

/// The idle connections kept for one origin.
const MAX_IDLE: usize = 16;
/// An idle connection is closed after this long.
const IDLE: Duration = Duration::from_secs(60);

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

#[derive(Default)]
struct Pool {
    dns: Option<Rc<Dns>>,
    origins: HashMap<Origin, Kept>,
}

#[derive(Default)]
struct Kept {
    idle: Vec<(http1::Connection, Instant)>,
    http2: Option<(http2::SendRequest<Body>, Instant)>,
}

/// A connection for one request.
pub(super) struct Lease {
    connection: Connection,
    origin: Origin,
    reused: bool,
}

/// Why a request got no response.
pub(super) struct Failure {
    pub(super) reason: String,
    /// Whether the server may have seen it.
    pub(super) sent: bool,
}

/// A kept connection to the origin (if `reuse`), or a new one.
pub(super) async fn checkout(origin: &Origin, tls: &Tls, reuse: bool) -> Result<Lease, String> {
    if reuse && let Some(connection) = take(origin) {
        return Ok(Lease { connection, origin: origin.clone(), reused: true });
    }
    let tls = match origin.https {
        true => Some(TlsClient {
            config: tls.config(),
            server_name: ServerName::try_from(origin.host.clone()).map_err(|_| "not a server name".to_owned())?,
        }),
        false => None,
    };
    let dns = POOL.with_borrow_mut(|pool| pool.dns.get_or_insert_with(Dns::new).clone());
    let name: Arc<str> = origin.host.as_str().into();
    let addresses = dns.resolve(&name, TtlBounds::default()).await.map_err(|e| describe(&e))?.addresses;
    let connected = connect(&addresses, origin.port, 0, tls.as_ref(), Speak::Either).await.map_err(|e| describe(&e))?;
    if let Connection::Http2(session) = &connected.connection {
        POOL.with_borrow_mut(|pool| {
            pool.origins.entry(origin.clone()).or_default().http2 = Some((session.clone(), Instant::now()));
        });
    }
    Ok(Lease { connection: connected.connection, origin: origin.clone(), reused: false })
}

fn take(origin: &Origin) -> Option<Connection> {
    POOL.with_borrow_mut(|pool| {
        let kept = pool.origins.get_mut(origin)?;
        if let Some((session, used)) = &mut kept.http2 {
            if !session.is_closed() {
                *used = Instant::now();
                return Some(Connection::Http2(session.clone()));
            }
            kept.http2 = None;
        }
        // What has ended is passed over here: a call that meets it opens a new connection the next time.
        while let Some((connection, since)) = kept.idle.pop() {
            if since.elapsed() < IDLE && connection.is_quiet() {
                return Some(Connection::Http1(connection));
            }
        }
        None
    })
}

impl Lease {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.connection, Connection::Http2(_))
    }

    /// Whether an earlier request went over it, so that the server may have closed it meanwhile.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request. The connection is kept once its response was read to the end.
    pub(super) async fn send(self, mut request: Request<Body>) -> Result<Response<Body>, Failure> {
        match self.connection {
            Connection::Http1(connection) => match connection.send(&mut request, None, None, Home(self.origin)).await {
                Ok(Reply::Response(response)) => Ok(*response),
                Ok(Reply::Upgraded(..)) => Err(Failure { reason: "101 without an upgrade".to_owned(), sent: true }),
                Err(unanswered) => Err(Failure { reason: describe(&unanswered.error), sent: !unanswered.unsent }),
            },
            Connection::Http2(mut session) => match session.try_send_request(request).await {
                Ok(response) => Ok(response.map(Body::from_upstream)),
                Err(mut failure) => {
                    let unsent = failure.take_message().is_some();
                    Err(Failure { reason: describe(failure.error()), sent: !unsent })
                }
            },
        }
    }
}

/// Where a connection of HTTP/1 goes when it is free again.
struct Home(Origin);

impl Keeper for Home {
    fn keep(self, connection: http1::Connection) {
        POOL.with_borrow_mut(|pool| {
            pool.sweep();
            let kept = pool.origins.entry(self.0).or_default();
            if kept.idle.len() < MAX_IDLE {
                kept.idle.push((connection, Instant::now()));
            }
        });
    }
}

impl Pool {
    /// Drops what was idle too long, of all origins: one that is called no more would keep its connections for ever.
    fn sweep(&mut self) {
        self.origins.retain(|_, kept| {
            kept.idle.retain_mut(|(connection, since)| since.elapsed() < IDLE && connection.is_quiet());
            if kept.http2.as_ref().is_some_and(|(session, used)| session.is_closed() || used.elapsed() > IDLE) {
                kept.http2 = None;
            }
            !kept.idle.is_empty() || kept.http2.is_some()
        });
    }
}

/// The message of an error and its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
