//! The filter runtime: components, their instances, and the functions they may call. The only module that names wasmtime.

mod abi;
mod bindings;
mod cache;
mod compile;
mod component;
mod cpu;
mod direct;
mod engine;
mod error;
pub mod exchange;
mod grants;
mod hook;
mod host;
mod image;
mod instance;
mod interest;
mod names;
mod plugin;
mod pool;
mod program;
mod restore;
mod seats;
mod settings;
mod state;
mod stats;
mod unbundle;
mod wasi;

pub use compile::{CompilerCommand, PipedError, UNABLE, compile_piped};
pub use engine::{Runtime, RuntimeOptions};
pub use error::{FailureKind, FilterError, LoadError, RuntimeError};
pub use grants::{Grants, HeaderGrant};
pub use hook::{Hook, HookSet, Verdict};
pub use interest::{BodyInterest, Interests, MediaPattern};
pub use plugin::{Description, Plugin};
pub use pool::{Called, Pool};
pub use program::{Program, ProgramSpec};
pub use settings::{FilterLimits, Mode};
pub use stats::{FilterStats, HookStats};

#[cfg(test)]
mod tests;
