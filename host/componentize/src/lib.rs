//! Makes a component of a core WebAssembly module: what `wasm-tools component embed` and `wasm-tools component new` do, for filters.
//!
//! The module says by its exports which hooks it has (`sluice:filter/on-request@0.1.1#on-request`), and by its imports what it calls. Its world is made
//! from both, so nobody has to name one, and a hook that is missing is not exported either. A module that has the description of a world in a
//! custom section already, as the bindings of wit-bindgen leave it, keeps that.

use std::collections::BTreeSet;
use std::fmt;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{PackageId, Resolve, SourceMap, WorldId};

/// The files of the package `sluice:filter`.
const WIT: [(&str, &str); 6] = [
    ("consumers.wit", include_str!("../../../wit/consumers.wit")),
    ("hooks.wit", include_str!("../../../wit/hooks.wit")),
    ("message.wit", include_str!("../../../wit/message.wit")),
    ("services.wit", include_str!("../../../wit/services.wit")),
    ("types.wit", include_str!("../../../wit/types.wit")),
    ("worlds.wit", include_str!("../../../wit/worlds.wit")),
];

/// Why there is no component.
#[derive(Debug)]
pub enum Error {
    /// The bytes are no core module.
    Module(String),
    /// The module exports nothing that the gateway calls.
    NoHooks,
    /// It imports or exports an interface that `sluice:filter` does not have; the name.
    UnknownInterface(String),
    /// The module does not fit the interfaces, such as a function with other parameters.
    Misfit(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Module(why) => write!(f, "not a core WebAssembly module: {why}"),
            Error::NoHooks => f.write_str(
                "the module exports no hook of a filter: expected a function such as `sluice:filter/on-request@0.1.1#on-request`",
            ),
            Error::UnknownInterface(name) => write!(f, "the package sluice:filter has no interface `{name}`"),
            Error::Misfit(why) => write!(f, "the module does not fit sluice:filter: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// The component of a core module.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, Error> {
    let parts = parts(module)?;
    let mut module = module.to_vec();
    if !parts.described {
        let (resolve, world) = world(&parts)?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).map_err(misfit)?;
    }
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(&module).map_err(misfit)?;
    if parts.preview1 {
        let adapter = WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
        encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter).map_err(misfit)?;
    }
    encoder.encode().map_err(misfit)
}

fn misfit(error: anyhow::Error) -> Error {
    Error::Misfit(format!("{error:#}"))
}

/// What of a module decides about its world.
#[derive(Default)]
struct Parts {
    imports: BTreeSet<String>,
    exports: BTreeSet<String>,
    /// It has the description of a world.
    described: bool,
    /// It imports the first version of WASI.
    preview1: bool,
}

fn parts(module: &[u8]) -> Result<Parts, Error> {
    let mut parts = Parts::default();
    let broken = |error: wasmparser::BinaryReaderError| Error::Module(error.to_string());
    if !Parser::is_core_wasm(module) {
        return Err(Error::Module("expected the header of one".to_owned()));
    }
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(broken)? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let from = import.map_err(broken)?.module;
                    parts.imports.extend(interface(from));
                    parts.preview1 |= from == WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let name = export.map_err(broken)?.name;
                    // `cabi_post_` clears up after the function of that name.
                    if let Some((of, _)) = name.split_once('#') {
                        parts.exports.extend(interface(of));
                    }
                }
            }
            Payload::CustomSection(section) => parts.described |= section.name().starts_with("component-type"),
            _ => {}
        }
    }
    if parts.exports.is_empty() && !parts.described {
        return Err(Error::NoHooks);
    }
    Ok(parts)
}

/// The name with its version of an interface of ours.
fn interface(name: &str) -> Option<String> {
    name.strip_prefix("sluice:filter/").map(str::to_owned)
}

/// A world with just these interfaces.
fn world(parts: &Parts) -> Result<(Resolve, WorldId), Error> {
    let mut resolve = Resolve::default();
    let filter = push(&mut resolve, &WIT);
    let known = &resolve.packages[filter];
    let of_this_version = known.name.version.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut text = String::from("package sluice:component;\nworld component {\n");
    for (verb, names) in [("import", &parts.imports), ("export", &parts.exports)] {
        for name in names {
            let (bare, version) = name.split_once('@').unwrap_or((name, ""));
            if version != of_this_version || !known.interfaces.contains_key(bare) {
                return Err(Error::UnknownInterface(name.clone()));
            }
            text.push_str(&format!("{verb} sluice:filter/{name};\n"));
        }
    }
    text.push('}');
    let package = push(&mut resolve, &[("component.wit", &text)]);
    let world = resolve.packages[package].worlds["component"];
    Ok((resolve, world))
}

/// Adds a package of texts of our own.
fn push(resolve: &mut Resolve, files: &[(&str, &str)]) -> PackageId {
    let mut sources = SourceMap::default();
    files.iter().for_each(|(name, text)| sources.push_str(name, *text));
    let group = sources.parse().map_err(|(_, error)| error).expect("wit/ has no errors: tests/conformance reads it");
    resolve.push_group(group).expect("the names were looked up")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails should fail at the place")]
mod tests {
    use super::*;

    fn module(text: &str) -> Vec<u8> {
        wat::parse_str(format!("(module {text})")).unwrap()
    }

    const ON_REQUEST: &str = r#"(func (export "sluice:filter/on-request@0.1.1#on-request") (result i32) i32.const 0)"#;

    #[test]
    fn a_component_has_what_the_module_has() {
        let component = componentize(&module(&format!(
            r#"(import "sluice:filter/clock@0.1.1" "now-us" (func (result i64))) (memory (export "memory") 1) {ON_REQUEST}"#
        )))
        .unwrap();
        let decoded = wit_component::decode(&component).unwrap();
        let world = decoded.resolve().worlds.iter().next().unwrap().1;
        let names = |map: &wit_parser::IndexMap<wit_parser::WorldKey, wit_parser::WorldItem>| {
            map.keys().map(|key| decoded.resolve().name_world_key(key)).collect::<Vec<_>>()
        };
        assert!(names(&world.imports).contains(&"sluice:filter/clock@0.1.1".to_owned()), "{:?}", names(&world.imports));
        assert_eq!(names(&world.exports), ["sluice:filter/on-request@0.1.1"]);
    }

    #[test]
    fn the_first_wasi_is_adapted() {
        let text = format!(
            r#"(import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
            (memory (export "memory") 1) (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 64) {ON_REQUEST}"#
        );
        componentize(&module(&text)).unwrap();
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let message = |bytes: &[u8]| componentize(bytes).unwrap_err().to_string();
        assert!(message(b"\0asm").starts_with("not a core WebAssembly module"));
        assert!(message(&module("")).starts_with("the module exports no hook"));
        let unknown = module(r#"(func (export "sluice:filter/on-nothing@0.1.1#on-nothing"))"#);
        assert_eq!(message(&unknown), "the package sluice:filter has no interface `on-nothing@0.1.1`");
        let misfit = module(r#"(func (export "sluice:filter/on-request@0.1.1#on-request") (param i32))"#);
        assert!(message(&misfit).starts_with("the module does not fit sluice:filter: "), "{}", message(&misfit));
    }
}
