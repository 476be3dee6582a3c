//! A request whose response is not in the store, or not good enough: it fetches one for all who ask for the same, or waits for the one who does.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{AGE, HeaderMap, HeaderValue, SET_COOKIE};
use http::{Method, StatusCode};
use sluice_cache::cache_status::{CacheStatus, Forward, Handling};
use sluice_cache::freshness::{Candidate, Decision, reuse};
use sluice_cache::store::{Found, Object, Store};
use sluice_cache::vary::Variant;
use tokio::sync::watch;

use super::fetch::{Answered, Fetched, Order};
use super::flight::{Lead, Live, Role, State};
use super::{Missing, Stale, forwarded, hit, is_purged, seconds_of, stale, target};
use crate::cache::{CacheResult, RouteCache};
use crate::http::body::Body;
use crate::proxy::RouteHandler;
use crate::proxy::context::RequestContext;
use crate::proxy::deadline::ClientDeadline;
use crate::proxy::error::{Kind, ProxyError};
use crate::upstream::UpstreamResponse;

/// How often a request waits for a fetch that came to nothing, before it fetches by itself.
const MOST_WAITS: usize = 3;

impl RouteHandler<'_> {
    pub(super) async fn miss(
        &self,
        context: &mut RequestContext,
        deadline: Option<ClientDeadline>,
        (cache, store): (&RouteCache, &Store),
        mut missing: Missing,
    ) -> Result<(), ProxyError> {
        let request = &context.exchange().request;
        let is_whole = request.method == Method::GET && (missing.stored.is_some() || is_plain(&request.headers));
        if !is_whole || missing.directives.no_store {
            return self.fetch_apart(context, deadline, (cache, store), missing).await;
        }
        let mut target = target(context.exchange(), missing.key, (cache, store));
        let until = self.until(context.start, deadline).0;
        let begun = Instant::now();
        let mut waits = 0;
        loop {
            let born = store.generation();
            let role = match cache.config.collapse_timeout {
                Some(patience) if waits < MOST_WAITS && begun.elapsed() < patience => {
                    self.join_flight(context.exchange(), target, born, (cache, store))
                }
                Some(_) | None => Role::Apart,
            };
            let lead = match role {
                Role::Leader(lead) => lead,
                Role::Apart => Lead::apart(),
                Role::Follower(state) => {
                    waits += 1;
                    let patience = cache.config.collapse_timeout.unwrap_or_default().saturating_sub(begun.elapsed());
                    match wait_for_head(state, patience, until).await {
                        Waited::Abandoned => {}
                        Waited::TimedOut => {
                            deadline.map_or(Ok(()), ClientDeadline::check)?;
                            waits = MOST_WAITS;
                        }
                        Waited::For(state) => match self.follow(context, (cache, store), &missing, state) {
                            Followed::Answered(outcome) => return outcome,
                            Followed::Purged => {}
                            Followed::OfOthers(variant) if target.variant != Some(variant) => {
                                target.variant = Some(variant);
                            }
                            Followed::OfOthers(_) | Followed::Useless => waits = MOST_WAITS,
                        },
                    }
                    continue;
                }
            };
            // Since the look-up, a fetch may have ended, or a purge have come.
            match store.find(&missing.key, &context.exchange().request.headers) {
                Found::Object(found) => {
                    let is_known = missing.stored.as_ref().is_some_and(|stored| Arc::ptr_eq(stored, &found));
                    if !is_known && let Some(age) = self.reuse(&missing, found.candidate(), cache) {
                        drop(lead);
                        return self.collapsed_into(context, cache, &missing, &found, age);
                    }
                    missing.stored = Some(found);
                }
                Found::OtherVariants | Found::Nothing => missing.stored = None,
            }
            if missing.stored.is_none() && !is_plain(&context.exchange().request.headers) {
                drop(lead);
                return self.fetch_apart(context, deadline, (cache, store), missing).await;
            }
            let mut order = Order::new(context, target, missing.stored.clone(), lead, born);
            order.told = self.listen(context);
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
        object: &Arc<Object>,
        age: Duration,
    ) -> Result<(), ProxyError> {
        let ttl = object.stored().lifetime().saturating_sub(age);
        self.serve(context, cache, object, Some(age), (CacheResult::Collapsed, collapsed(missing.why, ttl)))
    }

    /// Answers a request by the fetch of another one, unless that is of no use to it.
    fn follow(
        &self,
        context: &mut RequestContext,
        (cache, store): (&RouteCache, &Store),
        missing: &Missing,
        state: State,
    ) -> Followed {
        let request = &context.exchange().request.headers;
        let normalise = cache.config.policy.normalise;
        let select = |variant: &Variant| match variant.matches(request, store.secret()) {
            true => None,
            false => {
                Some(Variant::new(variant.names(), request, &HeaderMap::new(), normalise, store.secret()).to_bytes())
            }
        };
        match state {
            State::Waiting | State::Alone => Followed::Useless,
            State::Streaming(live) => {
                if is_purged(&live, store) {
                    return Followed::Purged;
                }
                if let Some(variant) = select(&live.variant) {
                    return Followed::OfOthers(variant);
                }
                let Some((response, age)) = self.join(context, cache, missing, &live) else { return Followed::Useless };
                let status = collapsed(missing.why, live.stored.lifetime().saturating_sub(age));
                Followed::Answered(self.answer(context, cache, response, (CacheResult::Collapsed, status)))
            }
            State::Stored(object) => {
                if store.is_purged(&object) {
                    return Followed::Purged;
                }
                if let Some(variant) = select(object.variant()) {
                    return Followed::OfOthers(variant);
                }
                let Some(age) = self.reuse(missing, object.candidate(), cache) else { return Followed::Useless };
                Followed::Answered(self.collapsed_into(context, cache, missing, &object, age))
            }
            State::Failed(failed) => {
                if let Some(stale) = stale(missing, failed.failure, cache) {
                    return Followed::Answered(self.take_stale(context, cache, missing, stale));
                }
                failed.error.clone().map_or(Followed::Useless, |error| Followed::Answered(Err(error)))
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
        if !is_plain(&context.exchange().request.headers) {
            return None;
        }
        let age = self.reuse(missing, Candidate { stored: &live.stored, marked_stale: None }, cache)?;
        // A way out of a fetch that stalls behind its head.
        let body = Body::stream(live.fill.reader_within(cache.config.collapse_timeout?)?);
        let mut head = live.head.clone();
        head.insert(AGE, HeaderValue::from(age.as_secs()));
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
            Answered::Shared { object } => {
                let age = object.stored().age(SystemTime::now());
                let ttl = Some(seconds_of(object.stored().lifetime().saturating_sub(age)));
                let status = CacheStatus { handling: Handling::Hit, ttl, key: None, detail: Some("shared") };
                self.serve(context, cache, &object, Some(age), (CacheResult::Shared, status))
            }
            Answered::Validated { object, cookies } => {
                let mut status = forwarded(missing.why, Some(StatusCode::NOT_MODIFIED), true);
                let age = Duration::from_secs(object.stored().age(SystemTime::now()).as_secs());
                status.ttl = Some(seconds_of(object.stored().lifetime().saturating_sub(age)));
                // None where the upstream itself has said so this moment.
                let age = (!age.is_zero()).then_some(age);
                self.serve(context, cache, &object, age, (CacheResult::Revalidated, status))?;
                if let Some(head) = &mut context.exchange().response {
                    for cookie in cookies {
                        head.headers.append(SET_COOKIE, cookie);
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

    pub(super) fn take_stale(
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
}

/// What another request's fetch is to a request.
enum Followed {
    Answered(Result<(), ProxyError>),
    /// A purge has reached what came of it.
    Purged,
    /// Its response is for requests that select another one. Those that select the same as this one have this in common.
    OfOthers([u8; 16]),
    Useless,
}

/// What a wait for another request's fetch has come to.
enum Waited {
    For(State),
    /// The fetch ended, and nobody said how.
    Abandoned,
    TimedOut,
}

async fn wait_for_head(mut state: watch::Receiver<State>, patience: Duration, until: Option<Instant>) -> Waited {
    let until = Instant::now().checked_add(patience).into_iter().chain(until).min();
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

fn collapsed(why: Forward, ttl: Duration) -> CacheStatus<'static> {
    let handling = Handling::Forwarded { why, status: None, stored: false, collapsed: true };
    CacheStatus { handling, ttl: Some(seconds_of(ttl)), key: None, detail: None }
}
