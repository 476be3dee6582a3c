//! The services a filter may call: limits, values, outbound calls, secrets and metrics. What they do is in `crate::services`; here is
//! who may call what, and when.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;
use wasmtime::component::{ComponentType, HasSelf, Lift, Linker, WasmList, WasmStr};
use wasmtime::{Result as Outcome, StoreContextMut, bail};

use super::super::bindings::{Error, Field, http, kv, limiter, metrics, secrets};
use super::super::state::{CallState, FilterShared};
use super::{Cx, anywhere};
use crate::services::filter_metrics::FilterSeries;
use crate::services::kv::{KvSpace, Reservation};
use crate::services::limiter::{Algorithm, CounterSpace, Limit, MAX_LIMITS, Standing};
use crate::services::outbound::{self, Call};
use crate::services::{Grants, ServiceError, Services};

/// The services as one filter reaches them.
#[derive(Clone)]
pub(crate) struct FilterServices {
    pub(super) services: Arc<Services>,
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
    link_limiter(linker)?;
    kv::add_to_linker::<_, Own>(linker, own)?;
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
    pub(super) fn services(&self) -> Result<&FilterServices, Error> {
        self.hook(anywhere)?;
        if self.is_rehearsal {
            self.was_refused.set(true);
            return Err(Error::NotGranted("nothing is granted while a hook is tried at load".into()));
        }
        self.shared.services.as_ref().ok_or(Error::WrongHook)
    }

    fn space(&self, name: &str) -> Result<&KvSpace, Error> {
        let services = self.services()?;
        self.shared.grants.services.check_kv(name)?;
        services.spaces.get(name).map(Arc::as_ref).ok_or_else(|| Error::Unavailable(format!("no space `{name}`")))
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

/// `limiter.limit`, its key still with the guest.
#[derive(ComponentType, Lift)]
#[component(record)]
struct GuestLimit {
    key: WasmStr,
    algorithm: limiter::Algorithm,
    amount: u64,
    #[component(name = "window-ms")]
    window_ms: u64,
    burst: u64,
}

fn link_limiter(linker: &mut Linker<CallState>) -> Outcome<()> {
    let mut at = linker.instance("sluice:filter/limiter@0.1.0")?;
    at.func_wrap("take", |mut cx: Cx<'_>, (limits, cost): (WasmList<GuestLimit>, u64)| {
        if let Err(refused) = cx.data().services() {
            return Ok((Err(refused),));
        }
        if limits.len() > MAX_LIMITS {
            return Ok((Err(Error::TooLarge(MAX_LIMITS as u64)),));
        }
        let limits: SmallVec<[GuestLimit; 4]> = limits.iter(&mut cx)?.collect::<Outcome<_>>()?;
        let keys: SmallVec<[Cow<'_, str>; 4]> =
            limits.iter().map(|limit| limit.key.to_str(&cx)).collect::<Outcome<_>>()?;
        let limits: SmallVec<[Limit<'_>; 4]> = limits.iter().zip(&keys).map(|(limit, key)| limit.with(key)).collect();
        Ok((cx.data().take(&limits, cost),))
    })
}

impl GuestLimit {
    fn with<'a>(&self, key: &'a str) -> Limit<'a> {
        let algorithm = match self.algorithm {
            limiter::Algorithm::TokenBucket => Algorithm::TokenBucket,
            limiter::Algorithm::LeakyBucket => Algorithm::LeakyBucket,
            limiter::Algorithm::FixedWindow => Algorithm::FixedWindow,
            limiter::Algorithm::SlidingWindow => Algorithm::SlidingWindow,
        };
        Limit { key, algorithm, amount: self.amount, window_ms: self.window_ms, burst: self.burst }
    }
}

impl CallState {
    fn take(&self, limits: &[Limit<'_>], cost: u64) -> Result<Vec<limiter::Standing>, Error> {
        let standings = self.services()?.counters.take(limits, cost)?;
        let to_guest = |standing: Standing| limiter::Standing {
            allowed: standing.allowed,
            remaining: standing.remaining,
            reset_ms: standing.reset_ms,
            retry_after_ms: standing.retry_after_ms,
        };
        Ok(standings.into_iter().map(to_guest).collect())
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
