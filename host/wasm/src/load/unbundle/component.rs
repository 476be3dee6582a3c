//! A component as its sections are read: what its index spaces hold, and where its plumbing leads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use wasmparser::component_types::{ComponentAnyTypeId, ComponentEntityType};
use wasmparser::types::{CoreTypeId, TypesRef};
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExport, ComponentExternalKind, ComponentImport,
    ComponentInstance, ComponentTypeRef, Encoding, ExternalKind, Payload, TypeBounds,
};

use super::module::{Fixup, Main, Module, Names, Shim, Slot};
use super::nested::{Nested, refuse_resources};
use super::types::{self, Budget, Resources};
use super::{Export, Import, Imported, Unbundled, invalid};

/// The item of an index space. Indices are checked by then, but not by this code.
pub(super) fn at<T>(items: &[T], index: u32) -> Result<&T, String> {
    usize::try_from(index).ok().and_then(|index| items.get(index)).ok_or_else(|| "an index is out of range".into())
}

/// A core function of the component.
#[derive(Clone, Copy)]
enum CoreFunction<'a> {
    /// What the host has to provide: its place in `provided`.
    Provided(usize),
    /// A function of the main module that it exports under this name.
    Main(&'a str, u32),
    /// What this slot of the shim's table will hold.
    Slot(Slot),
    /// It may be there, but can't be used.
    Other,
}

#[derive(Clone, Copy)]
enum CoreItem<'a> {
    Function(CoreFunction<'a>),
    /// The table of the shim.
    Table,
    /// A memory of the main module that it exports under this name.
    Memory(&'a str, u32),
    Other,
}

/// What a slot of the shim holds: a place in `provided`, and the type it has there.
struct Filled {
    provided: usize,
    ty: CoreTypeId,
}

enum CoreInstance<'a> {
    Main,
    Shim,
    Fixup,
    Items(HashMap<&'a str, CoreItem<'a>>),
}

#[derive(Clone, Copy)]
enum Function<'a> {
    /// Interface and name.
    Imported(Names<'a>),
    /// Its place in `lifted`.
    Lifted(usize),
}

#[derive(Clone, Copy)]
enum Instance<'a> {
    Imported(&'a str),
    /// Its place in `bundles`.
    Bundle(usize),
}

struct Lifted<'a> {
    function: &'a str,
    post_return: Option<&'a str>,
    signature: String,
}

/// A component as far as it has been read.
#[derive(Default)]
pub(super) struct Component<'a> {
    budget: Budget,
    resources: Resources,

    /// Those that are not instantiated yet.
    modules: Vec<Option<Module<'a>>>,
    has_main: bool,
    core_instances: Vec<CoreInstance<'a>>,
    core_functions: Vec<CoreFunction<'a>>,
    memories: Vec<CoreItem<'a>>,
    tables: Vec<CoreItem<'a>>,
    nested: Vec<Vec<Names<'a>>>,
    instances: Vec<Instance<'a>>,
    functions: Vec<Function<'a>>,

    provided: Vec<Imported>,
    lifted: Vec<Lifted<'a>>,
    /// The functions in instances that the component makes.
    bundles: Vec<Vec<(&'a str, Function<'a>)>>,
    exports: Vec<(&'a str, usize)>,

    /// The main module, and what its imports were given; there when it was instantiated.
    main: Option<(Main<'a>, Vec<CoreFunction<'a>>)>,
    shim: Option<Shim<'a>>,
    /// What was written to the slots of the shim.
    slots: HashMap<u32, Filled>,
    start: Option<&'a str>,
    memory: Option<(&'a str, u32)>,
    realloc: Option<(&'a str, u32)>,
}

impl<'a> Component<'a> {
    /// Takes in a section that was found to be valid, by the types of the component up to its end.
    pub(super) fn read(&mut self, payload: Payload<'a>, types: TypesRef<'_>) -> Result<(), String> {
        match payload {
            Payload::Version { encoding: Encoding::Component, .. }
            | Payload::CustomSection(_)
            | Payload::CoreTypeSection(_) => Ok(()),
            Payload::ComponentTypeSection(section) => refuse_resources(section),
            Payload::ComponentImportSection(section) => each(section, |import| self.import(import, types)),
            Payload::ComponentAliasSection(section) => each(section, |alias| self.alias(alias)),
            Payload::ComponentCanonicalSection(section) => each(section, |function| self.canonical(function, types)),
            Payload::InstanceSection(section) => each(section, |instance| self.core_instance(instance)),
            Payload::ComponentInstanceSection(section) => each(section, |instance| self.instance(instance)),
            Payload::ComponentExportSection(section) => each(section, |export| self.export(export)),
            Payload::Version { .. } => Err("it is not a component".into()),
            _ => Err("it has a section of an unknown kind".into()),
        }
    }

    pub(super) fn add_module(&mut self, module: Module<'a>) -> Result<(), String> {
        if matches!(module, Module::Main(_)) && std::mem::replace(&mut self.has_main, true) {
            return Err("it has two core modules that are more than plumbing".into());
        }
        self.modules.push(Some(module));
        Ok(())
    }

    pub(super) fn add_nested(&mut self, nested: Nested<'a>) {
        self.nested.push(nested.exports);
    }

    fn import(&mut self, import: ComponentImport<'a>, types: TypesRef<'_>) -> Result<(), String> {
        let name = import.name.name;
        match import.ty {
            ComponentTypeRef::Instance(_) => {
                let item = types.component_item_for_import(name).map(|item| item.ty);
                let Some(ComponentEntityType::Instance(instance)) = item else {
                    return Err(format!("its import `{name}` is not known"));
                };
                self.resources.add_import(types, name, instance, &mut self.budget)?;
                self.instances.push(Instance::Imported(name));
                Ok(())
            }
            ComponentTypeRef::Type(TypeBounds::Eq(_)) => Ok(()),
            _ => Err(format!("its import `{name}` is no interface")),
        }
    }

    fn alias(&mut self, alias: ComponentAlias<'a>) -> Result<(), String> {
        match alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Type, .. } => {}
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Func, instance_index, name } => {
                let Instance::Imported(interface) = *at(&self.instances, instance_index)? else {
                    return Err("it takes a function from an instance of its own".into());
                };
                self.functions.push(Function::Imported((interface, name)));
            }
            ComponentAlias::CoreInstanceExport { kind, instance_index, name } => {
                let item = self.core_item(instance_index, name)?;
                match kind {
                    ExternalKind::Func => self.core_functions.push(match item {
                        CoreItem::Function(function) => function,
                        _ => CoreFunction::Other,
                    }),
                    ExternalKind::Memory => self.memories.push(item),
                    ExternalKind::Table => self.tables.push(item),
                    // Nobody asks what these are.
                    ExternalKind::Global | ExternalKind::Tag => {}
                    ExternalKind::FuncExact => return Err("it has an alias of an unknown kind".into()),
                }
            }
            _ => return Err("it has an alias of an unknown kind".into()),
        }
        Ok(())
    }

    /// What a core instance exports under a name.
    fn core_item(&self, instance: u32, name: &str) -> Result<CoreItem<'a>, String> {
        Ok(match at(&self.core_instances, instance)? {
            CoreInstance::Main => {
                let (main, _) = self.main.as_ref().ok_or("its main module is not instantiated")?;
                match main.exports.get_key_value(name) {
                    Some((name, (ExternalKind::Func, index))) if main.defines(*index) => {
                        CoreItem::Function(CoreFunction::Main(name, *index))
                    }
                    Some((name, (ExternalKind::Memory, index))) if main.has_plain_memory(*index) => {
                        CoreItem::Memory(name, *index)
                    }
                    _ => CoreItem::Other,
                }
            }
            CoreInstance::Shim => match self.shim.as_ref().and_then(|shim| shim.functions.get(name)) {
                Some(slot) => CoreItem::Function(CoreFunction::Slot(*slot)),
                // Besides functions it exports only its table.
                None => CoreItem::Table,
            },
            CoreInstance::Fixup => CoreItem::Other,
            CoreInstance::Items(items) => items.get(name).copied().unwrap_or(CoreItem::Other),
        })
    }

    fn canonical(&mut self, function: CanonicalFunction, types: TypesRef<'_>) -> Result<(), String> {
        match function {
            CanonicalFunction::Lower { func_index, options } => {
                if self.options(&options)?.is_some() {
                    return Err("a lowered function has a post-return".into());
                }
                let Function::Imported((interface, name)) = *at(&self.functions, func_index)? else {
                    return Err("it lowers a function of its own".into());
                };
                let ty = types.component_function_at(func_index);
                let signature = types::signature(types, ty, &self.resources, &mut self.budget)?;
                self.budget.spend(interface.len() + name.len())?;
                let function = Imported::Function { interface: interface.into(), name: name.into(), signature };
                self.provide(function);
            }
            CanonicalFunction::ResourceDrop { resource } => {
                let ComponentAnyTypeId::Resource(resource) = types.component_any_type_at(resource) else {
                    return Err("it drops what is no resource".into());
                };
                let (interface, resource) = self.resources.origin(resource.resource())?;
                self.budget.spend(interface.len() + resource.len())?;
                let drop = Imported::Drop { interface: interface.into(), resource: resource.into() };
                self.provide(drop);
            }
            CanonicalFunction::Lift { core_func_index, options, .. } => {
                let post_return = self.options(&options)?;
                let function = self.of_main(core_func_index, "an exported function")?.0;
                let index =
                    u32::try_from(self.functions.len()).ok().filter(|index| *index < types.component_function_count());
                let ty = types.component_function_at(index.ok_or("an exported function is not known")?);
                let signature = types::signature(types, ty, &self.resources, &mut self.budget)?;
                self.functions.push(Function::Lifted(self.lifted.len()));
                self.lifted.push(Lifted { function, post_return, signature });
            }
            _ => return Err("it has a canonical function other than lift, lower and resource.drop".into()),
        }
        Ok(())
    }

    fn provide(&mut self, what: Imported) {
        self.core_functions.push(CoreFunction::Provided(self.provided.len()));
        self.provided.push(what);
    }

    /// A function that has to be one of the main module.
    fn of_main(&self, function: u32, what: &str) -> Result<(&'a str, u32), String> {
        match *at(&self.core_functions, function)? {
            CoreFunction::Main(name, index) => Ok((name, index)),
            _ => Err(format!("{what} is not one of its main module")),
        }
    }

    /// Takes in the options of a lifted or lowered function, and answers its post-return.
    fn options(&mut self, options: &[CanonicalOption]) -> Result<Option<&'a str>, String> {
        let mut post_return = None;
        for option in options {
            match option {
                CanonicalOption::UTF8 => {}
                CanonicalOption::UTF16 | CanonicalOption::CompactUTF16 => {
                    return Err("a function is lifted or lowered with utf-16".into());
                }
                CanonicalOption::Memory(memory) => {
                    let CoreItem::Memory(name, index) = *at(&self.memories, *memory)? else {
                        return Err("a memory is not an ordinary one of its main module".into());
                    };
                    if self.memory.get_or_insert((name, index)).1 != index {
                        return Err("its functions use two memories".into());
                    }
                }
                CanonicalOption::Realloc(function) => {
                    let (name, index) = self.of_main(*function, "a realloc")?;
                    if self.realloc.get_or_insert((name, index)).1 != index {
                        return Err("its functions use two reallocs".into());
                    }
                }
                CanonicalOption::PostReturn(function) => {
                    post_return = Some(self.of_main(*function, "a post-return")?.0);
                }
                CanonicalOption::Async | CanonicalOption::Callback(_) => {
                    return Err("a function is lifted or lowered as async".into());
                }
                CanonicalOption::CoreType(_) | CanonicalOption::Gc => {
                    return Err("a function is lifted or lowered with an unknown option".into());
                }
            }
        }
        Ok(post_return)
    }

    fn core_instance(&mut self, instance: wasmparser::Instance<'a>) -> Result<(), String> {
        match instance {
            wasmparser::Instance::FromExports(exports) => {
                let mut items = HashMap::new();
                for export in exports {
                    let item = match export.kind {
                        ExternalKind::Func => CoreItem::Function(*at(&self.core_functions, export.index)?),
                        ExternalKind::Memory => *at(&self.memories, export.index)?,
                        ExternalKind::Table => *at(&self.tables, export.index)?,
                        _ => CoreItem::Other,
                    };
                    items.insert(export.name, item);
                }
                self.core_instances.push(CoreInstance::Items(items));
            }
            wasmparser::Instance::Instantiate { module_index, args } => {
                let args = args.iter().map(|arg| (arg.name, arg.index)).collect();
                let slot = usize::try_from(module_index).ok().and_then(|index| self.modules.get_mut(index));
                // Each is instantiated once, so it is taken out; what follows knows it as an instance.
                let module = slot.and_then(Option::take).ok_or("it has two instances of a core module")?;
                let instance = match module {
                    Module::Main(main) => self.main(main, &args)?,
                    Module::Shim(shim) => {
                        if self.shim.replace(shim).is_some() {
                            return Err("it has two shims".into());
                        }
                        CoreInstance::Shim
                    }
                    Module::Fixup(fixup) => self.fix(&fixup, &args)?,
                };
                self.core_instances.push(instance);
            }
        }
        Ok(())
    }

    /// What a core module is given for one of its imports.
    fn argument(&self, args: &HashMap<&str, u32>, names: Names<'a>) -> Result<CoreItem<'a>, String> {
        let (module, name) = names;
        self.core_item(*args.get(module).ok_or("an import of a core module is missing")?, name)
    }

    fn main(&mut self, main: Main<'a>, args: &HashMap<&str, u32>) -> Result<CoreInstance<'a>, String> {
        let mut given = Vec::with_capacity(main.imports.len());
        for names in &main.imports {
            match self.argument(args, *names)? {
                CoreItem::Function(function @ (CoreFunction::Provided(_) | CoreFunction::Slot(_))) => {
                    given.push(function);
                }
                _ => return Err("its main module imports a function that is not of an imported interface".into()),
            }
        }
        self.main = Some((main, given));
        Ok(CoreInstance::Main)
    }

    /// Does what a fixup does.
    fn fix(&mut self, fixup: &Fixup<'a>, args: &HashMap<&str, u32>) -> Result<CoreInstance<'a>, String> {
        if self.start.is_some() {
            return Err("it does more after the start of its main module".into());
        }
        if let Some(table) = fixup.table {
            let (CoreItem::Table, Some(size)) = (self.argument(args, table)?, self.shim.as_ref().map(|shim| shim.size))
            else {
                return Err("a table is filled that is not the shim's".into());
            };
            for fill in &fixup.fills {
                let slots = (u64::from(fill.offset)..size).map_while(|slot| u32::try_from(slot).ok());
                // An empty segment may not lie behind the table's end either.
                let length = u64::try_from(fill.functions.len()).unwrap_or(u64::MAX);
                if u64::from(fill.offset).saturating_add(length) > size {
                    return Err("a table is filled beyond its end".into());
                }
                for (slot, (names, ty)) in slots.zip(&fill.functions) {
                    let CoreItem::Function(CoreFunction::Provided(provided)) = self.argument(args, *names)? else {
                        return Err("a table is filled with a function that is not of an imported interface".into());
                    };
                    let Entry::Vacant(entry) = self.slots.entry(slot) else {
                        return Err("a table is filled twice".into());
                    };
                    entry.insert(Filled { provided, ty: *ty });
                }
            }
        }
        if let Some(start) = fixup.start {
            let CoreItem::Function(CoreFunction::Main(name, _)) = self.argument(args, start)? else {
                return Err("its start function is not one of its main module".into());
            };
            self.start = Some(name);
        }
        Ok(CoreInstance::Fixup)
    }

    fn instance(&mut self, instance: ComponentInstance<'a>) -> Result<(), String> {
        let mut functions = vec![];
        match instance {
            ComponentInstance::Instantiate { component_index, args } => {
                let mut given = HashMap::new();
                for arg in args {
                    match arg.kind {
                        ComponentExternalKind::Func => {
                            given.insert(arg.name, *at(&self.functions, arg.index)?);
                        }
                        ComponentExternalKind::Type => {}
                        _ => return Err("a nested component is given more than functions and types".into()),
                    }
                }
                let exports = at(&self.nested, component_index)?;
                self.budget.spend(exports.len())?;
                for (name, import) in exports {
                    let function = *given.get(import).ok_or("an import of a nested component is missing")?;
                    functions.push((*name, function));
                }
            }
            ComponentInstance::FromExports(exports) => {
                for export in exports {
                    match export.kind {
                        ComponentExternalKind::Func => {
                            functions.push((export.name.name, *at(&self.functions, export.index)?));
                        }
                        ComponentExternalKind::Type => {}
                        _ => return Err("an instance has more than functions and types".into()),
                    }
                }
            }
        }
        self.instances.push(Instance::Bundle(self.bundles.len()));
        self.bundles.push(functions);
        Ok(())
    }

    fn export(&mut self, export: ComponentExport<'a>) -> Result<(), String> {
        let name = export.name.name;
        match export.kind {
            ComponentExternalKind::Type => Ok(()),
            ComponentExternalKind::Instance if export.ty.is_none() => {
                let instance = *at(&self.instances, export.index)?;
                let Instance::Bundle(bundle) = instance else {
                    return Err(format!("it exports `{name}`, which it imports"));
                };
                self.exports.push((name, bundle));
                self.instances.push(instance);
                Ok(())
            }
            _ => Err(format!("its export `{name}` is no interface")),
        }
    }

    /// What was found, now that all of it was read.
    pub(super) fn finish(mut self, bytes: &[u8]) -> Result<Unbundled, String> {
        let (main, given) = self.main.take().ok_or("it has no core module, or no instance of it")?;
        if bytes.get(main.range.clone()).is_none() {
            return Err("its main module ends too early".into());
        }
        let mut imports = Vec::with_capacity(given.len());
        for ((module, name), function) in main.imports.iter().zip(given) {
            let provided = match function {
                CoreFunction::Provided(provided) => Some(provided),
                CoreFunction::Slot(slot) => {
                    self.slots.get(&slot.index).filter(|filled| filled.ty == slot.ty).map(|filled| filled.provided)
                }
                CoreFunction::Main(..) | CoreFunction::Other => None,
            };
            let what = provided.and_then(|provided| self.provided.get(provided));
            let what = what.ok_or_else(|| format!("its import `{name}` of `{module}` traps when it is called"))?;
            self.budget.spend(module.len() + name.len() + what.length())?;
            imports.push(Import { module: (*module).into(), name: (*name).into(), what: what.clone() });
        }
        let mut exports = vec![];
        for (interface, bundle) in &self.exports {
            for (name, function) in self.bundles.get(*bundle).into_iter().flatten() {
                let Function::Lifted(lifted) = function else {
                    return Err(format!("it exports `{name}`, which it imports"));
                };
                let lifted = self.lifted.get(*lifted).ok_or("an exported function is not known")?;
                let length = interface.len() + name.len() + lifted.signature.len() + lifted.function.len();
                self.budget.spend(length + lifted.post_return.map_or(0, str::len))?;
                exports.push(Export {
                    interface: (*interface).into(),
                    name: (*name).into(),
                    signature: lifted.signature.clone(),
                    function: lifted.function.into(),
                    post_return: lifted.post_return.map(str::to_owned),
                });
            }
        }
        let named = |item: Option<(&str, u32)>| item.map(|(name, _)| name.to_owned());
        Ok(Unbundled {
            module: main.range,
            imports,
            exports,
            interfaces: self.exports.iter().map(|(name, _)| (*name).to_owned()).collect(),
            memory: named(self.memory),
            realloc: named(self.realloc),
            start: self.start.map(str::to_owned),
        })
    }
}

impl Imported {
    /// How many bytes of text it has.
    fn length(&self) -> usize {
        match self {
            Imported::Function { interface, name, signature } => interface.len() + name.len() + signature.len(),
            Imported::Drop { interface, resource } => interface.len() + resource.len(),
        }
    }
}

fn each<'a, T: wasmparser::FromReader<'a>>(
    section: wasmparser::SectionLimited<'a, T>,
    mut read: impl FnMut(T) -> Result<(), String>,
) -> Result<(), String> {
    section.into_iter().try_for_each(|item| read(item.map_err(invalid)?))
}
