//! `route`: the route of the current exchange, and the choice of an upstream.

use std::sync::Arc;

use super::super::Hook;
use super::super::bindings::{Error, route};
use super::super::state::CallState;
use super::{anywhere, invalid};
use crate::exchange::{Candidate, Selection};

/// Endpoints that a filter may name at once.
const MAX_ENDPOINTS: usize = 256;
/// Bytes of a hash key.
const MAX_HASH_KEY: usize = 4096;

fn in_selection(hook: Hook) -> bool {
    hook == Hook::SelectUpstream
}

impl CallState {
    fn select(&mut self, change: impl FnOnce(&mut Selection)) -> Result<(), Error> {
        let exchange = self.exchange_mut(in_selection)?;
        let mut selection = exchange.selection.clone();
        change(&mut selection);
        exchange.set_selection(selection);
        Ok(())
    }
}

impl route::Host for CallState {
    fn name(&mut self) -> Result<String, Error> {
        Ok(self.exchange(anywhere)?.route.name.to_string())
    }

    fn param(&mut self, name: String) -> Result<Option<String>, Error> {
        let params = &self.exchange(anywhere)?.params;
        Ok(params.iter().find(|(known, _)| **known == *name).map(|(_, value)| value.clone()))
    }

    fn upstreams(&mut self) -> Result<Vec<String>, Error> {
        Ok(self.exchange(anywhere)?.route.upstreams.iter().map(|name| name.to_string()).collect())
    }

    fn endpoints(&mut self) -> Result<Vec<route::Endpoint>, Error> {
        let endpoint = |c: &Candidate| route::Endpoint {
            upstream: c.upstream.to_string(),
            address: c.address.to_string(),
            weight: c.weight,
            healthy: c.healthy,
            active: c.active,
            latency_us: c.latency_us,
        };
        Ok(self.exchange(anywhere)?.candidates.iter().map(endpoint).collect())
    }

    fn endpoint_label(&mut self, upstream: String, address: String, label: String) -> Result<Option<String>, Error> {
        let candidates = &self.exchange(anywhere)?.candidates;
        let candidate = candidates.iter().find(|c| *c.upstream == *upstream && *c.address == *address);
        Ok(candidate.and_then(|c| c.labels.iter().find(|(name, _)| *name == label)).map(|(_, value)| value.clone()))
    }

    fn failures(&mut self) -> Result<Vec<route::Failure>, Error> {
        let failures = &self.exchange(anywhere)?.failures;
        Ok(failures
            .iter()
            .map(|f| route::Failure {
                upstream: f.upstream.to_string(),
                address: f.address.to_string(),
                reason: f.reason.clone(),
            })
            .collect())
    }

    fn choose_upstream(&mut self, name: String) -> Result<(), Error> {
        let route = &self.exchange(in_selection)?.route;
        let Some(upstream) = route.upstreams.iter().find(|known| ***known == *name).map(Arc::clone) else {
            return Err(invalid(format!("the route `{}` does not list the upstream `{name}`", route.name)));
        };
        self.select(|selection| selection.upstream = Some(upstream))
    }

    fn choose_endpoints(&mut self, addresses: Vec<String>) -> Result<(), Error> {
        let exchange = self.exchange(in_selection)?;
        if addresses.len() > MAX_ENDPOINTS {
            return Err(Error::TooLarge(MAX_ENDPOINTS as u64));
        }
        // Only addresses of the route's own endpoints: a filter never opens a way to anywhere else.
        let unknown = addresses.iter().find(|address| !exchange.candidates.iter().any(|c| *c.address == ***address));
        if let Some(unknown) = unknown {
            return Err(invalid(format!("the route has no endpoint `{unknown}`")));
        }
        self.select(|selection| selection.endpoints = Some(addresses))
    }

    fn hash_key(&mut self, key: String) -> Result<(), Error> {
        self.exchange(in_selection)?;
        if key.len() > MAX_HASH_KEY {
            return Err(Error::TooLarge(MAX_HASH_KEY as u64));
        }
        self.select(|selection| selection.hash_key = Some(key))
    }

    fn summary(&mut self) -> Result<String, Error> {
        let exchange = self.exchange(|hook| hook == Hook::OnComplete)?;
        Ok(exchange.summary.clone().unwrap_or_else(|| "{}".to_owned()))
    }
}
