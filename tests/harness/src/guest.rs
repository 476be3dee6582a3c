//! Small guests written as text (WAT), made into components.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The folder of the WIT package.
pub const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");

/// A world that imports everything and exports these interfaces.
pub fn world(exports: &[&str], imports: bool) -> (Resolve, wit_parser::WorldId) {
    let mut resolve = Resolve::default();
    resolve.push_dir(WIT).unwrap();
    let mut text = String::from("package test:guest;\nworld guest {\n");
    if imports {
        text.push_str("include sluice:filter/imports@0.1.1;\n");
    }
    exports.iter().for_each(|name| text.push_str(&format!("export sluice:filter/{name}@0.1.1;\n")));
    text.push('}');
    let package = resolve.push_str("guest.wit", &text).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    (resolve, world)
}

pub fn encode(mut module: Vec<u8>, resolve: &Resolve, world: wit_parser::WorldId) -> Vec<u8> {
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

/// A component whose hooks have these bodies.
pub fn guest(hooks: &[(&str, &str)], waits: bool) -> Vec<u8> {
    let mut text = String::from(
        r#"(module
        (import "sluice:filter/request@0.1.1" "set-method" (func $set-method (param i32 i32 i32)))
        (import "sluice:filter/response@0.1.1" "set-status" (func $set-status (param i32 i32)))
        (import "sluice:filter/request@0.1.1" "want-body" (func $want-body (param i64 i32)))
        (import "sluice:filter/log@0.1.1" "fail" (func $fail (param i32 i32)))
        (import "sluice:filter/metrics@0.1.1" "count" (func $count (param i32 i32 i32 i32 i64 i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "PUT")
        (global $calls (mut i32) (i32.const 0))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 4096)
        "#,
    );
    if waits {
        text.insert_str(8, r#"(import "sluice:filter/http@0.1.1" "send" (func $send (param i32 i32 i32 i32)))"#);
    }
    for (hook, body) in hooks {
        let verdict = !matches!(
            *hook,
            "select-upstream"
                | "on-request-chunk"
                | "on-response-chunk"
                | "on-response-event"
                | "on-response-trailers"
                | "on-complete"
        );
        let (result, value) = if verdict { ("(result i32)", "") } else { ("", "drop") };
        text.push_str(&format!(
            "(func (export \"sluice:filter/{hook}@0.1.1#{hook}\") {result} (local $i i32) {body} {value})\n"
        ));
    }
    text.push(')');
    let names: Vec<_> = hooks.iter().map(|(hook, _)| *hook).collect();
    let (resolve, world) = world(&names, true);
    encode(wat::parse_str(&text).unwrap(), &resolve, world)
}

/// The same component with one more core module, which does nothing: it is not called directly any more.
pub fn as_component(mut bytes: Vec<u8>) -> Vec<u8> {
    let more = wat::parse_str("(module (memory (export \"memory\") 1))").unwrap();
    // A section of the kind 1 (core module), and its length.
    bytes.extend([1, u8::try_from(more.len()).unwrap()]);
    bytes.extend(more);
    bytes
}
