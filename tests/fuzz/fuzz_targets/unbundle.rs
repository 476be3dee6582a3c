//! Components: no panic, and what is taken apart is a core module with just the imports that are told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::wasm::unbundle;
use wasmparser::{Parser, Payload};

fuzz_target!(|bytes: &[u8]| {
    let Some((range, names)) = unbundle(bytes) else { return };
    let module = bytes.get(range).expect("a module within the component");
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
