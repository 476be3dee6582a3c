//! The functions that a filter may call, one file for each part of the interface. None of them waits, but `http.send`. Those that
//! filters call most are defined by hand, so that arguments are read where the guest has them; the others through what is generated.

mod crypto;
mod facts;
pub(super) mod fields;
mod guest;
pub(super) mod request;
pub(super) mod response;
mod route;
pub(super) mod services;

use wasmtime::StoreContextMut;
use wasmtime::component::{HasSelf, Linker};

use super::Hook;
use super::bindings::{self, Error};
use super::state::CallState;

type Cx<'a> = StoreContextMut<'a, CallState>;

/// Defines every known function. `waits` says whether the functions that can wait are defined too: that makes every call of the
/// store one on a fiber.
pub(super) fn link(linker: &mut Linker<CallState>, waits: bool) -> wasmtime::Result<()> {
    type Own = HasSelf<CallState>;
    let own: fn(&mut CallState) -> &mut CallState = |state| state;
    bindings::types::add_to_linker::<_, Own>(linker, own)?;
    bindings::interest::add_to_linker::<_, Own>(linker, own)?;
    request::link(linker)?;
    response::link(linker)?;
    bindings::route::add_to_linker::<_, Own>(linker, own)?;
    bindings::state::add_to_linker::<_, Own>(linker, own)?;
    bindings::context::add_to_linker::<_, Own>(linker, own)?;
    bindings::log::add_to_linker::<_, Own>(linker, own)?;
    bindings::clock::add_to_linker::<_, Own>(linker, own)?;
    bindings::random::add_to_linker::<_, Own>(linker, own)?;
    crypto::link(linker)?;
    services::link(linker, waits)
}

impl bindings::types::Host for CallState {}

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
