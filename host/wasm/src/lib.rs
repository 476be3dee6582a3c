//! The filter runtime: components, their instances, and the functions they may call. The only crate that names wasmtime.
//!
//! The modules in the order of their dependencies; each may name those above it (`tests/layers.rs` holds this):
//!
//! - `exchange`: one request and its response, and the journal of edits
//! - `filter`: what a filter is to the rest of the gateway
//! - `bindings`: the types of `wit/`
//! - `load`: the engine, the compiler, the cache, and taking components apart
//! - `call`: the data of a store
//! - `abi`: the canonical ABI, for host functions and core modules
//! - `host`: the functions that a guest may call
//! - `backend`: the two ways to run a component, each with its compiled code and its instances
//! - `pool`: plugins, configured filters, and their instances on each worker

mod abi;
mod backend;
mod bindings;
mod call;
pub mod exchange;
mod filter;
mod host;
mod load;
mod pool;

pub use filter::observer::{HookCall, HostCall, LogLine, Observer};
pub use filter::{
    BodyInterest, CallMode, FailureKind, FilterError, FilterLimits, FilterStats, Grants, HeaderGrant, Hook, HookSet,
    HookStats, Interests, LoadError, MediaInterest, MediaPattern, Mode, Phase, RuntimeError, Unread, UnreadBodies,
    UnreadReason, Verdict,
};
pub use load::compile::{CompilerCommand, PipedError, UNABLE, compile_piped};
pub use load::process::{CompileLimits, Interrupt};
pub use load::{Runtime, RuntimeOptions, unbundle};
pub use pool::plugin::{Description, Plugin};
pub use pool::program::{Program, ProgramSpec};
pub use pool::{Called, Pool};

#[cfg(test)]
mod tests;
