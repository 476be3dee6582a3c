//! How an instance that is called directly is reached from a host function.

use wasmtime::{Error, Func, Memory, Result as Outcome, bail};

/// How an instance that is called directly is reached; empty for one that wasmtime calls as a component.
#[derive(Default)]
pub(crate) struct Guest {
    pub(crate) memory: Option<Memory>,
    pub(crate) realloc: Option<Func>,
    /// It runs only to make room or to take room back, and can call no function of the gateway meanwhile.
    pub(crate) may_not_call: bool,
    /// A function of the gateway waits for it: it may not be suspended.
    pub(crate) is_within: bool,
}

impl Guest {
    /// Its memory, when it calls a function of the gateway. There is none yet while the module's own start function runs.
    pub(crate) fn calls(&self) -> Outcome<Option<Memory>> {
        if self.may_not_call {
            bail!("a function of the gateway was called by `realloc` or a post-return");
        }
        Ok(self.memory)
    }

    /// Its memory, when values lie in it.
    pub(crate) fn called(&self) -> Outcome<Memory> {
        ready(self.calls()?)
    }
}

pub(crate) fn ready(memory: Option<Memory>) -> Outcome<Memory> {
    memory.ok_or_else(|| Error::msg("a function of the gateway was called before the guest was ready"))
}
