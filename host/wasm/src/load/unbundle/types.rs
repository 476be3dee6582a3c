//! The types of functions as text, with all named types expanded: what two sides have to agree on before one calls the other without
//! the component runtime between them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use wasmparser::component_types::{
    ComponentAnyTypeId, ComponentDefinedType, ComponentDefinedTypeId, ComponentEntityType, ComponentFuncTypeId,
    ComponentInstanceTypeId, ComponentValType, ResourceId,
};
use wasmparser::types::TypesRef;

/// Types may not be nested deeper: writing them is a recursion.
const MAX_DEPTH: usize = 50;

/// How much may still be done and kept for a component, in bytes of text and in items. A few bytes of a component can stand for very many:
/// types name types twice that name types twice.
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Budget(1 << 20)
    }
}

impl Budget {
    pub(super) fn spend(&mut self, amount: usize) -> Result<(), String> {
        self.0 = self.0.checked_sub(amount).ok_or("its types or names are too long")?;
        Ok(())
    }
}

/// The resources of the imported instances.
#[derive(Default)]
pub(super) struct Resources {
    /// The import that defines a resource, and its name there.
    origins: HashMap<ResourceId, (String, String)>,
    /// None for names that several resources have: a text with such a name would not say which one is meant.
    by_name: HashMap<String, Option<ResourceId>>,
}

impl Resources {
    /// Takes in what an import exports. A later import may export the resources of an earlier one again.
    pub(super) fn add_import(
        &mut self,
        types: TypesRef<'_>,
        interface: &str,
        instance: ComponentInstanceTypeId,
        budget: &mut Budget,
    ) -> Result<(), String> {
        let instance = types.get(instance).ok_or("it has an unknown type")?;
        for (name, item) in &instance.exports {
            budget.spend(1)?;
            let ComponentEntityType::Type { created: ComponentAnyTypeId::Resource(resource), .. } = item.ty else {
                continue;
            };
            let resource = resource.resource();
            let Entry::Vacant(origin) = self.origins.entry(resource) else { continue };
            budget.spend(interface.len() + name.len())?;
            origin.insert((interface.to_owned(), name.clone()));
            self.by_name.entry(name.clone()).and_modify(|known| *known = None).or_insert(Some(resource));
        }
        Ok(())
    }

    /// The import that defines a resource, and its name there.
    pub(super) fn origin(&self, resource: ResourceId) -> Result<(&str, &str), String> {
        let (interface, name) = self.origins.get(&resource).ok_or("a resource is not from an imported instance")?;
        Ok((interface, name))
    }

    fn name(&self, resource: ResourceId) -> Result<&str, String> {
        let (_, name) = self.origin(resource)?;
        match self.by_name.get(name) {
            Some(Some(only)) if *only == resource => Ok(name),
            _ => Err(format!("it imports several resources named `{name}`")),
        }
    }
}

/// The type of a function: `(string, list<u8>) -> result<_, enum{a, b}>`.
pub(super) fn signature(
    types: TypesRef<'_>,
    function: ComponentFuncTypeId,
    resources: &Resources,
    budget: &mut Budget,
) -> Result<String, String> {
    let function = types.get(function).ok_or("it has an unknown type")?;
    if function.async_ {
        return Err("a function is async".into());
    }
    let mut writer = Writer { types, resources, budget, text: String::new() };
    writer.list("(", ")", function.params.iter(), |writer, (_, ty)| writer.value(ty, 0))?;
    if let Some(result) = &function.result {
        writer.push(" -> ")?;
        writer.value(result, 0)?;
    }
    Ok(writer.text)
}

struct Writer<'a> {
    types: TypesRef<'a>,
    resources: &'a Resources,
    budget: &'a mut Budget,
    text: String,
}

impl Writer<'_> {
    fn push(&mut self, text: &str) -> Result<(), String> {
        self.budget.spend(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// Items with commas between them.
    fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        items: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut Self, T) -> Result<(), String>,
    ) -> Result<(), String> {
        self.push(open)?;
        for (nth, item) in items.enumerate() {
            if nth > 0 {
                self.push(", ")?;
            }
            write(self, item)?;
        }
        self.push(close)
    }

    fn value(&mut self, ty: &ComponentValType, depth: usize) -> Result<(), String> {
        match ty {
            ComponentValType::Primitive(wasmparser::PrimitiveValType::ErrorContext) => {
                Err("a type has an error-context".into())
            }
            ComponentValType::Primitive(primitive) => self.push(&primitive.to_string()),
            ComponentValType::Type(id) => self.defined(*id, depth + 1),
        }
    }

    /// What a part of a result may leave out.
    fn optional(&mut self, ty: Option<&ComponentValType>, depth: usize) -> Result<(), String> {
        match ty {
            Some(ty) => self.value(ty, depth),
            None => self.push("_"),
        }
    }

    fn defined(&mut self, id: ComponentDefinedTypeId, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("a type is nested too deep".into());
        }
        match self.types.get(id).ok_or("it has an unknown type")? {
            ComponentDefinedType::Primitive(primitive) => self.value(&ComponentValType::Primitive(*primitive), depth),
            ComponentDefinedType::Record(record) => {
                self.list("record{", "}", record.fields.iter(), |to, (name, ty)| {
                    to.push(name)?;
                    to.push(": ")?;
                    to.value(ty, depth)
                })
            }
            ComponentDefinedType::Variant(variant) => {
                self.list("variant{", "}", variant.cases.iter(), |to, (name, case)| {
                    to.push(name)?;
                    let Some(ty) = &case.ty else { return Ok(()) };
                    to.push("(")?;
                    to.value(ty, depth)?;
                    to.push(")")
                })
            }
            ComponentDefinedType::List { element, .. } => {
                self.list("list<", ">", [element].into_iter(), |to, ty| to.value(ty, depth))
            }
            ComponentDefinedType::Tuple(tuple) => {
                self.list("tuple<", ">", tuple.types.iter(), |to, ty| to.value(ty, depth))
            }
            ComponentDefinedType::Flags(names) => self.list("flags{", "}", names.iter(), |to, name| to.push(name)),
            ComponentDefinedType::Enum(names) => self.list("enum{", "}", names.iter(), |to, name| to.push(name)),
            ComponentDefinedType::Option { ty, .. } => {
                self.list("option<", ">", [ty].into_iter(), |to, ty| to.value(ty, depth))
            }
            ComponentDefinedType::Result { ok, err, .. } => {
                let parts = [ok.as_ref(), err.as_ref()];
                self.list("result<", ">", parts.into_iter(), |to, ty| to.optional(ty, depth))
            }
            ComponentDefinedType::Own(resource) => self.handle("own<", resource.resource()),
            ComponentDefinedType::Borrow(resource) => self.handle("borrow<", resource.resource()),
            ComponentDefinedType::Map { .. }
            | ComponentDefinedType::FixedLengthList { .. }
            | ComponentDefinedType::Future { .. }
            | ComponentDefinedType::Stream { .. } => Err("a type is a map, an array, a future or a stream".into()),
        }
    }

    fn handle(&mut self, kind: &str, resource: ResourceId) -> Result<(), String> {
        let name = self.resources.name(resource)?;
        self.push(kind)?;
        self.push(name)?;
        self.push(">")
    }
}
