//! The network as the services see it: calls of filters over the worker's connections, key sets on a thread with an event loop of its own,
//! so that no worker waits for one.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Outgoing, Tls};
use crate::services::grants::Origins;
use crate::services::keyset::{Get, keep_fresh};
use crate::services::outbound::{Answers, Call};
use crate::services::{KeySet, Outbound, ServiceError};

/// Sends what the services ask for. Servers are verified with the roots of its [`Tls`].
pub struct OutboundClient {
    tls: Tls,
    key_sets: Mutex<Option<Running>>,
}

/// The thread that fetches key sets; it starts when it is needed and ends when this is dropped.
struct Running {
    sets: UnboundedSender<Weak<KeySet>>,
    thread: JoinHandle<()>,
}

impl OutboundClient {
    pub fn new(tls: Tls) -> Arc<Self> {
        Arc::new(OutboundClient { tls, key_sets: Mutex::new(None) })
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
        let mut running = self.key_sets.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(start(self.tls.clone())?);
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

fn start(tls: Tls) -> Result<Running, ServiceError> {
    let unavailable = |e: std::io::Error| ServiceError::Unavailable(format!("key sets can't be fetched: {e}"));
    // A plain runtime, since a local one can't be made here, where its failure is told, and moved to its thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unavailable)?;
    let (sets, receiver) = unbounded_channel();
    let run = move || tokio::task::LocalSet::new().block_on(&runtime, serve(receiver, tls));
    let thread = std::thread::Builder::new().name("key-sets".to_owned()).spawn(run).map_err(unavailable)?;
    Ok(Running { sets, thread })
}

async fn serve(mut sets: UnboundedReceiver<Weak<KeySet>>, tls: Tls) {
    while let Some(set) = sets.recv().await {
        let tls = tls.clone();
        tokio::task::spawn_local(keep_fresh(set, async move |get: Get| {
            let Get { url, headers, max_body } = get;
            let request = Outgoing { method: Method::GET, url, headers, body: Bytes::new() };
            super::exchange(request, &tls, max_body).await
        }));
    }
}
