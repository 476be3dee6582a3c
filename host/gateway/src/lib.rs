//! Sluice: an API gateway whose policies are WebAssembly components. docs/src/internals/architecture.md lists the modules from the
//! outside in, and says which way they depend on each other.

pub mod acme;
pub mod admin;
pub mod allocator;
pub mod background;
pub mod cache;
pub mod certs;
pub mod config;
pub mod consumers;
pub mod control;
pub mod durable;
pub mod embedded;
pub mod filter;
pub mod gateway;
pub mod outbound;
pub mod plugin;
pub mod proxy;
pub mod server;
pub mod snapshot;
pub mod sockets;
pub mod telemetry;
pub mod upstream;
mod watcher;

pub use sluice_http::{coarse, deadline, http, http1, proxy_protocol, route};
pub use sluice_services as services;
pub use sluice_wasm as wasm;
pub use sluice_wasm::exchange;

/// An error with its sources, in one line. Many an error repeats its source at its end: that is said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = inner.source();
    }
    text
}
