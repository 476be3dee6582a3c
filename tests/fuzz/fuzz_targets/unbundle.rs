//! Components: no panic, and what is taken apart is a core module with just the imports that are told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_wasm::unbundle::unbundle;
use wasmparser::{Parser, Payload};

fuzz_target!(|bytes: &[u8]| {
    let Ok(parts) = unbundle(bytes) else { return };
    assert!(parts.exports.iter().all(|export| !export.interface.is_empty() && export.signature.starts_with('(')));
    assert!(parts.imports.iter().all(|import| !import.interface().is_empty()));
    let names: Vec<_> = parts.imports.into_iter().map(|import| (import.module, import.name)).collect();
    let module = bytes.get(parts.module).expect("a module within the component");
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload.expect("a module") {
            Payload::Version { encoding, .. } => assert_eq!(encoding, wasmparser::Encoding::Module),
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.expect("an import");
                    assert!(matches!(import.ty, wasmparser::TypeRef::Func(_)), "only functions can be given to it");
                    found.push((import.module.to_owned(), import.name.to_owned()));
                }
            }
            _ => {}
        }
    }
    assert_eq!(found, names);
});
