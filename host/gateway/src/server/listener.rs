//! Binding and accepting. Every worker has a socket of its own on each address (SO_REUSEPORT), so that the kernel spreads
//! the connections and no worker waits for another.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::ListenerSpec;
use crate::telemetry::ListenerCounters;

/// Connections that the kernel keeps for a socket until they are accepted.
const BACKLOG: i32 = 1024;
/// How long accepting rests when descriptors or memory have run out: trying at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener whose address could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("listener `{listener}` cannot bind {address}")]
pub struct BindError {
    pub listener: String,
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// Binds a listener once for each of `sockets` workers. Port 0 becomes one free port for all of them.
pub(super) fn bind(spec: &ListenerSpec, sockets: usize) -> Result<(SocketAddr, Vec<StdListener>), BindError> {
    let failed = |source| BindError { listener: spec.name.to_string(), address: spec.bind, source };
    if spec.bind.port() != 0 {
        // Sockets that share the port would hide that another gateway is running there; one that does not share fails.
        socket(spec.bind, false).map_err(failed)?;
    }
    let mut address = spec.bind;
    let mut bound = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let socket = socket(address, true).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        let listener = StdListener::from(socket);
        address = listener.local_addr().map_err(failed)?;
        bound.push(listener);
    }
    Ok((address, bound))
}

/// Whether an address could be bound here, as far as that does not depend on what else runs now.
pub fn can_bind(address: SocketAddr) -> io::Result<()> {
    match socket(address, false) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => Err(error),
        _ => Ok(()),
    }
}

fn socket(address: SocketAddr, share_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share_port)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The next connection. Failures are counted and survived: `accept` also reports errors of connections that died in the queue.
pub(super) async fn accept(listener: &TcpListener, counters: &ListenerCounters) -> (TcpStream, SocketAddr) {
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                counters.accepted.add(1);
                // Small writes must not wait for the acknowledgement of earlier ones; fails only on dead sockets.
                let _ = socket.set_nodelay(true);
                return (socket, peer);
            }
            Err(error) => {
                counters.accept_errors.add(1);
                if let Some(pause) = pause_after(&error) {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(%error, "cannot accept connections");
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// How long to wait after a failed `accept`; `None` when only that one connection is concerned.
fn pause_after(error: &io::Error) -> Option<Duration> {
    let of_the_connection = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    );
    (!of_the_connection).then_some(PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(bind: SocketAddr) -> ListenerSpec {
        ListenerSpec { name: "test".into(), bind }
    }

    #[test]
    fn workers_share_one_free_port() {
        let (address, sockets) = bind(&spec(([127, 0, 0, 1], 0).into()), 3).expect("a free port");
        assert_ne!(address.port(), 0);
        assert!(sockets.iter().all(|socket| socket.local_addr().expect("bound") == address));
    }

    #[test]
    fn a_taken_address_is_an_error_even_when_it_could_be_shared() {
        let (address, _sockets) = bind(&spec(([127, 0, 0, 1], 0).into()), 1).expect("a free port");
        let error = bind(&spec(address), 1).expect_err("taken");
        assert_eq!(error.to_string(), format!("listener `test` cannot bind {address}"));
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn only_shortages_pause() {
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(pause_after(&io::Error::from_raw_os_error(code)), Some(PAUSE));
        }
        assert_eq!(pause_after(&io::Error::from_raw_os_error(libc::ECONNABORTED)), None);
    }
}
