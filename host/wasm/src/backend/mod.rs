//! The two ways to run a component. `direct` calls its core module itself and speaks the canonical ABI (`abi`); `component` leaves both
//! to wasmtime, and takes every component. Each has its compiled code and the instances that this code makes.

pub(crate) mod component;
pub(crate) mod direct;
mod interface;

use std::sync::Arc;

use wasmtime::{Result as Outcome, Store};

use self::component::{ComponentCode, ComponentInstance};
use self::direct::{DirectCode, DirectInstance, NotDirect};
use self::interface::{is_later, newest, our_interface};
use crate::bindings::Verdict;
use crate::call::state::CallState;
use crate::filter::{CallMode, Hook, HookSet, LoadError};
use crate::host::Waiting;
use crate::load::Runtime;

/// Unknown exports that are told of.
const SHOWN: usize = 8;

/// Compiled and linked code of a component.
pub(crate) enum Code {
    /// Its one core module, called directly.
    Direct(Box<DirectCode>),
    /// By wasmtime, as what it is, and the reason for that.
    Component { component: ComponentCode, why: String },
}

impl Code {
    /// Compiles (or finds in the cache) and links a component; nothing of it has run yet.
    pub(crate) fn link(
        runtime: &Arc<Runtime>,
        name: &str,
        bytes: &[u8],
        mode: CallMode,
        waiting: Waiting,
    ) -> Result<Code, LoadError> {
        let why = match mode {
            CallMode::Component => "`call = \"component\"` is configured".to_owned(),
            CallMode::Auto => match DirectCode::link(runtime, name, bytes, waiting) {
                Ok(direct) => return Ok(Code::Direct(Box::new(direct))),
                Err(NotDirect::Unfit(why)) => why,
                Err(NotDirect::Broken(error)) => return Err(error),
            },
        };
        Ok(Code::Component { component: ComponentCode::link(runtime, name, bytes, waiting)?, why })
    }

    /// The hooks that the component exports.
    pub(crate) fn hooks(&self) -> HookSet {
        match self {
            Code::Direct(direct) => direct.hooks(),
            Code::Component { component, .. } => component.hooks(),
        }
    }

    /// Whether it exports `describe`.
    pub(crate) fn describes(&self) -> bool {
        match self {
            Code::Direct(direct) => direct.describes(),
            Code::Component { component, .. } => component.describes(),
        }
    }

    /// Whether it imports functions that can wait, and so is always called on a fiber.
    pub(crate) fn waits(&self) -> bool {
        match self {
            Code::Direct(direct) => direct.waits,
            Code::Component { component, .. } => component.waits,
        }
    }

    /// Whether it imports this interface of the package, given without its version.
    pub(crate) fn imports(&self, interface: &str) -> bool {
        let is_it = |name: &str| our_interface(name).is_ok_and(|known| known == Some(interface));
        match self {
            Code::Direct(direct) => direct.interfaces().any(is_it),
            Code::Component { component, .. } => component.interfaces().any(is_it),
        }
    }

    /// The version of the WIT package that the component was built for.
    pub(crate) fn interface_version(&self) -> Option<&str> {
        match self {
            Code::Direct(direct) => newest(direct.interfaces()),
            Code::Component { component, .. } => newest(component.interfaces()),
        }
    }

    /// The imported interfaces, by their full names.
    pub(crate) fn imported(&self) -> Vec<&str> {
        match self {
            Code::Direct(direct) => direct.imported().collect(),
            Code::Component { component, .. } => component.imported().collect(),
        }
    }

    /// Exported interfaces of a later version of the package that this gateway does not know, and so never calls. The first few: a
    /// component may export any number.
    pub(crate) fn unknown_hooks(&self) -> Vec<String> {
        let exports: Vec<&str> = match self {
            Code::Direct(direct) => direct.exported().collect(),
            Code::Component { component, .. } => component.exported().collect(),
        };
        let unknown = |name: &&str| {
            let Ok(Some(interface)) = our_interface(name) else { return false };
            is_later(name) && !matches!(interface, "describe" | "configure") && Hook::from_name(interface).is_none()
        };
        exports.into_iter().filter(unknown).take(SHOWN).map(str::to_owned).collect()
    }

    /// Makes an instance.
    pub(crate) async fn instantiate(&self, store: &mut Store<CallState>) -> Outcome<GuestInstance> {
        match self {
            Code::Direct(direct) => direct.instantiate(store).await.map(GuestInstance::Direct),
            Code::Component { component, .. } => component.instantiate(store).await.map(GuestInstance::Component),
        }
    }
}

/// An instance of a component in its store.
#[expect(
    clippy::large_enum_variant,
    reason = "almost all are of the large kind, and a box would be one more step at each hook"
)]
pub(crate) enum GuestInstance {
    Direct(DirectInstance),
    Component(ComponentInstance),
}

impl GuestInstance {
    /// The core module's instance, where it is called directly.
    pub(crate) fn as_direct(&self) -> Option<&DirectInstance> {
        match self {
            GuestInstance::Direct(direct) => Some(direct),
            GuestInstance::Component(_) => None,
        }
    }

    /// Hands over the config, if it takes one.
    pub(crate) async fn configure(&self, store: &mut Store<CallState>, config: &str) -> Outcome<Result<(), String>> {
        match self {
            GuestInstance::Direct(direct) => direct.configure(store, config).await,
            GuestInstance::Component(component) => component.configure(store, config.to_owned()).await,
        }
    }

    /// What it says of itself.
    pub(crate) async fn describe(&self, store: &mut Store<CallState>) -> Outcome<Option<String>> {
        match self {
            GuestInstance::Direct(direct) => direct.describe(store).await,
            GuestInstance::Component(component) => component.describe(store).await,
        }
    }

    /// Looks up an exported hook, so that one of another type is found at load.
    pub(crate) fn find(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<()> {
        match self {
            GuestInstance::Direct(direct) => direct.find(store, hook),
            GuestInstance::Component(component) => component.find(store, hook),
        }
    }

    /// Calls a hook and holds the thread until it returns or is stopped.
    #[inline]
    pub(crate) fn call(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<Verdict> {
        match self {
            GuestInstance::Direct(direct) => direct.call(store, hook),
            GuestInstance::Component(component) => component.call(store, hook),
        }
    }

    /// Calls a hook on a fiber: it yields at each tick and where it waits.
    pub(crate) async fn call_on_fiber(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<Verdict> {
        match self {
            GuestInstance::Direct(direct) => direct.call_on_fiber(store, hook).await,
            GuestInstance::Component(component) => component.call_on_fiber(store, hook).await,
        }
    }
}
