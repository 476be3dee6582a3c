//! The admin listener: health, readiness, metrics and the API under `/api/v1`, on the background thread, so that it answers while the
//! workers are busy and a slow client costs them nothing.
//!
//! An endpoint is one handler and one line in the table of `endpoints`. The OpenAPI document is made from that table and from the
//! types of the handlers, so it can't differ from what is served.

mod api;
mod cache;
mod cache_lookup;
mod certificates;
mod endpoint;
mod endpoints;
mod limits;
mod openapi;
mod pages;
mod problem;
mod router;
mod server;
mod upstreams;
mod weights;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::background::Background;
use crate::config::model::BindAddress;
use crate::control::Control;
use crate::sockets::{self, Bound};
use crate::telemetry::Metrics;
use router::Router;

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("admin listener cannot bind {0}")]
    Bind(BindAddress, #[source] io::Error),
    #[error("admin listener cannot start")]
    Start(#[source] io::Error),
}

/// What the handlers tell of and act on.
pub struct Context {
    pub control: Control,
    pub metrics: Arc<Metrics>,
    pub config_file: PathBuf,
    pub started: SystemTime,
}

/// Binds the admin listener and serves it on the background thread, for as long as that runs. Returns the address that it has got.
pub fn start(address: &BindAddress, context: Context, background: &Background) -> Result<Bound, AdminError> {
    let failed = |error| AdminError::Bind(address.clone(), error);
    let (bound, mut listeners) = sockets::bind(address, 1).map_err(failed)?;
    let listener = listeners.pop().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let router = Arc::new(Router::new(endpoints::endpoints(), context));
    server::start(listener, router, background, server::LIMITS);
    tracing::info!(listener = "admin", address = %bound.address, "listening");
    Ok(bound)
}

/// A response before it is sent.
struct Page {
    status: http::StatusCode,
    /// Its media type.
    kind: &'static str,
    body: Bytes,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
