//! The network as the services see it: calls of filters over the worker's connections, key sets on a thread with an event loop of its own,
//! so that no worker waits for one.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Method;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Network, Outgoing, Tls};
use crate::services::grants::Origins;
use crate::services::keyset::{Get, keep_fresh};
use crate::services::outbound::{Answers, Call};
use crate::services::{KeySet, Outbound, ServiceError};
use crate::upstream::Resolver;

/// Sends what the services ask for. Servers are verified with the roots of its [`Tls`].
pub struct OutboundClient {
    tls: Tls,
    /// That of the running snapshot.
    resolver: Arc<ArcSwap<Resolver>>,
    key_sets: Mutex<Option<Running>>,
}

/// The thread that fetches key sets; it starts when it is needed and ends when this is dropped.
struct Running {
    sets: UnboundedSender<Weak<KeySet>>,
    thread: JoinHandle<()>,
}

impl OutboundClient {
    /// A client that asks this resolver for names.
    pub fn new(tls: Tls, resolver: Arc<Resolver>) -> Arc<Self> {
        let resolver = Arc::new(ArcSwap::new(resolver));
        Arc::new(OutboundClient { tls, resolver, key_sets: Mutex::new(None) })
    }

    /// Who is asked for names.
    pub fn resolver(&self) -> Arc<Resolver> {
        self.resolver.load_full()
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
        origins: &'a Origins,
        max_body: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Answers, ServiceError>> + Send + 'a>> {
        let network = Network { tls: self.tls.clone(), resolver: self.resolver() };
        Box::pin(async move { super::send(calls, timeout, origins, &network, max_body).await })
    }

    fn keep_fresh(&self, set: &Arc<KeySet>) -> Result<(), ServiceError> {
        let mut running = self.key_sets.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(start(self.tls.clone(), Arc::clone(&self.resolver))?);
        }
        if let Some(running) = &*running {
            // The receiver ends with `self` only.
            let _ = running.sets.send(Arc::downgrade(set));
        }
        Ok(())
    }
}

impl Drop for OutboundClient {
    fn drop(&mut self) {
        let running = self.key_sets.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { sets, thread }) = running {
            drop(sets);
            let _ = thread.join();
        }
    }
}

fn start(tls: Tls, resolver: Arc<ArcSwap<Resolver>>) -> Result<Running, ServiceError> {
    let unavailable = |e: std::io::Error| ServiceError::Unavailable(format!("key sets can't be fetched: {e}"));
    // A plain runtime, since a local one can't be made here, where its failure is told, and moved to its thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unavailable)?;
    let (sets, receiver) = unbounded_channel();
    let run = move || tokio::task::LocalSet::new().block_on(&runtime, serve(receiver, tls, resolver));
    let thread = std::thread::Builder::new().name("key-sets".to_owned()).spawn(run).map_err(unavailable)?;
    Ok(Running { sets, thread })
}

async fn serve(mut sets: UnboundedReceiver<Weak<KeySet>>, tls: Tls, resolver: Arc<ArcSwap<Resolver>>) {
    while let Some(set) = sets.recv().await {
        let (tls, resolver) = (tls.clone(), Arc::clone(&resolver));
        tokio::task::spawn_local(keep_fresh(set, async move |get: Get| {
            let Get { url, headers, max_body } = get;
            let request = Outgoing { method: Method::GET, url, headers, body: Bytes::new() };
            let network = Network { tls: tls.clone(), resolver: resolver.load_full() };
            super::exchange(request, &network, max_body).await
        }));
    }
}
