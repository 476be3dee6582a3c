//! The way of one body through one filter that sees it piece by piece: what the filter is called with, and what goes on. Without wasm and I/O.

use bytes::{Bytes, BytesMut};

use super::BodySourceError;
use crate::exchange::Piece;
use crate::http::body::{MemoryBudget, Reservation};
use crate::services::events::{EventEnds, EventFormat};
use crate::wasm::Hook;

/// The most that comes to a filter at once, beside what it has kept back.
const PIECE: usize = 16 << 10;
/// What a filter has kept back is charged in such steps; less is not.
const CHARGED: usize = 16 << 10;

/// The way of one body through one filter.
#[derive(Debug)]
pub struct Flow {
    /// The filter, by its index in the pipeline.
    index: usize,
    hook: Hook,
    events: Option<(EventFormat, EventEnds)>,
    /// The most bytes that one event may have.
    most: u64,
    /// What was kept back, or has come of an event that is not whole yet.
    kept: BytesMut,
    /// What has come and was not looked at yet.
    rest: Bytes,
    charge: Option<Reservation>,
    budget: MemoryBudget,
}

impl Flow {
    pub(super) fn new(index: usize, hook: Hook, format: Option<EventFormat>, most: u64, budget: &MemoryBudget) -> Flow {
        Flow {
            index,
            hook,
            events: format.map(|format| (format, EventEnds::new(format))),
            most,
            kept: BytesMut::new(),
            rest: Bytes::new(),
            charge: None,
            budget: budget.clone(),
        }
    }

    /// The hook, and the filter by its index in the pipeline.
    pub(crate) fn of(&self) -> (Hook, usize) {
        (self.hook, self.index)
    }

    /// `limits.body` of the filter.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// Takes what has come, once all that came before has been looked at.
    pub(crate) fn push(&mut self, data: Bytes) {
        debug_assert!(self.rest.is_empty(), "the piece before is not through");
        self.rest = data;
    }

    /// What the filter is to see next of what has come. `is_all`: nothing comes after it. None: more has to come.
    pub(crate) fn next(&mut self, is_all: bool) -> Result<Option<Box<Piece>>, BodySourceError> {
        let part = match &mut self.events {
            _ if self.rest.is_empty() => None,
            None => Some(self.rest.len().min(PIECE)),
            Some((_, ends)) => ends.next(&self.rest),
        };
        let bytes = match part {
            Some(length) => {
                self.check_event(length)?;
                let part = self.rest.split_to(length);
                self.joined(part)
            }
            None => {
                self.check_event(self.rest.len())?;
                let rest = std::mem::take(&mut self.rest);
                if !is_all {
                    self.kept.extend_from_slice(&rest);
                    self.account()?;
                    return Ok(None);
                }
                self.joined(rest)
            }
        };
        let is_last = is_all && self.rest.is_empty();
        let event = self.events.as_ref().map(|(format, _)| *format);
        Ok(Some(Box::new(Piece { bytes, is_last, event, ..Piece::default() })))
    }

    /// What goes on of a piece. What the filter keeps back stays here, and is to be charged.
    pub(crate) fn settle(&mut self, piece: Piece) -> Bytes {
        let (front, kept) = piece.divide();
        drop(piece);
        self.kept = kept.try_into_mut().unwrap_or_else(|kept| BytesMut::from(&*kept));
        front
    }

    /// All that is here and that the filter is not to see any more.
    pub(crate) fn flush(&mut self) -> Bytes {
        let rest = std::mem::take(&mut self.rest);
        let all = self.joined(rest);
        self.charge = None;
        all
    }

    fn joined(&mut self, part: Bytes) -> Bytes {
        if self.kept.is_empty() {
            return part;
        }
        let mut kept = std::mem::take(&mut self.kept);
        kept.extend_from_slice(&part);
        kept.freeze()
    }

    fn check_event(&self, more: usize) -> Result<(), BodySourceError> {
        match self.events.is_some() && (self.kept.len() + more) as u64 > self.most {
            true => Err(BodySourceError::TooLarge(self.most)),
            false => Ok(()),
        }
    }

    /// Charges what is kept.
    pub(crate) fn account(&mut self) -> Result<(), BodySourceError> {
        let bytes = self.kept.len();
        if bytes < CHARGED {
            self.charge = None;
            return Ok(());
        }
        let bytes = bytes.next_multiple_of(CHARGED);
        let charged = match &mut self.charge {
            Some(charge) if charge.bytes() == bytes => Ok(()),
            Some(charge) => charge.resize(bytes),
            None => self.budget.reserve(bytes).map(|charge| self.charge = Some(charge)),
        };
        charged.map_err(|_| BodySourceError::Budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(format: Option<EventFormat>, budget: &MemoryBudget) -> Flow {
        let hook = if format.is_some() { Hook::OnResponseEvent } else { Hook::OnResponseChunk };
        Flow::new(3, hook, format, 100_000, budget)
    }

    fn next(flow: &mut Flow, is_all: bool) -> Option<(String, bool)> {
        let piece = flow.next(is_all).unwrap()?;
        let seen = (String::from_utf8(piece.bytes.to_vec()).unwrap(), piece.is_last);
        flow.settle(*piece);
        Some(seen)
    }

    #[test]
    fn parts_are_cut_and_the_body_ends_with_a_last_piece() {
        let budget = MemoryBudget::new(1 << 20);
        let mut flow = flow(None, &budget);
        assert_eq!(next(&mut flow, false), None);
        flow.push(Bytes::from(vec![b'x'; PIECE + 1]));
        assert_eq!(next(&mut flow, false).unwrap().0.len(), PIECE);
        assert_eq!(next(&mut flow, false), Some(("x".into(), false)));
        assert_eq!(next(&mut flow, false), None);
        assert_eq!(next(&mut flow, true), Some((String::new(), true)), "the end was not known with the last part");
        flow.push(Bytes::from_static(b"y"));
        assert_eq!(next(&mut flow, true), Some(("y".into(), true)), "it was known");
    }

    #[test]
    fn what_is_kept_back_comes_again_and_is_charged() {
        let budget = MemoryBudget::new(64 << 10);
        let mut flow = flow(None, &budget);
        let hold = |flow: &mut Flow, part: usize| {
            flow.push(Bytes::from(vec![b'x'; part]));
            let mut piece = flow.next(false).unwrap().unwrap();
            piece.said.held = piece.bytes.len();
            let length = piece.bytes.len();
            assert!(flow.settle(*piece).is_empty());
            (length, flow.account())
        };
        assert_eq!((hold(&mut flow, 10_000).0, budget.used()), (10_000, 0));
        assert_eq!((hold(&mut flow, 10_000).0, budget.used()), (20_000, 32 << 10));
        assert_eq!((hold(&mut flow, PIECE).0, budget.used()), (20_000 + PIECE, 48 << 10));
        assert_eq!(hold(&mut flow, PIECE).1, Ok(()));
        assert_eq!(hold(&mut flow, PIECE).1, Err(BodySourceError::Budget));
        assert_eq!(flow.flush().len(), 20_000 + 3 * PIECE, "nothing is lost");
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn events_are_put_together_up_to_a_bound() {
        let budget = MemoryBudget::new(1 << 20);
        let mut flow = flow(Some(EventFormat::ServerSent), &budget);
        flow.push(Bytes::from_static(b"data: 1\n\ndata"));
        assert_eq!(next(&mut flow, false), Some(("data: 1\n\n".into(), false)));
        assert_eq!(next(&mut flow, false), None);
        flow.push(Bytes::from_static(b": 2\n\ndata: 3"));
        assert_eq!(next(&mut flow, false), Some(("data: 2\n\n".into(), false)));
        assert_eq!(next(&mut flow, true), Some(("data: 3".into(), true)), "cut by the end of the body");
        flow.push(Bytes::from(vec![b'x'; 99_999]));
        assert_eq!(next(&mut flow, false), None);
        flow.push(Bytes::from_static(b"xx\n\n"));
        assert_eq!(flow.next(false).map(|_| ()), Err(BodySourceError::TooLarge(100_000)));
        assert_eq!(flow.flush().len(), 99_999 + 4, "and all of it can go on");
    }
}
