//! A plugin: a file with a component, compiled, checked and linked, and what it says of itself.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sluice_services::log_limit;
use sluice_services::state::Place;

use crate::backend::Code;
use crate::filter::{CallMode, HookSet, LoadError};
use crate::host::Waiting;
use crate::load::{Runtime, compile};

/// A compiled and linked component. Shared by all workers and by all filters that use it.
pub struct Plugin {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) code: Code,
    pub(crate) description: Description,
    mode: CallMode,
    place: Option<Place>,
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

impl Plugin {
    /// Reads, compiles (or finds in the cache) and links a component; nothing of it has run yet.
    pub(crate) fn link(
        runtime: &Arc<Runtime>,
        name: &str,
        bytes: &[u8],
        mode: CallMode,
        place: Option<Place>,
    ) -> Result<Plugin, LoadError> {
        check_magic(bytes)?;
        let code = Code::link(runtime, name, bytes, mode, Waiting::of(place.as_ref()))?;
        let hash = Sha256::digest(bytes).into();
        Ok(Plugin { runtime: runtime.clone(), code, description: Description::default(), mode, place, hash })
    }

    /// The hooks that the component exports.
    pub fn hooks(&self) -> HookSet {
        self.code.hooks()
    }

    /// Whether it imports functions that can wait, and so is always called on a fiber.
    pub fn waits(&self) -> bool {
        self.code.waits()
    }

    /// Whether it may tell the cache of a route something.
    pub fn tells_cache(&self) -> bool {
        self.code.imports("cache")
    }

    /// How its hooks are to be called, as configured.
    pub fn call_mode(&self) -> CallMode {
        self.mode
    }

    /// Where its limits and values are; none: in the memory of the gateway.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Why it is run as a component instead of being called directly; none where it is called directly.
    pub fn not_direct(&self) -> Option<&str> {
        match &self.code {
            Code::Direct(_) => None,
            // It may quote names of the guest.
            Code::Component { why, .. } => Some(log_limit::cut(why)),
        }
    }

    /// The version of the package `sluice:filter` that it was built for, such as `0.1.0`.
    pub fn interface_version(&self) -> &str {
        self.code.interface_version().map_or("", log_limit::cut)
    }

    /// The interfaces that it imports, without their versions: `kv` for one of `sluice:filter`, `wasi:cli/stdout` for another.
    pub fn imports(&self) -> Vec<String> {
        let short = |name: &str| {
            let name = name.split('@').next().unwrap_or_default();
            log_limit::cut(name.strip_prefix("sluice:filter/").unwrap_or(name)).to_owned()
        };
        let mut imports: Vec<String> = self.code.imported().into_iter().map(short).collect();
        imports.sort_unstable();
        imports.dedup();
        imports
    }

    /// Hooks of a later version of the interface that it exports: they are never called.
    pub(crate) fn unknown_hooks(&self) -> Vec<String> {
        self.code.unknown_hooks()
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> String {
        HEXLOWER.encode(&self.hash)
    }

    /// What `describe` answered.
    pub fn description(&self) -> &Description {
        &self.description
    }
}

fn check_magic(bytes: &[u8]) -> Result<(), LoadError> {
    if compile::is_component(bytes) {
        return Ok(());
    }
    Err(if bytes.starts_with(b"\0asm") { LoadError::CoreModule } else { LoadError::NotWasm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_told_apart() {
        assert!(matches!(check_magic(b"\0asm\x01\0\0\0"), Err(LoadError::CoreModule)));
        assert!(matches!(check_magic(b"hello, world"), Err(LoadError::NotWasm)));
        assert!(matches!(check_magic(b""), Err(LoadError::NotWasm)));
        assert!(check_magic(b"\0asm\x0d\0\x01\0").is_ok());
    }
}
