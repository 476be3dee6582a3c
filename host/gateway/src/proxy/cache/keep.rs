//! What becomes of a response that is fetched: the memory and the tier get it, as far as rules and filters allow.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HeaderMap, SET_COOKIE};
use http::{Method, StatusCode};
use sluice_cache::directives::{RequestDirectives, ResponseDirectives};
use sluice_cache::freshness::{Decision, Times, reuse};
use sluice_cache::notes::Notes;
use sluice_cache::policy::SetCookie;
use sluice_cache::storable::{Received, Refusal, Storable, announced_length, storable_as};
use sluice_cache::store::{self, BodyBuilder, Draft, Generation, Object, Place, Store};
use tokio::sync::oneshot;

use super::fetch::Fetch;
use super::fill::{Fill, UNATTENDED};
use super::flight::State;
use super::notes::{Told, stored_notes};
use super::shared::Found;
use crate::cache::{RouteCache, Unstored, place_host};
use crate::deadline;
use crate::exchange::RequestHead;
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
        let of_caller = self.order.caller.fields(&self.order.request, cache.config.key.consumer);
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
        let query = cache.config.key.query.canonical(request.target.query());
        let place = place(request, query.as_deref(), response.notes.as_ref());
        let draft = Draft::new(&storable, &received, &place, self.order.born, policy, store.secret()).ok()?;
        let mut body = draft.body(cache.config.max_object.0).ok()?;
        body.push(&response.body).ok()?;
        let object = draft.finish(body.finish()).ok()?;
        if is_stale {
            // When that was is not known: not before it came.
            object.mark_stale(object.stored().received());
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
        // What a purge has reached meanwhile may be older than what the tier has.
        if let Some(shared) = self.shared.take().filter(|_| !store.is_purged(&object)) {
            shared.keep(&object, &self.order.request);
        }
        self.order.lead.publish(State::Stored(object));
        Ok(())
    }

    /// Lets a response come, and what is to be stored of it by what the filters say. Those who wait for it get it once that is known: it may be
    /// for nobody else.
    pub(super) async fn as_told(
        &mut self,
        (cache, store): (&RouteCache, &Store),
        came: Came<'_>,
        (filled, fill): (impl Future<Output = Result<(), Unstored>>, &Arc<Fill>),
        mut told: oneshot::Receiver<Told>,
    ) -> (Result<(), Unstored>, Result<Draft, Unstored>) {
        let mut filled = std::pin::pin!(filled);
        let (outcome, told) = tokio::select! {
            biased;
            told = &mut told => (None, told.ok()),
            outcome = &mut filled => (Some(outcome), deadline::timeout(UNATTENDED, told).await.ok().and_then(Result::ok)),
        };
        let draft = match told.flatten() {
            Some(told) => {
                self.order.no_store |= told.no_store;
                self.order.notes = stored_notes(&told);
                self.draft((cache, store), came)
            }
            None => Err(Unstored::Untold),
        };
        match &draft {
            Ok(drafted) => self.stream(came.status, drafted, fill),
            Err(_) => self.order.lead.publish(State::Alone),
        }
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => filled.await,
        };
        (outcome, draft.map(|(draft, _)| draft))
    }

    /// Takes the stored response away that one has taken the place of which is not stored itself: it would be sent as a stale one, and hide
    /// errors, although the upstream has something newer to say.
    pub(super) fn displace(&mut self, store: &Store, status: StatusCode, why: Unstored) {
        let Some(stored) = &self.order.stored else { return };
        if !takes_the_place(status, why, self.order.caller.may_be_alone(&self.order.request)) {
            return;
        }
        store.remove_object(&self.order.target.key, stored);
        if let Some(shared) = self.shared.take() {
            shared.displace(stored, &self.order.request);
        }
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
        let of_caller = self.order.caller.fields(&self.order.request, cache.config.key.consumer);
        // What was sent: the response to a HEAD has no content.
        let method = self.context.exchange().request.method.clone();
        let received = Received {
            method: &method,
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
        let query = cache.config.key.query.canonical(request.target.query());
        let place = place(request, query.as_deref(), self.order.notes.as_ref());
        let draft = Draft::new(&storable, &received, &place, self.order.born, policy, store.secret())
            .map_err(|_| Unstored::HeadTooLarge)?;
        Ok((draft, storable.head(came.head)))
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

/// `query` is what the key has of it.
fn place<'a>(request: &'a RequestHead, query: Option<&'a str>, notes: Option<&'a Arc<Notes>>) -> Place<'a> {
    Place { host: place_host(&request.scheme, &request.authority), path: request.target.path(), query, notes }
}

impl RouteHandler<'_> {
    /// Whether a cookie of the response that would be stored may be that of a session which the gateway has begun for this client.
    pub(super) fn has_session(&self, attempts: &AttemptLog, cache: &RouteCache, response: &HeaderMap) -> bool {
        if cache.config.policy.set_cookie != SetCookie::Store || !response.contains_key(SET_COOKIE) {
            return false;
        }
        let asked = attempts.last().map(|attempt| &*attempt.upstream);
        let mut upstreams = self.local.upstreams.iter().map(|handle| handle.upstream.upstream());
        upstreams.any(|upstream| Some(&**upstream.name()) == asked && upstream.spec().balancing.sticky.is_some())
    }
}

/// Whether a response that is not stored says that the stored one is no more, and not something of its own request. With `of_one`, the
/// request may be that of one user: what is private to that one is no news for others.
pub(super) fn takes_the_place(status: StatusCode, why: Unstored, of_one: bool) -> bool {
    let is_of_resource = match status.as_u16() {
        206 | 304 => false,
        200..=399 | 404 | 410 | 451 => true,
        _ => false,
    };
    is_of_resource
        && match why {
            Unstored::Refused(Refusal::NoStore | Refusal::Private) => !of_one,
            Unstored::Refused(
                Refusal::NotUnderstood | Refusal::Vary | Refusal::Tags | Refusal::NoFreshness | Refusal::Useless,
            )
            | Unstored::TooLarge
            | Unstored::HeadTooLarge => true,
            Unstored::Refused(
                Refusal::Method
                | Refusal::Status
                | Refusal::RequestNoStore
                | Refusal::Authorization
                | Refusal::Credentials
                | Refusal::SetCookie,
            )
            | Unstored::Session
            | Unstored::Memory
            | Unstored::Filter
            | Unstored::Untold
            | Unstored::BrokenOff
            | Unstored::Unattended => false,
        }
}

/// A response anew whose head has changed. `received` has that head.
pub(super) fn again(
    (cache, store): (&RouteCache, &Store),
    (stored, born): (&Object, Generation),
    request: &RequestHead,
    storable: &Storable,
    received: &Received<'_>,
) -> Option<Object> {
    let query = cache.config.key.query.canonical(request.target.query());
    let place = place(request, query.as_deref(), stored.notes());
    let draft = Draft::new(storable, received, &place, born, &cache.config.policy, store.secret()).ok()?;
    draft.finish(stored.body().clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_stored_may_take_the_place_of_what_is() {
        let (private, none) = (Unstored::Refused(Refusal::Private), Unstored::Refused(Refusal::NoFreshness));
        let table = [
            (200, private, false, true),
            (200, private, true, false),
            (404, none, true, true),
            (410, none, false, true),
            (302, none, false, true),
            (200, Unstored::TooLarge, false, true),
            // About one request.
            (401, private, false, false),
            (403, none, false, false),
            (416, none, false, false),
            (429, none, false, false),
            (304, none, false, false),
            (206, Unstored::Refused(Refusal::Status), false, false),
            (200, Unstored::Refused(Refusal::Authorization), true, false),
            (200, Unstored::Refused(Refusal::SetCookie), false, false),
            // It may be well again.
            (500, none, false, false),
            (503, private, false, false),
            (200, Unstored::Memory, false, false),
        ];
        for (status, why, of_one, expected) in table {
            let code = StatusCode::from_u16(status).unwrap();
            assert_eq!(takes_the_place(code, why, of_one), expected, "{status} {why:?} {of_one}");
        }
    }
}
