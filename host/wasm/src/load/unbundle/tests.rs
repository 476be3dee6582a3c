//! Components that `wit-component` makes, and ones written out that are a little different.

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

use super::*;

const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");

/// A component of this module, or one that does nothing, for the world `guest` of these items of a package.
fn encode_as(module: &[u8], items: &str, encoding: StringEncoding) -> Vec<u8> {
    let mut resolve = Resolve::default();
    resolve.push_dir(WIT).unwrap();
    let package = resolve.push_str("guest.wit", &format!("package test:guest;\n{items}")).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    let mut module = match module {
        [] => dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync)),
        module => module.to_vec(),
    };
    embed_component_metadata(&mut module, &resolve, world, encoding, false).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

fn encode(module: &str, world: &str) -> Vec<u8> {
    encode_as(&wat::parse_str(module).unwrap(), world, StringEncoding::UTF8)
}

const WORLD: &str = "world guest {
    include sluice:filter/imports@0.1.1;
    export sluice:filter/on-request@0.1.1;
    export sluice:filter/describe@0.1.1;
}";
const GUEST: &str = r#"(module
    (import "sluice:filter/request@0.1.1" "headers" (func (param i32)))
    (import "sluice:filter/clock@0.1.1" "now-us" (func (result i64)))
    (import "sluice:filter/log@0.1.1" "log" (func (param i32 i32 i32)))
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 4096)
    (func (export "_initialize"))
    (func (export "sluice:filter/on-request@0.1.1#on-request") (result i32) i32.const 0)
    (func (export "sluice:filter/describe@0.1.1#describe") (result i32) i32.const 0)
    (func (export "cabi_post_sluice:filter/describe@0.1.1#describe") (param i32))
)"#;

fn function(interface: &str, name: &str, signature: &str) -> Imported {
    Imported::Function {
        interface: format!("sluice:filter/{interface}@0.1.1"),
        name: name.into(),
        signature: signature.into(),
    }
}

#[test]
fn imports_are_found_behind_the_shim() {
    let bytes = encode(GUEST, WORLD);
    let found = unbundle(&bytes).unwrap();
    let names: Vec<_> = found.imports.iter().map(|import| (&*import.module, &*import.name)).collect();
    let expected = [("request", "headers"), ("clock", "now-us"), ("log", "log")]
        .map(|(interface, name)| (format!("sluice:filter/{interface}@0.1.1"), name));
    assert_eq!(names, expected.iter().map(|(module, name)| (&**module, *name)).collect::<Vec<_>>());
    let whats: Vec<_> = found.imports.into_iter().map(|import| import.what).collect();
    assert_eq!(whats[1], function("clock", "now-us", "() -> u64"));
    assert_eq!(whats[2], function("log", "log", "(enum{trace, debug, info, warn, error}, string)"));
    let Imported::Function { signature, .. } = &whats[0] else { panic!() };
    let fields = "() -> result<list<record{name: string, value: string}>, variant{";
    assert!(signature.starts_with(fields), "{signature}");

    assert!(bytes[found.module].starts_with(b"\0asm\x01\0\0\0"));
    assert_eq!((found.memory.as_deref(), found.realloc.as_deref()), (Some("memory"), Some("cabi_realloc")));
    assert_eq!(found.start.as_deref(), Some("_initialize"));
    assert_eq!(found.exports.len(), 2);
    let [hook, describe] = [&found.exports[0], &found.exports[1]];
    assert_eq!((&*hook.interface, &*hook.name), ("sluice:filter/on-request@0.1.1", "on-request"));
    assert_eq!(hook.function, "sluice:filter/on-request@0.1.1#on-request");
    assert_eq!(hook.signature, "() -> enum{continue, respond}");
    assert_eq!(hook.post_return, None);
    assert_eq!((&*describe.name, &*describe.signature), ("describe", "() -> string"));
    assert_eq!(describe.post_return.as_deref(), Some("cabi_post_sluice:filter/describe@0.1.1#describe"));
}

#[test]
fn every_function_of_the_interface_is_understood() {
    let bytes = encode_as(&[], WORLD, StringEncoding::UTF8);
    let found = unbundle(&bytes).unwrap();
    for import in &found.imports {
        let Imported::Function { interface, name, .. } = &import.what else { panic!() };
        assert_eq!((&import.module, &import.name), (interface, name));
    }
    assert!(found.imports.len() > 80, "{}", found.imports.len());
    assert_eq!(
        unbundle(&encode_as(&[], WORLD, StringEncoding::UTF16)).unwrap_err(),
        "a function is lifted or lowered with utf-16"
    );
}

#[test]
fn types_are_spelled_out() {
    let items = "
        interface things {
            resource thing { constructor(size: u8); take: func() -> option<thing>; }
            flags some { a, b }
            variant either { none, one(tuple<char, f32>) }
            type named = list<option<either>>;
            a: func(a: some, b: borrow<thing>, c: named) -> result;
            b: func(a: result<s8>, b: result<_, s64>);
        }
        interface others { use things.{thing}; c: func() -> thing; }
        world guest { import things; import others; }";
    let found = unbundle(&encode_as(&[], items, StringEncoding::UTF8)).unwrap();
    let mut seen = vec![];
    for import in found.imports {
        seen.push(match import.what {
            Imported::Function { interface, name, signature } => format!("{interface} {name}{signature}"),
            Imported::Drop { interface, resource } => format!("{interface} drop {resource}"),
        });
    }
    seen.sort();
    let expected = [
        "test:guest/others c() -> own<thing>",
        "test:guest/things [constructor]thing(u8) -> own<thing>",
        "test:guest/things [method]thing.take(borrow<thing>) -> option<own<thing>>",
        "test:guest/things a(flags{a, b}, borrow<thing>, list<option<variant{none, one(tuple<char, f32>)}>>) -> result<_, _>",
        "test:guest/things b(result<s8, _>, result<_, s64>)",
        "test:guest/things drop thing",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn types_without_end_are_refused() {
    let with = |types: String| {
        let text = format!(
            r#"(component
                (import "a:b/c" (instance $c (type $t0 u8) {types} (export "f" (func (param "x" $t)))))
                (alias export $c "f" (func $f))
                (core module $memory (memory (export "m") 1))
                (core instance $memory (instantiate $memory))
                (alias core export $memory "m" (core memory $m))
                (core func (canon lower (func $f) (memory $m)))
            )"#
        );
        unbundle(&wat::parse_str(text).unwrap())
    };
    let nested = |levels: usize, ty: fn(usize) -> String| {
        let types: Vec<_> = (1..levels).map(|n| format!("(type $t{n} {})", ty(n - 1))).collect();
        with(format!("{} (type $t (list $t{}))", types.join(" "), levels - 1))
    };
    let list: fn(usize) -> String = |n| format!("(list $t{n})");
    assert!(nested(48, list).is_ok());
    assert_eq!(nested(60, list).unwrap_err(), "a type is nested too deep");
    let pair: fn(usize) -> String = |n| format!("(tuple $t{n} $t{n})");
    assert!(nested(10, pair).is_ok());
    assert_eq!(nested(19, pair).unwrap_err(), "its types or names are too long");
}

/// A component of a main module and plumbing, as the encoders make it.
const WRITTEN: &str = r#"(component
    (import "a:b/c" (instance $c (export "f" (func (param "x" string))) (export "g" (func (result u32)))))
    (core module $shim
        (type $f (func (param i32 i32)))
        (table (export "$imports") 1 1 funcref)
        (func (export "0") (type $f) local.get 0 local.get 1 i32.const 0 call_indirect (type $f))
    )
    (core module $main
        (import "c" "f" (func $f (param i32 i32)))
        (import "c" "g" (func $g (result i32)))
        (memory (export "memory") 1)
        (func (export "run"))
        (export "again" (func $g))
    )
    (core module $fixup
        (import "" "$imports" (table 1 1 funcref))
        (import "" "0" (func (param i32 i32)))
        (elem (i32.const 0) func 0)
    )
    (core instance $shim (instantiate $shim))
    (alias core export $shim "0" (core func $f-shim))
    (alias export $c "f" (func $f))
    (alias export $c "g" (func $g))
    (core func $g (canon lower (func $g)))
    (core instance $args (export "f" (func $f-shim)) (export "g" (func $g)))
    (core instance $main (instantiate $main (with "c" (instance $args))))
    (alias core export $main "memory" (core memory $memory))
    (alias core export $shim "$imports" (core table $table))
    (core func $f (canon lower (func $f) (memory $memory)))
    (core instance $filling (export "$imports" (table $table)) (export "0" (func $f)))
    (core instance (instantiate $fixup (with "" (instance $filling))))
    (func $run (canon lift (core func $main "run")))
    (instance $out (export "run" (func $run)))
    (export "a:b/out" (instance $out))
)"#;

/// Why the written component is refused when this is another way.
fn refusal(from: &str, to: &str) -> String {
    assert!(WRITTEN.contains(from), "{from}");
    unbundle(&wat::parse_str(WRITTEN.replacen(from, to, 1)).unwrap()).unwrap_err()
}

#[test]
fn plumbing_is_not_taken_on_trust() {
    let found = unbundle(&wat::parse_str(WRITTEN).unwrap()).unwrap();
    let text = |name: &str, signature: &str| Imported::Function {
        interface: "a:b/c".into(),
        name: name.into(),
        signature: signature.into(),
    };
    let whats: Vec<_> = found.imports.into_iter().map(|import| import.what).collect();
    assert_eq!(whats, [text("f", "(string)"), text("g", "() -> u32")]);
    let export = &found.exports[0];
    assert_eq!((&*export.interface, &*export.name, &*export.function), ("a:b/out", "run", "run"));

    let not_plumbing = "it has two core modules that are more than plumbing";
    assert_eq!(refusal("local.get 0 local.get 1", "local.get 1 local.get 0"), not_plumbing);
    assert_eq!(refusal("local.get 0 local.get 1", "nop local.get 0 local.get 1"), not_plumbing);
    assert_eq!(refusal("(type $f) local.get", "(type $f) (local i32) local.get"), not_plumbing);
    let has_memory = refusal("(elem (i32.const 0) func 0)", "(elem (i32.const 0) func 0) (memory 1)");
    assert_eq!(has_memory, "a core module imports more than functions");
    assert!(refusal("(elem (i32.const 0) func 0)", "").contains("traps"));
    assert!(refusal("i32.const 0 call_indirect", "i32.const 1 call_indirect").contains("traps"));
    assert!(refusal("(elem (i32.const 0)", "(elem (i32.const 1)").contains("beyond its end"));
    assert!(
        refusal("(elem (i32.const 0) func 0)", "(elem (i32.const 0) func 0) (elem (i32.const 2) func)")
            .contains("beyond")
    );
    assert!(
        refusal("(elem (i32.const 0) func 0)", "(elem (i32.const 0) func 0) (elem (i32.const 0) func 0)")
            .contains("twice")
    );
    // A function that the table can't be called for.
    let other =
        WRITTEN.replacen("(import \"\" \"0\" (func (param i32 i32)))", "(import \"\" \"1\" (func (result i32)))", 1);
    let other = other.replacen("(export \"0\" (func $f))", "(export \"1\" (func $g))", 1);
    assert!(unbundle(&wat::parse_str(other).unwrap()).unwrap_err().contains("traps"));
}

/// Nothing is known of these bytes but that there is no panic, and no answer that lies outside of them.
fn try_out(bytes: &[u8]) {
    if let Ok(found) = unbundle(bytes) {
        assert!(bytes[found.module].starts_with(b"\0asm"));
    }
}

#[test]
fn parts_of_a_component_and_changed_ones_do_no_harm() {
    for bytes in [encode(GUEST, WORLD), wat::parse_str(WRITTEN).unwrap()] {
        let step = 1 + bytes.len() / 1500;
        for end in (0..bytes.len()).step_by(step) {
            // A few end behind a section, and are components.
            try_out(&bytes[..end]);
        }
        let mut changed = bytes.clone();
        for at in (0..bytes.len()).step_by(step) {
            for to in [bytes[at] ^ 1, bytes[at].wrapping_add(1), 0xff] {
                changed[at] = to;
                try_out(&changed);
            }
            changed[at] = bytes[at];
        }
    }
}

#[test]
fn the_start_function_comes_last() {
    let start = r#"
        (core module $start (import "" "" (func)) (start 0))
        (core instance $starting (export "" (func $main "run")))
        (core instance (instantiate $start (with "" (instance $starting))))"#;
    let last = WRITTEN.replacen("(func $run (canon", &format!("{start} (func $run (canon"), 1);
    assert_eq!(unbundle(&wat::parse_str(last).unwrap()).unwrap().start.as_deref(), Some("run"));
    let early = "(alias core export $main \"memory\"";
    assert!(refusal(early, &format!("{start} {early}")).contains("after the start"));
    let twice =
        refusal("(func $run (canon", &format!("{start} {} (func $run (canon", start.replace("$start", "$again")));
    assert!(twice.contains("after the start"), "{twice}");
    let foreign = start.replacen("$main \"run\"", "$main \"start\"", 1);
    let foreign = WRITTEN.replacen("(func $run (canon", &format!("{foreign} (func $run (canon"), 1).replacen(
        "(memory (export \"memory\") 1)",
        "(import \"c\" \"h\" (func $h)) (export \"start\" (func $h)) (memory (export \"memory\") 1)",
        1,
    );
    let foreign = foreign.replacen(
        "(export \"g\" (func (result u32)))",
        "(export \"g\" (func (result u32))) (export \"h\" (func))",
        1,
    );
    let foreign = foreign.replacen(
        "(core instance $args (",
        "(core func $h (canon lower (func $c \"h\"))) (core instance $args (export \"h\" (func $h)) (",
        1,
    );
    let refused = unbundle(&wat::parse_str(foreign).unwrap()).unwrap_err();
    assert_eq!(refused, "its start function is not one of its main module");
}

#[test]
fn other_components_are_refused() {
    let bytes = |text: &str| wat::parse_str(text).unwrap();
    assert_eq!(unbundle(&bytes("(module)")).unwrap_err(), "it is not a component");
    assert_eq!(unbundle(&bytes("(component)")).unwrap_err(), "it has no core module, or no instance of it");
    assert_eq!(unbundle(&bytes("(component (type (resource (rep i32))))")).unwrap_err(), "it has resources of its own");
    let real = "(component (component (core module)))";
    assert_eq!(unbundle(&bytes(real)).unwrap_err(), "a nested component does more than name functions and types");
    assert!(unbundle(&bytes(r#"(component (import "f" (func)))"#)).unwrap_err().contains("is no interface"));
    let utf16 = refusal("(canon lower (func $g))", "(canon lower (func $g) string-encoding=utf16)");
    assert_eq!(utf16, "a function is lifted or lowered with utf-16");
    // What main gives back of what it got has no memory behind it.
    let lifted = "(func $run (result u32) (canon lift (core func $main \"again\")))";
    let back = refusal("(func $run (canon lift (core func $main \"run\")))", lifted);
    assert_eq!(back, "an exported function is not one of its main module");
    let given = refusal("(export \"run\" (func $run))", "(export \"run\" (func $f))");
    assert_eq!(given, "it exports `run`, which it imports");
    // A memory that the main module imports is made by the encoder, outside of it.
    let imported = GUEST.replacen("(memory (export \"memory\") 1)", "", 1);
    let imported = imported.replacen("(module", "(module (import \"env\" \"memory\" (memory 1))", 1);
    let imported = imported.replacen("(func (export \"cabi", "(export \"memory\" (memory 0)) (func (export \"cabi", 1);
    let refused = unbundle(&encode(&imported, WORLD)).unwrap_err();
    assert!(refused.contains("core module"), "{refused}");
    let resource = "interface things { resource thing; make: func() -> thing; } world guest { export things; }";
    let refused = unbundle(&encode_as(&[], resource, StringEncoding::UTF8)).unwrap_err();
    assert_eq!(refused, "it has resources of its own");
}
