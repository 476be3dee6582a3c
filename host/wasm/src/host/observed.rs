//! The functions of the host, each telling an observer that it is called. Linked in their place for tests of filters, so that a gateway pays
//! nothing for it.

use wasmtime::{Result as Outcome, StoreContextMut};

use super::{Interfaces, functions};
use crate::abi::define::{Answering, Define};
use crate::abi::{Lower, OwnedParams, Params};
use crate::call::state::CallState;

/// Defines functions that are observed.
pub(crate) struct Observed<'i, I>(pub(crate) &'i mut I);

/// The same of one interface.
pub(crate) struct ObservedInterface<D> {
    at: D,
    interface: &'static str,
}

impl<I: Interfaces> Interfaces for Observed<'_, I> {
    type At<'a>
        = ObservedInterface<I::At<'a>>
    where
        Self: 'a;

    fn interface(&mut self, name: &'static str) -> Outcome<Self::At<'_>> {
        Ok(ObservedInterface { at: self.0.interface(name)?, interface: name })
    }
}

/// The name of a function of ours, for as long as the process lives.
fn lasting(interface: &str, function: &str) -> &'static str {
    functions().name(interface, function).unwrap_or("(unknown)")
}

impl CallState {
    fn observe(&self, interface: &'static str, function: &'static str) {
        if let Some(observer) = self.shared.observer.as_ref().filter(|_| !self.is_rehearsal) {
            observer.calls(interface, function, self.memory.bytes);
        }
    }
}

impl<D: Define> Define for ObservedInterface<D> {
    fn function<P: Params, R: Lower>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        let (interface, function) = (self.interface, lasting(self.interface, name));
        self.at.function::<P, R>(name, move |state, params| {
            state.observe(interface, function);
            run(state, params)
        })
    }

    fn procedure<P: Params>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<()> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        let (interface, function) = (self.interface, lasting(self.interface, name));
        self.at.procedure::<P>(name, move |state, params| {
            state.observe(interface, function);
            run(state, params)
        })
    }

    fn waiting<P: OwnedParams, R: Lower>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(StoreContextMut<'a, CallState>, P::Owned) -> Answering<'a, R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        let (interface, function) = (self.interface, lasting(self.interface, name));
        self.at.waiting::<P, R>(name, move |cx, owned| {
            cx.data().observe(interface, function);
            run(cx, owned)
        })
    }
}
