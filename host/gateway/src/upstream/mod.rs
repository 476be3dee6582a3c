//! Upstreams: who they are (`spec`), where their endpoints come from (`discover`) and what is known of them (`endpoints`), which one is next
//! (`balance`), connections to them (`connect`, `race`, `pool`), and sending a request (`local`). Whether a route retries is not decided
//! here.

mod balance;
mod builtin;
pub mod connect;
mod discover;
pub(crate) mod endpoints;
mod error;
pub(crate) mod head;
mod local;
pub(crate) mod pool;
pub(crate) mod race;
pub mod resolver;
pub(crate) mod spec;
pub mod tls;

#[cfg(test)]
mod tests;

pub use endpoints::EndpointRegistry;
pub use error::{UpstreamError, UpstreamErrorKind};
pub use local::{Choice, LocalUpstream, Sent, Timeouts};
pub use resolver::Resolver;
pub use spec::{Balance, EndpointSpec, Protocol, SpecError, TargetSpec, Upstream, UpstreamSpec};
pub use tls::{ClientCertificate, TlsSpec};
