//! The WIT package `sluice:filter`, as a stranger would take it.

use std::collections::BTreeSet;
use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, PackageId, Resolve, WorldItem, WorldKey};

const HOOKS: [&str; 12] = [
    "describe",
    "configure",
    "on-request",
    "on-request-body",
    "select-upstream",
    "on-request-chunk",
    "on-response",
    "on-response-body",
    "on-response-chunk",
    "on-response-event",
    "on-response-trailers",
    "on-complete",
];

fn published() -> (Resolve, PackageId) {
    let mut resolve = Resolve::default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let (package, _) = resolve.push_dir(&folder).expect("the WIT package parses");
    (resolve, package)
}

/// Generators copy the documentation into comments of other languages. There, the end of a comment of C and its kin would end theirs.
#[test]
fn no_documentation_ends_a_comment() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    for file in std::fs::read_dir(folder).expect("the folder") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("text");
        for (number, line) in text.lines().enumerate() {
            assert!(!["*/", "-->"].iter().any(|end| line.contains(end)), "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn there_are_worlds_for_a_body_alone() {
    let (resolve, package) = published();
    for (name, hooks) in [
        ("request-body-only-filter", &["on-request-body"][..]),
        ("response-body-filter", &["on-response-body"]),
        ("request-chunk-filter", &["on-request-chunk"]),
        ("response-chunk-filter", &["on-response-chunk"]),
        ("response-event-filter", &["on-response-event"]),
        ("response-trailers-filter", &["on-response", "on-response-trailers"]),
        ("audit-filter", &["on-request", "on-complete"]),
    ] {
        let (_, exports) = interfaces(&build(&resolve, package, name));
        let expected: BTreeSet<String> = hooks.iter().chain(&["configure"]).map(|hook| full_name(hook)).collect();
        assert_eq!(exports, expected, "{name}");
    }
}

/// A component of a world whose functions all trap.
fn build(resolve: &Resolve, package: PackageId, world: &str) -> Vec<u8> {
    let world = resolve.select_world(&[package], Some(world)).expect("the world");
    let mut module = dummy_module(resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8, false).expect("metadata");
    ComponentEncoder::default().validate(true).module(&module).expect("a module").encode().expect("a component")
}

/// The names of the interfaces that a component imports and exports.
fn interfaces(component: &[u8]) -> (BTreeSet<String>, BTreeSet<String>) {
    let decoded = wit_component::decode(component).expect("a component");
    let resolve = decoded.resolve();
    let world = resolve.select_world(&[decoded.package()], None).expect("its world");
    let names =
        |items: Vec<(&WorldKey, &WorldItem)>| items.iter().map(|(key, _)| resolve.name_world_key(key)).collect();
    let world = &resolve.worlds[world];
    (names(world.imports.iter().collect()), names(world.exports.iter().collect()))
}

fn full_name(interface: &str) -> String {
    format!("sluice:filter/{interface}@0.1.1")
}

#[test]
fn it_parses_and_has_the_hooks() {
    let (resolve, package) = published();
    let package = &resolve.packages[package];
    assert_eq!(package.name.to_string(), "sluice:filter@0.1.1");
    for hook in HOOKS {
        assert!(package.interfaces.contains_key(hook), "no interface `{hook}`");
    }
    for import in
        "types interest request response route state context log clock random limiter kv http crypto secrets metrics"
            .split(' ')
    {
        assert!(package.interfaces.contains_key(import), "no interface `{import}`");
    }
}

#[test]
fn everything_is_documented() {
    let (resolve, package) = published();
    let mut bare = Vec::new();
    for (name, id) in &resolve.packages[package].interfaces {
        let interface = &resolve.interfaces[*id];
        if interface.docs.contents.is_none() {
            bare.push(name.clone());
        }
        // A hook's one function is described by its interface.
        for (function, what) in interface.functions.iter().filter(|(f, _)| *f != name) {
            if what.docs.contents.is_none() {
                bare.push(format!("{name}.{function}"));
            }
        }
    }
    // Pairs share the comment of the first of them.
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}

#[test]
fn a_component_for_each_published_world() {
    let (resolve, package) = published();
    for name in resolve.packages[package].worlds.keys().filter(|name| *name != "imports") {
        let (_, exports) = interfaces(&build(&resolve, package, name));
        assert!(exports.contains(&full_name("configure")), "{name}: {exports:?}");
        assert!(
            exports.iter().all(|export| HOOKS.iter().any(|hook| *export == full_name(hook))),
            "{name}: {exports:?}"
        );
    }
}

#[test]
fn a_component_for_each_set_of_hooks_in_use() {
    let (mut resolve, _) = published();
    let mut sets: BTreeSet<BTreeSet<String>> = HOOKS.iter().map(|hook| BTreeSet::from([full_name(hook)])).collect();
    for name in sluice::embedded::names() {
        let component = sluice::embedded::find(name).expect("an embedded plugin");
        sets.insert(interfaces(component).1);
    }
    for (n, set) in sets.iter().enumerate() {
        let exports: String = set.iter().map(|hook| format!("export {hook};")).collect();
        let text = format!("package test:set{n}; world filter {{ include sluice:filter/imports@0.1.1; {exports} }}");
        let package = resolve.push_str("set.wit", &text).expect("a world");
        let (_, built) = interfaces(&build(&resolve, package, "filter"));
        assert_eq!(built, *set);
    }
}

/// What a component of the usual toolchains imports besides: the WASI of its standard library.
fn is_published(resolve: &Resolve, package: PackageId, import: &str) -> bool {
    let own = resolve.packages[package].interfaces.keys().any(|interface| import == full_name(interface));
    own || import.starts_with("wasi:cli/")
        || import.starts_with("wasi:io/")
        || import.starts_with("wasi:clocks/")
        || import.starts_with("wasi:random/")
        || import.starts_with("wasi:filesystem/")
}

#[test]
fn shipped_plugins_use_only_what_is_published() {
    let (resolve, package) = published();
    for name in sluice::embedded::names() {
        let (imports, exports) = interfaces(sluice::embedded::find(name).expect("an embedded plugin"));
        for import in &imports {
            assert!(is_published(&resolve, package, import), "{name} imports {import}");
        }
        for export in &exports {
            assert!(HOOKS.iter().any(|hook| *export == full_name(hook)), "{name} exports {export}");
        }
    }
}

#[test]
fn the_waiting_probe_alone_imports_http() {
    let import = full_name("http");
    for (name, file) in sluice_harness::fixtures::ALL {
        let (imports, _) = interfaces(&std::fs::read(file).expect("the fixture"));
        assert_eq!(imports.contains(&import), *name == "probe-waiting", "{name}");
    }
}
