//! The fetch for the cache: a task of the worker whose request was the first to miss. It goes on when the client leaves, and its response is for
//! all who wait for it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use http::{Method, StatusCode};
use sluice_cache::directives::RequestDirectives;
use sluice_cache::freshness::{Failure, Times};
use sluice_cache::notes::Notes;
use sluice_cache::policy::SetCookie;
use sluice_cache::storable::{Received, Refusal};
use sluice_cache::store::{Draft, Generation, Object, Store};
use sluice_cache::validate::{freshen, has_validator, identify, make_conditional};
use tokio::sync::oneshot;

use super::detached::Attended;
use super::fill::{Fill, Filling, fill_up};
use super::flight::{Failed, Lead, Live, State, Target};
use super::keep::{Came, again};
use super::notes::{Told, stored_notes};
use super::shared::Shared;
use super::{Caller, Stale, hit, is_of_upstream, seconds, stale_of};
use crate::cache::{RouteCache, Unstored};
use crate::exchange::{self, Exchange, RequestHead};
use crate::filter::Traversal;
use crate::http::body::{Body, Reservation};
use crate::proxy::RouteHandler;
use crate::proxy::admission::Admission;
use crate::proxy::context::{MatchedRoute, RequestContext};
use crate::proxy::error::ProxyError;
use crate::proxy::upstream::timed;
use crate::proxy::worker::Worker;
use crate::snapshot::LocalSnapshot;
use crate::upstream::{AttemptLog, UpstreamResponse};

/// What is fetched, and for whom.
pub(super) struct Order {
    pub(super) target: Target,
    pub(super) request: HeaderMap,
    pub(super) caller: Caller,
    pub(super) stored: Option<Arc<Object>>,
    pub(super) lead: Lead,
    /// Of the store, before the request was sent.
    pub(super) born: Generation,
    /// From when its time counts.
    pub(super) start: Instant,
    /// What filters have said so far.
    pub(super) notes: Option<Arc<Notes>>,
    pub(super) no_store: bool,
    /// What they say before the response is stored.
    pub(super) told: Option<oneshot::Receiver<Told>>,
    /// Response hooks could tell the cache something of a new response, and none sees this one.
    pub(super) is_unheard: bool,
}

impl Order {
    pub(super) fn new(
        context: &mut RequestContext,
        target: Target,
        stored: Option<Arc<Object>>,
        lead: Lead,
        born: Generation,
    ) -> Order {
        let start = context.start;
        let exchange = context.exchange();
        let caller = Caller::of(exchange);
        let (notes, no_store) = match &exchange.cache {
            Some(notes) => (stored_notes(notes), notes.no_store),
            None => (None, false),
        };
        let request = exchange.request.headers.clone();
        Order { target, request, caller, stored, lead, born, start, notes, no_store, told: None, is_unheard: false }
    }
}

/// What the request gets that has begun the fetch.
pub(super) struct Fetched {
    pub(super) answer: Result<Answered, ProxyError>,
    pub(super) attempts: AttemptLog,
    /// Where the response is its own.
    pub(super) admission: Option<Box<Admission>>,
}

pub(super) enum Answered {
    /// The upstream's response, with the time that it is fresh where it is stored.
    Upstream {
        response: Box<UpstreamResponse>,
        ttl: Option<Duration>,
    },
    /// Another gateway has a good response, and it is stored here now.
    Shared {
        object: Arc<Object>,
    },
    /// The stored response is good, and stored anew.
    Validated {
        object: Arc<Object>,
        cookies: Vec<HeaderValue>,
    },
    /// The stored response is good, for this request alone.
    Confirmed {
        response: Box<UpstreamResponse>,
    },
    Stale(Stale),
}

/// A fetch on its way, with all that it needs of its request.
pub(super) struct Fetch {
    worker: Rc<Worker>,
    local: Rc<LocalSnapshot>,
    route: usize,
    pub(super) context: Box<RequestContext>,
    pub(super) order: Order,
    /// Where other gateways may have the response.
    pub(super) shared: Option<Shared>,
}

impl RouteHandler<'_> {
    /// Starts a fetch. Who drops the receiver does not end it, unless too many fetches go on without a client.
    pub(super) fn begin_fetch(&self, context: &mut RequestContext, order: Order) -> Attended {
        let worker = context.worker();
        let local = worker.snapshot_of(self.local.shared.number);
        let own = of_fetch(&worker, context, &order);
        let fetch = Fetch { worker, local, route: context.route_index(), context: own, order, shared: None };
        let (reply, fetched) = oneshot::channel();
        Attended::begin(&self.worker.detached, Box::pin(fetch.run(reply)), fetched)
    }
}

/// The context of a fetch: the request of its client, without its filters.
fn of_fetch(worker: &Rc<Worker>, context: &mut RequestContext, order: &Order) -> Box<RequestContext> {
    let mut own = RequestContext::of_call(worker, context.client, &Method::GET, context.id.clone());
    own.start = order.start;
    own.weighted = context.weighted;
    own.proxied = context.proxied.clone();
    own.underscored = context.underscored.clone();
    own.route = context.route.as_ref().map(|route| MatchedRoute {
        index: route.index,
        metrics: route.metrics,
        name: Arc::clone(&route.name),
    });
    own.behind_proxy = context.behind_proxy;
    let exchange = context.exchange();
    let mut copy =
        Exchange::new(exchange.id.clone(), exchange.client, exchange.request.clone(), Arc::clone(&exchange.route));
    // A HEAD finds a stale response, too. What is fetched is for those who GET it.
    copy.request.method = Method::GET;
    copy.params = exchange.params.clone();
    copy.cache = exchange.cache.clone();
    copy.context
        .set_caller(exchange.context.consumer().map(|name| exchange::Caller { name: Arc::clone(name), known: None }));
    own.traversal = Traversal::new(copy);
    own
}

impl Fetch {
    async fn run(mut self, reply: oneshot::Sender<Fetched>) {
        let (worker, local) = (Rc::clone(&self.worker), Rc::clone(&self.local));
        let route = &local.shared.routes[self.route];
        let handler = RouteHandler { worker: &worker, local: &local, route, pipeline: local.pipeline(route.pipeline) };
        let Some(cache) = &route.cache else { return };
        let Some(store) = cache.shared.store() else { return };
        self.shared = handler.shared(&mut self.context, cache);
        if let Some(object) = self.of_others(&handler, (cache, store)).await {
            self.order.lead.publish(State::Stored(Arc::clone(&object)));
            return self.reply(reply, Ok(Answered::Shared { object }));
        }
        let requested = SystemTime::now();
        let outcome = self.ask(&handler).await;
        let times = Times { request: requested, response: SystemTime::now() };
        let answer = match outcome {
            Err(error) => self.failed(cache, error),
            Ok(response) => match self.hides(cache, &response) {
                Some(stale) => {
                    response.discard();
                    Ok(Answered::Stale(stale))
                }
                None if self.is_confirmed(&response) => Ok(self.confirmed(&handler, (cache, store), response, times)),
                None => return self.arrived(&handler, (cache, store), response, times, reply).await,
            },
        };
        self.reply(reply, answer);
    }

    fn reply(&mut self, reply: oneshot::Sender<Fetched>, answer: Result<Answered, ProxyError>) {
        let attempts = std::mem::take(&mut self.context.attempts);
        let admission = self.context.admission.take();
        // The client may be gone.
        let _ = reply.send(Fetched { answer, attempts, admission });
    }

    /// Asks the upstream: whether the stored response is still good, or else for another one.
    async fn ask(&mut self, handler: &RouteHandler<'_>) -> Result<UpstreamResponse, ProxyError> {
        let proxied = self.context.proxied.clone();
        let head = self.order.stored.as_ref().map(|stored| stored.head());
        let response = handler.fetch(&mut self.context, &None, head.as_ref()).await?;
        match &head {
            Some(head)
                if response.head.status == StatusCode::NOT_MODIFIED
                    && has_validator(head)
                    && identify(&response.head.headers, &[head]).is_empty() =>
            {
                // Its validators are those of something else.
                response.discard();
                let mut again = self.order.request.clone();
                make_conditional(&mut again, &HeaderMap::new());
                self.context.exchange().request.headers = again;
                self.context.proxied = proxied;
                handler.fetch(&mut self.context, &None, None).await
            }
            Some(_) | None => Ok(response),
        }
    }

    /// No response came.
    fn failed(&self, cache: &RouteCache, error: ProxyError) -> Result<Answered, ProxyError> {
        if !is_of_upstream(error.kind) {
            return Err(error);
        }
        let failed = Failed { failure: Failure::NoResponse, error: Some(error.clone()) };
        self.order.lead.publish(State::Failed(Arc::new(failed)));
        match self.stale(cache, Failure::NoResponse) {
            Some(stale) => Ok(Answered::Stale(stale)),
            None => Err(error),
        }
    }

    /// The stale response that takes the place of this one.
    fn hides(&self, cache: &RouteCache, response: &UpstreamResponse) -> Option<Stale> {
        let failure = Failure::Status(response.head.status);
        let stale = self.stale(cache, failure)?;
        self.order.lead.publish(State::Failed(Arc::new(Failed { failure, error: None })));
        Some(stale)
    }

    fn stale(&self, cache: &RouteCache, failure: Failure) -> Option<Stale> {
        stale_of(self.order.stored.as_ref()?, &RequestDirectives::of(&self.order.request), failure, cache)
    }

    fn is_confirmed(&self, response: &UpstreamResponse) -> bool {
        response.head.status == StatusCode::NOT_MODIFIED
            && self.order.stored.as_ref().is_some_and(|stored| stored.stored().has_validator())
    }

    /// RFC 9111 §4.3.4: the stored response with the fields of the 304.
    fn confirmed(
        &mut self,
        handler: &RouteHandler<'_>,
        (cache, store): (&RouteCache, &Store),
        response: UpstreamResponse,
        times: Times,
    ) -> Answered {
        let Some(stored) = self.order.stored.clone() else {
            return Answered::Upstream { response: Box::new(response), ttl: None };
        };
        let may_store =
            !handler.has_session(&self.context.attempts, cache, &response.head.headers) && !self.order.no_store;
        let request = &self.context.exchange().request;
        let of_caller = self.order.caller.fields(&self.order.request, cache.config.key.consumer);
        let received = Received {
            method: &Method::GET,
            request: of_caller.as_ref().unwrap_or(&self.order.request),
            status: response.head.status,
            response: &response.head.headers,
            times,
        };
        let freshened = freshen(stored.status(), &stored.head(), stored.notes(), received, &cache.config.policy);
        let stored_again = freshened.storable.as_ref().ok().filter(|_| may_store).and_then(|storable| {
            let request = RequestHead { headers: self.order.request.clone(), ..request.clone() };
            let received = Received {
                request: &self.order.request,
                status: stored.status(),
                response: &freshened.head,
                ..received
            };
            let object = again((cache, store), (&stored, self.order.born), &request, storable, &received)?;
            store.insert(self.order.target.key, object).ok()
        });
        // Where cookies are stored, the head has them.
        let cookies = match cache.config.policy.set_cookie {
            SetCookie::Store => Vec::new(),
            SetCookie::Refuse | SetCookie::Omit => response.head.headers.get_all(SET_COOKIE).iter().cloned().collect(),
        };
        response.discard();
        match stored_again {
            Some(object) => {
                self.order.lead.publish(State::Stored(Arc::clone(&object)));
                if let Some(shared) = self.shared.take() {
                    shared.keep(&object, &self.order.request);
                }
                Answered::Validated { object, cookies }
            }
            None => {
                let why = freshened.storable.as_ref().err().map(|refusal| Unstored::Refused(*refusal));
                if let Some(why) = why.or(may_store.then_some(Unstored::HeadTooLarge)) {
                    self.displace(store, stored.status(), why);
                }
                self.order.lead.publish(State::Alone);
                let body = hit::whole(&stored);
                Answered::Confirmed { response: Box::new(hit::of_parts(stored.status(), freshened.head, body)) }
            }
        }
    }

    /// A response came that is not stored, since response hooks may have something to say of it. The stored one makes way for it, so that
    /// the next request fetches it where they can. Nothing is published: who waits begins anew.
    fn make_way(
        &mut self,
        (cache, store): (&RouteCache, &Store),
        status: StatusCode,
        refused: Option<Unstored>,
        response: UpstreamResponse,
    ) {
        response.discard();
        cache.shared.note_unstored(self.order.target.key, refused.unwrap_or(Unstored::Untold));
        match (refused, &self.order.stored) {
            (Some(why), _) => self.displace(store, status, why),
            (None, Some(stored)) => store.remove_object(&self.order.target.key, stored),
            (None, None) => {}
        }
    }

    /// A response came. It goes to all who wait if it may be stored, and else to its own client.
    async fn arrived(
        mut self,
        handler: &RouteHandler<'_>,
        (cache, store): (&RouteCache, &Store),
        mut response: UpstreamResponse,
        times: Times,
        reply: oneshot::Sender<Fetched>,
    ) {
        let told = self.order.told.take();
        let has_session = handler.has_session(&self.context.attempts, cache, &response.head.headers);
        let (status, head) = (response.head.status, told.as_ref().map(|_| response.head.headers.clone()));
        let came = Came { status, head: &response.head.headers, times, has_session };
        let drafted = match self.draft((cache, store), came) {
            Ok(draft) => came.body(cache).map(|builder| (Some(draft), builder)),
            // A filter may give it a lifetime. Until then, it is for nobody else.
            Err(Unstored::Refused(Refusal::NoFreshness | Refusal::Useless)) if told.is_some() => {
                came.body(cache).map(|builder| (None, builder))
            }
            Err(why) => Err(why),
        };
        if self.order.is_unheard {
            return self.make_way((cache, store), status, drafted.err(), response);
        }
        let (draft, builder) = match drafted {
            Ok(drafted) => drafted,
            Err(why) => {
                cache.shared.note_unstored(self.order.target.key, why);
                self.displace(store, status, why);
                self.order.lead.publish(State::Alone);
                handler.worker.flights.note_alone(&self.order.target, seconds());
                return self.reply(reply, Ok(Answered::Upstream { response: Box::new(response), ttl: None }));
            }
        };
        let filling = Filling::begin(response.body.exact_size());
        let reader = filling.fill().reader().map_or(Body::Empty, Body::stream);
        let body = timed(std::mem::replace(&mut response.body, reader), handler.route.timeouts.idle, None);
        let ttl = draft.as_ref().map(|(draft, _)| {
            let stored = draft.stored();
            // A part of a second is no age.
            stored.lifetime().saturating_sub(Duration::from_secs(stored.age(times.response).as_secs()))
        });
        let fill = Arc::clone(filling.fill());
        match &draft {
            // A filter may still say that it is for nobody else.
            Some(_) if told.is_some() => {}
            Some(drafted) => self.stream(status, drafted, &fill),
            None => self.order.lead.publish(State::Alone),
        }
        let attempts = std::mem::take(&mut self.context.attempts);
        let answer = Ok(Answered::Upstream { response: Box::new(response), ttl });
        // What the fetch holds of limits, it holds until its end.
        let _ = reply.send(Fetched { answer, attempts, admission: None });
        let budget = &handler.worker.budget;
        let target = self.order.target;
        let alone = || handler.worker.flights.note_alone(&target, seconds());
        let outcome = match (draft, told) {
            (Some((draft, _)), None) => {
                let keep = |body, _: &mut Option<Reservation>| self.keep(store, draft, body);
                fill_up(body, filling, builder, budget, keep, alone).await
            }
            (_, told) => {
                let mut whole = None;
                let keep = |body, charge: &mut Option<Reservation>| {
                    whole = Some((body, charge.take()));
                    Ok(())
                };
                let came = head.as_ref().map(|head| Came { status, head, times, has_session });
                let filled = fill_up(body, filling, builder, budget, keep, alone);
                let (filled, draft) = match told.zip(came) {
                    Some((told, came)) => self.as_told((cache, store), came, (filled, &fill), told, alone).await,
                    None => (filled.await, Err(Unstored::Untold)),
                };
                match (filled, whole) {
                    (Ok(()), Some((body, charge))) => {
                        let outcome = draft.and_then(|draft| self.keep(store, draft, body));
                        if outcome.is_err() {
                            fill.charge(charge);
                        }
                        outcome
                    }
                    (Ok(()), None) => Err(Unstored::Untold),
                    (Err(why), _) => Err(why),
                }
            }
        };
        if let Err(why) = outcome {
            cache.shared.note_unstored(self.order.target.key, why);
            self.displace(store, status, why);
        }
    }

    /// The response is for all who wait for it.
    pub(super) fn stream(&self, status: StatusCode, (draft, head): &(Draft, HeaderMap), fill: &Arc<Fill>) {
        self.order.lead.publish(State::Streaming(Arc::new(Live {
            status,
            head: head.clone(),
            stored: draft.stored().clone(),
            variant: draft.variant().clone(),
            fill: Arc::clone(fill),
            born: self.order.born,
            tags: draft.tags().clone(),
        })));
    }
}
