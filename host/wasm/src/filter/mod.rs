//! What a filter is to the rest of the gateway: the hooks it is called at, what it asked for, what it may use and reach, how its calls
//! fail, and what they cost. Nothing here knows how a filter is run.

mod error;
mod grants;
mod hook;
mod interest;
pub(crate) mod observer;
mod settings;
pub(crate) mod stats;

pub use error::{FailureKind, FilterError, LoadError, RuntimeError};
pub use grants::{Grants, HeaderGrant};
pub use hook::{Hook, HookSet, Phase, Verdict};
pub use interest::{BodyInterest, Interests, MediaInterest, MediaPattern};
pub use settings::{CallMode, FilterLimits, Mode};
pub use stats::{FilterStats, HookStats, Unread, UnreadBodies, UnreadReason};
