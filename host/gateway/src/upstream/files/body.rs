//! The content of a file, read in pieces as the client takes them.

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use sluice_cache::range::Segment;

use super::disk;
use super::open::Waits;
use crate::http::body::{Body, BodyError};
use crate::http::buffer::{MemoryBudget, Reservation};

/// The largest piece; a file that is no larger is read at once, and not kept open.
const PIECE: usize = 64 << 10;
/// The smallest one.
const LEAST: usize = 4 << 10;
/// After so much that was in memory, others on the worker have their turn. Without it a client that reads fast would hold them up for as many bytes
/// as its socket takes at once: some megabytes.
const TURN: usize = 256 << 10;
/// How often a piece looks whether there is memory for it.
const PAUSE: Duration = Duration::from_millis(20);

/// A file has become shorter while it was sent.
#[derive(Debug, thiserror::Error)]
#[error("the file ends at byte {0}, before the length that was promised")]
struct Truncated(u64);

/// A body of these parts of a file.
pub(super) async fn of(file: File, mut segments: VecDeque<Segment>, budget: &MemoryBudget) -> Result<Body, BodyError> {
    match segments.make_contiguous() {
        [] => return Ok(Body::Empty),
        [Segment::Text(text)] => return Ok(Body::full(std::mem::take(text))),
        _ => {}
    }
    let left = segments.iter().map(|segment| match segment {
        Segment::Text(text) => text.len() as u64,
        Segment::Content(part) => part.end - part.start,
    });
    let (left, file) = (left.sum(), Arc::new(file));
    let mut body = FileBody { left, segments, file, budget: budget.clone(), reading: None, turn: 0 };
    if body.left > PIECE as u64 || body.segments.len() > 1 {
        return Ok(Body::stream(body));
    }
    // An error before the head is an error of the request, and not a body that breaks off.
    let first = std::future::poll_fn(|cx| body.poll_piece(cx)).await.transpose()?.unwrap_or_default();
    match body.left {
        0 => Ok(Body::full(first)),
        _ => Ok(Body::Resumed(first, Box::new(Body::stream(body)))),
    }
}

type Reading = Pin<Box<dyn Future<Output = Result<Bytes, BodyError>>>>;

struct FileBody {
    file: Arc<File>,
    /// What is still to come. A part is there until its last byte was read.
    segments: VecDeque<Segment>,
    /// The bytes of all of them.
    left: u64,
    budget: MemoryBudget,
    /// A piece that is waited for.
    reading: Option<Reading>,
    /// The bytes since others had their turn.
    turn: usize,
}

impl FileBody {
    /// The next bytes.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let part = match self.segments.front_mut() {
            None => return Poll::Ready(None),
            Some(Segment::Text(text)) => {
                let text = std::mem::take(text);
                self.left -= text.len() as u64;
                self.segments.pop_front();
                return Poll::Ready(Some(Ok(text)));
            }
            Some(Segment::Content(part)) => part.clone(),
        };
        let piece = match &mut self.reading {
            Some(reading) => {
                let piece = ready!(reading.as_mut().poll(cx));
                self.reading = None;
                piece
            }
            None => match room(&self.budget, &part).map(|room| read(&self.file, &part, room, Waits::Never)) {
                Some(Ok(piece)) => Ok(piece),
                // Not in memory, or no memory for it. An error is found again.
                Some(Err(_)) | None => {
                    let reading = Box::pin(wait_for(Arc::clone(&self.file), part, self.budget.clone()));
                    let reading: &mut Reading = self.reading.insert(reading);
                    let piece = ready!(reading.as_mut().poll(cx));
                    self.reading = None;
                    piece
                }
            },
        };
        if let (Ok(piece), Some(Segment::Content(part))) = (&piece, self.segments.front_mut()) {
            part.start += piece.len() as u64;
            self.left -= piece.len() as u64;
            if part.start >= part.end {
                self.segments.pop_front();
            }
        }
        if piece.is_err() {
            self.segments.clear();
        }
        Poll::Ready(Some(piece))
    }
}

impl HttpBody for FileBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.turn >= TURN {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.poll_piece(cx);
        match &polled {
            Poll::Ready(Some(Ok(piece))) => self.turn += piece.len(),
            Poll::Ready(_) => {}
            Poll::Pending => self.turn = 0,
        }
        polled.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.segments.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Memory for the next piece of a part, if there is some now. The pieces of clients that read slowly are all that this upstream keeps, and many
/// slow clients must not take the memory of those who need it more: the fuller the account, the smaller the pieces, and the last half
/// is left to others.
fn room(budget: &MemoryBudget, part: &Range<u64>) -> Option<Reservation> {
    let (used, limit) = (budget.used(), budget.limit());
    let most = if used < limit / 8 {
        PIECE
    } else if used < limit / 4 {
        PIECE / 4
    } else {
        LEAST
    };
    let wanted = usize::try_from(part.end - part.start).unwrap_or(usize::MAX).min(most);
    if used.saturating_add(wanted) > limit / 2 {
        return None;
    }
    budget.reserve(wanted).ok()
}

/// Reads the next piece, when there is memory, and where waiting is fine. The idle timeout of the route bounds it.
async fn wait_for(file: Arc<File>, part: Range<u64>, budget: MemoryBudget) -> Result<Bytes, BodyError> {
    let room = loop {
        match room(&budget, &part) {
            Some(room) => break room,
            None => tokio::time::sleep(PAUSE).await,
        }
    };
    let read = disk::wait_for(move || read(&file, &part, room, Waits::ForDisk)).await;
    read.unwrap_or_else(|error| Err(BodyError::UpstreamAborted(Box::new(error))))
}

/// Reads as many bytes of a part as there is room for, at least one.
fn read(file: &File, part: &Range<u64>, mut room: Reservation, waits: Waits) -> Result<Bytes, BodyError> {
    let flags = match waits {
        Waits::Never => ReadWriteFlags::NOWAIT,
        Waits::ForDisk => ReadWriteFlags::empty(),
    };
    let mut bytes = vec![0; room.bytes()];
    let read = loop {
        match preadv2(file, &mut [IoSliceMut::new(&mut bytes)], part.start, flags) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    match read {
        Ok(0) => Err(BodyError::UpstreamAborted(Box::new(Truncated(part.start)))),
        Ok(length) => {
            if length < bytes.len() {
                bytes.truncate(length);
                bytes.shrink_to_fit();
                room.resize(length)?;
            }
            Ok(MemoryBudget::hold(bytes.into(), room))
        }
        Err(errno) => Err(BodyError::UpstreamAborted(Box::new(io::Error::from(errno)))),
    }
}
