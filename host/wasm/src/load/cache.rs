//! Compiled components and modules on disk, keyed by their content and by everything of the engine that shapes code. A cache
//! that can't be used is never an error: the component is compiled.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use tracing::{debug, warn};
use wasmtime::Engine;

use crate::load::compile::Compiled;

const DIGEST: usize = 32;

/// A directory of compiled components that only this user can write.
pub(crate) struct Cache {
    dir: PathBuf,
    engine: u64,
}

impl Cache {
    /// Makes the directory, readable for this user alone. `None`, with a warning, when that can't be.
    pub(crate) fn open(dir: &Path, engine: &Engine) -> Option<Cache> {
        if let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            warn!(dir = %dir.display(), %error, "no cache of compiled plugins: its directory can't be made");
            return None;
        }
        if let Err(reason) = is_private(dir) {
            warn!(dir = %dir.display(), reason, "no cache of compiled plugins: its directory can't be trusted");
            return None;
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Some(Cache { dir: dir.to_owned(), engine: hasher.finish() })
    }

    /// The compiled component of this content hash, if there is a whole one.
    pub(crate) fn load<T: Compiled>(&self, engine: &Engine, hash: &[u8; 32]) -> Option<T> {
        let path = self.path(hash);
        let mut artefact = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "a compiled plugin can't be read and is compiled again");
                return None;
            }
        };
        let body = artefact.len().checked_sub(DIGEST)?;
        let digest = artefact.split_off(body);
        if Sha256::digest(&artefact)[..] != digest[..] {
            warn!(path = %path.display(), "a compiled plugin is damaged and is compiled again");
            return None;
        }
        #[allow(
            unsafe_code,
            reason = "deserialize trusts its bytes: they come from a directory that only this user can write, and carry the digest \
                      that we wrote with them"
        )]
        // SAFETY: they are what `store` serialised.
        let compiled = unsafe { T::deserialize(engine, &artefact) };
        compiled.inspect_err(|error| debug!(%error, "a compiled plugin does not fit this engine")).ok()
    }

    /// Keeps a compiled component. A failure is logged.
    pub(crate) fn store(&self, component: &impl Compiled, hash: &[u8; 32]) {
        let path = self.path(hash);
        if let Err(reason) = self.write(component, &path) {
            warn!(path = %path.display(), reason, "a compiled plugin could not be kept");
        }
    }

    fn write(&self, component: &impl Compiled, path: &Path) -> Result<(), String> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let artefact = component.serialize().map_err(|e| e.to_string())?;
        // Written aside and renamed, so that nobody ever reads half a file.
        let aside = self.dir.join(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let written =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).and_then(|mut file| {
                file.write_all(&artefact)?;
                file.write_all(&Sha256::digest(&artefact))?;
                fs::rename(&aside, path)
            });
        written.map_err(|e| {
            let _ = fs::remove_file(&aside);
            e.to_string()
        })
    }

    fn path(&self, hash: &[u8; 32]) -> PathBuf {
        self.dir.join(format!("{}-{:016x}.cwasm", hex(hash), self.engine))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether only this user can write into the directory: what lies in it is run as machine code.
fn is_private(dir: &Path) -> Result<(), &'static str> {
    let meta = fs::metadata(dir).map_err(|_| "it can't be examined")?;
    let me = fs::metadata("/proc/self").map(|m| m.uid()).unwrap_or(meta.uid());
    if meta.uid() != me {
        return Err("it belongs to another user");
    }
    if meta.mode() & 0o022 != 0 {
        return Err("others may write into it");
    }
    Ok(())
}
