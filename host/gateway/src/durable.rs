//! Files of the gateway's own that are replaced as a whole: after a full disk, a killed process or a loss of power there is the old one or the
//! new one. Only this user may read them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Puts `content` in the place of the file, and makes its folder if it is missing. Blocks until the disk has it.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Another process may be writing the same file: the one that this one takes the place of.
    let new = path.with_extension(format!("json.{}", std::process::id()));
    let written = write_new(&new, content).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // What a full disk has cut short is of no use.
        let _ = fs::remove_file(&new);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_an_error() {
        assert_eq!(write_new(Path::new("/dev/full"), b"text").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
