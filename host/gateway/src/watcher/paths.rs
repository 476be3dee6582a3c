//! The directories that lead to a file, through symbolic links: a change in any of them can change the file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The directory that a path is in.
pub(crate) fn parent(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
}

/// The symbolic links that a path may lead through, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// The names on the way to a path, each with the directory in which it is looked up, through all symbolic links. The way ends where
/// something is not there.
pub(crate) fn steps(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut steps = Vec::new();
    let Ok(path) = std::path::absolute(path) else { return steps };
    let parts = |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
    let mut left = parts(&path);
    let (mut here, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = left.pop() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        // Of the root, which nobody replaces, it is the path itself.
        if next == here || next.as_os_str() == "/" {
            here = next;
            continue;
        }
        steps.push((here.clone(), part));
        match std::fs::symlink_metadata(&next) {
            Ok(data) if data.is_symlink() => {
                links += 1;
                let Ok(target) = std::fs::read_link(&next) else { break };
                if links > MAX_LINKS {
                    break;
                }
                left.extend(parts(&target));
            }
            Ok(_) => here = next,
            Err(_) => break,
        }
    }
    steps
}
