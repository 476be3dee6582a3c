//! The services a filter may call: outbound calls, secrets and metrics. What they do is in `sluice_services`; here is who may call what, and
//! when.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ::http::HeaderValue;
use wasmtime::{Result as Outcome, StoreContextMut};

use super::Interfaces;
use super::waiting::{self, Paused};
use crate::abi::define::Define;
use crate::abi::{List, Str};
use crate::bindings::metrics::Label;
use crate::bindings::{Error, Field, http};
use crate::call::services::FilterServices;
use crate::call::state::{CallState, FilterShared};
use crate::filter::HookSet;
use sluice_http::http::{cdn_loop, trace};
use sluice_services::ServiceError;
use sluice_services::outbound::{self, Call, CallContext};

/// Defines the services, but for those that wait.
pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    secrets_functions(&mut linker.interface("secrets")?)?;
    metrics_functions(&mut linker.interface("metrics")?)
}

fn secrets_functions(at: &mut impl Define) -> Outcome<()> {
    at.function::<(Str,), _>("get", |state, (name,)| Ok(state.secret(name)))
}

fn metrics_functions(at: &mut impl Define) -> Outcome<()> {
    at.function::<(Str, List<Label>, u64), _>("count", |state, (name, labels, delta)| {
        Ok(state.services().and_then(|services| Ok(services.series.count(name, &labels, delta)?)))
    })?;
    at.function::<(Str, List<Label>, f64), _>("gauge", |state, (name, labels, value)| {
        Ok(state.services().and_then(|services| Ok(services.series.gauge(name, &labels, value)?)))
    })?;
    at.function::<(Str, List<Label>, f64), _>("observe", |state, (name, labels, value)| {
        Ok(state.services().and_then(|services| Ok(services.series.observe(name, &labels, value)?)))
    })
}

/// Defines `http`, whose one function waits.
pub(crate) fn link_waiting(linker: &mut impl Interfaces) -> Outcome<()> {
    let mut at = linker.interface("http")?;
    at.waiting::<(List<http::Outgoing>, u32), _>("send", |cx, (requests, timeout_ms)| {
        Box::pin(send(cx, requests, timeout_ms))
    })
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
    pub(crate) fn services(&self) -> Result<&FilterServices, Error> {
        self.hook(HookSet::ALL)?;
        if self.is_rehearsal {
            self.was_refused.set(true);
            return Err(Error::NotGranted("nothing is granted while a hook is tried at load".into()));
        }
        self.shared.services.as_ref().ok_or(Error::WrongHook)
    }
}

async fn send(
    mut cx: StoreContextMut<'_, CallState>,
    requests: Vec<http::Outgoing>,
    timeout_ms: u32,
) -> Outcome<Result<Vec<Result<http::Incoming, Error>>, Error>> {
    let state = cx.data_mut();
    let Paused { meter, left } = waiting::pause(state)?;
    let left = state.left_for_head().map_or(left, |of_exchange| left.min(of_exchange));
    let timeout = left.min(Duration::from_millis(timeout_ms.into()));
    // The guest has handed them over, and they are kept as long as the server takes.
    let handed_over = requests.iter().map(outgoing_bytes).sum();
    let charge = state.shared.budget.reserve(handed_over).map_err(|_| state.lack_memory());
    let checked =
        state.services().map(|_| state.shared.clone()).and_then(|shared| Ok((shared, state.marks(&requests)?)));
    // Also a call that is refused lets the worker go on, and look at the wall deadline.
    tokio::task::yield_now().await;
    let answer = match (checked, &charge) {
        (Ok((shared, marks)), Ok(_)) => send_all(&shared, requests, &marks, timeout).await,
        (Err(refused), _) => Err(refused),
        (Ok(_), Err(refused)) => Err(refused.clone()),
    };
    drop(charge);
    waiting::resume(&mut cx, &meter);
    Ok(answer)
}

async fn send_all(
    shared: &FilterShared,
    requests: Vec<http::Outgoing>,
    marks: &Marks,
    timeout: Duration,
) -> Result<Vec<Result<http::Incoming, Error>>, Error> {
    let Some(services) = &shared.services else { return Err(Error::WrongHook) };
    let calls = requests.into_iter().map(|request| to_call(request, marks)).collect();
    let max_body = usize::try_from(shared.limits.max_http_body).unwrap_or(usize::MAX);
    let grants = &shared.grants.services;
    let answers = services.services.outbound.send(calls, timeout, grants, max_body).await?;
    Ok(answers.into_iter().map(|answer| answer.map(to_incoming).map_err(Error::from)).collect())
}

/// What a request takes until it is answered.
fn outgoing_bytes(request: &http::Outgoing) -> usize {
    let fields = request.headers.iter().map(|field| size_of_val(field) + field.name.len() + field.value.len());
    request.url.len() + request.body.len() + fields.sum::<usize>()
}

/// What the gateway says by itself of the requests of one call.
struct Marks {
    cdn_loop: HeaderValue,
    /// Where one of them is for an upstream.
    made_for: Option<Arc<CallContext>>,
}

fn to_call(request: http::Outgoing, marks: &Marks) -> Call {
    Call {
        method: request.method,
        url: request.url,
        headers: request.headers.into_iter().map(|field| (field.name, field.value)).collect(),
        body: bytes::Bytes::from(request.body),
        cdn_loop: marks.cdn_loop.clone(),
        made_for: marks.made_for.clone(),
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

impl CallState {
    /// What the time that the exchange has for the head of its response leaves a call. That head is there when the response hooks are called.
    pub(super) fn left_for_head(&self) -> Option<Duration> {
        let exchange = self.exchange(HookSet::BEFORE_RESPONSE).ok()?;
        exchange.until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    fn marks(&self, requests: &[http::Outgoing]) -> Result<Marks, Error> {
        let for_upstream = |request: &http::Outgoing| {
            let scheme = request.url.get(..outbound::UPSTREAM.len());
            scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(outbound::UPSTREAM))
        };
        let made_for = match requests.iter().any(for_upstream) {
            true => Some(Arc::new(self.call_context()?)),
            false => None,
        };
        Ok(Marks { cdn_loop: self.cdn_loop()?, made_for })
    }

    fn call_context(&self) -> Result<CallContext, Error> {
        let exchange = self.exchange(HookSet::ALL)?;
        let headers = &exchange.request.headers;
        let trace = [trace::TRACEPARENT, trace::TRACESTATE].into_iter();
        Ok(CallContext {
            snapshot: exchange.route.snapshot,
            client: exchange.client.ip(),
            consumer: exchange.context.consumer().cloned(),
            request_id: exchange.id.clone(),
            trace: trace.filter_map(|name| Some((name.clone(), headers.get(&name)?.clone()))).collect(),
        })
    }

    /// The `CDN-Loop` of outbound calls. A filter makes none for a request that it has made itself: with 16 requests in a call, few rounds
    /// of that would be millions.
    fn cdn_loop(&self) -> Result<HeaderValue, Error> {
        /// So that nobody outside knows a filter by its mark, and other processes have other marks.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let headers = &self.exchange(HookSet::ALL)?.request.headers;
        let caller = KEY.hash_one(&*self.shared.name);
        if cdn_loop::is_made_by(headers, caller) {
            return Err(Error::Invalid(
                "this filter has made the request itself: its calls would go in circles".into(),
            ));
        }
        Ok(cdn_loop::made_by(headers, caller))
    }

    fn secret(&self, name: &str) -> Result<String, Error> {
        self.hook(HookSet::ALL)?;
        Ok(self.shared.grants.services.secrets.find(name)?.to_owned())
    }
}
