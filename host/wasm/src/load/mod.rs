//! From the bytes of a component to code that can be linked: the engine, the compiler and its cache, and `unbundle`, which finds the core
//! module of a component. Nothing here knows what a filter may call.

pub(crate) mod aside;
pub(crate) mod cache;
pub(crate) mod compile;
pub(crate) mod engine;
pub(crate) mod pages;
pub(crate) mod process;
pub(crate) mod quota;
pub(crate) mod ticker;
pub mod unbundle;

pub use engine::{Runtime, RuntimeOptions};
