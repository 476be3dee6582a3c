//! Compiled components and modules on disk, keyed by their content and by everything of the engine that shapes code. A cache
//! that can't be used is never an error: the component is compiled.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
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
        let dir = match trusted(dir) {
            Ok(dir) => dir,
            Err(reason) => {
                let dir = dir.display();
                warn!(%dir, reason, "no cache of compiled plugins: its directory can't be trusted; each start compiles them");
                return None;
            }
        };
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Some(Cache { dir, engine: hasher.finish() })
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
        self.dir.join(format!("{}-{:016x}.cwasm", HEXLOWER.encode(hash), self.engine))
    }
}

/// The symbolic links that a path may lead through, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// Write access of the group and of others.
const OTHERS_WRITE: u32 = 0o022;
/// Of a directory like `/tmp`: who can write in it can't rename or remove what belongs to others.
const STICKY: u32 = 0o1000;

/// The real path of a directory, if only this user (and root) can say what is in it: what lies in it is run as machine code. Whoever can
/// write one of the directories on the way can put another one in its place, so all of them are examined, and those on the way of
/// symbolic links too (`StrictModes` of sshd does the same).
fn trusted(dir: &Path) -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("it can't be examined: {error}");
    let me = fs::metadata("/proc/self").map_err(failed)?.uid();
    let mut links = 0;
    let mut left = parts(&std::path::absolute(dir).map_err(failed)?);
    let mut real = PathBuf::from("/");
    examine(&real, &fs::symlink_metadata(&real).map_err(failed)?, me)?;
    while let Some(part) = left.pop() {
        if part == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&part);
        let data = fs::symlink_metadata(&next).map_err(failed)?;
        examine(&next, &data, me)?;
        if !data.is_symlink() {
            real = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err("it leads through too many symbolic links".to_owned());
        }
        let target = fs::read_link(&next).map_err(failed)?;
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        left.extend(parts(&target));
    }
    let data = fs::symlink_metadata(&real).map_err(failed)?;
    if data.uid() != me {
        return Err("it belongs to another user".to_owned());
    }
    if data.mode() & OTHERS_WRITE != 0 {
        return Err("others may write into it".to_owned());
    }
    Ok(real)
}

/// The names on a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let named = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(named).map(|part| part.as_os_str().to_owned()).rev().collect()
}

/// Whether only this user and root can replace what is in a directory, or a symbolic link.
fn examine(path: &Path, data: &fs::Metadata, me: u32) -> Result<(), String> {
    let path = path.display();
    if ![0, me].contains(&data.uid()) {
        return Err(format!("`{path}` belongs to another user"));
    }
    // The mode of a link means nothing; who may replace it is a matter of its directory.
    if !data.is_symlink() && data.mode() & OTHERS_WRITE != 0 && data.mode() & STICKY == 0 {
        return Err(format!("others may write into `{path}` (mode {:o})", data.mode() & 0o7777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn directory(path: &Path, mode: u32) -> PathBuf {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_owned()
    }

    #[test]
    fn a_cache_below_a_directory_that_others_can_write_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let private = directory(&root.join("private/cache"), 0o700);
        assert_eq!(trusted(&private), Ok(private.clone()));
        assert!(Cache::open(&private, &Engine::default()).is_some());
        // By name, and with a step back.
        assert_eq!(trusted(&private.join("../cache")), Ok(private.clone()));
        for mode in [0o777, 0o775, 0o733] {
            let open = directory(&root.join("open"), mode);
            let below = directory(&open.join("mine/cache"), 0o700);
            let expected = format!("others may write into `{}` (mode {mode:o})", open.display());
            assert_eq!(trusted(&below), Err(expected.clone()));
            // A link that others can replace is as bad, wherever it leads to now; so is a good link to there.
            let _ = fs::remove_file(open.join("link"));
            symlink(&private, open.join("link")).unwrap();
            assert_eq!(trusted(&open.join("link")), Err(expected.clone()));
            let _ = fs::remove_file(root.join("good"));
            symlink("open/mine", root.join("good")).unwrap();
            assert_eq!(trusted(&root.join("good/cache")), Err(expected));
            assert!(Cache::open(&below, &Engine::default()).is_none());
        }
        // Nobody can replace what is ours in a directory like /tmp.
        let sticky = directory(&root.join("sticky"), 0o1777);
        let below = directory(&sticky.join("cache"), 0o700);
        assert_eq!(trusted(&below), Ok(below.clone()));
        symlink(&below, sticky.join("link")).unwrap();
        assert_eq!(trusted(&sticky.join("link")), Ok(below));
        // The cache itself must not be like /tmp: there, others could add files.
        assert_eq!(trusted(&sticky), Err("others may write into it".to_owned()));
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(trusted(&root.join("loop")), Err("it leads through too many symbolic links".to_owned()));
    }
}
