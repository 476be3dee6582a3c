//! A plugin: a file with a component, compiled, checked and linked, and what it says of itself.

use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::cache::hex;
use super::component::Component;
use super::direct::{Direct, NotDirect};
use super::engine::Runtime;
use super::{HookSet, LoadError, compile};
use sluice_services::log_limit;

/// The interface this gateway speaks; any later patch version is compatible.
const PACKAGE: &str = "sluice:filter/";
const SPOKEN: &str = "sluice:filter@0.1";

/// A compiled and linked component. Shared by all workers and by all filters that use it.
pub struct Plugin {
    pub(super) runtime: Arc<Runtime>,
    pub(super) code: Code,
    pub(super) description: Description,
    hash: [u8; 32],
}

/// How a component is run.
pub(super) enum Code {
    /// Its one core module, called directly.
    Direct(Box<Direct>),
    /// By wasmtime, as what it is, and why so.
    Component { component: Component, why: String },
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

impl Plugin {
    /// The hooks that the component exports.
    pub fn hooks(&self) -> HookSet {
        match &self.code {
            Code::Direct(direct) => direct.hooks(),
            Code::Component { component, .. } => component.hooks(),
        }
    }

    /// Whether it says of itself what it is.
    pub(super) fn describes(&self) -> bool {
        match &self.code {
            Code::Direct(direct) => direct.describes(),
            Code::Component { component, .. } => component.describes(),
        }
    }

    /// Whether it imports functions that can wait, and so is always called on a fiber.
    pub fn waits(&self) -> bool {
        match &self.code {
            Code::Direct(direct) => direct.waits,
            Code::Component { component, .. } => component.waits,
        }
    }

    /// Why it is run as a component instead of being called directly; none where it is called directly.
    pub fn not_direct(&self) -> Option<&str> {
        match &self.code {
            Code::Direct(_) => None,
            // It may quote names of the guest.
            Code::Component { why, .. } => Some(log_limit::cut(why)),
        }
    }

    /// The same plugin with other code.
    pub(super) fn with_code(&self, direct: Direct) -> Plugin {
        Plugin {
            runtime: self.runtime.clone(),
            code: Code::Direct(Box::new(direct)),
            description: Description::default(),
            hash: self.hash,
        }
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
    check_magic(bytes)?;
    let code = match Direct::link(runtime, bytes) {
        Ok(direct) => Code::Direct(Box::new(direct)),
        Err(NotDirect::Unfit(why)) => Code::Component { component: Component::link(runtime, bytes)?, why },
        Err(NotDirect::Broken(error)) => return Err(error),
    };
    let hash = Sha256::digest(bytes).into();
    Ok(Plugin { runtime: runtime.clone(), code, description: Description::default(), hash })
}

fn check_magic(bytes: &[u8]) -> Result<(), LoadError> {
    if compile::is_component(bytes) {
        return Ok(());
    }
    Err(if bytes.starts_with(b"\0asm") { LoadError::CoreModule } else { LoadError::NotWasm })
}

/// `on-request` of `sluice:filter/on-request@0.1.3`; `None` for names of other packages.
pub(super) fn our_interface(name: &str) -> Result<Option<&str>, LoadError> {
    let Some(rest) = name.strip_prefix(PACKAGE) else { return Ok(None) };
    match rest.split_once('@') {
        Some((interface, version)) if version.starts_with("0.1.") => Ok(Some(interface)),
        _ => Err(LoadError::Version { export: name.to_owned(), spoken: SPOKEN }),
    }
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
    fn other_files_are_told_apart() {
        assert!(matches!(check_magic(b"\0asm\x01\0\0\0"), Err(LoadError::CoreModule)));
        assert!(matches!(check_magic(b"hello, world"), Err(LoadError::NotWasm)));
        assert!(matches!(check_magic(b""), Err(LoadError::NotWasm)));
        assert!(check_magic(b"\0asm\x0d\0\x01\0").is_ok());
    }
}
