//! What a core module in a component is for: the filter itself, or a piece of plumbing.
//!
//! The filter's imports need its memory, which is there only when it has been instantiated. So it is given the functions of a *shim*,
//! which call through a table, and when it is there a *fixup* fills that table by its element segments.

use std::collections::HashMap;
use std::ops::Range;

use wasmparser::types::{CoreTypeId, TypesRef};
use wasmparser::{
    CompositeInnerType, ConstExpr, ElementItems, ElementKind, Export, ExternalKind, FunctionBody, MemoryType, Operator,
    Payload, RefType, TableInit, TypeRef,
};

/// Module and name of an import.
pub(super) type Names<'a> = (&'a str, &'a str);

pub(super) enum Module<'a> {
    Main(Main<'a>),
    Shim(Shim<'a>),
    Fixup(Fixup<'a>),
}

/// A module that is more than plumbing. It imports only functions.
pub(super) struct Main<'a> {
    pub(super) range: Range<usize>,
    pub(super) imports: Vec<Names<'a>>,
    pub(super) exports: HashMap<&'a str, (ExternalKind, u32)>,
    memories: Vec<MemoryType>,
}

impl Main<'_> {
    /// Whether this function is its own, and not one that it imports.
    pub(super) fn defines(&self, function: u32) -> bool {
        usize::try_from(function).is_ok_and(|function| function >= self.imports.len())
    }

    /// Whether a memory is an ordinary one.
    pub(super) fn has_plain_memory(&self, memory: u32) -> bool {
        let memory = usize::try_from(memory).ok().and_then(|memory| self.memories.get(memory));
        memory.is_some_and(|memory| !memory.memory64 && !memory.shared && memory.page_size_log2.is_none())
    }
}

/// A module whose functions each hand their parameters to a slot of its table.
pub(super) struct Shim<'a> {
    pub(super) functions: HashMap<&'a str, Slot>,
    /// How many slots there are.
    pub(super) size: u64,
}

/// A slot of the shim's table, and the type that what it holds is called with.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub(super) index: u32,
    pub(super) ty: CoreTypeId,
}

/// A module that has imports only, writes some of them to a table that it imports too, and then calls one at most.
pub(super) struct Fixup<'a> {
    pub(super) table: Option<Names<'a>>,
    pub(super) fills: Vec<Fill<'a>>,
    pub(super) start: Option<Names<'a>>,
}

pub(super) struct Fill<'a> {
    pub(super) offset: u32,
    pub(super) functions: Vec<(Names<'a>, CoreTypeId)>,
}

/// A module of which a part has been read.
pub(super) struct Draft<'a> {
    range: Range<usize>,
    functions: Vec<Names<'a>>,
    imported_tables: Vec<Names<'a>>,
    imports_more: bool,
    exports: Vec<Export<'a>>,
    memories: Vec<MemoryType>,
    /// Sizes of its tables; none for one that is more than empty slots for functions.
    tables: Vec<Option<u64>>,
    /// It has what no plumbing has.
    has_more: bool,
    /// The slots that its functions call, unless one does anything else.
    slots: Option<Vec<Slot>>,
    /// What its element segments write, unless one does anything else.
    fills: Option<Vec<Fill<'a>>>,
    start: Option<u32>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(range: Range<usize>) -> Draft<'a> {
        Draft {
            range,
            functions: vec![],
            imported_tables: vec![],
            imports_more: false,
            exports: vec![],
            memories: vec![],
            tables: vec![],
            has_more: false,
            slots: Some(vec![]),
            fills: Some(vec![]),
            start: None,
        }
    }

    /// Takes in a section that was found to be valid, by these types of the module.
    pub(super) fn read(&mut self, payload: Payload<'a>, types: TypesRef<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    match import.ty {
                        TypeRef::Func(_) => self.functions.push((import.module, import.name)),
                        TypeRef::Table(_) => self.imported_tables.push((import.module, import.name)),
                        _ => self.imports_more = true,
                    }
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    let table = table?;
                    let plain = table.ty.element_type == RefType::FUNCREF
                        && !table.ty.table64
                        && !table.ty.shared
                        && matches!(table.init, TableInit::RefNull);
                    self.tables.push(plain.then_some(table.ty.initial));
                }
            }
            Payload::MemorySection(memories) => {
                self.has_more = true;
                self.memories = memories.into_iter().collect::<wasmparser::Result<_>>()?;
            }
            Payload::ExportSection(exports) => self.exports = exports.into_iter().collect::<wasmparser::Result<_>>()?,
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::ElementSection(elements) => {
                for element in elements {
                    let element = element?;
                    let fill = self.fill(element.kind, element.items, types)?;
                    self.fills = self.fills.take().zip(fill).map(|(mut fills, fill)| {
                        fills.push(fill);
                        fills
                    });
                }
            }
            Payload::CodeSectionEntry(body) => {
                if let Some(mut slots) = self.slots.take() {
                    let function = u32::try_from(self.functions.len() + slots.len()).unwrap_or(u32::MAX);
                    self.slots = called_slot(&body, function, types)?.map(|slot| {
                        slots.push(slot);
                        slots
                    });
                }
            }
            Payload::Version { .. }
            | Payload::TypeSection(_)
            | Payload::FunctionSection(_)
            | Payload::CodeSectionStart { .. }
            | Payload::DataCountSection { .. }
            | Payload::CustomSection(_) => {}
            // Wizer leaves one that is empty in each module.
            Payload::DataSection(data) => self.has_more |= data.count() > 0,
            _ => self.has_more = true,
        }
        Ok(())
    }

    /// What an element segment writes to the first table; none if it is one of another kind.
    fn fill(
        &self,
        kind: ElementKind<'a>,
        items: ElementItems<'a>,
        types: TypesRef<'_>,
    ) -> wasmparser::Result<Option<Fill<'a>>> {
        let (ElementKind::Active { table_index: None | Some(0), offset_expr }, ElementItems::Functions(items)) =
            (kind, items)
        else {
            return Ok(None);
        };
        let Some(offset) = constant(&offset_expr)? else { return Ok(None) };
        let mut functions = vec![];
        for function in items {
            let function = function?;
            let Some(names) = self.imported(function) else { return Ok(None) };
            functions.push((names, types.core_function_at(function)));
        }
        Ok(Some(Fill { offset, functions }))
    }

    fn imported(&self, function: u32) -> Option<Names<'a>> {
        self.functions.get(usize::try_from(function).ok()?).copied()
    }

    /// What the module is for, now that all of it was read.
    pub(super) fn finish(mut self) -> Result<Module<'a>, String> {
        if let Some(shim) = self.shim() {
            return Ok(Module::Shim(shim));
        }
        if let Some(fixup) = self.fixup() {
            return Ok(Module::Fixup(fixup));
        }
        if self.imports_more || !self.imported_tables.is_empty() {
            return Err("a core module imports more than functions".into());
        }
        let exports = self.exports.into_iter().map(|export| (export.name, (export.kind, export.index))).collect();
        Ok(Module::Main(Main { range: self.range, imports: self.functions, exports, memories: self.memories }))
    }

    fn shim(&self) -> Option<Shim<'a>> {
        let ([Some(size)], Some(slots), Some([])) = (&self.tables[..], &self.slots, self.fills.as_deref()) else {
            return None;
        };
        let imports = self.imports_more || !self.imported_tables.is_empty() || !self.functions.is_empty();
        if imports || self.has_more || self.start.is_some() || slots.is_empty() {
            return None;
        }
        let mut functions = HashMap::new();
        for export in &self.exports {
            match export.kind {
                ExternalKind::Func => {
                    functions.insert(export.name, *slots.get(usize::try_from(export.index).ok()?)?);
                }
                ExternalKind::Table => {}
                _ => return None,
            }
        }
        Some(Shim { functions, size: *size })
    }

    fn fixup(&mut self) -> Option<Fixup<'a>> {
        let functions = self.slots.as_ref().is_none_or(|slots| !slots.is_empty());
        let own = functions || !self.tables.is_empty() || !self.exports.is_empty() || self.has_more;
        if own || self.imports_more || self.imported_tables.len() > 1 {
            return None;
        }
        let start = match self.start {
            Some(start) => Some(self.imported(start)?),
            None => None,
        };
        Some(Fixup { table: self.imported_tables.first().copied(), fills: self.fills.take()?, start })
    }
}

/// The value of an expression that is an `i32.const`, taken as an address.
fn constant(expression: &ConstExpr<'_>) -> wasmparser::Result<Option<u32>> {
    let mut operators = expression.get_operators_reader();
    match (operators.read()?, operators.read()?) {
        (Operator::I32Const { value }, Operator::End) if operators.eof() => Ok(Some(value.cast_unsigned())),
        _ => Ok(None),
    }
}

/// The slot to which a function hands all of its parameters, if it does nothing else.
fn called_slot(body: &FunctionBody<'_>, function: u32, types: TypesRef<'_>) -> wasmparser::Result<Option<Slot>> {
    if function >= types.function_count() {
        return Ok(None);
    }
    let ty = types.core_function_at(function);
    let Some(CompositeInnerType::Func(function)) = types.get(ty).map(|ty| &ty.composite_type.inner) else {
        return Ok(None);
    };
    if body.get_locals_reader()?.get_count() != 0 {
        return Ok(None);
    }
    let mut operators = body.get_operators_reader()?;
    for parameter in 0..function.params().len() {
        match operators.read()? {
            Operator::LocalGet { local_index } if usize::try_from(local_index) == Ok(parameter) => {}
            _ => return Ok(None),
        }
    }
    let Operator::I32Const { value } = operators.read()? else { return Ok(None) };
    let Operator::CallIndirect { type_index, table_index: 0 } = operators.read()? else { return Ok(None) };
    if type_index >= types.core_type_count_in_module() {
        return Ok(None);
    }
    let same = types.core_type_at_in_module(type_index) == ty;
    if !same || !matches!(operators.read()?, Operator::End) || !operators.eof() {
        return Ok(None);
    }
    Ok(Some(Slot { index: value.cast_unsigned(), ty }))
}
