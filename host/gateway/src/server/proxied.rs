//! Connections of trusted proxies, which begin with a PROXY header: it is read before TLS and HTTP, and the ends that it names stand for
//! those of the socket from then on. How it is written is in `proxy_protocol`.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::timeout;

use super::activity::Watched;
use super::connection::{Accepted, Opening, drained, open};
use super::worker::Shared;
use super::{Ends, Service};
use crate::proxy_protocol::{self, HeaderError, Proxied};

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the connection ended within its PROXY header")]
    Ended,
    #[error("the PROXY header was not there in time")]
    Timeout,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Waits for the header and goes on with what follows it. A connection without a good one is closed: by it a peer says who a client is,
/// and a guess would give the client the rights of the proxy.
pub(super) fn behind_proxy<S: Service>(mut accepted: Accepted, limit: Duration, worker: Rc<Shared<S>>) -> Opening {
    Box::pin(async move {
        let read = async {
            tokio::select! {
                biased;
                read = timeout(limit, header(&mut accepted.socket)) => read.unwrap_or(Err(Failure::Timeout)),
                // Nothing was asked yet, so nothing is lost.
                () = drained(&worker) => Ok(None),
            }
        };
        match Box::pin(read).await {
            Ok(None) => return Ok(None),
            Ok(Some(Proxied::Own)) => {}
            Ok(Some(Proxied::Ip { source, destination })) => {
                accepted.ends = Ends::Ip { peer: source, local: destination };
            }
            Ok(Some(Proxied::Unix)) => accepted.ends = Ends::Unix,
            Err(failure) => {
                accepted.socket.counters().proxy_protocol_failures.add(1);
                let (peer, listener) = (accepted.ends.peer_socket().map(tracing::field::display), &*accepted.listener);
                tracing::debug!(peer, listener, error = %failure, "PROXY header refused");
                return Ok(None);
            }
        }
        open(accepted, worker).await
    })
}

/// `None`: the peer closed without a word, as a load balancer does that looks whether the port is open. What was read behind the header
/// is read again.
async fn header(socket: &mut Watched) -> Result<Option<Proxied>, Failure> {
    // Allocated with the first bytes: a load balancer may open connections ahead of their use.
    let mut read = BytesMut::new();
    poll_fn(|cx| {
        loop {
            if let Some((proxied, length)) = proxy_protocol::read(&read)? {
                read.advance(length);
                socket.unread(read.split().freeze());
                return Poll::Ready(Ok(Some(proxied)));
            }
            let mut room = [0; 1024];
            let mut room = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut room))?;
            match (room.filled(), read.is_empty()) {
                ([], true) => return Poll::Ready(Ok(None)),
                ([], false) => return Poll::Ready(Err(Failure::Ended)),
                (more, _) => read.extend_from_slice(more),
            }
        }
    })
    .await
}
