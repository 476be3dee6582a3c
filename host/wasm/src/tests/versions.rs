//! How the interface grows: components of any 0.1 version load as long as all that they import is here.

use super::*;
use crate::bindings::INTERFACE_VERSION;

/// The package in `wit/`, in another version and with more in it.
fn later(version: &str, more: &str) -> Resolve {
    let mut text = String::new();
    for file in ["types", "hooks", "message", "services", "consumers", "worlds"] {
        let part = std::fs::read_to_string(format!("{WIT}/{file}.wit")).unwrap();
        text.push_str(&part);
    }
    let named = format!("package sluice:filter@{INTERFACE_VERSION};");
    assert!(text.contains(&named));
    // Before the package there are comments only.
    let (before, after) = text.split_once(&named).unwrap();
    let text = format!("{before}package sluice:filter@{version};{after}{more}").replace(
        "    /// The protocol of the client's request",
        "    /// Of a later version.\n    trace-id: func() -> result<string, error>;\n    /// The protocol of the client's request",
    );
    let mut resolve = Resolve::default();
    resolve.push_str("filter.wit", &text).unwrap();
    resolve
}

/// A component for a later version, whose hook calls a function of `request`, and which has one more export.
fn guest_of(version: &str, function: &str, more_export: bool) -> Vec<u8> {
    let mut resolve = later(version, "interface on-later { on-later: func(); }");
    let export = if more_export { format!("export sluice:filter/on-later@{version};") } else { String::new() };
    let world = format!(
        "package test:guest; world guest {{
            import sluice:filter/request@{version};
            export sluice:filter/on-request@{version};
            {export}
        }}"
    );
    let package = resolve.push_str("guest.wit", &world).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    let more = if more_export {
        format!("(func (export \"sluice:filter/on-later@{version}#on-later\"))")
    } else {
        String::new()
    };
    let text = format!(
        "(module
            (import \"sluice:filter/request@{version}\" \"{function}\" (func $call (param i32)))
            (memory (export \"memory\") 1)
            (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) i32.const 4096)
            (func (export \"sluice:filter/on-request@{version}#on-request\") (result i32)
                (call $call (i32.const 64)) i32.const 0)
            {more})"
    );
    encode(wat::parse_str(&text).unwrap(), &resolve, world)
}

#[test]
fn the_version_is_that_of_the_package() {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(WIT).unwrap();
    assert_eq!(resolve.packages[package].name.version.as_ref().unwrap().to_string(), INTERFACE_VERSION);
}

#[test]
fn a_component_of_a_later_version_loads_if_all_that_it_imports_is_here() {
    let runtime = runtime();
    let bytes = guest_of("0.1.7", "method", false);
    for (bytes, direct) in [(bytes.clone(), true), (as_component(bytes), false)] {
        let program = program(&runtime, &bytes, Mode::Reused, limits());
        assert_eq!(is_direct(&program.plugin), direct, "{:?}", program.plugin.not_direct());
        assert_eq!(program.plugin.interface_version(), "0.1.7");
        let result = run(async { Pool::new(program.clone()).call(Hook::OnRequest, exchange(), 0).await.1 });
        assert!(result.is_ok(), "{direct}: {result:?}");
    }
}

#[test]
fn a_function_of_a_later_version_is_named_in_the_refusal() {
    let bytes = guest_of("0.1.7", "trace-id", false);
    for mode in [CallMode::Auto, CallMode::Component] {
        let error = runtime().load_for("guest", &bytes, mode).err().unwrap();
        assert_eq!(
            error.to_string(),
            "imports the function `trace-id` of `sluice:filter/request@0.1.7`, which this gateway does not have (it has \
             sluice:filter@0.1.1): use a release of Sluice that has sluice:filter@0.1.7, or build the plugin for an older interface"
        );
    }
}

#[test]
fn a_missing_function_is_found_before_anything_is_compiled() {
    // A compiler that refuses everything.
    let options =
        RuntimeOptions { instances: 10, compiler: Some(["ls", "/no/such/file"]), ..RuntimeOptions::default() };
    let runtime = Runtime::new(options).unwrap();
    let error = runtime.load(&guest_of("0.1.7", "trace-id", false)).err().unwrap();
    assert!(matches!(error, LoadError::MissingFunction { .. }), "{error}");
}

#[test]
fn a_hook_of_a_later_version_is_told_of_and_not_called() {
    let runtime = runtime();
    let bytes = guest_of("0.1.7", "method", true);
    for bytes in [bytes.clone(), as_component(bytes)] {
        let program = program(&runtime, &bytes, Mode::Reused, limits());
        let expected = "filter `guest`: its hook `sluice:filter/on-later@0.1.7` is of a later version of the interface and is never called";
        assert_eq!(program.warnings(), [expected]);
    }
}

#[test]
fn another_series_of_versions_is_refused() {
    for mode in [CallMode::Auto, CallMode::Component] {
        let error = runtime().load_for("guest", &guest_of("0.2.0", "method", false), mode).err().unwrap();
        let text = error.to_string();
        assert!(text.starts_with("uses `sluice:filter/"), "{text}");
        assert!(
            text.ends_with("@0.2.0`, a version that this gateway does not speak: it has sluice:filter@0.1.1 and speaks every 0.1 version"),
            "{text}"
        );
    }
}
