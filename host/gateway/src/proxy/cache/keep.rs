//! What becomes of a response that is fetched: the memory and the tier get it, as far as rules and filters allow.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HeaderMap, SET_COOKIE};
use http::{Method, StatusCode};
use sluice_cache::directives::{RequestDirectives, ResponseDirectives};
use sluice_cache::freshness::{Decision, Times, reuse};
use sluice_cache::key::Key;
use sluice_cache::notes::Notes;
use sluice_cache::policy::SetCookie;
use sluice_cache::storable::{Received, Storable, announced_length, storable_as};
use sluice_cache::store::{self, BodyBuilder, Draft, Generation, Object, Place, Store};
use tokio::sync::oneshot;

use super::as_of_caller;
use super::fetch::Fetch;
use super::fill::UNATTENDED;
use super::flight::State;
use super::notes::{Told, stored_notes};
use super::shared::Found;
use crate::cache::{RouteCache, Unstored, place_host};
use crate::deadline;
use crate::exchange::RequestHead;
use crate::http::body::Reservation;
use crate::proxy::RouteHandler;
use crate::upstream::AttemptLog;

impl Fetch {
    /// The response that another gateway has stored, if it is fresh. A stale one takes the place of none.
    pub(super) async fn of_others(
        &mut self,
        handler: &RouteHandler<'_>,
        (cache, store): (&RouteCache, &Store),
    ) -> Option<Arc<Object>> {
        let shared = self.shared.as_ref()?;
        if self.order.no_store {
            return None;
        }
        let request = &self.context.exchange().request;
        let Found { response, is_stale } = shared.find(request, &self.order.request, &handler.worker.budget).await?;
        let policy = &cache.config.policy;
        let of_caller = as_of_caller(&self.order.request, self.order.has_caller, cache.config.key.consumer);
        let received = Received {
            method: &Method::GET,
            request: of_caller.as_ref().unwrap_or(&self.order.request),
            status: response.status,
            response: &response.head,
            times: response.times,
        };
        let directives = Notes::directives(response.notes.as_ref(), ResponseDirectives::of(&response.head));
        let storable = storable_as(received, &directives, policy).ok()?;
        let received = Received { request: &self.order.request, ..received };
        let place = place(request, response.notes.as_ref());
        let draft = Draft::new(&storable, &received, &place, self.order.born, policy, store.secret()).ok()?;
        let mut body = draft.body(cache.config.max_object.0).ok()?;
        body.push(&response.body).ok()?;
        let object = draft.finish(body.finish()).ok()?;
        if is_stale {
            object.mark_stale();
        }
        let directives = RequestDirectives::of(&self.order.request);
        match reuse(&directives, Some(object.candidate()), SystemTime::now(), policy).decision {
            Decision::Fresh => store.insert(self.order.target.key, object).ok(),
            Decision::Stale
            | Decision::StaleWhileRevalidate
            | Decision::Revalidate
            | Decision::Fetch
            | Decision::GatewayTimeout => {
                self.order.stored.get_or_insert_with(|| Arc::new(object));
                None
            }
        }
    }

    pub(super) fn keep(&mut self, store: &Store, draft: Draft, body: store::Body) -> Result<(), Unstored> {
        let object = draft.finish(body).map_err(|_| Unstored::BrokenOff)?;
        let object = store.insert(self.order.target.key, object).map_err(|_| Unstored::TooLarge)?;
        if let Some(shared) = self.shared.take() {
            shared.keep(&object, &self.order.request);
        }
        self.order.lead.publish(State::Stored(object));
        Ok(())
    }

    /// Stores a response with what the filters say of it, once they have seen it.
    pub(super) async fn keep_as_told(
        &mut self,
        (cache, store): (&RouteCache, &Store),
        came: Came<'_>,
        (body, mut charge): (store::Body, Option<Reservation>),
        told: oneshot::Receiver<Told>,
    ) -> Result<(), Unstored> {
        if let Some(charge) = &mut charge {
            let length = usize::try_from(body.len()).map_err(|_| Unstored::TooLarge)?;
            charge.resize(length).map_err(|_| Unstored::Memory)?;
        }
        let Ok(Ok(Some(told))) = deadline::timeout(UNATTENDED, told).await else { return Err(Unstored::Untold) };
        self.order.no_store |= told.no_store;
        self.order.notes = stored_notes(&told);
        let (draft, _) = self.draft((cache, store), came)?;
        self.keep(store, draft, body)
    }

    pub(super) fn has_session(&self, handler: &RouteHandler<'_>, cache: &RouteCache, response: &HeaderMap) -> bool {
        handler.has_session(cache, &self.context.attempts, response)
    }

    /// The response as it is stored, with its head, if it may be.
    pub(super) fn draft(
        &mut self,
        (cache, store): (&RouteCache, &Store),
        came: Came<'_>,
    ) -> Result<(Draft, HeaderMap), Unstored> {
        if self.order.no_store {
            return Err(Unstored::Filter);
        }
        let policy = &cache.config.policy;
        let of_caller = as_of_caller(&self.order.request, self.order.has_caller, cache.config.key.consumer);
        let received = Received {
            method: &Method::GET,
            request: of_caller.as_ref().unwrap_or(&self.order.request),
            status: came.status,
            response: came.head,
            times: came.times,
        };
        let notes = self.order.notes.as_ref();
        let directives = Notes::directives(notes, ResponseDirectives::of(came.head));
        let storable = storable_as(received, &directives, policy)?;
        if came.has_session {
            return Err(Unstored::Session);
        }
        let received = Received { request: &self.order.request, ..received };
        let request = &self.context.exchange().request;
        let place = place(request, self.order.notes.as_ref());
        let draft = Draft::new(&storable, &received, &place, self.order.born, policy, store.secret())
            .map_err(|_| Unstored::HeadTooLarge)?;
        Ok((draft, storable.head(came.head)))
    }
}

impl RouteHandler<'_> {
    /// Whether a cookie of the response that would be stored may be that of a session which the gateway has begun for this client.
    pub(super) fn has_session(&self, cache: &RouteCache, attempts: &AttemptLog, response: &HeaderMap) -> bool {
        if cache.config.policy.set_cookie != SetCookie::Store || !response.contains_key(SET_COOKIE) {
            return false;
        }
        let asked = attempts.last().map(|attempt| &*attempt.upstream);
        let mut upstreams = self.local.upstreams.iter().map(|handle| handle.upstream.upstream());
        upstreams.any(|upstream| Some(&**upstream.name()) == asked && upstream.spec().balancing.sticky.is_some())
    }
}

/// The head of a response, as it came.
#[derive(Clone, Copy)]
pub(super) struct Came<'h> {
    pub(super) status: StatusCode,
    pub(super) head: &'h HeaderMap,
    pub(super) times: Times,
    /// Whether a cookie of it may be that of a session of one client.
    pub(super) has_session: bool,
}

impl Came<'_> {
    /// What collects its content.
    pub(super) fn body(&self, cache: &RouteCache) -> Result<BodyBuilder, Unstored> {
        let most = cache.config.max_object.0;
        BodyBuilder::new(announced_length(self.head), most).map_err(|_| Unstored::TooLarge)
    }
}

fn place<'a>(request: &'a RequestHead, notes: Option<&'a Arc<Notes>>) -> Place<'a> {
    Place {
        host: place_host(&request.scheme, &request.authority),
        path: request.target.path(),
        query: request.target.query(),
        notes,
    }
}

/// Stores a response anew whose head has changed. `received` has that head.
pub(super) fn store_again(
    (cache, store): (&RouteCache, &Store),
    (key, stored, born): (Key, &Object, Generation),
    request: &RequestHead,
    storable: &Storable,
    received: &Received<'_>,
) -> Option<Arc<Object>> {
    let place = place(request, stored.notes());
    let draft = Draft::new(storable, received, &place, born, &cache.config.policy, store.secret()).ok()?;
    store.insert(key, draft.finish(stored.body().clone()).ok()?).ok()
}
