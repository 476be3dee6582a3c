//! The functions that a filter may call, one file for each part of the interface. None of them waits, but `http.send`,
//! `kv-wait.wait`, `passwords.authenticate`, and those of limits and values where these are in a store.

mod cache;
mod chunk;
pub(crate) mod consumers;
pub(crate) mod crypto;
mod facts;
pub(crate) mod fields;
mod guest;
pub(crate) mod observed;
pub(crate) mod request;
pub(crate) mod response;
mod route;
pub(crate) mod services;
mod shared;
mod waiting;
pub(crate) mod wasi;

use std::collections::HashMap;
use std::sync::LazyLock;

use wasmtime::component::{Linker, LinkerInstance};
use wasmtime::{Result as Outcome, StoreContextMut};

use crate::abi::define::{Answering, Define, InterfaceImports, ModuleImports};
use crate::abi::{Lower, OwnedParams, Params};
use crate::bindings::{Error, INTERFACE_VERSION};
use crate::call::state::CallState;
use sluice_services::state::{Limits, Place, Values};

/// Where functions are defined, interface by interface.
pub(crate) trait Interfaces {
    type At<'a>: Define
    where
        Self: 'a;

    /// One of `sluice:filter`.
    fn interface(&mut self, name: &'static str) -> Outcome<Self::At<'_>>;
}

impl Interfaces for Linker<CallState> {
    type At<'a> = LinkerInstance<'a, CallState>;

    fn interface(&mut self, name: &'static str) -> Outcome<LinkerInstance<'_, CallState>> {
        // wasmtime links imports of every compatible version to it.
        self.instance(&format!("sluice:filter/{name}@{INTERFACE_VERSION}"))
    }
}

impl Interfaces for ModuleImports {
    type At<'a> = InterfaceImports<'a>;

    fn interface(&mut self, name: &'static str) -> Outcome<InterfaceImports<'_>> {
        Ok(self.of(format!("sluice:filter/{name}")))
    }
}

/// Which of the interfaces that can do both are to wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) limiter: bool,
    pub(crate) concurrency: bool,
    pub(crate) kv: bool,
}

impl Waiting {
    /// Of a plugin with limits and values there.
    pub(crate) fn of(place: Option<&Place>) -> Waiting {
        Waiting {
            limiter: place.is_some_and(|place| place.limits == Limits::Exact),
            concurrency: place.is_some_and(Place::shares_places),
            kv: place.is_some_and(|place| place.values == Values::Shared),
        }
    }

    /// Whether a function waits that by itself does so if `can_wait`.
    pub(crate) fn includes(self, interface: &str, can_wait: bool) -> bool {
        can_wait
            || match interface {
                "limiter" => self.limiter,
                "concurrency" => self.concurrency,
                "kv" => self.kv,
                _ => false,
            }
    }
}

/// Defines every function that does not wait.
pub(crate) fn link(linker: &mut impl Interfaces, waiting: Waiting) -> Outcome<()> {
    linker.interface("types")?;
    guest::link(linker)?;
    request::link(linker)?;
    response::link(linker)?;
    cache::link(linker)?;
    chunk::link(linker)?;
    route::link(linker)?;
    facts::link(linker)?;
    consumers::link(linker)?;
    crypto::link(linker)?;
    services::link(linker)?;
    shared::link(linker, waiting)
}

/// Defines those that do: they put every call of the store on a fiber.
pub(crate) fn link_waiting(linker: &mut impl Interfaces, waiting: Waiting) -> Outcome<()> {
    services::link_waiting(linker)?;
    shared::link_waiting(linker, waiting)?;
    consumers::link_waiting(linker)
}

/// The functions that this gateway has, by interface and name, and whether they can wait.
#[derive(Default)]
pub(crate) struct Functions(HashMap<&'static str, HashMap<String, bool>>);

impl Functions {
    /// Whether the function can wait; `None` where there is no such function.
    pub(crate) fn find(&self, interface: &str, function: &str) -> Option<bool> {
        self.0.get(interface)?.get(function).copied()
    }

    /// The name of a function, as it is kept here.
    fn name(&self, interface: &str, function: &str) -> Option<&str> {
        Some(self.0.get(interface)?.get_key_value(function)?.0)
    }
}

/// The functions that [`link`] and [`link_waiting`] define.
pub(crate) fn functions() -> &'static Functions {
    static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
        let mut functions = Functions::default();
        let plain = Waiting::default();
        let listed = link(&mut functions, plain).and_then(|()| link_waiting(&mut functions, plain));
        listed.expect("listing functions can't fail");
        functions
    });
    &FUNCTIONS
}

impl Interfaces for Functions {
    type At<'a> = InterfaceFunctions<'a>;

    fn interface(&mut self, name: &'static str) -> Outcome<InterfaceFunctions<'_>> {
        Ok(InterfaceFunctions(self.0.entry(name).or_default()))
    }
}

/// Lists the functions of one interface.
pub(crate) struct InterfaceFunctions<'a>(&'a mut HashMap<String, bool>);

impl Define for InterfaceFunctions<'_> {
    fn function<P: Params, R: Lower>(
        &mut self,
        name: &str,
        _: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        self.0.insert(name.to_owned(), false);
        Ok(())
    }

    fn procedure<P: Params>(
        &mut self,
        name: &str,
        _: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<()> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        self.0.insert(name.to_owned(), false);
        Ok(())
    }

    fn waiting<P: OwnedParams, R: Lower>(
        &mut self,
        name: &str,
        _: impl for<'a> Fn(StoreContextMut<'a, CallState>, P::Owned) -> Answering<'a, R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        self.0.insert(name.to_owned(), true);
        Ok(())
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}
