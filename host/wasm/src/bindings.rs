//! The types and traits of `wit/`, generated.

#![allow(unreachable_pub, reason = "generated code")]

/// The version of the package in `wit/`; components of other versions of the same series load too.
pub(crate) const INTERFACE_VERSION: &str = "0.1.1";

wasmtime::component::bindgen!({ path: "../../wit", world: "imports" });

pub(crate) use self::sluice::filter::types::{Error, Field, Verdict};
pub(crate) use self::sluice::filter::*;
