//! The services a filter may call: limits, values, outbound calls, cryptography, secrets and metrics. What they do is in
//! `crate::services`; here is who may call what, and when.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Result as Outcome, StoreContextMut, bail};

use super::super::bindings::{Error, Field, crypto, http, kv, limiter, metrics, secrets};
use super::super::state::{CallState, FilterShared, Stage};
use super::anywhere;
use crate::services::filter_metrics::FilterSeries;
use crate::services::kv::{KvSpace, Reservation};
use crate::services::limiter::{Algorithm, CounterSpace, Limit, MAX_LIMITS};
use crate::services::outbound::{self, Call};
use crate::services::{Grants, KeySet, ServiceError, Services, Verification, crypto as native};

/// How long `configure` waits at load for the first fetch of a key set.
const KEY_SET_WAIT: Duration = Duration::from_secs(5);
/// Key sets that one filter may declare.
const MAX_KEY_SETS: usize = 64;

/// The services as one filter reaches them.
#[derive(Clone)]
pub(crate) struct FilterServices {
    services: Arc<Services>,
    counters: Arc<CounterSpace>,
    spaces: HashMap<String, Arc<KvSpace>>,
    series: Arc<FilterSeries>,
}

impl FilterServices {
    /// Counters and values are private to the plugin, metrics to the filter.
    pub(crate) fn new(services: &Arc<Services>, plugin: &str, filter: &str, grants: &Grants) -> FilterServices {
        let space = |name: &String| (name.clone(), services.kv.space(plugin, name, grants.kv_quota));
        FilterServices {
            services: services.clone(),
            counters: services.limiter.space(plugin),
            spaces: grants.kv.iter().map(space).collect(),
            series: services.metrics.filter(filter),
        }
    }
}

/// Defines the services. `http.send` is left out for a component that does not import it: it would put every call on a fiber.
pub(super) fn link(linker: &mut Linker<CallState>, waits: bool) -> Outcome<()> {
    type Own = HasSelf<CallState>;
    let own: fn(&mut CallState) -> &mut CallState = |state| state;
    limiter::add_to_linker::<_, Own>(linker, own)?;
    kv::add_to_linker::<_, Own>(linker, own)?;
    crypto::add_to_linker::<_, Own>(linker, own)?;
    secrets::add_to_linker::<_, Own>(linker, own)?;
    metrics::add_to_linker::<_, Own>(linker, own)?;
    if waits {
        let mut at = linker.instance("sluice:filter/http@0.1.0")?;
        at.func_wrap_async("send", |cx, (requests, timeout_ms): (Vec<http::Outgoing>, u32)| {
            Box::new(async move { Ok((send(cx, requests, timeout_ms).await?,)) })
        })?;
    }
    Ok(())
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Error {
        match error {
            ServiceError::NotGranted(grant) => Error::NotGranted(grant),
            ServiceError::Invalid(why) => Error::Invalid(why),
            ServiceError::TooLarge(limit) => Error::TooLarge(limit),
            ServiceError::Unavailable(what) => Error::Unavailable(what),
            ServiceError::Timeout => Error::Timeout,
            ServiceError::Other(why) => Error::Other(why),
        }
    }
}

impl CallState {
    /// The services, in any hook.
    fn services(&self) -> Result<&FilterServices, Error> {
        self.hook(anywhere)?;
        if self.is_rehearsal {
            return Err(Error::NotGranted("nothing is granted while a hook is tried at load".into()));
        }
        self.shared.services.as_ref().ok_or(Error::WrongHook)
    }

    fn space(&self, name: &str) -> Result<&KvSpace, Error> {
        let services = self.services()?;
        self.shared.grants.services.check_kv(name)?;
        services.spaces.get(name).map(Arc::as_ref).ok_or_else(|| Error::Unavailable(format!("no space `{name}`")))
    }

    fn key_set_of(&self, number: u32) -> Result<&KeySet, Error> {
        self.services()?;
        let set = usize::try_from(number).ok().and_then(|number| self.key_sets.get(number));
        set.map(Arc::as_ref).ok_or_else(|| Error::Invalid(format!("there is no key set {number}")))
    }
}

async fn send(
    mut cx: StoreContextMut<'_, CallState>,
    requests: Vec<http::Outgoing>,
    timeout_ms: u32,
) -> Outcome<Result<Vec<Result<http::Incoming, Error>>, Error>> {
    let state = cx.data_mut();
    // While the call waits, the thread's clock runs for others. The deadline that is set below is a new one, so a guest that
    // does nothing but send would never meet it: what it has spent is counted here too.
    if state.meter.tick() >= state.cpu_limit {
        state.overspent = true;
        bail!("no CPU time is left");
    }
    let left = state.wall_end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
    let timeout = left.min(Duration::from_millis(timeout_ms.into()));
    let checked = state.services().map(|_| state.shared.clone());
    let meter = state.meter.clone();
    // Also a call that is refused lets the worker go on, and look at the wall deadline.
    tokio::task::yield_now().await;
    let answer = match checked {
        Ok(shared) => send_all(&shared, requests, timeout).await,
        Err(refused) => Err(refused),
    };
    meter.resume();
    cx.set_epoch_deadline(1);
    Ok(answer)
}

async fn send_all(
    shared: &FilterShared,
    requests: Vec<http::Outgoing>,
    timeout: Duration,
) -> Result<Vec<Result<http::Incoming, Error>>, Error> {
    let Some(services) = &shared.services else { return Err(Error::WrongHook) };
    let calls = requests.into_iter().map(to_call).collect();
    let max_body = usize::try_from(shared.limits.max_http_body).unwrap_or(usize::MAX);
    let origins = &shared.grants.services.http;
    let answers = outbound::send(calls, timeout, origins, &services.services.tls, max_body).await?;
    Ok(answers.into_iter().map(|answer| answer.map(to_incoming).map_err(Error::from)).collect())
}

fn to_call(request: http::Outgoing) -> Call {
    Call {
        method: request.method,
        url: request.url,
        headers: request.headers.into_iter().map(|field| (field.name, field.value)).collect(),
        body: Bytes::from(request.body),
    }
}

fn to_incoming(answer: outbound::Incoming) -> http::Incoming {
    let field = |(name, value): (&::http::HeaderName, &::http::HeaderValue)| {
        let value = std::str::from_utf8(value.as_bytes()).ok()?;
        Some(Field { name: name.as_str().to_owned(), value: value.to_owned() })
    };
    http::Incoming {
        status: answer.status.as_u16(),
        headers: answer.headers.iter().filter_map(field).collect(),
        body: answer.body.into(),
    }
}

impl limiter::Host for CallState {
    fn take(&mut self, limits: Vec<limiter::Limit>, cost: u64) -> Result<Vec<limiter::Standing>, Error> {
        let services = self.services()?;
        if limits.len() > MAX_LIMITS {
            return Err(Error::TooLarge(MAX_LIMITS as u64));
        }
        let limit = |limit| {
            let &limiter::Limit { ref key, algorithm, amount, window_ms, burst } = limit;
            let algorithm = match algorithm {
                limiter::Algorithm::TokenBucket => Algorithm::TokenBucket,
                limiter::Algorithm::LeakyBucket => Algorithm::LeakyBucket,
                limiter::Algorithm::FixedWindow => Algorithm::FixedWindow,
                limiter::Algorithm::SlidingWindow => Algorithm::SlidingWindow,
            };
            Limit { key, algorithm, amount, window_ms, burst }
        };
        let limits: Vec<_> = limits.iter().map(limit).collect();
        let standings = services.counters.take(&limits, cost)?;
        Ok(standings
            .into_iter()
            .map(|standing| limiter::Standing {
                allowed: standing.allowed,
                remaining: standing.remaining,
                reset_ms: standing.reset_ms,
                retry_after_ms: standing.retry_after_ms,
            })
            .collect())
    }
}

impl kv::Host for CallState {
    fn get(&mut self, space: String, key: String) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.space(&space)?.get(&key)?.map(Vec::from))
    }

    fn set(&mut self, space: String, key: String, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<(), Error> {
        Ok(self.space(&space)?.set(&key, &value, ttl_ms)?)
    }

    fn delete(&mut self, space: String, key: String) -> Result<bool, Error> {
        Ok(self.space(&space)?.delete(&key)?)
    }

    fn compare_and_swap(
        &mut self,
        space: String,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> Result<bool, Error> {
        Ok(self.space(&space)?.compare_and_swap(&key, expected.as_deref(), &value, ttl_ms)?)
    }

    fn get_or_reserve(&mut self, space: String, key: String, ttl_ms: u64) -> Result<kv::Reservation, Error> {
        Ok(match self.space(&space)?.get_or_reserve(&key, ttl_ms)? {
            Reservation::Found(value) => kv::Reservation::Found(value.into()),
            Reservation::Reserved => kv::Reservation::Reserved,
            Reservation::Pending => kv::Reservation::Pending,
        })
    }
}

impl crypto::Host for CallState {
    fn key_set(&mut self, source: String) -> Result<u32, Error> {
        if self.stage != Stage::Configure {
            return Err(Error::WrongHook);
        }
        if self.key_sets.len() >= MAX_KEY_SETS {
            return Err(Error::TooLarge(MAX_KEY_SETS as u64));
        }
        let shared = self.shared.clone();
        let services = shared.services.as_ref().ok_or(Error::WrongHook)?;
        // Only the trial at load may wait: it holds the set, so that workers find it there.
        let wait = if self.is_trial { KEY_SET_WAIT } else { Duration::ZERO };
        let set = services.services.key_sets.resolve(&source, &shared.grants.services.http, wait)?;
        self.key_sets.push(set);
        Ok(self.key_sets.len() as u32 - 1)
    }

    fn verify(
        &mut self,
        key_set: u32,
        algorithm: String,
        key_id: Option<String>,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> Result<crypto::Verification, Error> {
        let set = self.key_set_of(key_set)?;
        Ok(match set.verify(&algorithm, key_id.as_deref(), &message, &signature)? {
            Verification::Valid => crypto::Verification::Valid,
            Verification::Invalid => crypto::Verification::Invalid,
            Verification::UnknownKey => crypto::Verification::UnknownKey,
        })
    }

    fn sign(
        &mut self,
        key_set: u32,
        algorithm: String,
        key_id: Option<String>,
        message: Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        Ok(self.key_set_of(key_set)?.sign(&algorithm, key_id.as_deref(), &message)?)
    }

    fn hash(&mut self, algorithm: String, data: Vec<u8>) -> Result<Vec<u8>, Error> {
        self.hook(anywhere)?;
        Ok(native::hash(&algorithm, &data)?)
    }

    fn hmac(&mut self, algorithm: String, key: Vec<u8>, data: Vec<u8>) -> Result<Vec<u8>, Error> {
        self.hook(anywhere)?;
        Ok(native::hmac(&algorithm, &key, &data)?)
    }

    fn equal(&mut self, a: Vec<u8>, b: Vec<u8>) -> Result<bool, Error> {
        self.hook(anywhere)?;
        Ok(native::equal(&a, &b)?)
    }
}

impl secrets::Host for CallState {
    fn get(&mut self, name: String) -> Result<String, Error> {
        self.hook(anywhere)?;
        Ok(self.shared.grants.services.secrets.find(&name)?.to_owned())
    }
}

fn pairs(labels: &[metrics::Label]) -> Vec<(&str, &str)> {
    labels.iter().map(|label| (label.name.as_str(), label.value.as_str())).collect()
}

impl metrics::Host for CallState {
    fn count(&mut self, name: String, labels: Vec<metrics::Label>, delta: u64) -> Result<(), Error> {
        Ok(self.services()?.series.count(&name, &pairs(&labels), delta)?)
    }

    fn gauge(&mut self, name: String, labels: Vec<metrics::Label>, value: f64) -> Result<(), Error> {
        Ok(self.services()?.series.gauge(&name, &pairs(&labels), value)?)
    }

    fn observe(&mut self, name: String, labels: Vec<metrics::Label>, value: f64) -> Result<(), Error> {
        Ok(self.services()?.series.observe(&name, &pairs(&labels), value)?)
    }
}
