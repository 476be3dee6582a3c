//! Upstreams: who they are (`spec`), which endpoint is next (`balance`), connections to them (`connect`, `pool`), and
//! sending a request (`local`). Whether a route retries is not decided here.

mod balance;
mod builtin;
pub mod connect;
pub mod dns;
mod error;
mod head;
mod local;
mod pool;
mod spec;
pub mod tls;

#[cfg(test)]
mod tests;

pub use error::{UpstreamError, UpstreamErrorKind};
pub use local::{Choice, LocalUpstream, Sent, Timeouts};
pub use spec::{Balance, EndpointSpec, Protocol, SpecError, TargetSpec, Upstream, UpstreamSpec};
pub use tls::{ClientCertificate, TlsSpec};
