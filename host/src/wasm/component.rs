//! A component file, compiled, checked and linked: what it exports, whether it can wait, and what it says of itself.

use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use super::cache::{Cache, hex};
use super::engine::Runtime;
use super::state::CallState;
use super::{Hook, HookSet, LoadError, compile, host, wasi};
use crate::services::log_limit;

/// The interface this gateway speaks; any later patch version is compatible.
const PACKAGE: &str = "sluice:filter/";
const SPOKEN: &str = "sluice:filter@0.1";
/// The interfaces a filter can import, besides WASI 0.2.
const IMPORTS: [&str; 17] = [
    "types", "interest", "request", "response", "route", "state", "context", "log", "clock", "random", "limiter", "kv",
    "http", "crypto", "secrets", "metrics", "events",
];
const KNOWN: &str = "it has sluice:filter@0.1 and a part of WASI 0.2";

/// A compiled and linked component. Shared by all workers and by all filters that use it.
pub struct Plugin {
    pub(super) runtime: Arc<Runtime>,
    pub(super) pre: InstancePre<CallState>,
    pub(super) exports: Exports,
    pub(super) waits: bool,
    pub(super) description: Description,
    hash: [u8; 32],
}

/// What a plugin says of itself in `describe`. All of it is optional.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Description {
    pub name: Option<String>,
    pub version: Option<String>,
    pub description: Option<String>,
    pub hooks: Vec<String>,
    /// A JSON Schema of the filter's config table.
    pub config: Option<serde_json::Value>,
    /// Shaped like the `grants` table of `gateway.toml`.
    pub grants: Option<serde_json::Value>,
    /// Markdown.
    pub docs: Option<String>,
    /// Whether the gateway should warn when such a filter fails open.
    pub authenticates: bool,
}

/// Where the exports of a component are.
#[derive(Default)]
pub(super) struct Exports {
    pub(super) describe: Option<ComponentExportIndex>,
    pub(super) configure: Option<ComponentExportIndex>,
    pub(super) hooks: [Option<ComponentExportIndex>; Hook::COUNT],
}

impl Exports {
    pub(super) fn set(&self) -> HookSet {
        Hook::ALL.into_iter().filter(|hook| self.hooks[hook.index()].is_some()).collect()
    }
}

impl Plugin {
    /// The hooks that the component exports.
    pub fn hooks(&self) -> HookSet {
        self.exports.set()
    }

    /// Whether it imports functions that can wait, and so is always called on a fiber.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> String {
        hex(&self.hash)
    }

    /// What `describe` answered.
    pub fn description(&self) -> &Description {
        &self.description
    }
}

/// Reads, compiles (or finds in the cache) and links a component; nothing of it has run yet.
pub(super) fn link(runtime: &Arc<Runtime>, bytes: &[u8]) -> Result<Plugin, LoadError> {
    link_with(runtime, bytes, runtime.cache.as_ref())
}

/// The same for a component that is nobody else's business: neither it nor what it is compiled to gets to the disk.
pub(super) fn link_private(runtime: &Arc<Runtime>, bytes: &[u8]) -> Result<Plugin, LoadError> {
    link_with(runtime, bytes, None)
}

fn link_with(runtime: &Arc<Runtime>, bytes: &[u8], cache: Option<&Cache>) -> Result<Plugin, LoadError> {
    check_magic(bytes)?;
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    let component = compiled(runtime, bytes, &hash, cache)?;
    let waits = check_imports(runtime, &component)?;
    let exports = find_exports(runtime, &component)?;
    let mut linker = Linker::new(&runtime.engine);
    let failed = |e: wasmtime::Error| LoadError::Link(format!("{e:#}"));
    host::link(&mut linker, waits).map_err(failed)?;
    wasi::link(&mut linker, &component)?;
    let pre = linker.instantiate_pre(&component).map_err(failed)?;
    Ok(Plugin { runtime: runtime.clone(), pre, exports, waits, description: Description::default(), hash })
}

fn check_magic(bytes: &[u8]) -> Result<(), LoadError> {
    // The fourth pair of bytes tells a component (layer 1) from a core module (layer 0).
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(()),
        Some([0, b'a', b's', b'm', ..]) => Err(LoadError::CoreModule),
        _ => Err(LoadError::NotWasm),
    }
}

fn compiled(runtime: &Runtime, bytes: &[u8], hash: &[u8; 32], cache: Option<&Cache>) -> Result<Component, LoadError> {
    if let Some(component) = cache.and_then(|cache| cache.load(&runtime.engine, hash)) {
        return Ok(component);
    }
    let component = compile::compile(&runtime.engine, runtime.options.compiler, bytes)?;
    if let Some(cache) = cache {
        cache.store(&component, hash);
    }
    Ok(component)
}

/// Refuses imports that are not there, by name, and answers whether one of them can wait.
fn check_imports(runtime: &Runtime, component: &Component) -> Result<bool, LoadError> {
    let mut waits = false;
    for (name, _) in component.component_type().imports(&runtime.engine) {
        if wasi::interface_of(name).is_some() {
            continue;
        }
        let interface = our_interface(name)?.filter(|interface| IMPORTS.contains(interface));
        let Some(interface) = interface else {
            return Err(LoadError::UnknownImport { import: name.to_owned(), known: KNOWN });
        };
        waits |= interface == "http";
    }
    Ok(waits)
}

/// `on-request` of `sluice:filter/on-request@0.1.3`; `None` for names of other packages.
fn our_interface(name: &str) -> Result<Option<&str>, LoadError> {
    let Some(rest) = name.strip_prefix(PACKAGE) else { return Ok(None) };
    match rest.split_once('@') {
        Some((interface, version)) if version.starts_with("0.1.") => Ok(Some(interface)),
        _ => Err(LoadError::Version { export: name.to_owned(), spoken: SPOKEN }),
    }
}

fn find_exports(runtime: &Runtime, component: &Component) -> Result<Exports, LoadError> {
    let mut exports = Exports::default();
    for (name, export) in component.component_type().exports(&runtime.engine) {
        if !matches!(export.ty, ComponentItem::ComponentInstance(_)) {
            continue;
        }
        let Some(interface) = our_interface(name)? else { continue };
        let slot = match interface {
            "describe" => &mut exports.describe,
            "configure" => &mut exports.configure,
            _ => match Hook::from_name(interface) {
                Some(hook) => &mut exports.hooks[hook.index()],
                // A hook of a later version: never called.
                None => continue,
            },
        };
        let instance = component.get_export_index(None, name);
        *slot = instance.and_then(|instance| component.get_export_index(Some(&instance), interface));
        if slot.is_none() {
            return Err(LoadError::Export {
                export: name.to_owned(),
                reason: format!("it has no function `{interface}`"),
            });
        }
    }
    if exports.set().is_empty() {
        let all = component.component_type();
        let names: Vec<_> = all.exports(&runtime.engine).map(|(name, _)| name).collect();
        return Err(LoadError::NoHooks { found: some_of(&names) });
    }
    Ok(exports)
}

/// What an error says of these names.
fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    if names.is_empty() {
        return "and nothing else".to_owned();
    }
    let mut text: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{}`", log_limit::cut(name))).collect();
    if names.len() > SHOWN {
        text.push(format!("{} more", names.len() - SHOWN));
    }
    format!("only {}", text.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compatible_within_a_minor() {
        assert_eq!(our_interface("sluice:filter/on-request@0.1.7").unwrap(), Some("on-request"));
        assert_eq!(our_interface("wasi:io/poll@0.2.0").unwrap(), None);
        assert!(matches!(our_interface("sluice:filter/on-request@0.2.0"), Err(LoadError::Version { .. })));
        assert!(matches!(our_interface("sluice:filter/on-request"), Err(LoadError::Version { .. })));
    }

    #[test]
    fn a_few_names_are_shown() {
        assert_eq!(some_of(&[]), "and nothing else");
        assert_eq!(some_of(&["a", "b"]), "only `a`, `b`");
        assert_eq!(some_of(&["a", "b", "c", "d", "e", "f"]), "only `a`, `b`, `c`, `d`, 2 more");
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(matches!(check_magic(b"\0asm\x01\0\0\0"), Err(LoadError::CoreModule)));
        assert!(matches!(check_magic(b"hello, world"), Err(LoadError::NotWasm)));
        assert!(matches!(check_magic(b""), Err(LoadError::NotWasm)));
        assert!(check_magic(b"\0asm\x0d\0\x01\0").is_ok());
    }
}
