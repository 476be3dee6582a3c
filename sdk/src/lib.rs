#![doc = include_str!("../README.md")]
#![allow(clippy::test_attr_in_doctest, reason = "the README shows a test module to copy")]

mod attribute;
#[doc(hidden)]
pub mod bindings;
mod chunk;
mod claims;
mod config;
mod cookies;
mod error;
#[doc(hidden)]
pub mod export;
mod filter;
mod hooks;
mod message;
mod place;
mod route;
mod services;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod throttle;

/// The host functions: those of the gateway in a component, those of the test harness in a native build.
#[cfg(target_family = "wasm")]
use bindings::sluice::filter as host;
#[cfg(not(target_family = "wasm"))]
use testing::host;

/// A filter allocates for nearly each text that it gets, and Rust's own allocator for this target takes as long as the call that gets it.
#[cfg(all(target_family = "wasm", feature = "allocator"))]
#[global_allocator]
static ALLOCATOR: talc::wasm::WasmDynamicTalc = talc::wasm::new_wasm_dynamic_allocator();

pub use attribute::{Attribute, ClaimPath, bytes_to_text, network, shortened, spellings};
pub use chunk::{Chunk, Event};
pub use claims::{Claims, Confirmation, NotExact};
pub use config::{ByteSize, ConfigError, Duration, is_token};
pub use error::Error;
pub use filter::{Describe, Filter, Setup};
pub use hooks::{Hook, traits::*};
pub use message::{
    ClientCertificate, Draft, Finished, HeaderChange, HeaderEdit, Problem, Request, Response, Source, Verdict,
};
pub use place::CredentialPlace;
pub use route::{Endpoint, EndpointState, FailedAttempt, Failure, RetryState, Route};
pub use serde;
pub use serde_json;
pub use services::{
    cache, clock, concurrency, consumers, context, crypto, http, kv, limiter, log, metrics, passwords, random, secrets,
    state,
};
pub use throttle::Throttle;

/// What a filter's file usually needs.
pub mod prelude {
    pub use crate::hooks::traits::*;
    pub use crate::{
        Chunk, ConfigError, Describe, Error, Event, Filter, Problem, Request, Response, Route, Setup, Verdict, context,
        log, state,
    };
    pub use serde::{Deserialize, Serialize};
}
