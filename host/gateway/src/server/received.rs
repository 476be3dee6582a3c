//! Follows the frames of a client on their way to the codec. `SETTINGS` are noted. `HEADERS` reach the codec whole, with an alias in the
//! place of a path that it would refuse.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::aliases::{Aliases, LONGEST_FRAME, may_need_alias};
use super::hpack::FRAME_HEAD;
use super::malformed::Written;

pub(super) const HEADERS: u8 = 1;
pub(super) const SETTINGS: u8 = 4;
/// The flag of `SETTINGS`.
pub(super) const ACK: u8 = 1;
/// RFC 9113 §3.4: what a client begins with, before its frames.
pub(super) const PREFACE: usize = 24;
/// RFC 9113 §6.5.2: `SETTINGS_HEADER_TABLE_SIZE` and its value unless a client says otherwise. The codec uses no larger table.
const HEADER_TABLE_SIZE: u16 = 1;
const TABLE_SIZE: u32 = 4096;
/// What is read at least where a frame is not whole.
const MORE: usize = 4 << 10;

/// A client's bytes on their way to the codec.
#[derive(Debug)]
pub(super) struct Received {
    frames: Position,
    /// Bytes that the codec does not have yet: a part of a frame, or frames behind one that was rewritten.
    held: Vec<u8>,
    /// Bytes of `held` that the codec has.
    given: usize,
    /// Bytes behind these that the codec may have.
    passed: usize,
}

/// Where in its frames the client is.
#[derive(Debug)]
struct Position {
    /// Bytes of the preface, or of the frame behind its head.
    left: usize,
    /// The frame is a `SETTINGS`.
    settings: bool,
    /// One setting of it: an identifier and a value.
    setting: [u8; 6],
    /// Bytes of `setting`.
    setting_known: usize,
    /// The size of the client's table, as far as the codec uses it.
    table: u32,
}

impl Received {
    pub(super) fn new() -> Self {
        let frames = Position { left: PREFACE, settings: false, setting: [0; 6], setting_known: 0, table: TABLE_SIZE };
        Received { frames, held: Vec::new(), given: 0, passed: 0 }
    }

    /// Reads for the codec.
    pub(super) fn poll_read<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
        aliases: &Aliases,
        written: &mut Written,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            let before = room.filled().len();
            ready!(Pin::new(&mut *io).poll_read(cx, room))?;
            let read = &room.filled()[before..];
            let passed = self.frames.follow(read, written);
            if passed == read.len() {
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(&read[passed..]);
            room.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        while self.passed == 0 {
            let rest = &self.held[self.given..];
            self.passed = self.frames.follow(rest, written);
            if self.passed > 0 {
                break;
            }
            let frame = rest.first_chunk().map_or(FRAME_HEAD, |head| FRAME_HEAD + payload(head));
            if let Some(missing) = frame.checked_sub(rest.len()).filter(|missing| *missing > 0) {
                ready!(self.poll_more(io, cx, missing))?;
            } else {
                self.take_frame(frame, aliases);
            }
        }
        let count = self.passed.min(room.remaining());
        room.put_slice(&self.held[self.given..][..count]);
        self.given += count;
        self.passed -= count;
        if self.given == self.held.len() {
            self.held = Vec::new();
            self.given = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more of a frame that is not whole.
    #[cold]
    fn poll_more<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
        missing: usize,
    ) -> Poll<io::Result<()>> {
        self.held.drain(..self.given);
        self.given = 0;
        let before = self.held.len();
        self.held.resize(before + missing.max(MORE), 0);
        let mut room = ReadBuf::new(&mut self.held[before..]);
        let polled = Pin::new(io).poll_read(cx, &mut room);
        let count = room.filled().len();
        self.held.truncate(before + count);
        ready!(polled)?;
        if count == 0 {
            // The client has gone in the middle of a frame.
            self.passed = before;
        }
        Poll::Ready(Ok(()))
    }

    /// Lets the codec have a frame, with an alias if it needs one.
    #[cold]
    fn take_frame(&mut self, length: usize, aliases: &Aliases) {
        let frame = self.given..self.given + length;
        self.passed = length;
        if let Some(rewritten) = aliases.rewrite(&self.held[frame.clone()]) {
            self.passed = rewritten.len();
            self.held.splice(frame, rewritten);
        }
    }
}

impl Position {
    /// Follows bytes and notes what the codec has to write for them. Stops before a frame whose head is not whole, and before `HEADERS` that
    /// are not whole or may need an alias; says how many bytes stand before it.
    fn follow(&mut self, bytes: &[u8], written: &mut Written) -> usize {
        let mut rest = bytes;
        loop {
            let (payload_bytes, behind) = rest.split_at(self.left.min(rest.len()));
            self.left -= payload_bytes.len();
            if self.settings {
                payload_bytes.iter().for_each(|byte| self.setting(*byte, written));
            }
            rest = behind;
            let Some(head) = rest.first_chunk() else { return bytes.len() - rest.len() };
            let length = payload(head);
            let [_, _, _, kind, flags, ..] = *head;
            // The codec refuses longer ones.
            if kind == HEADERS && length <= LONGEST_FRAME && rest.get(..FRAME_HEAD + length).is_none_or(may_need_alias)
            {
                return bytes.len() - rest.len();
            }
            rest = &rest[FRAME_HEAD..];
            self.left = length;
            self.settings = kind == SETTINGS && flags & ACK == 0;
            if self.settings {
                self.setting_known = 0;
                written.owe_acknowledgement();
            }
        }
    }

    fn setting(&mut self, byte: u8, written: &mut Written) {
        if let Some(place) = self.setting.get_mut(self.setting_known) {
            *place = byte;
        }
        self.setting_known += 1;
        if self.setting_known < self.setting.len() {
            return;
        }
        self.setting_known = 0;
        let [x, y, a, b, c, d] = self.setting;
        if u16::from_be_bytes([x, y]) == HEADER_TABLE_SIZE {
            let table = u32::from_be_bytes([a, b, c, d]).min(TABLE_SIZE);
            if table < self.table {
                written.owe_update();
            }
            self.table = table;
        }
    }
}

/// The length of a frame behind its head.
pub(super) fn payload(head: &[u8; FRAME_HEAD]) -> usize {
    let [x, y, z, ..] = *head;
    usize::from(x) << 16 | usize::from(y) << 8 | usize::from(z)
}
