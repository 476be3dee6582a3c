//! A component as wasmtime runs it: the way for all that are not called directly (`direct`).

use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    self, ComponentExportIndex, ComponentNamedList, Instance, InstancePre, Lift, Linker, Lower, TypedFunc,
};
use wasmtime::{Result as Outcome, Store};

use super::bindings::Verdict;
use super::cache::Cache;
use super::engine::Runtime;
use super::plugin::our_interface;
use super::state::CallState;
use super::{Hook, HookSet, LoadError, compile, host, wasi};
use sluice_services::log_limit;

/// The interfaces a filter can import, besides WASI 0.2.
const IMPORTS: [&str; 16] = [
    "types", "interest", "request", "response", "route", "state", "context", "log", "clock", "random", "limiter", "kv",
    "http", "crypto", "secrets", "metrics",
];
const KNOWN: &str = "it has sluice:filter@0.1 and a part of WASI 0.2";

/// A compiled and linked component.
pub(super) struct Component {
    pre: InstancePre<CallState>,
    exports: Exports,
    /// Whether it imports functions that can wait.
    pub(super) waits: bool,
}

/// Where the exports of a component are.
#[derive(Default)]
struct Exports {
    describe: Option<ComponentExportIndex>,
    configure: Option<ComponentExportIndex>,
    hooks: [Option<ComponentExportIndex>; Hook::COUNT],
}

impl Component {
    /// Compiles (or finds in the cache) and links.
    pub(super) fn link(runtime: &Arc<Runtime>, bytes: &[u8]) -> Result<Component, LoadError> {
        let component = compiled(runtime, bytes, runtime.cache.as_ref())?;
        let waits = check_imports(runtime, &component)?;
        let exports = find_exports(runtime, &component)?;
        let mut linker = Linker::new(&runtime.engine);
        let failed = |e: wasmtime::Error| LoadError::Link(format!("{e:#}"));
        host::link(&mut linker).map_err(failed)?;
        if waits {
            host::link_waiting(&mut linker).map_err(failed)?;
        }
        wasi::link(&mut linker, &component)?;
        let pre = linker.instantiate_pre(&component).map_err(failed)?;
        Ok(Component { pre, exports, waits })
    }

    /// The hooks that it exports.
    pub(super) fn hooks(&self) -> HookSet {
        Hook::ALL.into_iter().filter(|hook| self.exports.hooks[hook.index()].is_some()).collect()
    }

    /// Whether it says of itself what it is.
    pub(super) fn describes(&self) -> bool {
        self.exports.describe.is_some()
    }

    pub(super) async fn instantiate(&self, store: &mut Store<CallState>) -> Outcome<Running> {
        let instance = self.pre.instantiate_async(store).await?;
        Ok(Running { instance, hooks: [None; Hook::COUNT] })
    }
}

/// An instance of a component.
pub(super) struct Running {
    instance: Instance,
    hooks: [Option<Entry>; Hook::COUNT],
}

/// An exported hook.
#[derive(Clone, Copy)]
enum Entry {
    Verdict(TypedFunc<(), (Verdict,)>),
    Plain(TypedFunc<(), ()>),
}

impl Running {
    /// Hands over the config, if it takes one.
    pub(super) async fn configure(
        &self,
        of: &Component,
        store: &mut Store<CallState>,
        config: String,
    ) -> Outcome<Result<(), String>> {
        let Some(index) = &of.exports.configure else { return Ok(Ok(())) };
        let func: TypedFunc<(String,), (Result<(), String>,)> = self.typed(store, index)?;
        Ok(func.call_async(store, (config,)).await?.0)
    }

    /// What it says of itself.
    pub(super) async fn describe(&self, of: &Component, store: &mut Store<CallState>) -> Outcome<Option<String>> {
        let Some(index) = &of.exports.describe else { return Ok(None) };
        let func: TypedFunc<(), (String,)> = self.typed(store, index)?;
        Ok(Some(func.call_async(store, ()).await?.0))
    }

    /// Finds an exported hook, once.
    pub(super) fn find(&mut self, of: &Component, store: &mut Store<CallState>, hook: Hook) -> Outcome<()> {
        self.entry(of, store, hook).map(|_| ())
    }

    fn entry(&mut self, of: &Component, store: &mut Store<CallState>, hook: Hook) -> Outcome<Entry> {
        if let Some(entry) = self.hooks[hook.index()] {
            return Ok(entry);
        }
        let index = of.exports.hooks[hook.index()].as_ref();
        let index = index.ok_or_else(|| wasmtime::Error::msg(format!("{hook} is not exported")))?;
        let entry = if hook.has_verdict() {
            Entry::Verdict(self.typed(store, index)?)
        } else {
            Entry::Plain(self.typed(store, index)?)
        };
        Ok(*self.hooks[hook.index()].insert(entry))
    }

    /// Calls a hook and holds the thread.
    pub(super) fn call(&mut self, of: &Component, store: &mut Store<CallState>, hook: Hook) -> Outcome<Verdict> {
        match self.entry(of, store, hook)? {
            Entry::Verdict(func) => func.call(store, ()).map(|(verdict,)| verdict),
            Entry::Plain(func) => func.call(store, ()).map(|()| Verdict::Continue),
        }
    }

    /// Calls a hook on a fiber.
    pub(super) async fn call_on_fiber(
        &mut self,
        of: &Component,
        store: &mut Store<CallState>,
        hook: Hook,
    ) -> Outcome<Verdict> {
        match self.entry(of, store, hook)? {
            Entry::Verdict(func) => func.call_async(store, ()).await.map(|(verdict,)| verdict),
            Entry::Plain(func) => func.call_async(store, ()).await.map(|()| Verdict::Continue),
        }
    }

    fn typed<Params, Return>(
        &self,
        store: &mut Store<CallState>,
        index: &ComponentExportIndex,
    ) -> Outcome<TypedFunc<Params, Return>>
    where
        Params: ComponentNamedList + Lower,
        Return: ComponentNamedList + Lift,
    {
        self.instance.get_typed_func(store, index)
    }
}

fn compiled(runtime: &Runtime, bytes: &[u8], cache: Option<&Cache>) -> Result<component::Component, LoadError> {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    compile::compiled(runtime, bytes, &hash, cache)
}

/// Refuses imports that are not there, by name, and answers whether one of them can wait.
fn check_imports(runtime: &Runtime, component: &component::Component) -> Result<bool, LoadError> {
    let mut waits = false;
    for (name, _) in component.component_type().imports(&runtime.engine) {
        if wasi::interface_of(name).is_some() {
            continue;
        }
        let interface = our_interface(name)?.filter(|interface| IMPORTS.contains(interface));
        let Some(interface) = interface else {
            return Err(LoadError::UnknownImport { import: name.to_owned(), known: KNOWN });
        };
        waits |= interface == "http";
    }
    Ok(waits)
}

fn find_exports(runtime: &Runtime, component: &component::Component) -> Result<Exports, LoadError> {
    let mut exports = Exports::default();
    for (name, export) in component.component_type().exports(&runtime.engine) {
        if !matches!(export.ty, ComponentItem::ComponentInstance(_)) {
            continue;
        }
        let Some(interface) = our_interface(name)? else { continue };
        let slot = match interface {
            "describe" => &mut exports.describe,
            "configure" => &mut exports.configure,
            _ => match Hook::from_name(interface) {
                Some(hook) => &mut exports.hooks[hook.index()],
                // A hook of a later version: never called.
                None => continue,
            },
        };
        let instance = component.get_export_index(None, name);
        *slot = instance.and_then(|instance| component.get_export_index(Some(&instance), interface));
        if slot.is_none() {
            return Err(LoadError::Export {
                export: name.to_owned(),
                reason: format!("it has no function `{interface}`"),
            });
        }
    }
    if exports.hooks.iter().all(Option::is_none) {
        let all = component.component_type();
        let names: Vec<_> = all.exports(&runtime.engine).map(|(name, _)| name).collect();
        return Err(LoadError::NoHooks { found: some_of(&names) });
    }
    Ok(exports)
}

/// What an error says of these names.
fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    if names.is_empty() {
        return "and nothing else".to_owned();
    }
    let mut text: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{}`", log_limit::cut(name))).collect();
    if names.len() > SHOWN {
        text.push(format!("{} more", names.len() - SHOWN));
    }
    format!("only {}", text.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_names_are_shown() {
        assert_eq!(some_of(&[]), "and nothing else");
        assert_eq!(some_of(&["a", "b"]), "only `a`, `b`");
        assert_eq!(some_of(&["a", "b", "c", "d", "e", "f"]), "only `a`, `b`, `c`, `d`, 2 more");
    }
}
