//! Opening what is below a folder, and nothing else. The kernel resolves the whole path in one call (`openat2` with `RESOLVE_BENEATH`): no
//! link, no `..` and no rename at the same time leads out, so there is nothing between a check and its use.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::io::Errno;

/// A path is resolved again so often if something was renamed meanwhile that it may lead through.
const TRIES: usize = 16;

/// No link and no `..` leads out of the folder, nor does one of those of `/proc` that lead anywhere.
const BELOW: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

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
    File(Box<OpenFile>),
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
    let resolve = match waits {
        Waits::Never => ResolveFlags::CACHED,
        Waits::ForDisk => ResolveFlags::empty(),
    };
    match (openat2(CWD, path, flags, Mode::empty(), resolve), waits) {
        (Ok(root), Waits::Never) if !is_local(&root) => Err(OpenError::WouldWait),
        (Ok(root), _) => Ok(root),
        (Err(_), Waits::Never) => Err(OpenError::WouldWait),
        (Err(errno), Waits::ForDisk) => Err(OpenError::Failed(errno.into())),
    }
}

/// Whether a file of this folder whose name is in memory is opened without asking anybody. It is not where another process or machine has the files
/// (FUSE, NFS): that one is asked at each opening, and may hang. One that is not known here is taken for such a one.
fn is_local(root: &OwnedFd) -> bool {
    const BCACHEFS: u32 = 0xca45_1a4e;
    const BTRFS: u32 = 0x9123_683e;
    const EROFS: u32 = 0xe0f5_e1e2;
    const EXT4: u32 = 0xef53;
    const F2FS: u32 = 0xf2f5_2010;
    const OVERLAYFS: u32 = 0x794c_7630;
    const RAMFS: u32 = 0x8584_58f6;
    const SQUASHFS: u32 = 0x7371_7368;
    const TMPFS: u32 = 0x0102_1994;
    const XFS: u32 = 0x5846_5342;
    const ZFS: u32 = 0x2fc1_2fc1;
    let kind = fstatfs(root).map_or(0, |found| found.f_type as u32);
    matches!(kind, BCACHEFS | BTRFS | EROFS | EXT4 | F2FS | OVERLAYFS | RAMFS | SQUASHFS | TMPFS | XFS | ZFS)
}

/// What is at a path below the folder; an empty one is the folder itself.
pub(super) fn entry(root: &OwnedFd, path: &[u8], waits: Waits) -> Result<Entry, OpenError> {
    let path = if path.is_empty() { b"." } else { path };
    // Opened like this, a FIFO does not wait for a writer, and a terminal does not become ours.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = match waits {
        // Another file system below the folder may be one that waits.
        Waits::Never => BELOW | ResolveFlags::CACHED | ResolveFlags::NO_XDEV,
        Waits::ForDisk => BELOW,
    };
    for _ in 0..TRIES {
        let errno = match openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(opened) => return Ok(what_is(opened.into())?),
            Err(errno) => errno,
        };
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => return Ok(Entry::Absent),
            Errno::ACCESS | Errno::PERM => return Ok(Entry::Forbidden),
            // Whatever it is: also where the kernel does not know `RESOLVE_CACHED`.
            _ if waits == Waits::Never => return Err(OpenError::WouldWait),
            errno if is_absent(errno, path) => return Ok(Entry::Absent),
            Errno::AGAIN | Errno::INTR => {}
            errno => return Err(OpenError::Failed(errno.into())),
        }
    }
    Err(OpenError::Failed(Errno::AGAIN.into()))
}

/// Whether an error says that nothing can be there, also to who waits.
fn is_absent(errno: Errno, path: &[u8]) -> bool {
    match errno {
        // It leads out of the folder; it is a socket, or a device without a driver; its links go in a circle.
        Errno::XDEV | Errno::NXIO | Errno::NODEV | Errno::LOOP => true,
        // The file system can't have such a name: it takes nothing but UTF-8 (ZFS, folded case), or no `<` and `:` (those of Windows).
        Errno::INVAL | Errno::ILSEQ => path != b".",
        _ => false,
    }
}

fn what_is(file: File) -> io::Result<Entry> {
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    Ok(match (kind.is_file(), kind.is_dir()) {
        (true, _) => Entry::File(Box::new(OpenFile { file, metadata })),
        (false, true) => Entry::Folder,
        (false, false) => Entry::Absent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_file_system_refuses_is_not_there() {
        for errno in [Errno::INVAL, Errno::ILSEQ] {
            assert!(is_absent(errno, b"\xff"), "{errno}");
            // Of the folder itself it is no matter of the name.
            assert!(!is_absent(errno, b"."), "{errno}");
        }
        assert!(is_absent(Errno::XDEV, b"a") && !is_absent(Errno::IO, b"a") && !is_absent(Errno::NFILE, b"a"));
    }
}
