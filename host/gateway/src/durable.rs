//! Files of the gateway's own that are replaced as a whole: after a full disk, a killed process or a loss of power there is the old one or the
//! new one. Only this user may read them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// What the names of files end with that are being written.
const NEW: &str = ".new";
/// Nobody writes one for so long.
const LEFT: Duration = Duration::from_secs(24 * 3600);

/// Puts `content` in the place of the file, and makes its folder if it is missing. Blocks until the disk has it.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Another process may be writing the same file, also one of the same number in another container.
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(
        ".{:016x}{NEW}",
        crate::services::random::number().map_err(|_| io::Error::other("no random numbers"))?
    ));
    let new = path.with_file_name(name);
    let written = write_new(&new, content).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // What a full disk has cut short is of no use.
        let _ = fs::remove_file(&new);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    write(&mut file, content)
}

fn write(file: &mut File, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()
}

/// Removes the files from a folder that processes were writing when they were killed.
pub fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let is_new = entry.file_name().to_str().is_some_and(|name| name.ends_with(NEW));
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|at| at.elapsed().ok());
        if is_new && age.is_some_and(|age| age > LEFT) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_full_disk_is_an_error() {
        let mut full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
        assert_eq!(write(&mut full, b"text").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_file_that_is_there_is_nobody_s_new_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.new");
        write_new(&path, b"one").expect("written");
        assert_eq!(write_new(&path, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("a file"), b"one");
    }

    #[test]
    fn what_killed_processes_have_left_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        replace(&folder.path().join("a.json"), b"{}").expect("written");
        let old = SystemTime::now() - LEFT * 2;
        for (name, is_old) in [("a.json.1.new", true), ("b.json.2.new", false), ("c.json", true)] {
            let file = File::create(folder.path().join(name)).expect("a file");
            if is_old {
                file.set_modified(old).expect("a time");
            }
        }
        remove_leftovers(folder.path());
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.json", "b.json.2.new", "c.json"]);
    }
}
