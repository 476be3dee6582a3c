//! The answer to a malformed request of HTTP/2. The codec resets the stream of one before anybody here sees it, for example where the
//! target has a `<`; a client then learns nothing. RFC 9113 §8.1.1 lets a server answer first: a 400 goes out in front of such a reset.
//!
//! It is put between the frames that the codec writes. Its field is one of HPACK's static table, so the codec's own tables stay as they are.
//! Where the client has lowered the size of its table, the next header block must begin with an update (RFC 7541 §4.2). That is for the
//! codec to write, so until it has, a malformed request gets the reset alone.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::aliases::Aliases;
use super::hpack::FRAME_HEAD;
use super::received::{ACK, HEADERS, Received, SETTINGS, payload};

/// A `RST_STREAM`.
const RESET: usize = FRAME_HEAD + 4;
/// A `HEADERS` with one byte, and a `RST_STREAM`.
const ANSWER: usize = FRAME_HEAD + 1 + RESET;

/// The socket of a connection of HTTP/2.
pub(super) struct AnswersMalformed<T> {
    io: T,
    received: Received,
    aliases: Rc<Aliases>,
    written: Written,
    /// Whether a malformed request would be answered now.
    answers: Rc<Cell<bool>>,
    /// What is written before all else, and how much of it is.
    answer: Option<([u8; ANSWER], usize)>,
    /// Bytes of the codec's reset, which the answer takes the place of.
    replaced: usize,
}

/// Where in its frames the codec is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    head: [u8; FRAME_HEAD],
    /// Bytes of `head`.
    known: usize,
    /// Bytes of the frame behind its head.
    left: usize,
    /// The highest stream with a response. Streams above it have none.
    answered: u32,
    /// `SETTINGS` of the client that the codec has not acknowledged.
    unacknowledged: u32,
    /// The codec's next header block has to tell of a smaller table.
    update_due: bool,
}

/// A reset of a stream without a response.
struct Reset {
    /// Where it begins.
    at: usize,
    stream: u32,
}

impl Written {
    /// The client has sent `SETTINGS`.
    pub(super) fn owe_acknowledgement(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_add(1);
    }

    /// The client has made its table smaller.
    pub(super) fn owe_update(&mut self) {
        self.update_due = true;
    }

    /// Follows bytes up to such a reset.
    fn follow(&mut self, bytes: &[u8]) -> Option<Reset> {
        let mut rest = bytes;
        loop {
            let skipped = self.left.min(rest.len());
            self.left -= skipped;
            rest = rest.get(skipped..).unwrap_or_default();
            // The codec writes control frames whole. PROTOCOL_ERROR (RFC 9113 §7) is what §8.1.1 has for a malformed request.
            if let (0, [0, 0, 4, 3, _, a, b, c, d, 0, 0, 0, 1, ..]) = (self.known, rest) {
                let stream = stream([*a, *b, *c, *d]);
                if stream > self.answered && !self.update_due {
                    return Some(Reset { at: bytes.len() - rest.len(), stream });
                }
            }
            let (_, room) = self.head.split_at_mut(self.known);
            let more = room.len().min(rest.len());
            let (more, behind) = rest.split_at(more);
            room.iter_mut().zip(more).for_each(|(place, byte)| *place = *byte);
            self.known += more.len();
            rest = behind;
            if self.known < FRAME_HEAD {
                return None;
            }
            let [_, _, _, kind, flags, a, b, c, d] = self.head;
            self.known = 0;
            self.left = payload(&self.head);
            match kind {
                HEADERS => {
                    self.answered = self.answered.max(stream([a, b, c, d]));
                    // A block before the acknowledgement knows nothing of the new size.
                    self.update_due &= self.unacknowledged > 0;
                }
                SETTINGS if flags & ACK != 0 => self.unacknowledged = self.unacknowledged.saturating_sub(1),
                _ => {}
            }
        }
    }
}

/// The highest bit has no meaning.
fn stream(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & (u32::MAX >> 1)
}

/// `:status: 400` and the end of the response, and NO_ERROR: the client need not send the rest of its request (RFC 9113 §8.1).
fn answer(stream: u32) -> [u8; ANSWER] {
    let [a, b, c, d] = stream.to_be_bytes();
    let flags = 0x1 | 0x4; // END_STREAM, END_HEADERS
    [0, 0, 1, HEADERS, flags, a, b, c, d, 0x8c, 0, 0, 4, 3, 0, a, b, c, d, 0, 0, 0, 0]
}

impl<T: AsyncWrite + Unpin> AnswersMalformed<T> {
    pub(super) fn new(io: T) -> Self {
        AnswersMalformed {
            io,
            received: Received::new(),
            aliases: Rc::default(),
            written: Written::default(),
            answers: Rc::new(Cell::new(true)),
            answer: None,
            replaced: 0,
        }
    }

    /// Whether a malformed request would be answered now, for as long as the connection lives.
    pub(super) fn answers(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.answers)
    }

    /// What the paths of requests stand for, for as long as the connection lives.
    pub(super) fn aliases(&self) -> Rc<Aliases> {
        Rc::clone(&self.aliases)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((bytes, sent)) = &mut self.answer {
            let rest = bytes.get(*sent..).unwrap_or_default();
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => *sent += n,
            }
            if *sent >= ANSWER {
                self.answer = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// So many of these bytes are written.
    fn advance(&mut self, slices: &[IoSlice<'_>], mut count: usize) {
        for slice in slices {
            let part = slice.get(..count.min(slice.len())).unwrap_or_default();
            self.written.follow(part);
            count -= part.len();
        }
        self.answers.set(!self.written.update_due);
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for AnswersMalformed<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut written = this.written;
        let mut before = 0;
        let mut found = None;
        if this.replaced == 0 {
            for slice in slices {
                found = written.follow(slice);
                match &found {
                    Some(reset) => {
                        before += reset.at;
                        break;
                    }
                    None => before += slice.len(),
                }
            }
        }
        match found {
            None if this.replaced == 0 => {
                let count = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
                if count == before {
                    this.written = written;
                    this.answers.set(!written.update_due);
                } else {
                    this.advance(slices, count);
                }
                return Poll::Ready(Ok(count));
            }
            Some(_) if before > 0 => {
                // The first slice with anything in it, up to the reset at most.
                let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
                let first = first.get(..before.min(first.len())).unwrap_or_default();
                let count = ready!(Pin::new(&mut this.io).poll_write(cx, first))?;
                this.advance(&[IoSlice::new(first)], count);
                return Poll::Ready(Ok(count));
            }
            Some(reset) => {
                this.answer = Some((answer(reset.stream), 0));
                this.written.answered = reset.stream;
                this.replaced = RESET;
            }
            None => {}
        }
        ready!(this.poll_answer(cx))?;
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let count = this.replaced.min(offered);
        this.replaced -= count;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for AnswersMalformed<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let AnswersMalformed { io, received, aliases, written, .. } = this;
        ready!(received.poll_read(io, cx, room, aliases, written))?;
        this.answers.set(!this.written.update_due);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::received::PREFACE;
    use super::*;

    /// Takes at most so many bytes at once, and nothing each second time.
    struct Slow {
        most: usize,
        full: bool,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.full = !self.full;
            if self.full {
                return Poll::Pending;
            }
            let count = bytes.len().min(self.most);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, stream], payload].concat()
    }

    fn reset(stream: u8, code: u8) -> Vec<u8> {
        frame(3, stream, &[0, 0, 0, code])
    }

    /// What is written in place of these frames.
    fn written(frames: &[u8], most: usize, slices: usize) -> Vec<u8> {
        let mut socket = AnswersMalformed::new(Slow { most, full: false, taken: Vec::new() });
        let mut cx = Context::from_waker(Waker::noop());
        let mut rest = frames;
        while !rest.is_empty() {
            // Frames are whole in a slice; only the first may be the rest of one.
            let cut = if slices == 1 { rest.len() } else { rest.len().min(20) };
            let (first, second) = rest.split_at(cut);
            let slices = [IoSlice::new(first), IoSlice::new(&second[..0])];
            if let Poll::Ready(count) = Pin::new(&mut socket).poll_write_vectored(&mut cx, &slices) {
                rest = &rest[count.unwrap()..];
            }
        }
        while Pin::new(&mut socket).poll_flush(&mut cx).is_pending() {}
        socket.io.taken
    }

    #[test]
    fn a_400_goes_before_the_reset_of_a_stream_without_a_response() {
        let (settings, response, data) = (frame(4, 0, &[1; 12]), frame(1, 5, &[0x88]), frame(0, 5, &[3; 30]));
        let late = [reset(5, 1), reset(3, 1), reset(9, 8), reset(9, 0)].concat();
        let before = [&settings[..], &response, &data].concat();
        let sent = [&before[..], &reset(7, 1), &reset(9, 1), &data, &late].concat();
        let want = [&before[..], &answer(7), &answer(9), &data, &late].concat();
        for most in 1..=sent.len() {
            assert_eq!(written(&sent, most, 1), want, "{most} bytes at once");
        }
        assert_eq!(written(&before, 7, 2), before);
        // RFC 7541, appendix A: 12 is `:status: 400`.
        assert_eq!(answer(7)[..10], [0, 0, 1, 1, 5, 0, 0, 0, 7, 0x80 | 12]);
    }

    /// Reads what a client has sent, so many bytes at once.
    fn receive(received: &mut Received, mut client: &[u8], most: usize, written: &mut Written) {
        let mut cx = Context::from_waker(Waker::noop());
        let (aliases, mut room) = (Aliases::default(), vec![0; most]);
        loop {
            let mut room = ReadBuf::new(&mut room);
            assert!(received.poll_read(&mut client, &mut cx, &mut room, &aliases, written).is_ready());
            if room.filled().is_empty() {
                return;
            }
        }
    }

    #[test]
    fn no_400_goes_before_the_codec_tells_of_a_smaller_table() {
        const NO_FLAGS: u8 = 0;
        let settings = |flags: u8, entries: &[u8]| {
            let mut frame = frame(SETTINGS, 0, entries);
            frame[4] = flags;
            frame
        };
        // SETTINGS_MAX_FRAME_SIZE, then SETTINGS_HEADER_TABLE_SIZE.
        let of_size = |size: u16| {
            let [a, b] = size.to_be_bytes();
            settings(NO_FLAGS, &[0, 5, 0, 0, 64, 0, 0, 1, 0, 0, a, b])
        };
        let client =
            [&[7; PREFACE][..], &of_size(4096), &frame(HEADERS, 1, &[0x82; 40]), &of_size(100), &of_size(8192)];
        let (client, block) = (client.concat(), frame(HEADERS, 1, &[0x88]));
        for part in 1..client.len() {
            let (mut received, mut written) = (Received::new(), Written::default());
            receive(&mut received, &client, part, &mut written);
            assert_eq!(written.unacknowledged, 3, "{part} bytes at once");
            for n in 0..3 {
                assert!(written.update_due, "{n} acknowledged");
                assert!(written.follow(&[&block[..], &reset(3, 1)].concat()).is_none(), "{n} acknowledged");
                written.follow(&settings(ACK, &[]));
            }
            assert!(written.update_due && written.follow(&reset(3, 1)).is_none());
            assert!(written.follow(&[&block[..], &reset(5, 1)].concat()).is_some(), "the block had the update");
        }
        let (mut received, mut written) = (Received::new(), Written::default());
        let client = [&[7; PREFACE][..], &of_size(4096), &of_size(8192)].concat();
        receive(&mut received, &client, client.len(), &mut written);
        assert!(!written.update_due, "none is smaller");
    }
}
