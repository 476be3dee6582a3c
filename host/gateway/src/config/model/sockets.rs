//! The sockets of listeners, and who is at the other end of their connections.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::http::forwarded::TrustedPeers;

/// Where a listener takes connections. It is shown as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindAddress {
    Ip(SocketAddr),
    Unix(Box<UnixSocket>),
}

/// A Unix socket to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    pub name: UnixName,
    /// Of its file. Who can write it can connect.
    pub mode: FileMode,
    /// Of its file; none: those of the process.
    pub owner: Option<Account>,
    pub group: Option<Account>,
}

/// Who may read, write and execute a file, as in chmod(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// What a Unix socket is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnixName {
    Path(PathBuf),
    /// A name of Linux without a file: it ends with its last socket, and any process of the network namespace can connect.
    Abstract(String),
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    Id(u32),
    Name(String),
}

/// Whose connections begin with a PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// These must send one. From others it is no header but a malformed request.
    pub trusted: TrustedPeers,
    /// From the connection to the end of the header.
    pub timeout: Duration,
}

impl BindAddress {
    /// The port, of an address that has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            BindAddress::Ip(address) => Some(address.port()),
            BindAddress::Unix(_) => None,
        }
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindAddress::Ip(address) => address.fmt(f),
            BindAddress::Unix(socket) => socket.name.fmt(f),
        }
    }
}

/// How Unix sockets, and peers over them, are written, as in nginx.
pub const UNIX: &str = "unix:";
/// The same with TLS.
pub const HTTPS_UNIX: &str = "https://unix:";
/// Bytes of a path or an abstract name that a socket address has room for (unix(7)).
const MAX_UNIX_NAME: usize = 107;

impl UnixName {
    /// What follows `unix:`, of a socket to connect to: `/run/app.sock`, or `@name` for an abstract one. An error says what is expected.
    pub fn to_connect(text: &str) -> Result<Self, &'static str> {
        let name = match text.strip_prefix('@') {
            Some(name) => UnixName::Abstract(name.to_owned()),
            None if text.starts_with('/') => UnixName::Path(text.into()),
            None => return Err("expected an absolute path behind `unix:`, like \"unix:/run/app.sock\""),
        };
        if matches!(text, "@" | "/") || text.contains('\0') {
            return Err("expected a path behind `unix:`, like \"unix:/run/app.sock\"");
        }
        if !name.fits() {
            return Err("a path behind `unix:` can have 107 bytes");
        }
        Ok(name)
    }

    /// Whether a socket address has room for it.
    pub fn fits(&self) -> bool {
        let length = match self {
            UnixName::Abstract(name) => name.len(),
            UnixName::Path(path) => path.as_os_str().len(),
        };
        length <= MAX_UNIX_NAME
    }
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixName::Path(path) => write!(f, "{UNIX}{}", path.display()),
            UnixName::Abstract(name) => write!(f, "{UNIX}@{name}"),
        }
    }
}
