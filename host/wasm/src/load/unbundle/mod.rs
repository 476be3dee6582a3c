//! Takes a component apart that is one core module with only plumbing around it, as `wit-component` makes them: the module can then be
//! instantiated by itself, with core functions of the host in the places where the plumbing would have led.
//!
//! It follows what the component's instantiation does and refuses whatever it does not know, so that nothing is lost but speed.

mod component;
mod module;
mod nested;
#[cfg(test)]
mod tests;
mod types;

use std::ops::Range;

use wasmparser::{Parser, Payload, Validator, WasmFeatures};

use component::Component;
use module::Draft;
use nested::Nested;

/// A component that is one core module and the plumbing around it.
#[derive(Debug)]
pub struct Unbundled {
    /// Where the core module lies in the component's bytes.
    pub module: Range<usize>,
    /// What the module imports, in its order.
    pub imports: Vec<Import>,
    /// The functions that the component exports in instances: exported with the name of the interface.
    pub exports: Vec<Export>,
    /// The instances that it exports, also those without functions.
    pub interfaces: Vec<String>,
    /// Under which names the module exports its memory and its `realloc`, which all functions share.
    pub memory: Option<String>,
    pub realloc: Option<String>,
    /// An export `func()` of the module that the component calls right after instantiation (`_initialize`), if any.
    pub start: Option<String>,
}

/// An import of the core module, by the names that it has there.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    pub module: String,
    pub name: String,
    pub what: Imported,
}

impl Import {
    /// The imported interface that it is of.
    pub fn interface(&self) -> &str {
        match &self.what {
            Imported::Function { interface, .. } | Imported::Drop { interface, .. } => interface,
        }
    }
}

/// What is behind an import of the core module.
#[derive(Debug, Clone, PartialEq)]
pub enum Imported {
    /// A function of an imported instance, lowered: `sluice:filter/request@0.1.1` `set-header`, and its type as text.
    Function { interface: String, name: String, signature: String },
    /// Drops a handle of this resource of an imported instance.
    Drop { interface: String, resource: String },
}

/// A function that the component exports in an instance.
#[derive(Debug, PartialEq)]
pub struct Export {
    pub interface: String,
    pub name: String,
    pub signature: String,
    /// Its name in the core module.
    pub function: String,
    pub post_return: Option<String>,
}

/// Takes a component apart. Errors say why it has to be left as it is.
pub fn unbundle(bytes: &[u8]) -> Result<Unbundled, String> {
    // What wasmtime has by default with the parts of it that are compiled in.
    let mut features = WasmFeatures::WASM3 | WasmFeatures::COMPONENT_MODEL;
    features.remove(WasmFeatures::GC_TYPES | WasmFeatures::EXCEPTIONS | WasmFeatures::THREADS);
    let mut validator = Validator::new_with_features(features);
    let mut parser = Parser::new(0);
    parser.set_features(features);
    let mut component = Component::default();
    let mut inside = Inside::Root;
    for payload in parser.parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        // The indices in what follows are good ones. What functions do is looked at by the compiler, or here, for those of a shim.
        validator.payload(&payload).map_err(invalid)?;
        inside = match (inside, payload) {
            (Inside::Root, Payload::ModuleSection { unchecked_range, .. }) => {
                Inside::Module(Box::new(Draft::new(unchecked_range)))
            }
            (Inside::Root, Payload::ComponentSection { .. }) => Inside::Component(Nested::default()),
            (Inside::Root, Payload::End(_)) => return component.finish(bytes),
            (Inside::Root, payload) => {
                component.read(payload, validator.types(0).ok_or("its types are not known")?)?;
                Inside::Root
            }
            (Inside::Module(draft), Payload::End(_)) => {
                component.add_module(draft.finish()?)?;
                Inside::Root
            }
            (Inside::Module(mut draft), payload) => {
                draft.read(payload, validator.types(0).ok_or("its types are not known")?).map_err(invalid)?;
                Inside::Module(draft)
            }
            (Inside::Component(nested), Payload::End(_)) => {
                component.add_nested(nested);
                Inside::Root
            }
            (Inside::Component(mut nested), payload) => {
                nested.read(payload)?;
                Inside::Component(nested)
            }
        };
    }
    Err("it ends too early".into())
}

fn invalid(error: wasmparser::Error) -> String {
    error.to_string()
}

/// What the parser is in.
enum Inside<'a> {
    Root,
    Module(Box<Draft<'a>>),
    Component(Nested<'a>),
}
