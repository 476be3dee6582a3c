//! A component that is one core module and the plumbing around it (`unbundle`): that module is instantiated and called directly, its
//! imports being functions of the gateway that speak the canonical ABI themselves (`abi`). What a guest sees is the same.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::{
    Error, ExternType, Instance, InstancePre, Module, ModuleExport, Mutability, Result as Outcome, Store, TypedFunc,
    ValType, bail,
};

use super::interface::{missing_function, our_interface};
use crate::abi::define::ModuleImports;
use crate::bindings::Verdict;
use crate::call::guest::Guest;
use crate::call::state::CallState;
use crate::filter::{Hook, HookSet, LoadError};
use crate::host::observed::Observed;
use crate::host::{Waiting, wasi};
use crate::load::cache::Cache;
use crate::load::compile;
use crate::load::engine::Runtime;
use crate::load::process::Subject;
use crate::load::unbundle::{Imported, Unbundled, unbundle};
use crate::{abi, host};

/// A compiled and linked core module.
pub(crate) struct DirectCode {
    pre: InstancePre<CallState>,
    /// What the component says of its module, which is the same for an image of it.
    names: Arc<Unbundled>,
    start: Option<ModuleExport>,
    exports: Arc<Exports>,
    /// Whether it imports functions that can wait.
    pub(crate) waits: bool,
    /// Which of the functions that can do both wait.
    waiting: Waiting,
}

/// Where the exports of a module are. Shared with its instances.
struct Exports {
    /// None where all that goes in and out are numbers.
    memory: Option<ModuleExport>,
    realloc: Option<ModuleExport>,
    describe: Option<Function>,
    configure: Option<Function>,
    hooks: [Option<Function>; Hook::COUNT],
}

/// An exported function, and the one to call when its answer was read.
#[derive(Clone, Copy)]
struct Function {
    call: ModuleExport,
    after: Option<ModuleExport>,
}

impl DirectCode {
    /// Takes the component apart, compiles the module (or finds it in the cache) and links it.
    pub(crate) fn link(
        runtime: &Arc<Runtime>,
        name: &str,
        component: &[u8],
        waiting: Waiting,
    ) -> Result<DirectCode, NotDirect> {
        let names = Arc::new(unbundle(component)?);
        let bytes = module_of(&names, component)?;
        check(&names)?;
        if let Some(missing) = missing(&names) {
            return Err(NotDirect::Broken(missing));
        }
        let subject = Subject { name, can_wait: true };
        DirectCode::of(runtime, subject, &names, bytes, waiting, runtime.cache.as_ref(), false)
    }

    /// The core module of the component that this is made of.
    pub(crate) fn module_of<'a>(&self, component: &'a [u8]) -> Result<&'a [u8], String> {
        module_of(&self.names, component)
    }

    /// The same with a module that exports more.
    pub(crate) fn opened(&self, runtime: &Arc<Runtime>, name: &str, bytes: &[u8]) -> Result<DirectCode, String> {
        let subject = Subject { name, can_wait: true };
        let cache = runtime.cache.as_ref();
        let opened = DirectCode::of(runtime, subject, &self.names, bytes, self.waiting, cache, false);
        opened.map_err(|error| error.to_string())
    }

    /// The same with a module that begins as one that has run. It has all that the config said, secrets included: neither it nor what it
    /// is compiled to gets to the disk.
    pub(crate) fn image(&self, runtime: &Arc<Runtime>, name: &str, bytes: &[u8]) -> Result<DirectCode, String> {
        // The image of the next load will be another one.
        let subject = Subject { name, can_wait: false };
        let image = DirectCode::of(runtime, subject, &self.names, bytes, self.waiting, None, true);
        image.map_err(|error| error.to_string())
    }

    fn of(
        runtime: &Arc<Runtime>,
        subject: Subject<'_>,
        names: &Arc<Unbundled>,
        bytes: &[u8],
        waiting: Waiting,
        cache: Option<&Cache>,
        has_run: bool,
    ) -> Result<DirectCode, NotDirect> {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        let module: Module = compile::compiled(runtime, subject, bytes, &hash, cache).map_err(NotDirect::Broken)?;
        let (pre, waits) = linked(runtime, names, &module, waiting).map_err(|error| format!("{error:#}"))?;
        check_realloc(names, &module)?;
        let find = |name: &str| module.get_export_index(name).ok_or_else(|| format!("it has no export `{name}`"));
        let mut exports = Exports {
            memory: names.memory.as_deref().map(find).transpose()?,
            realloc: names.realloc.as_deref().map(find).transpose()?,
            describe: None,
            configure: None,
            hooks: [None; Hook::COUNT],
        };
        for export in &names.exports {
            let Some(slot) = ours(&export.interface, &export.name).and_then(|interface| exports.slot(interface)) else {
                continue;
            };
            let after = export.post_return.as_deref().map(find).transpose()?;
            *slot = Some(Function { call: find(&export.function)?, after });
        }
        Ok(DirectCode {
            pre,
            names: names.clone(),
            start: names.start.as_deref().filter(|_| !has_run).map(find).transpose()?,
            exports: Arc::new(exports),
            waits,
            waiting,
        })
    }

    /// The globals that can change and are exported.
    pub(crate) fn globals(&self) -> Vec<ModuleExport> {
        let module = self.pre.module();
        let changing = module.exports().filter(
            |export| matches!(export.ty(), ExternType::Global(global) if global.mutability() == Mutability::Var),
        );
        changing.filter_map(|export| module.get_export_index(export.name())).collect()
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
        self.names.interfaces.iter().map(String::as_str)
    }

    /// The imported and exported interfaces, by their full names.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.imported().chain(self.exported())
    }

    /// The imported interfaces, by their full names, as often as there are functions of them.
    pub(crate) fn imported(&self) -> impl Iterator<Item = &str> {
        self.names.imports.iter().map(|import| import.interface())
    }

    pub(crate) async fn instantiate(&self, store: &mut Store<CallState>) -> Outcome<DirectInstance> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        let running = self.enter(store, instance)?;
        if let Some(start) = &self.start {
            let start: TypedFunc<(), ()> = function(&instance, store, start)?;
            start.call_async(store, ()).await?;
        }
        Ok(running)
    }

    /// Instantiates a module that has run, and holds the thread until that is done.
    pub(crate) fn instantiate_now(&self, store: &mut Store<CallState>) -> Outcome<DirectInstance> {
        let instance = self.pre.instantiate(&mut *store)?;
        self.enter(store, instance)
    }

    fn enter(&self, store: &mut Store<CallState>, instance: Instance) -> Outcome<DirectInstance> {
        let exports = &self.exports;
        let mut find = |export: Option<&ModuleExport>| instance.get_module_export(&mut *store, export?);
        let memory = find(exports.memory.as_ref()).and_then(wasmtime::Extern::into_memory);
        let realloc = find(exports.realloc.as_ref());
        if memory.is_none() && exports.memory.is_some() {
            bail!("the module lacks the memory that it has");
        }
        let realloc = realloc.and_then(wasmtime::Extern::into_func);
        store.data_mut().guest = Guest { memory, realloc, ..Guest::default() };
        Ok(DirectInstance { instance, exports: exports.clone(), hooks: [const { None }; Hook::COUNT] })
    }
}

impl Exports {
    /// Where the function of one of our interfaces is kept, if it is known.
    fn slot(&mut self, interface: &str) -> Option<&mut Option<Function>> {
        match interface {
            "describe" => Some(&mut self.describe),
            "configure" => Some(&mut self.configure),
            _ => Hook::from_name(interface).map(|hook| &mut self.hooks[hook.index()]),
        }
    }
}

fn module_of<'a>(names: &Unbundled, component: &'a [u8]) -> Result<&'a [u8], String> {
    component.get(names.module.clone()).ok_or_else(|| "its module is not where it should be".into())
}

/// Why a component is not called directly.
pub(crate) enum NotDirect {
    /// It can be run as what it is.
    Unfit(String),
    /// It can't be run at all.
    Broken(LoadError),
}

impl From<String> for NotDirect {
    fn from(why: String) -> NotDirect {
        NotDirect::Unfit(why)
    }
}

impl From<&str> for NotDirect {
    fn from(why: &str) -> NotDirect {
        NotDirect::Unfit(why.to_owned())
    }
}

impl fmt::Display for NotDirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotDirect::Unfit(why) => f.write_str(why),
            NotDirect::Broken(error) => error.fmt(f),
        }
    }
}

/// The interface of ours whose function an export is: both have one name.
fn ours<'a>(interface: &'a str, function: &str) -> Option<&'a str> {
    our_interface(interface).ok().flatten().filter(|interface| *interface == function)
}

/// The type of the function of one of our interfaces; none for one of a later version, which is never called.
fn signature(interface: &str) -> Option<&'static str> {
    match interface {
        "describe" => Some("() -> string"),
        "configure" => Some("(string) -> result<_, string>"),
        _ => Hook::from_name(interface)
            .map(|hook| if hook.has_verdict() { "() -> enum{continue, respond}" } else { "()" }),
    }
}

/// What can be told before the module is compiled: every function that we may call is there, and of its type.
fn check(names: &Unbundled) -> Result<(), String> {
    let mut hooks = 0;
    for exported in &names.interfaces {
        let Some(interface) = our_interface(exported).map_err(|error| error.to_string())? else { continue };
        let Some(signature) = signature(interface) else { continue };
        let export = names.exports.iter().find(|export| export.interface == *exported && export.name == interface);
        let Some(export) = export else { return Err(format!("its `{exported}` has no function `{interface}`")) };
        if export.signature != signature {
            return Err(format!("its `{interface}` has the type {}", export.signature));
        }
        if signature == "()" && export.post_return.is_some() {
            return Err(format!("its `{interface}` has something to do after it"));
        }
        hooks += usize::from(Hook::from_name(interface).is_some());
    }
    for import in &names.imports {
        if wasi::interface_of(import.interface()).is_none() {
            our_interface(import.interface()).map_err(|error| error.to_string())?;
        }
    }
    if hooks == 0 { Err("it has no hook".into()) } else { Ok(()) }
}

/// A function of ours that is imported and not here. As a component it would lack it too, so neither is worth compiling.
fn missing(names: &Unbundled) -> Option<LoadError> {
    names.imports.iter().find_map(|import| {
        let Imported::Function { interface, name, .. } = &import.what else { return None };
        let known = our_interface(interface).ok().flatten()?;
        host::functions().find(known, name).is_none().then(|| missing_function(interface, name))
    })
}

/// Defines all that the module imports, and answers whether some of it can wait.
fn linked(
    runtime: &Runtime,
    names: &Unbundled,
    module: &Module,
    waiting: Waiting,
) -> Outcome<(InstancePre<CallState>, bool)> {
    let mut linker = wasmtime::Linker::new(&runtime.engine);
    // A module may import a function twice.
    linker.allow_shadowing(true);
    let mut imports = ModuleImports { linker, left: names.imports.clone() };
    let is_observed = runtime.options.observer.is_some();
    match is_observed {
        false => host::link(&mut imports, waiting)?,
        true => host::link(&mut Observed(&mut imports), waiting)?,
    }
    let plain = imports.left.len();
    match is_observed {
        false => host::link_waiting(&mut imports, waiting)?,
        true => host::link_waiting(&mut Observed(&mut imports), waiting)?,
    }
    let waits = imports.left.len() < plain;
    wasi::link_direct(&mut imports, module)?;
    if let Some(unknown) = imports.left.first() {
        bail!("the gateway has nothing for its import `{}` `{}`", unknown.module, unknown.name);
    }
    Ok((imports.linker.instantiate_pre(module)?, waits))
}

/// What is not checked when functions are looked up.
fn check_realloc(names: &Unbundled, module: &Module) -> Result<(), String> {
    let Some(realloc) = &names.realloc else { return Ok(()) };
    let Some(ExternType::Func(ty)) = module.get_export(realloc) else {
        return Err(format!("its `{realloc}` is no function"));
    };
    let is_number = |ty: ValType| matches!(ty, ValType::I32);
    if ty.params().len() == 4 && ty.results().len() == 1 && ty.params().chain(ty.results()).all(is_number) {
        return Ok(());
    }
    Err(format!("its `{realloc}` has another type"))
}

/// An instance of a module.
pub(crate) struct DirectInstance {
    pub(crate) instance: Instance,
    exports: Arc<Exports>,
    /// Looked up at the first call.
    hooks: [Option<HookFunction>; Hook::COUNT],
}

/// An exported hook.
enum HookFunction {
    /// And what to call when the verdict was read.
    Verdict(TypedFunc<(), u32>, Option<TypedFunc<u32, ()>>),
    Plain(TypedFunc<(), ()>),
}

impl DirectInstance {
    /// Hands over the config, if it takes one.
    pub(crate) async fn configure(&self, store: &mut Store<CallState>, config: &str) -> Outcome<Result<(), String>> {
        let Some(function) = self.exports.configure else { return Ok(Ok(())) };
        let at = self.make_room(store, config.len()).await?;
        abi::write(store, at, config.as_bytes())?;
        let configure: TypedFunc<(u32, u32), u32> = self.typed(store, &function.call)?;
        let answer = configure.call_async(&mut *store, (at, config.len() as u32)).await?;
        let refused = abi::read_refusal(store, answer)?;
        self.finish(function, store, answer).await?;
        Ok(refused.map_or(Ok(()), Err))
    }

    /// What it says of itself.
    pub(crate) async fn describe(&self, store: &mut Store<CallState>) -> Outcome<Option<String>> {
        let Some(function) = self.exports.describe else { return Ok(None) };
        let describe: TypedFunc<(), u32> = self.typed(store, &function.call)?;
        let answer = describe.call_async(&mut *store, ()).await?;
        let text = abi::read_text(store, answer)?;
        self.finish(function, store, answer).await?;
        Ok(Some(text))
    }

    /// Room for an argument.
    async fn make_room(&self, store: &mut Store<CallState>, size: usize) -> Outcome<u32> {
        let Some(realloc) = store.data().guest.realloc else { bail!("the guest has no `realloc`") };
        let realloc: TypedFunc<(u32, u32, u32, u32), u32> = realloc.typed(&mut *store)?;
        store.data_mut().guest.may_not_call = true;
        let at = realloc.call_async(&mut *store, (0, 0, 1, u32::try_from(size)?)).await?;
        store.data_mut().guest.may_not_call = false;
        Ok(at)
    }

    /// Has the guest give back the room of its answer.
    async fn finish(&self, function: Function, store: &mut Store<CallState>, answer: u32) -> Outcome<()> {
        let Some(after) = function.after else { return Ok(()) };
        let after: TypedFunc<u32, ()> = self.typed(store, &after)?;
        store.data_mut().guest.may_not_call = true;
        after.call_async(&mut *store, answer).await?;
        store.data_mut().guest.may_not_call = false;
        Ok(())
    }

    /// Finds an exported hook, once.
    pub(crate) fn find(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<()> {
        self.function(store, hook).map(|_| ())
    }

    #[inline]
    fn function(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<&HookFunction> {
        if self.hooks[hook.index()].is_none() {
            self.hooks[hook.index()] = Some(self.look_up(store, hook)?);
        }
        self.hooks[hook.index()].as_ref().ok_or_else(|| Error::msg("a hook is missing"))
    }

    #[cold]
    fn look_up(&self, store: &mut Store<CallState>, hook: Hook) -> Outcome<HookFunction> {
        let Some(function) = &self.exports.hooks[hook.index()] else { bail!("{hook} is not exported") };
        if !hook.has_verdict() {
            return self.typed(store, &function.call).map(HookFunction::Plain);
        }
        let after = function.after.map(|after| self.typed(store, &after)).transpose()?;
        Ok(HookFunction::Verdict(self.typed(store, &function.call)?, after))
    }

    /// Calls a hook and holds the thread.
    pub(crate) fn call(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<Verdict> {
        match self.function(store, hook)? {
            HookFunction::Verdict(func, after) => {
                let verdict = func.call(&mut *store, ())?;
                if let Some(after) = after {
                    store.data_mut().guest.may_not_call = true;
                    after.call(store, verdict)?;
                }
                abi::verdict(verdict)
            }
            HookFunction::Plain(func) => func.call(store, ()).map(|()| Verdict::Continue),
        }
    }

    /// Calls a hook on a fiber.
    pub(crate) async fn call_on_fiber(&mut self, store: &mut Store<CallState>, hook: Hook) -> Outcome<Verdict> {
        match self.function(store, hook)? {
            HookFunction::Verdict(func, after) => {
                let verdict = func.call_async(&mut *store, ()).await?;
                if let Some(after) = after {
                    store.data_mut().guest.may_not_call = true;
                    after.call_async(store, verdict).await?;
                }
                abi::verdict(verdict)
            }
            HookFunction::Plain(func) => func.call_async(store, ()).await.map(|()| Verdict::Continue),
        }
    }

    fn typed<Params, Results>(
        &self,
        store: &mut Store<CallState>,
        export: &ModuleExport,
    ) -> Outcome<TypedFunc<Params, Results>>
    where
        Params: wasmtime::WasmParams,
        Results: wasmtime::WasmResults,
    {
        function(&self.instance, store, export)
    }
}

fn function<Params, Results>(
    instance: &Instance,
    store: &mut Store<CallState>,
    export: &ModuleExport,
) -> Outcome<TypedFunc<Params, Results>>
where
    Params: wasmtime::WasmParams,
    Results: wasmtime::WasmResults,
{
    let found = instance.get_module_export(&mut *store, export).and_then(wasmtime::Extern::into_func);
    found.ok_or_else(|| Error::msg("an exported function is missing"))?.typed(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component with two hooks, the second of which has this function.
    fn hooks(second: &str) -> Unbundled {
        let text = format!(
            r#"(component
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f")))
                (instance $first (export "select-upstream" (func $f)))
                (export "sluice:filter/select-upstream@0.1.1" (instance $first))
                (instance $second {second})
                (export "sluice:filter/on-complete@0.1.1" (instance $second)))"#
        );
        unbundle(&wat::parse_str(&text).unwrap()).unwrap()
    }

    #[test]
    fn a_hook_without_its_function_is_found() {
        assert_eq!(check(&hooks(r#"(export "on-complete" (func $f))"#)), Ok(()));
        for second in ["", r#"(export "on-completed" (func $f))"#] {
            let why = check(&hooks(second)).unwrap_err();
            assert_eq!(why, "its `sluice:filter/on-complete@0.1.1` has no function `on-complete`");
        }
    }
}
