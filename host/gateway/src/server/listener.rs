//! Accepting connections.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::model::BindAddress;
use crate::sockets::{Acceptor, Stream};
use crate::telemetry::ListenerCounters;

/// How long accepting rests when descriptors or memory have run out: trying at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener whose address could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("listener `{listener}` cannot bind {address}")]
pub struct BindError {
    pub listener: String,
    pub address: BindAddress,
    #[source]
    pub source: io::Error,
}

/// The next connection. Failures are counted and survived: `accept` also reports errors of connections that died in the queue.
pub(super) async fn accept(listener: &Acceptor, counters: &ListenerCounters) -> (Stream, Option<SocketAddr>) {
    let mut told = false;
    loop {
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok(accepted) => {
                counters.accepted.add(1);
                return accepted;
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

    #[test]
    fn only_shortages_pause() {
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(pause_after(&io::Error::from_raw_os_error(code)), Some(PAUSE));
        }
        assert_eq!(pause_after(&io::Error::from_raw_os_error(libc::ECONNABORTED)), None);
    }
}
