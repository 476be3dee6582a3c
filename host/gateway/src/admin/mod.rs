//! The admin listener: health, readiness, metrics and the API under `/api/v1`, on the background thread, so that it answers while the
//! workers are busy and a slow client costs them nothing.
//!
//! An endpoint is one handler and one line in the table of `endpoints`. The OpenAPI document is made from that table and from the
//! types of the handlers, so it can't differ from what is served.

mod api;
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
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::background::Background;
use crate::control::Control;
use crate::telemetry::Metrics;
use router::Router;

/// Why there is no admin listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("admin listener cannot bind {0}")]
    Bind(SocketAddr, #[source] io::Error),
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
pub fn start(bind: SocketAddr, context: Context, background: &Background) -> Result<SocketAddr, AdminError> {
    let listener = TcpListener::bind(bind).map_err(|error| AdminError::Bind(bind, error))?;
    listener.set_nonblocking(true).map_err(AdminError::Start)?;
    let address = listener.local_addr().map_err(AdminError::Start)?;
    let router = Arc::new(Router::new(endpoints::endpoints(), context));
    server::start(listener, router, background, server::LIMITS);
    tracing::info!(listener = "admin", %address, "listening");
    Ok(address)
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
