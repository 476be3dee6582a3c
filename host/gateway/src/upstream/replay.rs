//! Request bodies that can be sent again: what has gone of one is kept, up to a bound, and charged to the memory account.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::http::body::{Body, BodyError};
use crate::http::buffer::{CopiedBytes, MemoryBudget};

/// The part of a request body that is kept until the response begins, in case a server of HTTP/2 refuses the request.
pub(super) const OF_HTTP2: usize = 64 << 10;

/// A request body on its way, of which the first part is kept until this is dropped.
pub(crate) struct Replay(Rc<RefCell<Sent>>);

#[derive(Default)]
struct Sent {
    body: Body,
    /// `None`: more was sent than is kept, or nobody asks for it any more.
    kept: Option<Kept>,
    /// The body was taken back for another attempt. Whoever still has this one must not take it for a whole one.
    taken: bool,
}

struct Kept {
    bytes: CopiedBytes,
    /// The most that is kept.
    most: usize,
}

impl Kept {
    /// Whether there was room for it.
    fn add(&mut self, data: &[u8]) -> bool {
        self.bytes.len() + data.len() <= self.most && self.bytes.append(data).is_ok()
    }
}

impl Replay {
    /// The body to send, and the means to get it back, if no more than `most` bytes of it have gone. What is kept for that is charged to
    /// `budget`, of which it takes at most half; without room there, nothing is kept.
    pub(crate) fn of(body: Body, most: usize, budget: &MemoryBudget) -> (Body, Self) {
        let kept = CopiedBytes::new(budget).ok().map(|bytes| Kept { bytes, most });
        let sent = Rc::new(RefCell::new(Sent { body, kept, taken: false }));
        (Body::stream(Sending(sent.clone())), Replay(sent))
    }

    /// Whether all that has gone is kept.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.try_borrow().is_ok_and(|sent| sent.kept.is_some())
    }

    /// The body as it was before it was sent, unless too much of it has gone.
    pub(crate) fn take_back(self) -> Option<Body> {
        let taken = Sent { taken: true, ..Sent::default() };
        let Sent { body, kept, .. } = std::mem::replace(&mut *self.0.try_borrow_mut().ok()?, taken);
        let bytes = kept?.bytes.freeze();
        Some(match bytes.is_empty() {
            true => body,
            false => Body::Resumed(bytes, Box::new(body)),
        })
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        // The rest of the body may take as long as the response.
        if let Ok(mut sent) = self.0.try_borrow_mut() {
            sent.kept = None;
        }
    }
}

struct Sending(Rc<RefCell<Sent>>);

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Sent { body, kept, taken } = &mut *self.0.borrow_mut();
        if *taken {
            return Poll::Ready(Some(Err(BodyError::ClientAborted("it goes out with another attempt".into()))));
        }
        let polled = http_body::Body::poll_frame(Pin::new(body), cx);
        if let (Poll::Ready(Some(frame)), Some(keeping)) = (&polled, kept.as_mut()) {
            let data = frame.as_ref().ok().and_then(Frame::data_ref);
            if !data.is_some_and(|data| keeping.add(data)) {
                *kept = None;
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let sent = self.0.borrow();
        !sent.taken && http_body::Body::is_end_stream(&sent.body)
    }

    fn size_hint(&self) -> SizeHint {
        let sent = self.0.borrow();
        if sent.taken { SizeHint::new() } else { http_body::Body::size_hint(&sent.body) }
    }
}
