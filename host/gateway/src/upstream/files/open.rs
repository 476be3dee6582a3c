//! Opening what is below a folder, and nothing else. The kernel resolves the whole path in one call (`openat2` with `RESOLVE_BENEATH`): no
//! link, no `..` and no rename at the same time leads out, so there is nothing between a check and its use.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// A path is resolved again so often if something was renamed meanwhile that it may lead through.
const TRIES: usize = 16;

/// Whether a call may wait for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    Never,
    ForDisk,
}

/// A regular file.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) metadata: Metadata,
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum Entry {
    File(OpenFile),
    Folder,
    /// Nothing, nothing that is below the folder, or what is neither a file nor a folder.
    Absent,
    /// The gateway has no right to read it.
    Forbidden,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum OpenError {
    /// It is not in memory: to be done where waiting is fine.
    WouldWait,
    Failed(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        OpenError::Failed(error)
    }
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::WouldWait => io::ErrorKind::WouldBlock.into(),
            OpenError::Failed(error) => error,
        }
    }
}

/// The folder that is served. It is opened for each request, so that a link that a deployment moves is followed.
pub(super) fn root(path: &Path, waits: Waits) -> Result<OwnedFd, OpenError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), cached(waits)) {
        Ok(root) => Ok(root),
        Err(_) if waits == Waits::Never => Err(OpenError::WouldWait),
        Err(errno) => Err(OpenError::Failed(errno.into())),
    }
}

/// What is at a path below the folder; an empty one is the folder itself.
pub(super) fn entry(root: &OwnedFd, path: &[u8], waits: Waits) -> Result<Entry, OpenError> {
    let path = if path.is_empty() { b"." } else { path };
    // Opened like this, a FIFO does not wait for a writer, and a terminal does not become ours.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | cached(waits);
    let mut tries = TRIES;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(opened) => return Ok(what_is(opened.into())?),
            // XDEV: it leads out of the folder. NXIO: a socket. LOOP: links in a circle.
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::NAMETOOLONG
                | Errno::XDEV
                | Errno::LOOP
                | Errno::NXIO
                | Errno::NODEV,
            ) => {
                return Ok(Entry::Absent);
            }
            Err(Errno::ACCESS | Errno::PERM) => return Ok(Entry::Forbidden),
            // Also where the kernel does not know `RESOLVE_CACHED`.
            Err(_) if waits == Waits::Never => return Err(OpenError::WouldWait),
            Err(Errno::AGAIN | Errno::INTR) if tries > 0 => tries -= 1,
            Err(errno) => return Err(OpenError::Failed(errno.into())),
        }
    }
}

fn cached(waits: Waits) -> ResolveFlags {
    match waits {
        Waits::Never => ResolveFlags::CACHED,
        Waits::ForDisk => ResolveFlags::empty(),
    }
}

fn what_is(file: File) -> io::Result<Entry> {
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    Ok(match (kind.is_file(), kind.is_dir()) {
        (true, _) => Entry::File(OpenFile { file, metadata }),
        (false, true) => Entry::Folder,
        (false, false) => Entry::Absent,
    })
}
