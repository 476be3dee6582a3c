//! Upstreams: who they are (`spec`), where their endpoints come from (`discover`) and what is known of them (`endpoints`, `health`), which one is
//! next (`local`, `balance`), whether a request may go there (`limits`, `circuit`), connections to them (`connect`, `http2`, `race`, `pool`), one attempt to get a response (`attempt`), and whether
//! another one follows (`retry`).

mod attempt;
mod attempt_log;
mod balance;
mod builtin;
mod circuit;
pub mod connect;
mod discover;
pub(crate) mod endpoints;
mod error;
pub(crate) mod head;
pub(crate) mod health;
pub(crate) mod http2;
pub(crate) mod limits;
mod local;
mod outgoing;
pub(crate) mod pool;
pub(crate) mod race;
mod replay;
pub mod resolver;
pub mod retry;
pub(crate) mod spec;
pub mod tls;
mod upkeep;

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod http2_tests;
#[cfg(test)]
mod tests;

pub use attempt::UpstreamResponse;
pub use attempt_log::{Attempt, AttemptFailure, AttemptLog, AttemptOutcome};
pub use endpoints::{EndpointRegistry, EndpointState, LocalEndpoints};
pub use error::{AttemptError, UpstreamError, UpstreamErrorKind};
pub use health::{Reason, StateChange};
pub use limits::{
    Admitted, Bulkhead, BulkheadState, Busy, CircuitPass, CircuitState, EndpointPermit, Permit, Unadmitted,
    UpstreamState,
};
pub use local::{Choice, LocalUpstream};
pub use outgoing::{Extras, OutgoingRequest, Timeouts};
pub use resolver::Resolver;
pub use spec::{Balance, EndpointSpec, Protocol, SpecError, TargetSpec, Upstream, UpstreamSpec};
pub use tls::{ClientCertificate, TlsSpec};
pub use upkeep::Upkeep;
