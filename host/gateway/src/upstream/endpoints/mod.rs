//! The endpoints of an upstream: what is known of each address (`record`), how it has answered
//! (`responses`), how it is shown (`state`), who has a record (`registry`), which addresses there are
//! now (`set`), whether a state has changed (`changes`), and a worker's pools and plans for them (`local`). ADR 0002 says what an endpoint is, ADR 0003 what is shared.

mod changes;
mod local;
mod record;
mod registry;
mod responses;
mod set;
mod state;

pub use local::LocalEndpoints;
pub(crate) use record::{Record, millis};
pub use registry::EndpointRegistry;
pub(crate) use responses::Responses;
pub(super) use set::{EndpointSet, Host, Listing, Member, Members};
pub use state::EndpointState;
