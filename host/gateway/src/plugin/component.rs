//! Finds the component that is meant by a path or a name.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ToolError;
use crate::config::{self, MAX_COMPONENT};
use crate::embedded;

/// What a build reads, by its ending.
const SOURCES: [&str; 9] = ["rs", "c", "h", "zig", "go", "js", "mjs", "ts", "py"];
/// Folders of tools and of what they make.
const NO_SOURCES: [&str; 8] = ["build", "dist", "target", "zig-out", "node_modules", "__pycache__", "venv", "cases"];
/// How deep sources are looked for, and in how many files and folders.
const DEPTH: usize = 4;
const MOST_ENTRIES: usize = 2_000;

/// Where builds leave components, by the folder of the plugin.
const FOLDERS: [&str; 6] =
    ["", "build", "dist", "target/wasm32-wasip2/release", "target/wasm32-wasip2/debug", "zig-out/bin"];

/// A component, and where it is from.
#[derive(Debug, Clone)]
pub struct Component {
    pub bytes: Vec<u8>,
    /// For people.
    pub origin: String,
    /// None for a shipped one.
    pub path: Option<PathBuf>,
}

/// The component that is meant: a file, a folder with a built plugin, or the name of a shipped one.
pub fn find(what: &Path) -> Result<Component, ToolError> {
    if what.is_dir() {
        return in_folder(what);
    }
    match shipped(what.to_str().unwrap_or_default()) {
        Some(shipped) if !what.exists() => Ok(shipped),
        _ => of_file(what),
    }
}

pub(super) fn of_file(path: &Path) -> Result<Component, ToolError> {
    let bytes = config::read_file(path, MAX_COMPONENT).map_err(ToolError::file(path))?;
    Ok(Component { bytes, origin: path.display().to_string(), path: Some(path.to_owned()) })
}

pub(super) fn shipped(name: &str) -> Option<Component> {
    let bytes = embedded::find(name)?.to_vec();
    Some(Component { bytes, origin: format!("the shipped plugin `{name}`"), path: None })
}

/// The newest component of those that builds have left in a folder; else the shipped plugin of the folder's name.
pub(super) fn in_folder(folder: &Path) -> Result<Component, ToolError> {
    if let Some(path) = newest(folder) {
        return of_file(&path);
    }
    let full = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let name = full.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    shipped(name).ok_or_else(|| {
        ToolError::Missing(format!(
            "{}: there is no component, and `{name}` is no shipped plugin: build it (`sluice plugin build`), or say with `--component` where it is",
            folder.display()
        ))
    })
}

/// The newest `.wasm` file in the usual places.
pub(super) fn newest(folder: &Path) -> Option<PathBuf> {
    let places = FOLDERS.iter().filter_map(|place| std::fs::read_dir(folder.join(place)).ok());
    let files = places.flatten().flatten().map(|entry| entry.path());
    let components = files.filter(|path| path.extension().is_some_and(|ending| ending == "wasm") && path.is_file());
    components.max_by_key(|path| {
        let changed = path.metadata().and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        (changed, path.clone())
    })
}

/// A source of a plugin that was changed after this component was built from it, the latest if there are several.
pub(super) fn newer_source(folder: &Path, built: &Path) -> Option<PathBuf> {
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    let built = changed(built)?;
    let (mut folders, mut left, mut latest) = (vec![(folder.to_owned(), 0)], MOST_ENTRIES, None);
    while let Some((folder, depth)) = folders.pop() {
        for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            left = left.checked_sub(1)?;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if depth < DEPTH && !name.starts_with('.') && !NO_SOURCES.contains(&name) {
                    folders.push((path, depth + 1));
                }
            } else if path.extension().is_some_and(|ending| SOURCES.iter().any(|known| ending == *known)) {
                latest = latest.max(changed(&path).filter(|at| *at > built).map(|at| (at, path)));
            }
        }
    }
    latest.map(|(_, path)| path)
}
