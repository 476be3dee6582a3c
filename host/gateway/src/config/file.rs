//! Reads files that an operator names. Only regular files of a bounded size: a FIFO would hold the loader for ever, and `/dev/zero` has no
//! end.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The largest text: of a configuration, or of a file that it refers to.
pub(super) const MAX_TEXT: u64 = 16 << 20;
/// The largest component. Those of interpreted languages have some 20 MiB.
pub const MAX_COMPONENT: u64 = 256 << 20;

/// The bytes of a regular file that has at most so many. Never waits for another process.
pub fn read_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Before it is opened, since that alone can have an effect on a device.
    regular(fs::metadata(path)?.file_type())?;
    // The file may have been replaced since: opened like this, a FIFO does not wait for a writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    regular(file.metadata()?.file_type())?;
    read(&file, most)
}

/// The same for text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let bytes = read_file(path, MAX_TEXT)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

fn read(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The length that the file system tells says nothing: files of `/proc` have none, and a file can grow.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

fn regular(found: FileType) -> io::Result<()> {
    if found.is_file() {
        return Ok(());
    }
    let what = if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a FIFO or a pipe"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, expected a regular file")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("five"), "12345").unwrap();
        assert_eq!(read_file(&path("five"), 5).unwrap(), b"12345");
        let error = |path: &Path| read_file(path, 4).unwrap_err().to_string();
        assert_eq!(error(&path("five")), "it has more than 4 bytes");
        assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        assert_eq!(error(&path("fifo")), "it is a FIFO or a pipe, expected a regular file");
        assert_eq!(error(&path("socket")), "it is a socket, expected a regular file");
        assert_eq!(error(directory.path()), "it is a directory, expected a regular file");
        assert_eq!(error(Path::new("/dev/zero")), "it is a device, expected a regular file");
        assert_eq!(read_file(&path("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(path("bytes"), b"\xff").unwrap();
        assert_eq!(read_text(&path("bytes")).unwrap_err().to_string(), "it is not UTF-8");
    }
}
