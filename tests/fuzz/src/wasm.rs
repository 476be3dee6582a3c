//! The analysis of components, which files of anybody go through.

#[path = "../../../host/src/wasm/unbundle/mod.rs"]
mod taken;

/// Where the core module of a component lies, and what it imports by name, if the component is taken apart.
pub fn unbundle(bytes: &[u8]) -> Option<(std::ops::Range<usize>, Vec<(String, String)>)> {
    let parts = taken::unbundle(bytes).ok()?;
    assert!(parts.exports.iter().all(|export| !export.interface.is_empty() && export.signature.starts_with('(')));
    let name = |import: taken::Import| {
        assert!(!import.interface().is_empty());
        (import.module, import.name)
    };
    Some((parts.module, parts.imports.into_iter().map(name).collect()))
}
