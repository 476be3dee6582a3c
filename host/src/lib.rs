//! Sluice: an API gateway whose policies are WebAssembly components. The module list is in reading order, from the
//! outside in; dependencies point down the list (see ARCHITECTURE.md).

pub mod admin;
pub mod config;
pub mod deadline;
pub mod embedded;
pub mod exchange;
pub mod filter;
pub mod http;
pub mod route;
pub mod server;
pub mod services;
pub mod telemetry;
pub mod upstream;
pub mod wasm;
