//! The shipped plugins, built by `build.rs` and embedded in the binary. Nothing else in the host knows their names; a file of
//! the same name in `plugins/` wins. Beside them the packages that filters are written with, for `sluice plugin new`.

static PLUGINS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

static SDK: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// The files of the packages for filters and of the interface, by their paths in a checkout.
pub fn sdk() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    SDK.iter().copied()
}

/// The component of a shipped plugin.
pub fn find(name: &str) -> Option<&'static [u8]> {
    PLUGINS.iter().find(|(known, _)| *known == name).map(|(_, component)| *component)
}

/// The names of the shipped plugins, in alphabetical order.
pub fn names() -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wasm::{Hook, HookSet, Runtime, RuntimeOptions};

    #[test]
    fn shipped_plugins_are_components() {
        for name in names() {
            // Component-model magic: version 13, layer 1.
            assert_eq!(find(name).unwrap().get(..8), Some(&b"\0asm\x0d\0\x01\0"[..]), "{name}");
        }
        assert_eq!(find("no-such-plugin"), None);
    }

    /// A component exports the hooks of its filter, `configure` and `describe`, and no others.
    #[test]
    fn exports_are_the_hooks_of_the_filter() {
        for name in names() {
            let decoded = wit_component::decode(find(name).unwrap()).unwrap();
            let (resolve, world) = (decoded.resolve(), decoded.package());
            let world = resolve.select_world(&[world], None).unwrap();
            let mut exports: Vec<String> =
                resolve.worlds[world].exports.keys().map(|key| resolve.name_world_key(key)).collect();
            exports.sort_unstable();
            assert!(exports.contains(&"sluice:filter/configure@0.1.1".to_owned()), "{name}: {exports:?}");
            assert!(exports.contains(&"sluice:filter/describe@0.1.1".to_owned()), "{name}: {exports:?}");
            assert!(exports.iter().all(|export| export.starts_with("sluice:filter/")), "{name}: {exports:?}");
            let hooks = exports.len() - 2;
            assert!((1..Hook::COUNT).contains(&hooks), "{name} has every hook, or none: {exports:?}");
        }
    }

    #[test]
    fn shipped_plugins_load_and_describe_themselves() {
        let runtime = Runtime::new(RuntimeOptions { instances: 50, ..RuntimeOptions::default() }).unwrap();
        for name in names() {
            let plugin = runtime.load(find(name).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(plugin.not_direct(), None, "{name}");
            let about = plugin.description();
            assert!(about.name.is_some() && about.version.is_some(), "{name}: {about:?}");
            let hooks: HookSet = about.hooks.iter().filter_map(|hook| Hook::from_name(hook)).collect();
            assert_eq!(hooks, plugin.hooks(), "{name} has the hooks it tells of");
        }
    }
}
