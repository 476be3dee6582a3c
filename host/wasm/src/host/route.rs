//! `route`: the route of the current exchange, and the choice of an upstream.

use std::sync::Arc;

use sluice_http::route::decode_param;
use wasmtime::Result as Outcome;

use super::{Interfaces, invalid};
use crate::abi::define::Define;
use crate::abi::{List, Str};
use crate::bindings::{Error, route};
use crate::call::state::CallState;
use crate::exchange::{Candidate, Failure, RetryState, Selection, kept};
use crate::filter::HookSet;

/// Endpoints that a filter may name at once.
const MAX_ENDPOINTS: usize = 256;
/// Bytes of a hash key.
const MAX_HASH_KEY: usize = 4096;

/// Defines `route`.
pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    let mut at = linker.interface("route")?;
    at.function::<(), _>("name", |state, ()| Ok(state.route_name()))?;
    at.function::<(Str,), _>("param", |state, (name,)| Ok(state.param(name)))?;
    at.function::<(), _>("upstreams", |state, ()| Ok(state.upstreams()))?;
    at.function::<(), _>("endpoints", |state, ()| Ok(state.endpoints()))?;
    at.function::<(Str, Str, Str), _>("endpoint-label", |state, (upstream, address, label)| {
        Ok(state.endpoint_label(upstream, address, label))
    })?;
    at.function::<(Str, Str), _>("state-of-endpoint", |state, (upstream, address)| {
        Ok(state.endpoint_state(upstream, address))
    })?;
    at.function::<(), _>("failures", |state, ()| Ok(state.failures()))?;
    at.function::<(), _>("failed-attempts", |state, ()| Ok(state.failed_attempts()))?;
    at.function::<(), _>("retries", |state, ()| Ok(state.retry_state()))?;
    at.function::<(Str,), _>("choose-upstream", |state, (name,)| Ok(state.choose_upstream(name)))?;
    at.function::<(List<Str>,), _>("choose-endpoints", |state, (addresses,)| Ok(state.choose_endpoints(&addresses)))?;
    at.function::<(Str,), _>("hash-key", |state, (key,)| Ok(state.hash_key(key)))?;
    at.function::<(), _>("no-retry", |state, ()| Ok(state.select(|selection| selection.no_retry = true)))?;
    at.function::<(), _>("summary", |state, ()| Ok(state.summary()))
}

impl CallState {
    fn select(&mut self, change: impl FnOnce(&mut Selection)) -> Result<(), Error> {
        let mut selection = self.exchange(HookSet::SELECTION)?.selection.clone();
        change(&mut selection);
        self.keep(kept::selection(&selection))?;
        self.exchange_mut(HookSet::SELECTION)?.set_selection(selection);
        Ok(())
    }

    fn route_name(&self) -> Result<String, Error> {
        Ok(self.exchange(HookSet::ALL)?.route.name.to_string())
    }

    fn param(&self, name: &str) -> Result<Option<String>, Error> {
        let params = &self.exchange(HookSet::ALL)?.params;
        Ok(params.iter().find(|(known, _)| **known == *name).map(|(_, value)| decode_param(value)))
    }

    fn upstreams(&self) -> Result<Vec<String>, Error> {
        Ok(self.exchange(HookSet::ALL)?.route.upstreams.iter().map(|name| name.to_string()).collect())
    }

    fn endpoints(&self) -> Result<Vec<route::Endpoint>, Error> {
        let endpoint = |c: &Candidate| route::Endpoint {
            upstream: c.upstream.to_string(),
            address: c.address.to_string(),
            weight: c.weight,
            healthy: c.healthy,
            active: c.active,
            latency_us: c.latency_us,
        };
        Ok(self.exchange(HookSet::ALL)?.candidates.list().iter().map(endpoint).collect())
    }

    fn endpoint_label(&self, upstream: &str, address: &str, label: &str) -> Result<Option<String>, Error> {
        let candidate = self.exchange(HookSet::ALL)?.candidates.find(upstream, address);
        Ok(candidate.and_then(|c| c.labels.iter().find(|(name, _)| *name == label)).map(|(_, value)| value.clone()))
    }

    fn endpoint_state(&self, upstream: &str, address: &str) -> Result<Option<route::EndpointState>, Error> {
        let candidate = self.exchange(HookSet::ALL)?.candidates.find(upstream, address);
        Ok(candidate.map(|c| route::EndpointState {
            out: c.out.iter().map(|&reason| reason.to_owned()).collect(),
            requests: c.active,
            ewma_us: c.ewma_us,
        }))
    }

    fn failures(&self) -> Result<Vec<route::Failure>, Error> {
        let failures = &self.exchange(HookSet::ALL)?.failures;
        Ok(failures
            .iter()
            .map(|f| route::Failure {
                upstream: f.upstream.to_string(),
                address: f.address.to_string(),
                reason: f.reason.clone(),
            })
            .collect())
    }

    fn failed_attempts(&self) -> Result<Vec<route::FailedAttempt>, Error> {
        let attempt = |f: &Failure| route::FailedAttempt {
            upstream: f.upstream.to_string(),
            address: f.address.to_string(),
            kind: f.kind.to_owned(),
            reason: f.reason.clone(),
            status: f.status.map(|status| status.as_u16()),
            sent: f.sent,
        };
        Ok(self.exchange(HookSet::ALL)?.failures.iter().map(attempt).collect())
    }

    fn retry_state(&self) -> Result<route::RetryState, Error> {
        let RetryState { attempt, left, budget } = self.exchange(HookSet::ALL)?.retry;
        Ok(route::RetryState { attempt, left, budget })
    }

    fn choose_upstream(&mut self, name: &str) -> Result<(), Error> {
        let route = &self.exchange(HookSet::SELECTION)?.route;
        let Some(upstream) = route.upstreams.iter().find(|known| ***known == *name).map(Arc::clone) else {
            return Err(invalid(format!("the route `{}` does not list the upstream `{name}`", route.name)));
        };
        self.select(|selection| selection.upstream = Some(upstream))
    }

    fn choose_endpoints(&mut self, addresses: &[&str]) -> Result<(), Error> {
        let exchange = self.exchange(HookSet::SELECTION)?;
        if addresses.len() > MAX_ENDPOINTS {
            return Err(Error::TooLarge(MAX_ENDPOINTS as u64));
        }
        // Only addresses of the route's own endpoints: a filter never opens a way to anywhere else.
        let unknown = addresses.iter().find(|&&address| !exchange.candidates.has_address(address));
        if let Some(unknown) = unknown {
            return Err(invalid(format!("the route has no endpoint `{unknown}`")));
        }
        self.select(|selection| {
            selection.endpoints = Some(addresses.iter().map(|&address| address.to_owned()).collect())
        })
    }

    fn hash_key(&mut self, key: &str) -> Result<(), Error> {
        self.exchange(HookSet::SELECTION)?;
        if key.len() > MAX_HASH_KEY {
            return Err(Error::TooLarge(MAX_HASH_KEY as u64));
        }
        self.select(|selection| selection.hash_key = Some(key.to_owned()))
    }

    fn summary(&self) -> Result<String, Error> {
        let exchange = self.exchange(HookSet::COMPLETION)?;
        Ok(exchange.summary.clone().unwrap_or_else(|| "{}".to_owned()))
    }
}
