//! The network as the services see it: calls of filters over the worker's connections, key sets over those of the background runtime, so
//! that no worker waits for one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method};
use rustls_pki_types::CertificateDer;
use url::Url;

use super::{Network, Outgoing, Tls};
use crate::background::Background;
use crate::http::buffer::MemoryBudget;
use crate::services::keyset::{self, keep_fresh};
use crate::services::outbound::{Answers, Call, Incoming};
use crate::services::{Grants, KeySet, Outbound, Reach, ServiceError};
use crate::upstream::{Fetch, Fetched, Get, Resolver};

/// Sends what the services ask for. Servers are verified with the roots of its [`Tls`].
pub struct OutboundClient {
    tls: Tls,
    /// That of the running snapshot.
    resolver: Arc<ArcSwap<Resolver>>,
    background: Background,
    budget: MemoryBudget,
}

impl OutboundClient {
    /// A client that asks this resolver for names, refreshes key sets in the background, and charges answers to the budget.
    pub fn new(tls: Tls, resolver: Arc<Resolver>, background: Background, budget: MemoryBudget) -> Arc<Self> {
        Arc::new(OutboundClient { tls, resolver: Arc::new(ArcSwap::new(resolver)), background, budget })
    }

    /// Who is asked for names.
    pub fn resolver(&self) -> Arc<Resolver> {
        self.resolver.load_full()
    }

    /// A way to services for what runs on the background runtime, with these authorities beside the system's. The caller sets a time limit.
    pub fn fetch(&self, authorities: Vec<CertificateDer<'static>>) -> Fetch {
        let tls = if authorities.is_empty() { self.tls.clone() } else { Tls::with_authorities(authorities) };
        let (resolver, budget) = (Arc::clone(&self.resolver), self.budget.clone());
        Arc::new(move |get: Get| {
            let Get { url, headers, max_body } = get;
            // The configuration itself names who is asked.
            let request = Outgoing { method: Method::GET, url, headers, body: Bytes::new(), reach: Reach::Any };
            let network = Network { tls: tls.clone(), resolver: resolver.load_full(), budget: budget.clone() };
            Box::pin(async move {
                let answer = super::exchange(request, &network, max_body).await.map_err(|error| error.to_string())?;
                Ok(Fetched { status: answer.status, headers: answer.headers, body: answer.body })
            })
        })
    }

    /// Sends a request of the gateway itself over the connections of the background runtime, where this has to be awaited. It goes wherever the URL
    /// leads, since the configuration has named it. The caller sets a time limit.
    pub async fn request(
        &self,
        tls: &Tls,
        (method, url): (Method, Url),
        (headers, body): (HeaderMap, Bytes),
        max_body: usize,
    ) -> Result<Incoming, ServiceError> {
        let request = Outgoing { method, url, headers, body, reach: Reach::Any };
        let network = Network { tls: tls.clone(), resolver: self.resolver(), budget: self.budget.clone() };
        super::exchange(request, &network, max_body).await
    }

    /// Asks this one from now on.
    pub fn use_resolver(&self, resolver: Arc<Resolver>) {
        self.resolver.store(resolver);
    }
}

impl Outbound for OutboundClient {
    fn send<'a>(
        &'a self,
        calls: Vec<Call>,
        timeout: Duration,
        grants: &'a Grants,
        max_body: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ServiceError>> + Send + 'a>> {
        let network = Network { tls: self.tls.clone(), resolver: self.resolver(), budget: self.budget.clone() };
        Box::pin(async move { super::send(calls, timeout, grants, &network, max_body).await })
    }

    fn keep_fresh(&self, set: &Arc<KeySet>) -> Result<(), ServiceError> {
        let tls = match set.authorities() {
            [] => self.tls.clone(),
            own => Tls::with_authorities(own.to_vec()),
        };
        let (set, resolver, budget) = (Arc::downgrade(set), Arc::clone(&self.resolver), self.budget.clone());
        let refresh = move || {
            keep_fresh(set, async move |get: keyset::Get| {
                let keyset::Get { url, headers, reach, max_body } = get;
                let request = Outgoing { method: Method::GET, url, headers, body: Bytes::new(), reach };
                let network = Network { tls: tls.clone(), resolver: resolver.load_full(), budget: budget.clone() };
                super::exchange(request, &network, max_body).await
            })
        };
        // It ends by itself when nobody holds the set.
        self.background.spawn("key set", refresh).detach();
        Ok(())
    }
}
