//! The route of the current exchange and the choice of where it goes.

pub use crate::bindings::sluice::filter::route::{Endpoint, EndpointState, FailedAttempt, Failure, RetryState};
use crate::{Error, Request, host};

/// The route of the current exchange.
#[derive(Debug)]
pub struct Route(pub(crate) ());

impl Route {
    /// Its name in `gateway.toml`.
    ///
    /// # Errors
    /// `WrongHook` outside an exchange, as for all reads below.
    pub fn name(&self) -> Result<String, Error> {
        Ok(host::route::name()?)
    }

    /// The value of a `{param}` of the path pattern, percent-decoded.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn param(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(host::route::param(name)?)
    }

    /// The names of its upstreams.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn upstreams(&self) -> Result<Vec<String>, Error> {
        Ok(host::route::upstreams()?)
    }

    /// The endpoints of its upstreams, in `select_upstream` and later; a built-in upstream has none.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        Ok(host::route::endpoints()?)
    }

    /// A label of an endpoint.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn endpoint_label(&self, upstream: &str, address: &str, label: &str) -> Result<Option<String>, Error> {
        Ok(host::route::endpoint_label(upstream, address, label)?)
    }

    /// The attempts of this exchange that failed, oldest first.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn failures(&self) -> Result<Vec<Failure>, Error> {
        Ok(host::route::failures()?)
    }

    /// How an endpoint is now; none where it is not one of this route.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn endpoint_state(&self, upstream: &str, address: &str) -> Result<Option<EndpointState>, Error> {
        Ok(host::route::state_of_endpoint(upstream, address)?)
    }

    /// The attempts of this exchange that failed with what is known of each, oldest first.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn failed_attempts(&self) -> Result<Vec<FailedAttempt>, Error> {
        Ok(host::route::failed_attempts()?)
    }

    /// What the request may still do.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn retry_state(&self) -> Result<RetryState, Error> {
        Ok(host::route::retries()?)
    }

    /// Sends the request to this upstream of the route.
    ///
    /// # Errors
    /// `Invalid` when the route does not list it, `WrongHook` outside `select_upstream`.
    pub fn choose_upstream(&self, name: &str) -> Result<(), Error> {
        Ok(host::route::choose_upstream(name)?)
    }

    /// Sends the request to the first of these endpoints that accepts a connection.
    ///
    /// # Errors
    /// `Invalid` for an unknown endpoint, `WrongHook` outside `select_upstream`.
    pub fn choose_endpoints(&self, addresses: &[&str]) -> Result<(), Error> {
        let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
        Ok(host::route::choose_endpoints(&addresses)?)
    }

    /// Requests with the same key go to the same endpoint while the set of endpoints is the same.
    ///
    /// # Errors
    /// `WrongHook` outside `select_upstream`.
    pub fn hash_key(&self, key: &str) -> Result<(), Error> {
        Ok(host::route::hash_key(key)?)
    }

    /// If the next attempt fails, its error is the answer.
    ///
    /// # Errors
    /// `WrongHook` outside `select_upstream`.
    pub fn no_retry(&self) -> Result<(), Error> {
        Ok(host::route::no_retry()?)
    }

    /// The request that is being routed.
    #[must_use]
    pub fn request(&self) -> &Request {
        &Request(())
    }
}
