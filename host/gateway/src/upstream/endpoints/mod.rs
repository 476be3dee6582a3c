//! The endpoints of an upstream: what is known of each address (`record`), who has a record (`registry`), which addresses there are
//! now (`set`), whether a state has changed (`changes`), and a worker's pools and plans for them (`local`). ADR 0002 says what an endpoint is, ADR 0003 what is shared.

mod changes;
mod local;
mod record;
mod registry;
mod set;

pub use local::LocalEndpoints;
pub use record::EndpointState;
pub(crate) use record::{Record, Responses, millis};
pub use registry::EndpointRegistry;
pub(super) use set::{EndpointSet, Host, Listing, Member, Members};
