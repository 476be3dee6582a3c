//! A guest that does at each hook what its config says: a list of actions for each hook, `{"on-request": [{"do": "trap"}]}`.
//! The exports are written by hand instead of by `export!`, so that a hook can answer what no bindings would.
#![cfg(target_family = "wasm")]
#![allow(unsafe_code, reason = "hand-written exports")]
#![allow(clippy::unwrap_used, reason = "a config that is wrong should trap")]

mod actions;
mod exports;
mod functions;
mod pieces;

#[allow(unsafe_code, unused, unreachable_pub, clippy::all, reason = "generated code")]
mod bindings {
    wit_bindgen::generate!({ path: "../../../wit", world: "sluice:filter/every-hook", generate_all });
}
