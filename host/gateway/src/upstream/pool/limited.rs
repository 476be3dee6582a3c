//! A pool whose connections are limited. Where requests wait for one, a connection that is free goes to who waits at this pool, and now
//! and then to another worker: it is closed for that.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::connect::Speak;
use super::super::error::{AttemptError, UpstreamErrorKind};
use super::super::lifetime::Lifetime;
use super::super::limits::{Busy, ConnectionLimits, ConnectionPermit};
use super::{Lease, Leased, Pool, Session, Wanted};
use crate::http1;

/// While requests wait elsewhere, so often one connection is closed for them and not used again here. More often would mean that hardly any
/// is used twice.
const YIELD_EVERY: Duration = Duration::from_millis(5);

/// What a pool with limits has besides.
pub(super) struct Limited {
    pub(super) limits: ConnectionLimits,
    waiting: RefCell<VecDeque<Waiting>>,
    yielded: Cell<Option<Instant>>,
}

/// A request that waits at this pool.
struct Waiting {
    http1_only: bool,
    lease: oneshot::Sender<Lease>,
}

impl Waiting {
    /// Whether a connection is one for it; `is_shared`: one of HTTP/2.
    fn can_use(&self, is_shared: bool) -> bool {
        !(is_shared && self.http1_only)
    }
}

/// What a request has waited for.
pub(crate) enum Turn {
    /// It may open a connection.
    Open(ConnectionPermit),
    /// A connection that another request has no more use for.
    Use(Lease),
}

impl Limited {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Limited { limits, waiting: RefCell::default(), yielded: Cell::new(None) }
    }

    /// The permit for a new connection: the one that was waited for, if it is for this address.
    pub(super) fn permit(&self, wanted: &Wanted) -> Result<ConnectionPermit, AttemptError> {
        if let Some(cell) = &wanted.permit {
            match cell.take() {
                Some(permit) if self.limits.fit(&permit) => return Ok(permit),
                other => cell.set(other),
            }
        }
        self.limits.try_enter().ok_or_else(|| AttemptError::new(UpstreamErrorKind::Busy).blameless())
    }

    /// How many wait here that can use a connection; `is_shared`: one of HTTP/2.
    fn waiting_here(&self, is_shared: bool) -> usize {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|waiting| !waiting.lease.is_closed());
        waiting.iter().filter(|waiting| waiting.can_use(is_shared)).count()
    }

    /// Whether it is time to close a connection for those who wait elsewhere, or have no use for it, or there are too many.
    fn must_yield(&self, is_shared: bool) -> bool {
        if self.limits.are_exceeded() {
            return true;
        }
        let here = self.waiting_here(is_shared);
        if self.limits.waiting() as usize <= here {
            return false;
        }
        let is_due = here == 0 || self.yielded.get().is_none_or(|at| at.elapsed() >= YIELD_EVERY);
        if is_due {
            self.yielded.set(Some(Instant::now()));
        }
        is_due
    }

    /// Gives it to who has waited longest of those who can use it; back if there is none.
    fn give(&self, mut lease: Lease) -> Option<Lease> {
        let is_shared = matches!(lease.connection, Some(Leased::Http2(_)));
        loop {
            let at = self.waiting.borrow().iter().position(|waiting| waiting.can_use(is_shared));
            let Some(next) = at.and_then(|at| self.waiting.borrow_mut().remove(at)) else { return Some(lease) };
            match next.lease.send(lease) {
                Ok(()) => return None,
                Err(unsent) => lease = unsent,
            }
        }
    }
}

impl Pool {
    /// Waits for a connection, where there may be no more of them.
    pub(crate) async fn wait_for_connection(&self, http1_only: bool, patience: Duration) -> Result<Turn, Busy> {
        let Some(limited) = &self.limited else { return Err(Busy::TimedOut(Duration::ZERO)) };
        // Those who have left are forgotten here: nobody else does so while no connection becomes free.
        limited.waiting_here(false);
        let Limited { limits, waiting, .. } = limited;
        let (lease, handed_on) = oneshot::channel();
        let http1_only = http1_only && self.endpoint.speak != Speak::Http2;
        waiting.borrow_mut().push_back(Waiting { http1_only, lease });
        tokio::select! {
            biased;
            Ok(lease) = handed_on => Ok(Turn::Use(lease)),
            permit = limits.enter(patience) => permit.map(Turn::Open),
        }
    }

    /// Hands a free connection on to a request that waits, or closes it for one that waits elsewhere. Back if nobody waits.
    pub(super) fn hand_on(&self, connection: http1::Connection, lifetime: Lifetime) -> Option<http1::Connection> {
        let (Some(limited), Some(me)) = (&self.limited, self.me.upgrade()) else { return Some(connection) };
        limited.limits.note_idle(self.idle.borrow().len() + 1);
        if !limited.limits.claim_idle() {
            return Some(connection);
        }
        if !limited.must_yield(false) {
            let unclaimed = limited.give(me.lease(Leased::Http1(connection), Some(Duration::ZERO), None, lifetime));
            // Who waited has left this moment.
            let mut lease = unclaimed?;
            self.note_idle();
            return match lease.connection.take() {
                Some(Leased::Http1(connection)) => Some(connection),
                Some(Leased::Http2(_)) | None => None,
            };
        }
        drop(connection);
        self.note_idle();
        None
    }

    /// A stream of a session has ended.
    pub(super) fn freed(&self, session: &Rc<Session>) {
        let Some(limited) = &self.limited else { return };
        self.note_idle();
        if !limited.limits.claim_idle() {
            return;
        }
        let is_listed = self.sessions.borrow().iter().any(|other| Rc::ptr_eq(other, session));
        if !is_listed || !session.is_open() {
            return;
        }
        if limited.must_yield(true) {
            // It is closed when its last stream has ended.
            self.sessions.borrow_mut().retain(|other| !Rc::ptr_eq(other, session));
            self.note_idle();
        } else {
            self.share(session);
        }
    }

    /// Gives the free streams of a session to those who wait here, as many as there are.
    pub(super) fn share(&self, session: &Rc<Session>) {
        let (Some(limited), Some(me)) = (&self.limited, self.me.upgrade()) else { return };
        while session.is_open() && session.has_room() && limited.waiting_here(true) > 0 {
            let unclaimed = limited.give(me.lease_session(Rc::clone(session), None));
            if let Some(mut lease) = unclaimed {
                // Who waited has left this moment.
                lease.connection = None;
                session.streams.set(session.streams.get().saturating_sub(1));
            }
        }
    }

    /// Says how many connections are idle.
    pub(super) fn note_idle(&self) {
        let Some(limited) = &self.limited else { return };
        let sessions = self.sessions.borrow().iter().filter(|session| session.streams.get() == 0).count();
        limited.limits.note_idle(self.idle.borrow().len() + sessions);
    }

    /// Closes idle connections when others wait for them.
    pub(super) fn watch(self: &Rc<Self>) {
        let Some(limited) = &self.limited else { return };
        let (me, holder) = (self.me.clone(), limited.limits.register().clone());
        tokio::task::spawn_local(async move {
            loop {
                holder.asked().await;
                let Some(me) = me.upgrade() else { return };
                me.close_idle();
            }
        });
    }

    fn close_idle(&self) {
        let Some(limited) = &self.limited else { return };
        limited.limits.note_asked();
        // Each that is closed wakes one who waits.
        while limited.limits.claim_idle() {
            let oldest = self.idle.borrow_mut().pop_front();
            let session = || {
                let mut sessions = self.sessions.borrow_mut();
                let at = sessions.iter().position(|session| session.streams.get() == 0)?;
                Some(sessions.remove(at))
            };
            match oldest {
                Some(oldest) => drop(oldest),
                // Its socket is closed a moment later.
                None => {
                    drop(session());
                    break;
                }
            }
        }
        self.note_idle();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Poll;

    use super::*;
    use crate::upstream::{EndpointRegistry, EndpointSpec, Resolver, TargetSpec, Upstream, UpstreamSpec};

    #[tokio::test(flavor = "local")]
    async fn a_session_is_closed_for_who_has_no_use_for_it() {
        let endpoint = EndpointSpec::from_url("http://10.0.0.1").unwrap();
        let mut spec = UpstreamSpec::new("u", TargetSpec::Endpoints(vec![endpoint]));
        spec.limits.max_connections = Some(1);
        spec.limits.max_pending_requests = 9;
        let upstream =
            Arc::new(Upstream::new(spec, &EndpointRegistry::new(), &Resolver::new(&[], None), None).unwrap());
        let limited = Limited::new(upstream.connection_limits(&upstream.set().members().hosts[0].record).unwrap());
        let _open = limited.limits.try_enter().unwrap();
        assert!(!limited.must_yield(true), "nobody waits");
        let wait = |http1_only| {
            let (lease, handed_on) = oneshot::channel();
            limited.waiting.borrow_mut().push_back(Waiting { http1_only, lease });
            handed_on
        };
        let mut upgrade = pin!(limited.limits.enter(Duration::from_secs(60)));
        assert!(std::future::poll_fn(|cx| Poll::Ready(upgrade.as_mut().poll(cx).is_pending())).await);
        let _upgrade = wait(true);
        assert!(!limited.must_yield(false), "it can use a connection of HTTP/1.1");
        assert!(limited.must_yield(true), "but not one of HTTP/2");
        let mut other = pin!(limited.limits.enter(Duration::from_secs(60)));
        assert!(std::future::poll_fn(|cx| Poll::Ready(other.as_mut().poll(cx).is_pending())).await);
        let _other = wait(false);
        assert!(!limited.must_yield(true), "a moment ago one was closed already");
    }
}
