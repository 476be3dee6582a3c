//! The cache of a route, between its filters and its upstream: what is stored answers, what is not is fetched for all who ask for it.
//!
//! `through_cache` is the page to start with. `hit` makes the response of what is stored, `miss` gets one for what is not: by `fetch`, a
//! task that asks the upstream, or by that of another request (`flight`), whose content comes out of `fill`. `apart` is for requests whose
//! response is for nobody else. The rules are in `sluice-cache`.

mod apart;
mod detached;
mod fetch;
mod fill;
mod flight;
mod hit;
mod keep;
mod miss;
mod notes;
mod purge;
mod shared;
mod uncollapsible;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use sluice_cache::cache_status::{CacheStatus, Forward, Handling};
use sluice_cache::digest::Secret;
use sluice_cache::directives::RequestDirectives;
use sluice_cache::fields;
use sluice_cache::freshness::{Decision, Failure, OnError, on_error, reuse};
use sluice_cache::key::{Key, KeyInput};
use sluice_cache::storable::{Bypass, CLIENT_CERTIFICATE, has_credentials, looks_up};
use sluice_cache::store::{Found, Generation, Object, Store, Tags};

pub(super) use self::detached::Detached;
pub use self::flight::Flights;
pub(super) use self::notes::{Told, tell};

use self::fetch::Order;
use self::flight::{Live, Role, State, Target};
use super::RouteHandler;
use super::context::RequestContext;
use super::deadline::ClientDeadline;
use super::error::{Kind, ProxyError};
use crate::cache::{CacheResult, Place, RouteCache, key_parts, place_host};
use crate::coarse;
use crate::exchange::{Exchange, RequestHead};
use crate::filter::Hook;
use crate::upstream::UpstreamResponse;

/// The name of the gateway in `Cache-Status`.
const NAME: &str = "sluice";

/// A request whose response is not in the store, or not good enough.
struct Missing {
    key: Key,
    why: Forward,
    directives: RequestDirectives,
    /// What may be validated, or hide an error.
    stored: Option<Arc<Object>>,
    /// Of the store, before the look-up.
    born: Generation,
}

impl RouteHandler<'_> {
    /// Answers a request from the cache of its route, or by its upstream.
    pub(super) async fn through_cache(
        &self,
        context: &mut RequestContext,
        deadline: Option<ClientDeadline>,
        cache: &RouteCache,
    ) -> Result<(), ProxyError> {
        let outcome = match cache.shared.store() {
            _ if purge::is_purge(context.exchange()) => self.purge(context, cache),
            Some(store) => self.look_up(context, deadline, (cache, store)).await,
            None => self.pass(context, deadline, cache, None).await,
        };
        let result = context.cache.get_or_insert(CacheResult::Miss).name();
        context.exchange().cache_status = Some(result);
        self.local.metrics.cached(self.route.metrics, result);
        outcome
    }

    async fn look_up(
        &self,
        context: &mut RequestContext,
        deadline: Option<ClientDeadline>,
        (cache, store): (&RouteCache, &Store),
    ) -> Result<(), ProxyError> {
        if let Some(why) = self.bypass(context) {
            return self.pass(context, deadline, cache, Some(why)).await;
        }
        let now = SystemTime::now();
        let policy = &cache.config.policy;
        let key = self.key(context, cache, store.secret());
        let request = &context.exchange().request.headers;
        let directives = RequestDirectives::of(request);
        // Before: a purge from now on reaches what comes of what is found here.
        let born = store.generation();
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
            (Decision::StaleWhileRevalidate, Some(object)) if self.may_fetch_behind(&object) => {
                self.revalidate(context, (cache, store), key, (&object, born));
                let status = CacheStatus { detail: Some("stale-while-revalidate"), ..status };
                self.serve(context, cache, &object, Some(decided.age), (CacheResult::Stale, status))
            }
            (Decision::GatewayTimeout, _) => {
                context.cache = Some(CacheResult::NotStored);
                let message = format!("`only-if-cached`, and the stored response is {}", decided.reason.as_str());
                Err(ProxyError::new(Kind::NotStored, message))
            }
            (Decision::Fresh | Decision::Stale, None) => {
                let missing = Missing { key, why, directives, stored: None, born };
                self.miss(context, deadline, (cache, store), missing).await
            }
            (Decision::StaleWhileRevalidate | Decision::Revalidate | Decision::Fetch, stored) => {
                let missing = Missing { key, why, directives, stored, born };
                self.miss(context, deadline, (cache, store), missing).await
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

    fn key(&self, context: &mut RequestContext, cache: &RouteCache, secret: &Secret) -> Key {
        let upstream = self.local.upstreams[context.weighted].upstream.name();
        let behind_proxy = context.behind_proxy;
        let exchange = context.exchange();
        let request = &exchange.request;
        let place = place(request);
        let mut parts = Cow::Borrowed(exchange.cache.as_ref().map_or(&[][..], |notes| &notes.key_parts));
        if behind_proxy {
            let of_proxies = key_parts(&request.headers, place.scheme, place.host);
            if !of_proxies.is_empty() {
                parts.to_mut().extend(of_proxies);
            }
        }
        let input = KeyInput {
            group: &self.route.facts.name,
            upstream,
            scheme: place.scheme,
            host: place.host,
            path: place.path,
            query: place.query,
            headers: &request.headers,
            consumer: exchange.context.consumer().map(|name| &**name),
            parts: &parts,
        };
        cache.config.key.key(&input, secret)
    }

    /// A response out of the store.
    fn serve(
        &self,
        context: &mut RequestContext,
        cache: &RouteCache,
        object: &Arc<Object>,
        age: Option<Duration>,
        result: (CacheResult, CacheStatus<'_>),
    ) -> Result<(), ProxyError> {
        let request = &context.exchange().request;
        match hit::response(object, &request.method, &request.headers, age) {
            Ok(response) => {
                context.stored = context.compression.map(|_| Arc::clone(object));
                self.answer(context, cache, response, result)
            }
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
        if !cache.config.tag_fields {
            fields::remove_tags(&mut response.head.headers);
        }
        self.accept(context, response)
    }

    /// Hands a request on that the cache does not handle. What it changes is not stored any more.
    async fn pass(
        &self,
        context: &mut RequestContext,
        deadline: Option<ClientDeadline>,
        cache: &RouteCache,
        why: Option<Forward>,
    ) -> Result<(), ProxyError> {
        context.cache = Some(CacheResult::Bypass);
        let response = Box::pin(self.fetch(context, &deadline, None)).await?;
        self.invalidate(context, &response);
        if response.upgraded.is_some() {
            return self.accept(context, response);
        }
        let status = forwarded(why.unwrap_or(Forward::Bypass), None, false);
        self.answer(context, cache, response, (CacheResult::Bypass, status))
    }

    /// Whether a stale response may be sent while another is fetched. No response hook sees what is fetched so. Where one may tell the cache
    /// something, only a confirmation of the stored response is of use, for which it needs a validator.
    fn may_fetch_behind(&self, stored: &Object) -> bool {
        !self.pipeline.pipeline().tells_cache() || stored.stored().has_validator()
    }

    /// Fetches while a stale response is sent (RFC 5861 §3), unless somebody does, or too many fetches have no client already. Then the
    /// response stays stale until the next request.
    fn revalidate(
        &self,
        context: &mut RequestContext,
        (cache, store): (&RouteCache, &Store),
        key: Key,
        (stored, born): (&Arc<Object>, Generation),
    ) {
        if self.worker.detached.is_full() {
            return;
        }
        let target = target(context.exchange(), key, (cache, store));
        if let Role::Leader(lead) = self.join_flight(context.exchange(), target, born, (cache, store)) {
            let mut order = Order::new(context, target, Some(Arc::clone(stored)), lead, born);
            order.is_unheard = self.pipeline.pipeline().tells_cache();
            order.start = Instant::now();
            drop(self.begin_fetch(context, order));
        }
    }

    fn join_flight(
        &self,
        exchange: &Exchange,
        target: Target,
        born: Generation,
        (cache, store): (&RouteCache, &Store),
    ) -> Role {
        Flights::join(&self.worker.flights, target, born, seconds(), |since, state| match state {
            State::Streaming(live) => is_purged(live, store),
            State::Stored(object) => store.is_purged(object),
            State::Waiting | State::Failed(_) | State::Alone => {
                let place = place(&exchange.request);
                let query = cache.config.key.query.canonical(place.query);
                let tags = Tags::new(place.host, place.path, query.as_deref(), [], store.secret());
                store.is_purged_since(since, &tags)
            }
        })
    }
}

/// Whether a purge has reached a response on its way.
fn is_purged(live: &Live, store: &Store) -> bool {
    store.is_purged_since(live.born, &live.tags)
}

/// Where a request goes, for purges.
fn place(request: &RequestHead) -> Place<'_> {
    Place {
        scheme: request.scheme.as_str(),
        host: place_host(&request.scheme, &request.authority),
        path: request.target.path(),
        query: request.target.query(),
    }
}

fn target(exchange: &Exchange, key: Key, (cache, store): (&RouteCache, &Store)) -> Target {
    let request = &exchange.request.headers;
    Target {
        key,
        variant: store.variant(&key, request, cache.config.policy.normalise),
        has_credentials: has_credentials(request) || exchange.client_certificate.is_some(),
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
            | Kind::FilesUnreadable
    )
}

/// Who has sent a request, as far as its fields do not say it.
#[derive(Clone, Copy)]
struct Caller {
    /// A filter knows who it is.
    is_known: bool,
    /// The client has shown a certificate.
    has_certificate: bool,
}

impl Caller {
    fn of(exchange: &Exchange) -> Caller {
        Caller {
            is_known: exchange.context.consumer().is_some(),
            has_certificate: exchange.client_certificate.is_some(),
        }
    }

    /// Whether the response to a request may be for this caller alone.
    fn may_be_alone(self, request: &HeaderMap) -> bool {
        self.is_known || self.has_certificate || has_credentials(request)
    }

    /// The fields of a request by which it is decided whether its response may be shared. A filter may have taken the credentials out of a
    /// request whose caller it knows: the response is one for that caller, as if they were there. A certificate is a credential, too, whether
    /// the upstream gets it or a filter. Where each caller has responses of its own (`apart`), they are shared with nobody.
    fn fields(self, request: &HeaderMap, apart: bool) -> Option<HeaderMap> {
        let Caller { is_known, has_certificate } = self;
        let without = is_known && apart && request.contains_key(AUTHORIZATION);
        let with = is_known && !apart && !request.contains_key(AUTHORIZATION);
        let certificate = has_certificate && !(is_known && apart);
        if !without && !with && !certificate {
            return None;
        }
        let mut fields = request.clone();
        if without {
            fields.remove(AUTHORIZATION);
        }
        let [certificate_field, _] = CLIENT_CERTIFICATE;
        for name in with.then_some(AUTHORIZATION).into_iter().chain(certificate.then_some(certificate_field)) {
            fields.insert(name, HeaderValue::from_static("caller"));
        }
        Some(fields)
    }
}

fn forwarded(why: Forward, status: Option<StatusCode>, stored: bool) -> CacheStatus<'static> {
    let handling = Handling::Forwarded { why, status, stored, collapsed: false };
    CacheStatus { handling, ttl: None, key: None, detail: None }
}

fn seconds_of(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

fn seconds() -> u64 {
    coarse::now_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_asked_counts_also_where_the_fields_do_not_say_it() {
        let fields = |is_known, has_certificate, authorization: bool, apart| {
            let mut request = HeaderMap::new();
            if authorization {
                request.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
            }
            let fields = Caller { is_known, has_certificate }.fields(&request, apart).unwrap_or(request);
            (fields.contains_key(AUTHORIZATION), has_credentials(&fields))
        };
        for authorization in [false, true] {
            assert_eq!(fields(false, false, authorization, false), (authorization, authorization));
            assert_eq!(fields(false, false, authorization, true), (authorization, authorization));
            assert_eq!(fields(true, false, authorization, false), (true, true));
            // Each caller has responses of its own.
            assert_eq!(fields(true, false, authorization, true), (false, false));
            assert_eq!(fields(true, true, authorization, true), (false, false));
            // RFC 9111 §3.5 is about `Authorization` alone.
            assert_eq!(fields(false, true, authorization, false), (authorization, true));
            assert_eq!(fields(false, true, authorization, true), (authorization, true));
        }
    }
}
