//! Connections that are refused because there are too many, or because memory is short. To a client of HTTP/2 a GOAWAY says that none of its requests
//! was processed, so that it sends them elsewhere at once. Others, and those whose handshake of TLS would cost too much, are closed.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::connection::PREFACE;
use crate::sockets::Stream;

/// How long a refused client may take, in all: its first bytes come with the connection, or soon.
const PATIENCE: Duration = Duration::from_millis(200);
/// Refused connections of a worker that are told so at a time. More of them are closed at once.
const MAX_TOLD: usize = 64;
/// An empty SETTINGS (RFC 9113 §3.4), and a GOAWAY with the last stream 0 and `NO_ERROR` (§6.8).
const GOAWAY: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Tells clients of one worker that they are refused.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusals(Rc<Cell<usize>>);

impl Refusals {
    /// Closes a connection, after a GOAWAY if it turns out to be one of HTTP/2.
    pub(super) fn refuse(&self, mut socket: Stream) {
        if self.0.get() >= MAX_TOLD {
            return;
        }
        self.0.set(self.0.get() + 1);
        let refusals = self.clone();
        tokio::task::spawn_local(async move {
            let _ = timeout(PATIENCE, tell(&mut socket)).await;
            refusals.0.set(refusals.0.get() - 1);
        });
    }
}

async fn tell(socket: &mut Stream) -> io::Result<()> {
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
