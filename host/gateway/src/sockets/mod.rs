//! Sockets that take connections. Over IP, each worker has one of its own on the port (SO_REUSEPORT), so that the kernel spreads the
//! connections. Unix sockets have no such thing: there, all workers accept from one, and whoever comes first gets a connection.

mod unix;

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::model::BindAddress;
use unix::SocketFile;

/// Connections that the kernel keeps for a socket until they are accepted.
const BACKLOG: i32 = 1024;

/// An address that is bound. The file of a Unix socket goes with it.
#[derive(Debug)]
pub struct Bound {
    pub address: BindAddress,
    _file: Option<SocketFile>,
}

/// A listening socket, to be used on any thread.
#[derive(Debug)]
pub enum Listener {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// A listening socket on its event loop.
#[derive(Debug)]
pub enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection that was accepted.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Binds an address, for `sockets` threads that accept. Port 0 becomes one free port for all of them.
pub fn bind(address: &BindAddress, sockets: usize) -> io::Result<(Bound, Vec<Listener>)> {
    match address {
        BindAddress::Ip(address) => {
            let (address, listeners) = bind_ip(*address, sockets)?;
            Ok((Bound { address: BindAddress::Ip(address), _file: None }, listeners))
        }
        BindAddress::Unix(wanted) => {
            let (listener, file) = unix::bind(wanted)?;
            let mut listeners = vec![];
            for _ in 1..sockets {
                listeners.push(Listener::Unix(listener.try_clone()?));
            }
            listeners.push(Listener::Unix(listener));
            Ok((Bound { address: address.clone(), _file: file }, listeners))
        }
    }
}

/// Whether an address could be bound here, as far as that does not depend on what else runs now.
pub fn can_bind(address: &BindAddress) -> io::Result<()> {
    match address {
        BindAddress::Ip(address) => match socket(*address, false) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => Err(error),
            _ => Ok(()),
        },
        BindAddress::Unix(wanted) => unix::can_bind(&wanted.name),
    }
}

fn bind_ip(mut address: SocketAddr, sockets: usize) -> io::Result<(SocketAddr, Vec<Listener>)> {
    if address.port() != 0 {
        // Sockets that share the port would hide that another gateway is running there; one that does not share fails.
        socket(address, false)?;
    }
    let mut bound = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let socket = socket(address, true)?;
        socket.listen(BACKLOG)?;
        let listener = StdTcpListener::from(socket);
        address = listener.local_addr()?;
        bound.push(Listener::Tcp(listener));
    }
    Ok((address, bound))
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

impl Listener {
    /// Registers it with the event loop of this thread.
    pub fn acceptor(self) -> io::Result<Acceptor> {
        Ok(match self {
            Listener::Tcp(listener) => Acceptor::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(listener) => Acceptor::Unix(UnixListener::from_std(listener)?),
        })
    }
}

impl Acceptor {
    /// The next connection, with the address of its peer where it has one.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Option<SocketAddr>)>> {
        Poll::Ready(Ok(match self {
            Acceptor::Tcp(listener) => {
                let (stream, peer) = ready!(listener.poll_accept(cx))?;
                // Small writes must not wait for the acknowledgement of earlier ones; fails only on dead sockets.
                let _ = stream.set_nodelay(true);
                (Stream::Tcp(stream), Some(peer))
            }
            Acceptor::Unix(listener) => (Stream::Unix(ready!(listener.poll_accept(cx))?.0), None),
        }))
    }

    /// Whether other threads accept from the same queue.
    pub fn is_shared(&self) -> bool {
        matches!(self, Acceptor::Unix(_))
    }
}

impl Stream {
    /// The address of our end. `None`: it has no IP address.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().map(Some),
            Stream::Unix(_) => Ok(None),
        }
    }

    /// Has it closed with a reset instead of an orderly end, which a Unix socket can't.
    pub fn reset_at_close(&self) {
        match self {
            // Fails only on a socket that is gone already.
            Stream::Tcp(stream) => drop(stream.set_zero_linger()),
            Stream::Unix(_) => {}
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

/// What is done with either kind of stream.
macro_rules! either {
    ($this:expr, $stream:ident => $done:expr) => {
        match $this.get_mut() {
            Stream::Tcp($stream) => $done,
            Stream::Unix($stream) => $done,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free() -> BindAddress {
        BindAddress::Ip(([127, 0, 0, 1], 0).into())
    }

    #[test]
    fn threads_share_one_free_port() {
        let (bound, listeners) = bind(&free(), 3).expect("a free port");
        assert_ne!(bound.address, free());
        assert_eq!(listeners.len(), 3);
        for listener in listeners {
            let Listener::Tcp(listener) = listener else { panic!("of another kind") };
            assert_eq!(BindAddress::Ip(listener.local_addr().expect("bound")), bound.address);
        }
    }

    #[test]
    fn a_taken_address_is_an_error_even_when_it_could_be_shared() {
        let (bound, _listeners) = bind(&free(), 1).expect("a free port");
        assert_eq!(bind(&bound.address, 1).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }
}
