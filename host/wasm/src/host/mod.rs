//! The functions that a filter may call, one file for each part of the interface. None of them waits, but `http.send`.

pub(super) mod crypto;
mod facts;
pub(super) mod fields;
mod guest;
pub(super) mod request;
pub(super) mod response;
mod route;
pub(super) mod services;

use wasmtime::Result as Outcome;
use wasmtime::component::{Linker, LinkerInstance};

use super::Hook;
use super::abi::define::{Define, Direct, Wanted};
use super::bindings::Error;
use super::state::CallState;

/// Where functions are defined, interface by interface.
pub(super) trait Interfaces {
    type At<'a>: Define
    where
        Self: 'a;

    /// One of `sluice:filter`.
    fn interface(&mut self, name: &'static str) -> Outcome<Self::At<'_>>;
}

impl Interfaces for Linker<CallState> {
    type At<'a> = LinkerInstance<'a, CallState>;

    fn interface(&mut self, name: &'static str) -> Outcome<LinkerInstance<'_, CallState>> {
        self.instance(&format!("sluice:filter/{name}@0.1.0"))
    }
}

impl Interfaces for Wanted {
    type At<'a> = Direct<'a>;

    fn interface(&mut self, name: &'static str) -> Outcome<Direct<'_>> {
        Ok(self.of(format!("sluice:filter/{name}")))
    }
}

/// Defines every function that does not wait.
pub(super) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    linker.interface("types")?;
    guest::link(linker)?;
    request::link(linker)?;
    response::link(linker)?;
    route::link(linker)?;
    facts::link(linker)?;
    crypto::link(linker)?;
    services::link(linker)
}

/// Defines those that do: they put every call of the store on a fiber.
pub(super) fn link_waiting(linker: &mut impl Interfaces) -> Outcome<()> {
    services::link_waiting(linker)
}

fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

/// Hooks in which the request may be changed, and an answer drafted.
fn in_request(hook: Hook) -> bool {
    hook.is_request()
}

fn anywhere(_: Hook) -> bool {
    true
}

fn before_completion(hook: Hook) -> bool {
    hook != Hook::OnComplete
}
