//! Upstreams. Who they are is in `spec` and `address`, where their endpoints come from in `discover`, and what is known of them in `endpoints` and
//! `health`. `local` and `balance` say which one is next, `limits` and `circuit` whether a request may go there. Connections are made in
//! `connect`, `http2`, `race` and `pool`. `files` serves a folder and `builtin` has upstreams for demos. `attempt` is one attempt to get a response, `verdict` what its body tells, and `retry` says whether another one follows.

mod address;
mod attempt;
mod attempt_log;
mod balance;
mod builtin;
mod candidates;
mod circuit;
pub mod connect;
mod discover;
mod endpoint;
pub(crate) mod endpoints;
mod error;
mod files;
pub(crate) mod head;
pub(crate) mod health;
pub(crate) mod http2;
mod lifetime;
pub(crate) mod limits;
mod local;
mod outgoing;
pub(crate) mod pool;
pub(crate) mod race;
mod record_use;
mod replay;
pub mod resolver;
pub mod retry;
pub(crate) mod spec;
pub mod tls;
mod upkeep;
mod verdict;
pub(crate) mod websocket;

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod http2_tests;
#[cfg(test)]
mod tests;

pub use crate::config::model::{FixedResponse, HashAlgorithm, HashKey};
pub use address::{Address, Place};
pub use attempt::UpstreamResponse;
pub use attempt_log::{Answer, Attempt, AttemptFailure, AttemptLog, AttemptOutcome};
pub use balance::{Affinity, hash};
pub use candidates::RouteCandidates;
pub use discover::{DiscoveryState, Fetch, Fetched, Get, Sources};
pub use endpoints::{EndpointRegistry, EndpointState, LocalEndpoints};
pub use error::{AttemptError, UpstreamError, UpstreamErrorKind};
pub use health::{Reason, StateChange};
pub use limits::{
    Admitted, Bulkhead, BulkheadState, Busy, CircuitAnswer, CircuitPass, CircuitState, Eligible, EndpointPermit,
    Permit, Unadmitted, UpstreamState,
};
pub use local::{Choice, LocalUpstream};
pub use outgoing::{Extras, OutgoingRequest, Timeouts};
pub use record_use::RecordUse;
pub use resolver::Resolver;
pub use spec::{Balance, Balancing, EndpointSpec, Protocol, SpecError, Subset, TargetSpec, Upstream, UpstreamSpec};
pub use tls::{ClientCertificate, TlsSpec};
pub use upkeep::Upkeep;
