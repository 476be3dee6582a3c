//! Connections that are refused because there are too many, or because memory is short. To a client of HTTP/2 a GOAWAY says that none of its requests
//! was processed, so that it sends them elsewhere at once. Others are closed. Over TLS a client has to be let in before it can be told, and a
//! handshake is dear when there is little left: few of them are made, and the rest are closed.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::connection::PREFACE;
use crate::certs::TlsContext;
use crate::coarse;
use crate::sockets::Stream;

/// How long a refused client may take, in all: its first bytes come with the connection, or soon.
const PATIENCE: Duration = Duration::from_millis(200);
/// Refused connections of a worker that are told so at a time. More of them are closed at once.
const MAX_TOLD: usize = 64;
/// The same over TLS: a handshake takes some round trips.
const TLS_PATIENCE: Duration = Duration::from_secs(1);
/// Handshakes of a worker in a second that only tell of the refusal: about a fiftieth of what its processor can do.
const MAX_HANDSHAKES_A_SECOND: u32 = 50;
/// An empty SETTINGS (RFC 9113 §3.4), and a GOAWAY with the last stream 0 and `NO_ERROR` (§6.8).
const GOAWAY: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Tells clients of one worker that they are refused.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusals(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Being told.
    telling: Cell<usize>,
    /// The second of the coarse clock, and the handshakes that were begun in it.
    handshakes: Cell<(u64, u32)>,
}

impl Refusals {
    /// Closes a connection, after a GOAWAY if it turns out to be one of HTTP/2.
    pub(super) fn refuse(&self, mut socket: Stream) {
        self.tell(PATIENCE, async move { tell(&mut socket).await });
    }

    /// The same over TLS. Who does not offer HTTP/2 in its hello is closed before a key is exchanged.
    pub(super) fn refuse_over_tls(&self, socket: Stream, context: Arc<TlsContext>) {
        let refusals = self.clone();
        self.tell(TLS_PATIENCE, async move {
            let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
            let offers_h2 = hello.client_hello().alpn().is_some_and(|mut offered| offered.any(|name| name == b"h2"));
            if !offers_h2 || !refusals.may_shake_hands() {
                return Ok(());
            }
            let config = {
                let hello = hello.client_hello();
                Arc::clone(context.config(context.policy(hello.server_name()), hello.cipher_suites()))
            };
            let mut stream = hello.into_stream(config).await?;
            tell(&mut stream).await
        });
    }

    /// Whether there is a handshake left in this second; it is taken.
    fn may_shake_hands(&self) -> bool {
        let second = coarse::now_ms() / 1000;
        let begun = match self.0.handshakes.get() {
            (known, begun) if known == second => begun,
            _ => 0,
        };
        let is_left = begun < MAX_HANDSHAKES_A_SECOND;
        self.0.handshakes.set((second, begun + u32::from(is_left)));
        is_left
    }

    fn tell(&self, patience: Duration, telling: impl Future<Output = io::Result<()>> + 'static) {
        if self.0.telling.get() >= MAX_TOLD {
            return;
        }
        self.0.telling.set(self.0.telling.get() + 1);
        let refusals = self.clone();
        tokio::task::spawn_local(async move {
            let _ = timeout(patience, telling).await;
            refusals.0.telling.set(refusals.0.telling.get() - 1);
        });
    }
}

async fn tell(socket: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let (mut read, mut seen) = ([0; PREFACE.len()], 0);
    while seen < PREFACE.len() {
        let more = socket.read(&mut read[seen..]).await?;
        if more == 0 || read[..seen + more] != PREFACE[..seen + more] {
            return Ok(());
        }
        seen += more;
    }
    socket.write_all(GOAWAY).await?;
    socket.shutdown().await?;
    // What is not read when it is closed would have the kernel send a reset, which may overtake the GOAWAY.
    while socket.read(&mut read).await? > 0 {}
    Ok(())
}
