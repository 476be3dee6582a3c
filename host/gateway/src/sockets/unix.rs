//! Unix sockets: the file that stands for one, from its first moment to its last. An abstract name (Linux) has none.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use socket2::{Domain, SockAddr, Socket, Type};

use super::BACKLOG;
use crate::config::model::{Account, UnixName, UnixSocket};

/// The file of a listening socket. It is removed with this value, if it is still the one that was made: after another process has
/// taken the place, it is that process's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if FileId::at(&self.path).is_ok_and(|id| id == self.id) {
            // Where it can't be removed, the next start finds that nobody listens there.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What tells a file from all others, also from later ones: some file systems use the number of a removed one at once.
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    /// Where the file system knows it.
    born: Option<SystemTime>,
}

impl FileId {
    fn of(found: &Metadata) -> Self {
        FileId { device: found.dev(), inode: found.ino(), born: found.created().ok() }
    }

    fn at(path: &Path) -> io::Result<Self> {
        std::fs::symlink_metadata(path).map(|found| FileId::of(&found))
    }
}

/// The right to take the place of a socket file, held until the new socket listens: before that, it looks like one of an ended process. It is
/// a locked file beside it, which goes with the lock.
struct Claim {
    path: PathBuf,
    _locked: File,
}

impl Claim {
    fn of(socket: &Path) -> io::Result<Claim> {
        let mut name = socket.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let path = socket.with_file_name(name);
        let failed = |error: io::Error| with(&format!("`{}` can't be locked", path.display()), &error);
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
            let file = options.open(&path).map_err(failed)?;
            let found = file.metadata()?;
            if !found.is_file() || found.len() > 0 {
                return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "it is a file of somebody else")));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process is just taking it"));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Whoever had the lock may have removed the file after it was opened here.
            if FileId::at(&path).is_ok_and(|id| id == FileId::of(&found)) {
                return Ok(Claim { path, _locked: file });
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is locked. What can't be removed is used again.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) fn bind(wanted: &UnixSocket) -> io::Result<(UnixListener, Option<SocketFile>)> {
    let address = address(&wanted.name)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let (file, _claim) = match &wanted.name {
        UnixName::Abstract(_) => {
            socket.bind(&address)?;
            (None, None)
        }
        UnixName::Path(path) => {
            // A path that can't be bound has no lock either.
            can_bind(&wanted.name)?;
            let claim = Claim::of(path)?;
            remove_stale(path, &address)?;
            socket.bind(&address)?;
            let file = SocketFile { path: path.clone(), id: FileId::at(path)? };
            // Nobody can connect before `listen`, so there is no moment with other rights.
            std::fs::set_permissions(path, PermissionsExt::from_mode(wanted.mode.0))
                .map_err(|error| with("its mode can't be set", &error))?;
            let owner = wanted.owner.as_ref().map(|owner| account(owner, "user", "/etc/passwd")).transpose()?;
            let group = wanted.group.as_ref().map(|group| account(group, "group", "/etc/group")).transpose()?;
            if owner.is_some() || group.is_some() {
                lchown(path, owner, group).map_err(|error| with("its owner can't be set", &error))?;
            }
            (Some(file), Some(claim))
        }
    };
    socket.listen(BACKLOG)?;
    Ok((UnixListener::from(socket), file))
}

/// A file without a folder can't be made; one that is no socket is not removed.
pub(super) fn can_bind(name: &UnixName) -> io::Result<()> {
    let UnixName::Path(path) = name else { return Ok(()) };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(no_socket()),
        Ok(_) => Ok(()),
        Err(_) => match path.parent().map(std::fs::metadata) {
            Some(Ok(folder)) if folder.is_dir() => Ok(()),
            Some(Err(error)) => Err(with("its folder can't be used", &error)),
            Some(Ok(_)) | None => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        },
    }
}

/// Removes the socket of a process that was killed. Whether somebody listens there, only a connection tells.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(no_socket());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full queue is an answer, too, and not to be waited for.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(with("whether another process listens there can't be found out", &error));
        }
        Ok(()) | Err(_) => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
    }
    // Another program may have replaced it already.
    if FileId::at(path)? != FileId::of(&found) {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process has just taken it"));
    }
    std::fs::remove_file(path).map_err(|error| with("the socket of an ended process can't be removed", &error))
}

fn no_socket() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket")
}

fn address(name: &UnixName) -> io::Result<SockAddr> {
    match name {
        UnixName::Path(path) => SockAddr::unix(path),
        UnixName::Abstract(name) => SockAddr::unix(format!("\0{name}")),
    }
}

/// The id of a user or group. Names are looked up in the files of the system, as a static binary can.
fn account(account: &Account, kind: &str, file: &str) -> io::Result<u32> {
    let name = match account {
        Account::Id(id) => return Ok(*id),
        Account::Name(name) => name,
    };
    let text = std::fs::read_to_string(file).map_err(|error| with(file, &error))?;
    let found = text.lines().map(|line| line.split(':')).find_map(|mut fields| {
        // Name, password, id.
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no {kind} `{name}` in {file}")))
}

fn with(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::config::model::FileMode;

    fn wanted(name: UnixName) -> UnixSocket {
        UnixSocket { name, mode: FileMode(0o600), owner: None, group: None }
    }

    fn refused(wanted: &UnixSocket) -> String {
        bind(wanted).expect_err("taken").to_string()
    }

    #[test]
    fn the_file_comes_and_goes_with_the_socket() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let wanted = wanted(UnixName::Path(path.clone()));
        let (listener, file) = bind(&wanted).expect("bound");
        assert_eq!(std::fs::metadata(&path).expect("a file").mode() & 0o777, 0o600);
        UnixStream::connect(&path).expect("a connection");
        assert_eq!(refused(&wanted), "another process listens there");
        drop(file);
        assert!(!path.exists());

        // One that was left behind is replaced; the old owner then leaves the new one alone.
        let (second, old) = bind(&wanted).expect("bound");
        drop((listener, second));
        let (_third, _file) = bind(&wanted).expect("stale");
        drop(old);
        UnixStream::connect(&path).expect("the new one is there");
    }

    #[test]
    fn of_two_that_start_together_one_gets_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let wanted = wanted(UnixName::Path(path.clone()));
        let claim = Claim::of(&path).expect("nobody has it");
        // Bound, but not listening yet.
        let other = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        other.bind(&SockAddr::unix(&path).expect("an address")).expect("bound");
        assert_eq!(refused(&wanted), "another process is just taking it");
        assert!(path.exists());
        other.listen(1).expect("it listens");
        drop(claim);
        assert_eq!(refused(&wanted), "another process listens there");
        drop(other);

        let won = || {
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&wanted).ok())).collect();
                all.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
            })
        };
        for _ in 0..50 {
            let won = won();
            assert_eq!(won.len(), 1);
            UnixStream::connect(&path).expect("the one that won");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "nothing is left");
    }

    #[test]
    fn a_file_in_the_place_of_the_lock_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let lock = dir.path().join("s.lock");
        std::fs::write(&lock, "data").expect("a file");
        let wanted = wanted(UnixName::Path(dir.path().join("s")));
        assert!(refused(&wanted).ends_with("can't be locked: it is a file of somebody else"));
        assert_eq!(std::fs::read_to_string(&lock).expect("the file"), "data");
        // One that was left behind is in nobody's way.
        std::fs::write(&lock, "").expect("a file");
        let (_listener, _file) = bind(&wanted).expect("bound");
        assert!(!lock.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").expect("a file");
        let wanted = wanted(UnixName::Path(path.clone()));
        assert_eq!(refused(&wanted), "there is a file that is not a socket");
        assert!(can_bind(&wanted.name).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), "data");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).expect("a link");
        assert!(bind(&UnixSocket { name: UnixName::Path(link), ..wanted }).is_err());
        assert!(can_bind(&UnixName::Path(dir.path().join("none/s"))).is_err());
        assert!(can_bind(&UnixName::Path(dir.path().join("s"))).is_ok());
    }

    #[test]
    fn an_abstract_name_has_no_file() {
        let name = UnixName::Abstract(format!("sluice-test-{}", std::process::id()));
        let (_listener, file) = bind(&wanted(name.clone())).expect("bound");
        assert!(file.is_none());
        assert_eq!(bind(&wanted(name)).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn accounts_by_name_and_id() {
        let root = Account::Name("root".to_owned());
        assert_eq!(account(&root, "user", "/etc/passwd").expect("root"), 0);
        assert_eq!(account(&Account::Id(7), "user", "/nonexistent").expect("an id"), 7);
        let nobody = Account::Name("no such".to_owned());
        let error = account(&nobody, "group", "/etc/group").expect_err("unknown").to_string();
        assert_eq!(error, "there is no group `no such` in /etc/group");
    }
}
