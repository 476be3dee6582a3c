//! Upstreams: who they are (`spec`), which endpoint is next (`local`, `balance`), connections to them (`connect`, `pool`), one
//! attempt to get a response (`attempt`), and whether another one follows (`retry`).

mod attempt;
mod attempt_log;
mod balance;
mod builtin;
pub mod connect;
pub mod dns;
mod error;
mod head;
mod local;
mod pool;
pub mod retry;
mod spec;
pub mod tls;

#[cfg(test)]
mod tests;

pub use attempt::{OutgoingRequest, Timeouts, UpstreamResponse};
pub use attempt_log::{Attempt, AttemptLog, AttemptOutcome};
pub use error::{AttemptError, UpstreamError, UpstreamErrorKind};
pub use local::{Choice, LocalUpstream};
pub use spec::{Balance, EndpointSpec, Protocol, SpecError, TargetSpec, Upstream, UpstreamSpec};
pub use tls::{ClientCertificate, TlsSpec};
