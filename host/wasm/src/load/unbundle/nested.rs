//! A component in the component, as wit-component makes them: it only passes functions on.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind, ComponentType, ComponentTypeRef, Payload,
};

use super::component::at;
use super::invalid;
use super::module::Names;

/// A component in the component that gives functions to the instance that is exported, and their types the names they have there.
#[derive(Default)]
pub(super) struct Nested<'a> {
    /// Its functions, by the names of the imports that they are.
    pub(super) functions: Vec<&'a str>,
    /// Names of exported functions and of the imports that they are.
    pub(super) exports: Vec<Names<'a>>,
}

impl<'a> Nested<'a> {
    pub(super) fn read(&mut self, payload: Payload<'a>) -> Result<(), String> {
        match payload {
            Payload::Version { .. } | Payload::CustomSection(_) => {}
            Payload::ComponentTypeSection(types) => refuse_resources(types)?,
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    let import = import.map_err(invalid)?;
                    match import.ty {
                        ComponentTypeRef::Func(_) => self.functions.push(import.name.name),
                        ComponentTypeRef::Type(_) => {}
                        _ => return Err("a nested component imports more than functions and types".into()),
                    }
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(invalid)?;
                    match export.kind {
                        ComponentExternalKind::Func => {
                            let import = *at(&self.functions, export.index)?;
                            self.exports.push((export.name.name, import));
                            self.functions.push(import);
                        }
                        ComponentExternalKind::Type => {}
                        _ => return Err("a nested component exports more than functions and types".into()),
                    }
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases {
                    let ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, .. } = alias.map_err(invalid)?
                    else {
                        return Err("a nested component has an alias of more than a type".into());
                    };
                }
            }
            _ => return Err("a nested component does more than name functions and types".into()),
        }
        Ok(())
    }
}

pub(super) fn refuse_resources(types: wasmparser::ComponentTypeSectionReader<'_>) -> Result<(), String> {
    for ty in types {
        if let ComponentType::Resource { .. } = ty.map_err(invalid)? {
            return Err("it has resources of its own".into());
        }
    }
    Ok(())
}
