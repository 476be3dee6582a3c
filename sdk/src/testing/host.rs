//! The host functions of the harness, with the signatures that the bindings have in a component.

pub(crate) mod cache;
pub(crate) mod chunk;
pub(crate) mod consumers;
pub(crate) mod crypto;
mod messages;

pub(crate) use consumers::passwords;
pub(crate) use messages::{request, response};

use std::{pin::Pin, sync::Arc, time::Duration};

use sluice_services::{
    Grants, Outbound, ServiceError,
    outbound::{Answers, Call, Offline},
};

use super::{Phase, WORLD, World};
use crate::bindings::sluice::filter::types::Error;

/// Key sets with a URL stay empty: nothing is fetched here. Outbound calls are the test's ([`http`]).
pub(crate) struct NoNetwork;

impl Outbound for NoNetwork {
    fn send<'a>(
        &'a self,
        calls: Vec<Call>,
        timeout: Duration,
        grants: &'a Grants,
        max_body: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ServiceError>> + Send + 'a>> {
        Offline.send(calls, timeout, grants, max_body)
    }

    fn keep_fresh(&self, _: &Arc<sluice_services::KeySet>) -> Result<(), ServiceError> {
        Ok(())
    }
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotGranted(grant) => Self::NotGranted(grant),
            ServiceError::Invalid(why) => Self::Invalid(why),
            ServiceError::TooLarge(limit) => Self::TooLarge(limit),
            ServiceError::Unavailable(what) => Self::Unavailable(what),
            ServiceError::Timeout => Self::Timeout,
            ServiceError::Other(why) => Self::Other(why),
        }
    }
}

fn with<T>(act: impl FnOnce(&mut World) -> Result<T, Error>) -> Result<T, Error> {
    WORLD.with(|slot| slot.borrow_mut().as_mut().map_or(Err(Error::WrongHook), act))
}

/// As [`with`], in one of these phases.
fn during<T>(phases: &[Phase], act: impl FnOnce(&mut World) -> Result<T, Error>) -> Result<T, Error> {
    with(|world| if phases.contains(&world.phase) { act(world) } else { Err(Error::WrongHook) })
}

/// As [`with`], in every hook but this one.
fn unless<T>(phase: Phase, act: impl FnOnce(&mut World) -> Result<T, Error>) -> Result<T, Error> {
    in_exchange(|world| if world.phase == phase { Err(Error::WrongHook) } else { act(world) })
}

/// As [`with`], in any hook.
fn in_exchange<T>(act: impl FnOnce(&mut World) -> Result<T, Error>) -> Result<T, Error> {
    with(|world| if world.phase == Phase::Configure { Err(Error::WrongHook) } else { act(world) })
}

pub(crate) mod interest {
    use super::*;

    pub(crate) fn hook(name: &str, wanted: bool) -> Result<(), Error> {
        during(&[Phase::Configure], |world| {
            world.services.hooks.insert(name.to_owned(), wanted);
            Ok(())
        })
    }

    pub(crate) fn request_body(max_bytes: u64, types: &[String]) -> Result<(), Error> {
        during(&[Phase::Configure], |world| {
            world.services.request_bodies = Some((max_bytes, types.to_vec()));
            Ok(())
        })
    }

    pub(crate) fn response_body(max_bytes: u64, types: &[String]) -> Result<(), Error> {
        during(&[Phase::Configure], |world| {
            world.services.response_bodies = Some((max_bytes, types.to_vec()));
            Ok(())
        })
    }

    pub(crate) fn request_chunks(types: &[String]) -> Result<(), Error> {
        pieces("on-request-chunk", types)
    }

    pub(crate) fn response_chunks(types: &[String]) -> Result<(), Error> {
        pieces("on-response-chunk", types)
    }

    pub(crate) fn response_events(types: &[String]) -> Result<(), Error> {
        pieces("on-response-event", types)
    }

    fn pieces(hook: &'static str, types: &[String]) -> Result<(), Error> {
        during(&[Phase::Configure], |world| {
            world.services.pieces.insert(hook, types.to_vec());
            Ok(())
        })
    }

    pub(crate) fn needs(grants: &str) -> Result<(), Error> {
        during(&[Phase::Configure], |world| {
            if grants.len() > 64 << 10 {
                return Err(Error::TooLarge(64 << 10));
            }
            let table: serde_json::Map<_, _> =
                serde_json::from_str(grants).map_err(|error| Error::Invalid(format!("not a JSON object: {error}")))?;
            world.services.needs = Some(table.into());
            Ok(())
        })
    }
}

pub(crate) mod route {
    use super::*;
    use crate::bindings::sluice::filter::route::{Endpoint, EndpointState, FailedAttempt, Failure, RetryState};

    const SELECT: &[Phase] = &[Phase::SelectUpstream];

    pub(crate) fn name() -> Result<String, Error> {
        in_exchange(|world| Ok(world.exchange.route.name.clone()))
    }

    pub(crate) fn param(name: &str) -> Result<Option<String>, Error> {
        in_exchange(|world| Ok(world.exchange.route.params.get(name).cloned()))
    }

    pub(crate) fn upstreams() -> Result<Vec<String>, Error> {
        in_exchange(|world| Ok(world.exchange.route.upstreams.clone()))
    }

    pub(crate) fn endpoints() -> Result<Vec<Endpoint>, Error> {
        in_exchange(|world| Ok(world.exchange.route.endpoints.clone()))
    }

    pub(crate) fn endpoint_label(upstream: &str, address: &str, label: &str) -> Result<Option<String>, Error> {
        let key = (upstream.to_owned(), address.to_owned(), label.to_owned());
        in_exchange(|world| Ok(world.exchange.route.labels.get(&key).cloned()))
    }

    pub(crate) fn failures() -> Result<Vec<Failure>, Error> {
        in_exchange(|world| Ok(world.exchange.route.failures.clone()))
    }

    pub(crate) fn state_of_endpoint(upstream: &str, address: &str) -> Result<Option<EndpointState>, Error> {
        let key = (upstream.to_owned(), address.to_owned());
        in_exchange(|world| {
            let route = &world.exchange.route;
            let known = || route.endpoints.iter().find(|one| one.upstream == upstream && one.address == address);
            Ok(route.states.get(&key).cloned().or_else(|| {
                known().map(|one| EndpointState { out: Vec::new(), requests: one.active, ewma_us: one.latency_us })
            }))
        })
    }

    pub(crate) fn failed_attempts() -> Result<Vec<FailedAttempt>, Error> {
        in_exchange(|world| Ok(world.exchange.route.failed_attempts.clone()))
    }

    pub(crate) fn retries() -> Result<RetryState, Error> {
        let first = RetryState { attempt: 1, left: 0, budget: None };
        in_exchange(|world| Ok(world.exchange.route.retry.unwrap_or(first)))
    }

    pub(crate) fn no_retry() -> Result<(), Error> {
        during(SELECT, |world| {
            world.exchange.choice.no_retry = true;
            Ok(())
        })
    }

    pub(crate) fn choose_upstream(name: &str) -> Result<(), Error> {
        during(SELECT, |world| {
            if !world.exchange.route.upstreams.iter().any(|one| one == name) {
                return Err(Error::Invalid(format!("the route does not list upstream `{name}`")));
            }
            world.exchange.choice.upstream = Some(name.to_owned());
            Ok(())
        })
    }

    pub(crate) fn choose_endpoints(addresses: &[String]) -> Result<(), Error> {
        during(SELECT, |world| {
            world.exchange.choice.endpoints = addresses.to_vec();
            Ok(())
        })
    }

    pub(crate) fn hash_key(key: &str) -> Result<(), Error> {
        during(SELECT, |world| {
            world.exchange.choice.hash_key = Some(key.to_owned());
            Ok(())
        })
    }

    pub(crate) fn summary() -> Result<String, Error> {
        during(&[Phase::OnComplete], |world| Ok(world.exchange.summary.clone()))
    }
}

pub(crate) mod state {
    use super::*;

    pub(crate) fn get() -> Result<Option<Vec<u8>>, Error> {
        in_exchange(|world| Ok(world.exchange.state.get(&world.services.id).cloned()))
    }

    pub(crate) fn set(value: &[u8]) -> Result<(), Error> {
        in_exchange(|world| {
            if value.len() > 65_536 {
                return Err(Error::TooLarge(65_536));
            }
            world.exchange.state.insert(world.services.id, value.to_vec());
            Ok(())
        })
    }
}

pub(crate) mod context {
    use super::*;
    use crate::bindings::sluice::filter::context::Value;

    const LARGEST_VALUE: usize = 65_536;
    const MOST_KEYS: usize = 64;
    const LONGEST_CONSUMER: usize = 1024;

    pub(crate) fn get(key: &str) -> Result<Option<Value>, Error> {
        in_exchange(|world| Ok(world.exchange.context.get(key).map(|(value, _)| value.clone())))
    }

    pub(crate) fn get_path(key: &str, path: &[String]) -> Result<Option<Value>, Error> {
        let Some(Value::Json(text)) = get(key)? else { return Ok(None) };
        let root: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::Invalid(e.to_string()))?;
        let mut part = &root;
        for name in path {
            let Some(member) = part.get(name) else { return Ok(None) };
            part = member;
        }
        Ok(match part {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(Value::Text(text.clone())),
            serde_json::Value::Bool(truth) => Some(Value::Boolean(*truth)),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(integer) => Some(Value::Integer(integer)),
                None if number.is_u64() => Some(Value::Json(number.to_string())),
                None => number.as_f64().map(Value::Float),
            },
            serde_json::Value::Array(items) if items.iter().all(serde_json::Value::is_string) => {
                Some(Value::Texts(items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()))
            }
            other => Some(Value::Json(other.to_string())),
        })
    }

    pub(crate) fn set(key: &str, value: &Value) -> Result<(), Error> {
        let size = match value {
            Value::Text(text) | Value::Json(text) => text.len(),
            Value::Texts(texts) => texts.iter().map(|text| text.len() + 1).sum(),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => 8,
        };
        unless(Phase::OnComplete, |world| {
            if size + key.len() > LARGEST_VALUE {
                return Err(Error::TooLarge(LARGEST_VALUE as u64));
            }
            if let Value::Json(text) = value
                && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text)
            {
                return Err(Error::Invalid(error.to_string()));
            }
            if world.exchange.context.len() >= MOST_KEYS && !world.exchange.context.contains_key(key) {
                return Err(Error::TooLarge(MOST_KEYS as u64));
            }
            let writer = world.services.name.clone();
            world.exchange.context.insert(key.to_owned(), (value.clone(), writer));
            Ok(())
        })
    }

    pub(crate) fn writer(key: &str) -> Result<Option<String>, Error> {
        in_exchange(|world| Ok(world.exchange.context.get(key).map(|(_, writer)| writer.clone())))
    }

    pub(crate) fn consumer() -> Result<Option<String>, Error> {
        in_exchange(|world| Ok(world.exchange.consumer.clone()))
    }

    pub(crate) fn set_consumer(name: &str) -> Result<(), Error> {
        unless(Phase::OnComplete, |world| {
            if name.len() > LONGEST_CONSUMER {
                return Err(Error::TooLarge(LONGEST_CONSUMER as u64));
            }
            world.exchange.consumer = Some(name.to_owned());
            world.exchange.known_consumer = None;
            Ok(())
        })
    }
}

pub(crate) mod log {
    use super::*;
    use crate::bindings::sluice::filter::log::Level;

    pub(crate) fn log(level: Level, message: &str) {
        let line = format!("{}: {message}", format!("{level:?}").trim_start_matches("Level::").to_lowercase());
        let _ = with(|world| {
            world.services.log.push(line);
            Ok(())
        });
    }

    pub(crate) fn enabled(_level: Level) -> bool {
        true
    }

    pub(crate) fn fail(reason: &str) {
        let _ = with(|world| {
            world.failed = Some(reason.to_owned());
            Ok(())
        });
    }
}

pub(crate) mod clock {
    use super::*;

    pub(crate) fn now_us() -> u64 {
        with(|world| Ok(world.services.gateway.clock.now_us())).unwrap_or(0)
    }

    pub(crate) fn monotonic_ns() -> u64 {
        now_us() * 1000
    }
}

pub(crate) mod random {
    use super::*;

    /// A reproducible sequence (splitmix64), one for each harness.
    pub(crate) fn number() -> Result<u64, Error> {
        in_exchange(|world| {
            world.services.random = world.services.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = world.services.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            Ok(z ^ (z >> 31))
        })
    }

    pub(crate) fn bytes(length: u32) -> Result<Vec<u8>, Error> {
        if length > 65_536 {
            return Err(Error::TooLarge(65_536));
        }
        (0..length).map(|_| number().map(|number| number.to_le_bytes()[0])).collect()
    }
}

pub(crate) mod limiter {
    use sluice_services::limiter as native;

    use super::*;
    use crate::bindings::sluice::filter::limiter::{Algorithm, Limit, Standing};

    pub(crate) fn take(limits: &[Limit], cost: u64) -> Result<Vec<Standing>, Error> {
        in_exchange(|world| {
            let limits: Vec<_> = limits.iter().map(limit).collect();
            let standings = world.services.gateway.limiter.take(&world.services.name, &limits, cost)?;
            Ok(standings.into_iter().map(standing).collect())
        })
    }

    pub(super) fn limit(limit: &Limit) -> native::Limit<'_> {
        let algorithm = match limit.algorithm {
            Algorithm::TokenBucket => native::Algorithm::TokenBucket,
            Algorithm::LeakyBucket => native::Algorithm::LeakyBucket,
            Algorithm::FixedWindow => native::Algorithm::FixedWindow,
            Algorithm::SlidingWindow => native::Algorithm::SlidingWindow,
        };
        let Limit { key, amount, window_ms, burst, .. } = limit;
        native::Limit { key, algorithm, amount: *amount, window_ms: *window_ms, burst: *burst }
    }

    pub(super) fn standing(of: native::Standing) -> Standing {
        let native::Standing { allowed, remaining, reset_ms, retry_after_ms } = of;
        Standing { allowed, remaining, reset_ms, retry_after_ms }
    }
}

pub(crate) mod concurrency {
    use sluice_services::places::{MAX_PLACES, PlaceLimit as NativeLimit};

    use super::*;
    use crate::bindings::sluice::filter::concurrency::{Admission, PlaceLimit};
    use crate::bindings::sluice::filter::limiter::Limit;

    /// The most places that an exchange may hold.
    const MAX_HELD: usize = 64;

    /// The places are free again when the [`Exchange`](super::super::Exchange) is dropped.
    pub(crate) fn enter(places: &[PlaceLimit], limits: &[Limit], cost: u64) -> Result<Admission, Error> {
        in_exchange(|world| {
            if world.phase == Phase::OnComplete {
                return Err(Error::WrongHook);
            }
            if places.len() > MAX_PLACES {
                return Err(Error::TooLarge(MAX_PLACES as u64));
            }
            if world.exchange.places.len() + places.len() > MAX_HELD {
                return Err(Error::TooLarge(MAX_HELD as u64));
            }
            let (name, limiter) = (&world.services.name, &world.services.gateway.limiter);
            let wanted: Vec<_> =
                places.iter().map(|place| NativeLimit { key: &place.key, amount: place.amount }).collect();
            let held = match limiter.places(name).enter(&wanted)? {
                Ok(held) => held,
                Err(full) => {
                    return Ok(Admission { full: u32::try_from(full).ok(), standings: Vec::new() });
                }
            };
            let limits: Vec<_> = limits.iter().map(limiter::limit).collect();
            let standings = limiter.take(name, &limits, cost)?;
            if standings.iter().all(|standing| standing.allowed) {
                world.exchange.places.extend(held.into_iter().map(Arc::new));
            }
            Ok(Admission { full: None, standings: standings.into_iter().map(limiter::standing).collect() })
        })
    }
}

pub(crate) mod kv {
    use sluice_services::kv::{self as native, KvSpace};

    use super::*;
    use crate::bindings::sluice::filter::kv::Reservation;

    /// The space, if it is granted. The harness knows no quota.
    pub(super) fn space<T>(name: &str, act: impl FnOnce(&KvSpace) -> Result<T, ServiceError>) -> Result<T, Error> {
        in_exchange(|world| {
            let granted = world.services.grants["kv"].as_array();
            if !granted.is_some_and(|names| names.iter().any(|granted| granted.as_str() == Some(name))) {
                return Err(Error::NotGranted(format!("grants.kv = [\"{name}\"]")));
            }
            Ok(act(&world.services.gateway.kv.space(&world.services.name, name, u64::MAX))?)
        })
    }

    pub(crate) fn get(name: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        space(name, |space| Ok(space.get(key)?.map(|value| value.to_vec())))
    }

    pub(crate) fn set(name: &str, key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), Error> {
        space(name, |space| space.set(key, value, ttl_ms))
    }

    pub(crate) fn delete(name: &str, key: &str) -> Result<bool, Error> {
        space(name, |space| space.delete(key))
    }

    pub(crate) fn compare_and_swap(
        name: &str,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl_ms: Option<u64>,
    ) -> Result<bool, Error> {
        space(name, |space| space.compare_and_swap(key, expected, value, ttl_ms))
    }

    pub(crate) fn get_or_reserve(name: &str, key: &str, ttl_ms: u64) -> Result<Reservation, Error> {
        Ok(match space(name, |space| space.get_or_reserve(key, ttl_ms))? {
            native::Reservation::Found(value) => Reservation::Found(value.to_vec()),
            native::Reservation::Reserved => Reservation::Reserved,
            native::Reservation::Pending => Reservation::Pending,
        })
    }
}

pub(crate) mod kv_wait {
    use super::*;

    /// Nobody else runs here who could end a reservation: one that is held stays so.
    pub(crate) fn wait(name: &str, key: &str, _timeout_ms: u32) -> Result<Option<Vec<u8>>, Error> {
        kv::space(name, |space| match space.is_reserved(key)? {
            true => Err(ServiceError::Timeout),
            false => Ok(space.get(key)?.map(|value| value.to_vec())),
        })
    }
}

pub(crate) mod http {
    use super::*;
    use crate::bindings::sluice::filter::http::{Incoming, Outgoing};

    /// `https://a.test` of `https://a.test/b`.
    pub(super) fn origin(url: &str) -> &str {
        let host = url.find("://").map_or(0, |at| at + 3);
        let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
        &url[..end]
    }

    pub(crate) fn send(requests: &[Outgoing], _timeout_ms: u32) -> Result<Vec<Result<Incoming, Error>>, Error> {
        let mut answer = in_exchange(|world| {
            if requests.len() > 16 {
                return Err(Error::TooLarge(16));
            }
            Ok(world.services.outbound.take())
        })?;
        let answers = requests
            .iter()
            .map(|request| match &mut answer {
                Some(answer) => answer(request).map_err(|error| Error::Unavailable(error.to_string())),
                None => Err(Error::NotGranted(match request.url.strip_prefix("upstream://") {
                    Some(rest) => {
                        format!("grants.upstreams = [\"{}\"]", rest.split(['/', '?', '#']).next().unwrap_or(rest))
                    }
                    None => format!("grants.http = [\"{}\"]", origin(&request.url)),
                })),
            })
            .collect();
        with(|world| {
            world.services.outbound = answer;
            Ok(())
        })?;
        Ok(answers)
    }
}

pub(crate) mod secrets {
    use super::*;

    pub(crate) fn get(name: &str) -> Result<String, Error> {
        in_exchange(|world| {
            let missing = || Error::NotGranted(format!("grants.secrets = {{ {name} = \"…\" }}"));
            world.services.secrets.get(name).cloned().ok_or_else(missing)
        })
    }
}

pub(crate) mod metrics {
    use super::*;
    use crate::bindings::sluice::filter::metrics::Label;

    fn is_name(name: &str) -> bool {
        name.len() <= 64
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }

    fn record(name: &str, labels: &[Label], act: impl FnOnce(&mut f64)) -> Result<(), Error> {
        in_exchange(|world| {
            if !is_name(name) {
                return Err(Error::Invalid(format!("`{name}` is no name of a metric: it has to be [a-z][a-z0-9_]*")));
            }
            if labels.len() > 16 {
                return Err(Error::TooLarge(16));
            }
            if labels.iter().any(|label| label.value.len() > 256) {
                return Err(Error::TooLarge(256));
            }
            if let Some(label) =
                labels.iter().find(|l| !is_name(&l.name) || ["filter", "le", "quantile"].contains(&&*l.name))
            {
                return Err(Error::Invalid(format!("`{}` can't be the name of a label", label.name)));
            }
            let labels: Vec<String> =
                labels.iter().map(|label| format!("{}=\"{}\"", label.name, label.value)).collect();
            let series = if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) };
            act(world.services.counters.entry(series).or_default());
            Ok(())
        })
    }

    pub(crate) fn count(name: &str, labels: &[Label], delta: u64) -> Result<(), Error> {
        record(name, labels, |value| *value += delta as f64)
    }

    pub(crate) fn gauge(name: &str, labels: &[Label], new: f64) -> Result<(), Error> {
        record(name, labels, |value| *value = new)
    }

    pub(crate) fn observe(name: &str, labels: &[Label], new: f64) -> Result<(), Error> {
        if !new.is_finite() {
            return Err(Error::Invalid(format!("`{new}` is no value of a histogram")));
        }
        record(name, labels, |value| *value += new)
    }
}
