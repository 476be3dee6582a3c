//! A component as wasmtime runs it: the way for all that are not called directly (`direct`).

use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    self, ComponentExportIndex, ComponentNamedList, Instance, InstancePre, Lift, Linker, Lower, TypedFunc,
};
use wasmtime::{Error, Result as Outcome, Store, Trap};

use super::interface::{missing_function, our_interface};
use crate::abi::NoSuchCase;
use crate::bindings::Verdict;
use crate::call::state::CallState;
use crate::filter::{Hook, HookSet, LoadError};
use crate::host;
use crate::host::observed::Observed;
use crate::host::{Waiting, wasi};
use crate::load::compile;
use crate::load::engine::Runtime;
use crate::load::process::Subject;
use sluice_services::log_limit;

/// A compiled and linked component.
pub(crate) struct ComponentCode {
    pre: InstancePre<CallState>,
    exports: Arc<Exports>,
    /// The imported and the exported interfaces, by their full names.
    imported: Vec<String>,
    exported: Vec<String>,
    /// Whether it imports functions that can wait.
    pub(crate) waits: bool,
}

/// Where the exports of a component are. Shared with its instances.
#[derive(Default)]
struct Exports {
    describe: Option<ComponentExportIndex>,
    configure: Option<ComponentExportIndex>,
    hooks: [Option<ComponentExportIndex>; Hook::COUNT],
}

impl ComponentCode {
    /// Compiles (or finds in the cache) and links.
    pub(crate) fn link(
        runtime: &Arc<Runtime>,
        name: &str,
        bytes: &[u8],
        waiting: Waiting,
    ) -> Result<ComponentCode, LoadError> {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        let subject = Subject { name, can_wait: true };
        let component: component::Component =
            compile::compiled(runtime, subject, bytes, &hash, runtime.cache.as_ref())?;
        let waits = check_imports(runtime, &component, waiting)?;
        let exports = find_exports(runtime, &component)?;
        let mut linker = Linker::new(&runtime.engine);
        let failed = |e: Error| LoadError::Link(format!("{e:#}"));
        let is_observed = runtime.options.observer.is_some();
        match is_observed {
            false => host::link(&mut linker, waiting).map_err(failed)?,
            true => host::link(&mut Observed(&mut linker), waiting).map_err(failed)?,
        }
        match (waits, is_observed) {
            (false, _) => {}
            (true, false) => host::link_waiting(&mut linker, waiting).map_err(failed)?,
            (true, true) => host::link_waiting(&mut Observed(&mut linker), waiting).map_err(failed)?,
        }
        wasi::link(&mut linker, &component)?;
        let pre = linker.instantiate_pre(&component).map_err(failed)?;
        let ty = component.component_type();
        let imported = ty.imports(&runtime.engine).map(|(name, _)| name.to_owned()).collect();
        let exported = ty.exports(&runtime.engine).map(|(name, _)| name.to_owned()).collect();
        Ok(ComponentCode { pre, exports: Arc::new(exports), imported, exported, waits })
    }

    /// The hooks that it exports.
    pub(crate) fn hooks(&self) -> HookSet {
        Hook::ALL.into_iter().filter(|hook| self.exports.hooks[hook.index()].is_some()).collect()
    }

    /// Whether it says of itself what it is.
    pub(crate) fn describes(&self) -> bool {
        self.exports.describe.is_some()
    }

    /// The exported interfaces, by their full names.
    pub(crate) fn exported(&self) -> impl Iterator<Item = &str> {
        self.exported.iter().map(String::as_str)
    }

    /// The imported and exported interfaces, by their full names.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.imported().chain(self.exported())
    }

    /// The imported interfaces, by their full names.
    pub(crate) fn imported(&self) -> impl Iterator<Item = &str> {
        self.imported.iter().map(String::as_str)
    }

    pub(crate) async fn instantiate(&self, store: &mut Store<CallState>) -> Outcome<ComponentInstance> {
        let instance = self.pre.instantiate_async(store).await.map_err(typed)?;
        Ok(ComponentInstance { instance, exports: self.exports.clone(), hooks: [None; Hook::COUNT] })
    }
}

/// An instance of a component.
pub(crate) struct ComponentInstance {
    instance: Instance,
    exports: Arc<Exports>,
    /// Looked up at the first call.
    hooks: [Option<HookFunction>; Hook::COUNT],
}

/// An exported hook.
#[derive(Clone, Copy)]
enum HookFunction {
    Verdict(TypedFunc<(), (Verdict,)>),
    Plain(TypedFunc<(), ()>),
}

impl ComponentInstance {
    /// Hands over the config, if it takes one.
    pub(crate) async fn configure(&self, store: &mut Store<CallState>, config: String) -> Outcome<Result<(), String>> {
        let Some(index) = &self.exports.configure else { return Ok(Ok(())) };
        let func: TypedFunc<(String,), (Result<(), String>,)> = self.typed(store, index)?;
        Ok(func.call_async(store, (config,)).await.map_err(typed)?.0)
    }

    /// What it says of itself.
    pub(crate) async fn describe(&self, store: &mut Store<CallState>) -> Outcome<Option<String>> {
        let Some(index) = &self.exports.describe else { return Ok(None) };
        let func: TypedFunc<(), (String,)> = self.typed(store, index)?;
        Ok(Some(func.call_async(store, ()).await.map_err(typed)?.0))
    }

    /// Finds an exported hook, once.
    pub(crate) fn find(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<()> {
        self.function(store, hook).map(|_| ())
    }

    fn function(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<HookFunction> {
        if let Some(entry) = self.hooks[hook.index()] {
            return Ok(entry);
        }
        let index = self.exports.hooks[hook.index()].as_ref();
        let index = index.ok_or_else(|| Error::msg(format!("{hook} is not exported")))?;
        let entry = if hook.has_verdict() {
            HookFunction::Verdict(self.typed(store, index)?)
        } else {
            HookFunction::Plain(self.typed(store, index)?)
        };
        Ok(*self.hooks[hook.index()].insert(entry))
    }

    /// Calls a hook and holds the thread.
    pub(crate) fn call(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<Verdict> {
        match self.function(store, hook)? {
            HookFunction::Verdict(func) => func.call(store, ()).map(|(verdict,)| verdict).map_err(typed),
            HookFunction::Plain(func) => func.call(store, ()).map(|()| Verdict::Continue).map_err(typed),
        }
    }

    /// Calls a hook on a fiber.
    pub(crate) async fn call_on_fiber(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<Verdict> {
        match self.function(store, hook)? {
            HookFunction::Verdict(func) => func.call_async(store, ()).await.map(|(verdict,)| verdict).map_err(typed),
            HookFunction::Plain(func) => func.call_async(store, ()).await.map(|()| Verdict::Continue).map_err(typed),
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

/// Refuses imports that are not there, by name, and answers whether one of them can wait.
fn check_imports(runtime: &Runtime, component: &component::Component, waiting: Waiting) -> Result<bool, LoadError> {
    let known = host::functions();
    let mut waits = false;
    for (name, import) in component.component_type().imports(&runtime.engine) {
        if wasi::interface_of(name).is_some() {
            continue;
        }
        let Some(interface) = our_interface(name)? else {
            return Err(LoadError::UnknownImport { import: name.to_owned() });
        };
        let ComponentItem::ComponentInstance(instance) = import.ty else { continue };
        for (function, item) in instance.exports(&runtime.engine) {
            if !matches!(item.ty, ComponentItem::ComponentFunc(_)) {
                continue;
            }
            match known.find(interface, function) {
                Some(can_wait) => waits |= waiting.includes(interface, can_wait),
                None => return Err(missing_function(name, function)),
            }
        }
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
                // A hook of a later version: never called, and `Code::unknown_hooks` says so.
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

/// An error of wasmtime with a type, where it has none: a value that is no case of its type. Its text is all that tells it apart, and the
/// tests of both backends hold that it does.
fn typed(error: Error) -> Error {
    const TEXTS: [&str; 3] =
        ["unexpected discriminant", "invalid option discriminant", "invalid expected discriminant"];
    if error.is::<Trap>() {
        return error;
    }
    let cause = error.root_cause().to_string();
    if TEXTS.iter().any(|text| cause.starts_with(text)) { Error::new(NoSuchCase(cause)) } else { error }
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
