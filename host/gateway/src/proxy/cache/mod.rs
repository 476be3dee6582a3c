//! The cache of a route, between its filters and its upstream: what is stored answers, what is not is fetched for all who ask for it.
//!
//! `through_cache` is the page to start with. `hit` makes the response of what is stored, `fetch` asks the upstream in a task of its own,
//! `fill` hands the content of its response on while it comes, `flight` has one fetch for many requests. The rules are in `sluice-cache`.

mod fetch;
mod fill;
mod flight;
mod hit;
mod uncollapsible;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use sluice_cache::cache_status::{CacheStatus, Forward, Handling};
use sluice_cache::directives::RequestDirectives;
use sluice_cache::freshness::{Candidate, Decision, Failure, OnError, Times, on_error, reuse};
use sluice_cache::key::{Key, KeyInput};
use sluice_cache::storable::{Bypass, Received, looks_up};
use sluice_cache::store::{Found, Object, Store};
use sluice_cache::validate::{HeadUpdate, freshen, head_update};
use tokio::sync::watch;

pub use self::flight::Flights;

use self::fetch::{Answered, Fetched, Order};
use self::flight::{Lead, Live, Role, State};
use super::RouteHandler;
use super::context::RequestContext;
use super::deadline::ClientDeadline;
use super::error::{Kind, ProxyError};
use crate::cache::{CacheResult, Place, RouteCache, place_host};
use crate::coarse;
use crate::filter::Hook;
use crate::http::body::Body;
use crate::snapshot::split::Split;
use crate::upstream::UpstreamResponse;

/// The name of the gateway in `Cache-Status`.
const NAME: &str = "sluice";

/// How often a request waits for a fetch that came to nothing, before it fetches by itself.
const MOST_WAITS: usize = 3;

/// A request whose response is not in the store, or not good enough.
struct Missing {
    key: Key,
    why: Forward,
    directives: RequestDirectives,
    /// What may be validated, or hide an error.
    stored: Option<Arc<Object>>,
}

impl RouteHandler<'_> {
    /// Answers a request from the cache of its route, or by its upstream.
    pub(super) async fn through_cache(
        &self,
        context: &mut RequestContext,
        split: &Split,
        deadline: Option<ClientDeadline>,
        cache: &RouteCache,
    ) -> Result<(), ProxyError> {
        let outcome = match cache.shared.store() {
            Some(store) => self.look_up(context, split, deadline, (cache, store)).await,
            None => self.pass(context, split, deadline, cache, None).await,
        };
        let result = context.cache.get_or_insert(CacheResult::Miss).name();
        self.local.metrics.cached(self.route.metrics, result);
        outcome
    }

    async fn look_up(
        &self,
        context: &mut RequestContext,
        split: &Split,
        deadline: Option<ClientDeadline>,
        (cache, store): (&RouteCache, &Store),
    ) -> Result<(), ProxyError> {
        if let Some(why) = self.bypass(context) {
            return self.pass(context, split, deadline, cache, Some(why)).await;
        }
        let now = SystemTime::now();
        let policy = &cache.config.policy;
        let key = self.key(context, cache, store);
        let request = &context.exchange().request.headers;
        let directives = RequestDirectives::of(request);
        let (stored, varies) = match store.find(&key, request) {
            Found::Object(object) => (Some(object), false),
            Found::OtherVariants => (None, true),
            Found::Nothing => (None, false),
        };
        let decided = reuse(&directives, stored.as_deref().map(Object::candidate), now, policy);
        let status = CacheStatus { handling: Handling::Hit, ttl: Some(decided.ttl), key: None, detail: None };
        let why = Forward::of(decided.reason, varies);
        match (decided.decision, stored) {
            (Decision::Fresh, Some(object)) => {
                self.serve(context, cache, &object, Some(decided.age), (CacheResult::Hit, status))
            }
            (Decision::Stale, Some(object)) => {
                let status = CacheStatus { detail: Some("max-stale"), ..status };
                self.serve(context, cache, &object, Some(decided.age), (CacheResult::Stale, status))
            }
            (Decision::StaleWhileRevalidate, Some(object)) => {
                self.revalidate(context, key, &object, store);
                let status = CacheStatus { detail: Some("stale-while-revalidate"), ..status };
                self.serve(context, cache, &object, Some(decided.age), (CacheResult::Stale, status))
            }
            (Decision::GatewayTimeout, _) => {
                context.cache = Some(CacheResult::NotStored);
                let message = format!("`only-if-cached`, and the stored response is {}", decided.reason.as_str());
                Err(ProxyError::new(Kind::NotStored, message))
            }
            (Decision::Fresh | Decision::Stale | Decision::StaleWhileRevalidate, None) => {
                let missing = Missing { key, why, directives, stored: None };
                self.miss(context, split, deadline, (cache, store), missing).await
            }
            (Decision::Revalidate | Decision::Fetch, stored) => {
                let missing = Missing { key, why, directives, stored };
                self.miss(context, split, deadline, (cache, store), missing).await
            }
        }
    }

    /// Why the cache does not handle a request.
    fn bypass(&self, context: &mut RequestContext) -> Option<Forward> {
        let has_content = !context.request_body.is_empty();
        let is_other = context.grpc || context.upgrade_request.is_some() || context.extended_connect;
        let exchange = context.exchange();
        let has_content = has_content || exchange.request_body_replaced;
        match looks_up(&exchange.request.method, &exchange.request.headers, has_content) {
            Err(Bypass::Method) => Some(Forward::Method),
            Err(Bypass::Content | Bypass::Upgrade) => Some(Forward::Bypass),
            // The filter chooses the upstream later: the key would not have it.
            Ok(()) if is_other || self.pipeline.pipeline().has(Hook::SelectUpstream) => Some(Forward::Bypass),
            Ok(()) => None,
        }
    }

    fn key(&self, context: &mut RequestContext, cache: &RouteCache, store: &Store) -> Key {
        let upstream = self.local.upstreams[context.weighted].upstream.name();
        let exchange = context.exchange();
        let request = &exchange.request;
        let input = KeyInput {
            group: &self.route.facts.name,
            upstream,
            scheme: request.scheme.as_str(),
            host: place_host(&request.scheme, &request.authority),
            path: request.target.path(),
            query: request.target.query(),
            headers: &request.headers,
            consumer: exchange.context.consumer().map(|name| &**name),
        };
        cache.config.key.key(&input, store.secret())
    }

    /// A response out of the store.
    fn serve(
        &self,
        context: &mut RequestContext,
        cache: &RouteCache,
        object: &Object,
        age: Option<Duration>,
        result: (CacheResult, CacheStatus<'_>),
    ) -> Result<(), ProxyError> {
        let request = &context.exchange().request;
        match hit::response(object, &request.method, &request.headers, age) {
            Ok(response) => self.answer(context, cache, response, result),
            Err(unsatisfiable) => {
                context.cache = Some(result.0);
                self.refuse_range(context, unsatisfiable.head);
                Ok(())
            }
        }
    }

    fn answer(
        &self,
        context: &mut RequestContext,
        cache: &RouteCache,
        mut response: UpstreamResponse,
        (result, status): (CacheResult, CacheStatus<'_>),
    ) -> Result<(), ProxyError> {
        context.cache = Some(result);
        if cache.config.status_field {
            status.append(NAME, &mut response.head.headers);
        }
        self.accept(context, response)
    }

    /// Hands a request on that the cache does not handle. What it changes is not stored any more.
    async fn pass(
        &self,
        context: &mut RequestContext,
        split: &Split,
        deadline: Option<ClientDeadline>,
        cache: &RouteCache,
        why: Option<Forward>,
    ) -> Result<(), ProxyError> {
        context.cache = Some(CacheResult::Bypass);
        let response = Box::pin(self.fetch(context, &split.targets, deadline, None)).await?;
        let request = &context.exchange().request;
        let place = Place {
            scheme: request.scheme.as_str(),
            host: place_host(&request.scheme, &request.authority),
            path: request.target.path(),
            query: request.target.query(),
        };
        cache.shared.invalidate(&place, &request.method, response.head.status, &response.head.headers);
        if response.upgraded.is_some() {
            return self.accept(context, response);
        }
        let status = forwarded(why.unwrap_or(Forward::Bypass), None, false);
        self.answer(context, cache, response, (CacheResult::Bypass, status))
    }

    async fn miss(
        &self,
        context: &mut RequestContext,
        split: &Split,
        deadline: Option<ClientDeadline>,
        (cache, store): (&RouteCache, &Store),
        mut missing: Missing,
    ) -> Result<(), ProxyError> {
        let request = &context.exchange().request;
        let is_whole = request.method == Method::GET && (missing.stored.is_some() || is_plain(&request.headers));
        if !is_whole || missing.directives.no_store {
            return self.fetch_apart(context, split, deadline, (cache, store), missing).await;
        }
        let begun = Instant::now();
        let mut waits = 0;
        loop {
            let born = store.generation();
            let role = match cache.config.collapse_timeout {
                Some(patience) if waits < MOST_WAITS && begun.elapsed() < patience => {
                    Flights::join(&self.worker.flights, missing.key, born, seconds())
                }
                Some(_) | None => Role::Apart,
            };
            let lead = match role {
                Role::Leader(lead) => {
                    // A fetch may have ended between the look-up and now.
                    if let Found::Object(found) = store.find(&missing.key, &context.exchange().request.headers)
                        && missing.stored.as_ref().is_none_or(|stored| !Arc::ptr_eq(stored, &found))
                    {
                        drop(lead);
                        let decided = self.reuse(&missing, found.candidate(), cache);
                        if let Some(age) = decided {
                            return self.collapsed_into(context, cache, &missing, &found, age);
                        }
                        missing.stored = Some(found);
                        waits += 1;
                        continue;
                    }
                    lead
                }
                Role::Apart => Lead::apart(),
                Role::Follower(state) => {
                    waits += 1;
                    let patience = cache.config.collapse_timeout.unwrap_or_default().saturating_sub(begun.elapsed());
                    match wait_for_head(state, patience, deadline).await {
                        Waited::Abandoned => continue,
                        Waited::TimedOut => {
                            deadline.map_or(Ok(()), ClientDeadline::check)?;
                            waits = MOST_WAITS;
                            continue;
                        }
                        Waited::For(state) => match self.follow(context, cache, &missing, state) {
                            Some(outcome) => return outcome,
                            None => {
                                waits = MOST_WAITS;
                                continue;
                            }
                        },
                    }
                }
            };
            let order = Order::new(context, missing.key, missing.stored.clone(), lead, born);
            let fetched = self.begin_fetch(context, order);
            let fetched = match deadline.map(|deadline| deadline.until) {
                None => fetched.await,
                Some(until) => match tokio::time::timeout_at(until.into(), fetched).await {
                    Ok(fetched) => fetched,
                    Err(_) => {
                        let message = "the client's deadline was over before the upstream answered";
                        return Err(ProxyError::new(Kind::DeadlineExceeded, message));
                    }
                },
            };
            let Ok(fetched) = fetched else {
                return Err(ProxyError::new(Kind::UpstreamReset, "the fetch for the cache ended without an answer"));
            };
            return self.take(context, cache, &missing, fetched);
        }
    }

    /// The age of a stored response, if it answers the request as it is.
    fn reuse(&self, missing: &Missing, candidate: Candidate<'_>, cache: &RouteCache) -> Option<Duration> {
        let decided = reuse(&missing.directives, Some(candidate), SystemTime::now(), &cache.config.policy);
        match decided.decision {
            Decision::Fresh | Decision::Stale | Decision::StaleWhileRevalidate => Some(decided.age),
            Decision::Revalidate | Decision::Fetch | Decision::GatewayTimeout => None,
        }
    }

    fn collapsed_into(
        &self,
        context: &mut RequestContext,
        cache: &RouteCache,
        missing: &Missing,
        object: &Object,
        age: Duration,
    ) -> Result<(), ProxyError> {
        let ttl = object.stored().lifetime().saturating_sub(age);
        self.serve(context, cache, object, Some(age), (CacheResult::Collapsed, collapsed(missing.why, ttl)))
    }

    /// Answers a request by the fetch of another one, unless that is of no use to it.
    fn follow(
        &self,
        context: &mut RequestContext,
        cache: &RouteCache,
        missing: &Missing,
        state: State,
    ) -> Option<Result<(), ProxyError>> {
        match state {
            State::Waiting | State::Alone => None,
            State::Streaming(live) => {
                let (response, age) = self.join(context, cache, missing, &live)?;
                let status = collapsed(missing.why, live.stored.lifetime().saturating_sub(age));
                Some(self.answer(context, cache, response, (CacheResult::Collapsed, status)))
            }
            State::Stored(object) => {
                let store = cache.shared.store()?;
                if !object.variant().matches(&context.exchange().request.headers, store.secret()) {
                    return None;
                }
                let age = self.reuse(missing, object.candidate(), cache)?;
                Some(self.collapsed_into(context, cache, missing, &object, age))
            }
            State::Failed(failed) => {
                if let Some(stale) = stale(missing, failed.failure, cache) {
                    return Some(self.take_stale(context, cache, missing, stale));
                }
                failed.error.clone().map(Err)
            }
        }
    }

    fn join(
        &self,
        context: &mut RequestContext,
        cache: &RouteCache,
        missing: &Missing,
        live: &Live,
    ) -> Option<(UpstreamResponse, Duration)> {
        let request = &context.exchange().request.headers;
        if !live.variant.matches(request, cache.shared.store()?.secret()) || !is_plain(request) {
            return None;
        }
        let age = self.reuse(missing, Candidate { stored: &live.stored, marked_stale: false }, cache)?;
        let body = Body::stream(live.fill.reader()?);
        let mut head = live.head.clone();
        head.insert(http::header::AGE, HeaderValue::from(age.as_secs()));
        Some((hit::of_parts(live.status, head, body), age))
    }

    /// What the request's own fetch has come to.
    fn take(
        &self,
        context: &mut RequestContext,
        cache: &RouteCache,
        missing: &Missing,
        fetched: Fetched,
    ) -> Result<(), ProxyError> {
        let Fetched { answer, attempts, admission } = fetched;
        context.attempts = attempts;
        context.admission = admission;
        match answer? {
            Answered::Upstream { response, ttl } => {
                let mut status = forwarded(missing.why, None, ttl.is_some());
                status.ttl = ttl.map(seconds_of);
                self.answer(context, cache, *response, (CacheResult::Miss, status))
            }
            Answered::Validated { object, cookies } => {
                let mut status = forwarded(missing.why, Some(StatusCode::NOT_MODIFIED), true);
                status.ttl = Some(seconds_of(object.stored().lifetime()));
                self.serve(context, cache, &object, None, (CacheResult::Revalidated, status))?;
                if let Some(head) = &mut context.exchange().response {
                    for cookie in cookies {
                        head.headers.append(http::header::SET_COOKIE, cookie);
                    }
                }
                Ok(())
            }
            Answered::Confirmed { response } => {
                let status = forwarded(missing.why, Some(StatusCode::NOT_MODIFIED), false);
                self.answer(context, cache, *response, (CacheResult::Revalidated, status))
            }
            Answered::Stale(stale) => self.take_stale(context, cache, missing, stale),
        }
    }

    fn take_stale(
        &self,
        context: &mut RequestContext,
        cache: &RouteCache,
        missing: &Missing,
        stale: Stale,
    ) -> Result<(), ProxyError> {
        let mut status = forwarded(missing.why, stale.status, false);
        (status.ttl, status.detail) = (Some(stale.ttl), Some("stale-if-error"));
        self.serve(context, cache, &stale.object, Some(stale.age), (CacheResult::StaleIfError, status))
    }

    /// A request whose response is for it alone: nothing of it is stored, but a HEAD tells of what is.
    async fn fetch_apart(
        &self,
        context: &mut RequestContext,
        split: &Split,
        deadline: Option<ClientDeadline>,
        (cache, store): (&RouteCache, &Store),
        missing: Missing,
    ) -> Result<(), ProxyError> {
        let sent = context.exchange().request.headers.clone();
        let born = store.generation();
        let requested = SystemTime::now();
        let outcome = Box::pin(self.fetch(context, &split.targets, deadline, None)).await;
        let failure = match &outcome {
            Ok(response) => Failure::Status(response.head.status),
            Err(error) if is_of_upstream(error.kind) => Failure::NoResponse,
            Err(_) => return outcome.map(drop),
        };
        // The hooks to come and the conditions of the client need them.
        context.exchange().request.headers = sent;
        if let Some(stale) = stale(&missing, failure, cache) {
            return self.take_stale(context, cache, &missing, stale);
        }
        let response = outcome?;
        let times = Times { request: requested, response: SystemTime::now() };
        if let Some(stored) = &missing.stored
            && context.exchange().request.method == Method::HEAD
        {
            self.heard(context, (cache, store), (missing.key, stored, born), &response, times);
        }
        self.answer(context, cache, response, (CacheResult::Miss, forwarded(missing.why, None, false)))
    }

    /// RFC 9111 §4.3.5.
    fn heard(
        &self,
        context: &mut RequestContext,
        (cache, store): (&RouteCache, &Store),
        (key, stored, born): (Key, &Object, sluice_cache::store::Generation),
        response: &UpstreamResponse,
        times: Times,
    ) {
        let head = stored.head();
        match head_update(&head, stored.body().len(), response.head.status, &response.head.headers) {
            HeadUpdate::Update => {
                let request = &context.exchange().request;
                let received = Received {
                    method: &Method::HEAD,
                    request: &request.headers,
                    status: response.head.status,
                    response: &response.head.headers,
                    times,
                };
                let freshened = freshen(stored.status(), &head, received, &cache.config.policy);
                if let Ok(storable) = &freshened.storable {
                    let received = Received { status: stored.status(), response: &freshened.head, ..received };
                    fetch::store_again((cache, store), (key, stored, born), request, storable, &received);
                }
            }
            HeadUpdate::Outdated => stored.mark_stale(),
            HeadUpdate::Nothing => {}
        }
    }

    /// Fetches while a stale response is sent (RFC 5861 §3), unless somebody does.
    fn revalidate(&self, context: &mut RequestContext, key: Key, stored: &Arc<Object>, store: &Store) {
        let born = store.generation();
        if let Role::Leader(lead) = Flights::join(&self.worker.flights, key, born, seconds()) {
            let mut order = Order::new(context, key, Some(Arc::clone(stored)), lead, born);
            order.start = Instant::now();
            drop(self.begin_fetch(context, order));
        }
    }
}

/// A stale response in place of an error.
pub(super) struct Stale {
    object: Arc<Object>,
    age: Duration,
    ttl: i64,
    /// What the upstream has answered, if it has.
    status: Option<StatusCode>,
}

fn stale(missing: &Missing, failure: Failure, cache: &RouteCache) -> Option<Stale> {
    stale_of(missing.stored.as_ref()?, &missing.directives, failure, cache)
}

fn stale_of(
    object: &Arc<Object>,
    directives: &RequestDirectives,
    failure: Failure,
    cache: &RouteCache,
) -> Option<Stale> {
    match on_error(directives, object.candidate(), failure, SystemTime::now(), &cache.config.policy) {
        OnError::ServeStale { age, ttl } => {
            let status = match failure {
                Failure::Status(status) => Some(status),
                Failure::NoResponse => None,
            };
            Some(Stale { object: Arc::clone(object), age, ttl, status })
        }
        OnError::PassOn => None,
    }
}

/// What a wait for another request's fetch has come to.
enum Waited {
    For(State),
    /// The fetch ended, and nobody said how.
    Abandoned,
    TimedOut,
}

async fn wait_for_head(
    mut state: watch::Receiver<State>,
    patience: Duration,
    deadline: Option<ClientDeadline>,
) -> Waited {
    let until = Instant::now().checked_add(patience);
    let until = until.into_iter().chain(deadline.map(|deadline| deadline.until)).min();
    let waiting = state.wait_for(|state| !matches!(state, State::Waiting));
    let waited = match until {
        Some(until) => tokio::time::timeout_at(until.into(), waiting).await,
        None => Ok(waiting.await),
    };
    match waited {
        Ok(Ok(state)) => Waited::For(state.clone()),
        Ok(Err(_)) => Waited::Abandoned,
        Err(_) => Waited::TimedOut,
    }
}

/// Whether the response to a request is the whole of what there is.
fn is_plain(request: &HeaderMap) -> bool {
    use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
    ![RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| request.contains_key(name))
}

/// Whether an error says that the upstream has no good response now, or was not asked.
fn is_of_upstream(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NoEndpoint
            | Kind::UpstreamBusy
            | Kind::RouteBusy
            | Kind::CircuitOpen
            | Kind::ConnectFailed
            | Kind::ConnectTimeout
            | Kind::UpstreamTimeout
            | Kind::UpstreamReset
            | Kind::UpstreamProtocol
    )
}

/// The fields of a request by which it is decided whether its response may be shared. A filter may have taken the credentials out of a
/// request whose caller it knows: the response is one for that caller, as if they were there. Where each caller has responses of its own, they
/// are shared with nobody.
fn as_of_caller(request: &HeaderMap, has_caller: bool, apart: bool) -> Option<HeaderMap> {
    match (has_caller, apart) {
        (true, true) if request.contains_key(AUTHORIZATION) => {
            let mut without = request.clone();
            without.remove(AUTHORIZATION);
            Some(without)
        }
        (true, false) if !request.contains_key(AUTHORIZATION) => {
            let mut with = request.clone();
            with.insert(AUTHORIZATION, HeaderValue::from_static("caller"));
            Some(with)
        }
        (true | false, _) => None,
    }
}

fn forwarded(why: Forward, status: Option<StatusCode>, stored: bool) -> CacheStatus<'static> {
    let handling = Handling::Forwarded { why, status, stored, collapsed: false };
    CacheStatus { handling, ttl: None, key: None, detail: None }
}

fn collapsed(why: Forward, ttl: Duration) -> CacheStatus<'static> {
    let handling = Handling::Forwarded { why, status: None, stored: false, collapsed: true };
    CacheStatus { handling, ttl: Some(seconds_of(ttl)), key: None, detail: None }
}

fn seconds_of(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn seconds() -> u64 {
    coarse::now_ms() / 1000
}
