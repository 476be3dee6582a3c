//! The sockets of listeners, and who is at the other end of their connections.

use std::time::Duration;

use crate::http::forwarded::TrustedPeers;

/// Whose connections begin with a PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// These must send one. From others it is no header but a malformed request.
    pub trusted: TrustedPeers,
    /// From the connection to the end of the header.
    pub timeout: Duration,
}
