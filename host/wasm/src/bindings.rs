//! The types and traits of `wit/`, generated.

#![allow(unreachable_pub, reason = "generated code")]

wasmtime::component::bindgen!({ path: "../../wit", world: "imports" });

pub(super) use self::sluice::filter::types::{Error, Field, Verdict};
pub(super) use self::sluice::filter::*;
