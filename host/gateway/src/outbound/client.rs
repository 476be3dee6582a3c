//! The network as the services see it: calls of filters over the worker's connections, key sets over those of the background runtime, so
//! that no worker waits for one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::{Outgoing, Tls};
use crate::background::Background;
use crate::services::grants::Origins;
use crate::services::keyset::{Get, keep_fresh};
use crate::services::outbound::{Answers, Call};
use crate::services::{KeySet, Outbound, ServiceError};

/// Sends what the services ask for. Servers are verified with the roots of its [`Tls`].
pub struct OutboundClient {
    tls: Tls,
    background: Background,
}

impl OutboundClient {
    pub fn new(tls: Tls, background: Background) -> Arc<Self> {
        Arc::new(OutboundClient { tls, background })
    }
}

impl Outbound for OutboundClient {
    fn send<'a>(
        &'a self,
        calls: Vec<Call>,
        timeout: Duration,
        origins: &'a Origins,
        max_body: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ServiceError>> + Send + 'a>> {
        Box::pin(super::send(calls, timeout, origins, &self.tls, max_body))
    }

    fn keep_fresh(&self, set: &Arc<KeySet>) -> Result<(), ServiceError> {
        let (set, tls) = (Arc::downgrade(set), self.tls.clone());
        let refresh = move || {
            keep_fresh(set, async move |get: Get| {
                let Get { url, headers, max_body } = get;
                let request = Outgoing { method: Method::GET, url, headers, body: Bytes::new() };
                super::exchange(request, &tls, max_body).await
            })
        };
        // It ends by itself when nobody holds the set.
        self.background.spawn("key set", refresh).detach();
        Ok(())
    }
}
