//! A piece of a body that streams, and what a filter says of it: the functions of the interface `chunk`, with their rules.

use bytes::Bytes;

use crate::ServiceError;
use crate::events::{Event, EventFormat};

/// A piece of a body.
#[derive(Debug, Clone, Default)]
pub struct Piece {
    /// What has come, with what was kept back before it.
    pub bytes: Bytes,
    /// The body ends with it.
    pub is_last: bool,
    /// How its event is written, where it is one.
    pub event: Option<EventFormat>,
    /// What the filter has said of it.
    pub said: Said,
}

/// What a filter has said of a piece; nothing at first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// What goes on in place of the piece, or of the part of it that is not kept back.
    pub replacement: Option<Bytes>,
    /// How many of its last bytes are kept back.
    pub held: usize,
    /// The body ends with it.
    pub ends: bool,
    /// What follows goes on unseen.
    pub passes_rest: bool,
}

impl Piece {
    /// Keeps its last `tail` bytes back, of which there may be `most`.
    pub fn hold(&mut self, tail: u64, most: u64) -> Result<(), ServiceError> {
        if self.event.is_some() {
            return Err(ServiceError::Other("an event can't be held".into()));
        }
        let held = usize::try_from(tail).ok().filter(|tail| *tail <= self.bytes.len()).ok_or_else(|| {
            ServiceError::Invalid(format!("{tail} bytes can't be kept back of a piece of {}", self.bytes.len()))
        })?;
        if held > 0 && self.is_last {
            return Err(ServiceError::Invalid("nothing comes behind the last piece: it can't be kept back".into()));
        }
        if tail > most {
            return Err(ServiceError::TooLarge(most));
        }
        self.said.held = held;
        Ok(())
    }

    /// The event that it is.
    pub fn event(&self) -> Option<Event<'_>> {
        self.event.map(|format| Event::new(format, &self.bytes))
    }

    /// The event with other data, of which there may be `most` bytes.
    pub fn with_data(&self, data: &str, most: u64) -> Result<Vec<u8>, ServiceError> {
        let event = self.event().ok_or_else(|| ServiceError::Other("the piece is no event".into()))?;
        if data.len() as u64 > most {
            return Err(ServiceError::TooLarge(most));
        }
        let with = event.with_data(data).ok_or_else(|| {
            ServiceError::Invalid("a line end in the data of a line: it would become two events".into())
        })?;
        // Each line of the data becomes a field.
        if with.len() as u64 > most { Err(ServiceError::TooLarge(most)) } else { Ok(with) }
    }

    /// What goes on of it, and what is kept back.
    pub fn divide(&self) -> (Bytes, Bytes) {
        let at = self.bytes.len().saturating_sub(self.said.held);
        let front = self.said.replacement.clone().unwrap_or_else(|| self.bytes.slice(..at));
        (front, self.bytes.slice(at..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: &'static str) -> Piece {
        Piece { bytes: Bytes::from_static(bytes.as_bytes()), ..Piece::default() }
    }

    #[test]
    fn the_end_of_a_piece_is_kept_back() {
        let mut one = piece("hello wor");
        one.hold(3, 100).unwrap();
        assert_eq!(one.divide(), ("hello ".into(), "wor".into()));
        one.said.replacement = Some("bye ".into());
        assert_eq!(one.divide(), ("bye ".into(), "wor".into()));
        one.hold(0, 100).unwrap();
        assert_eq!(one.divide(), ("bye ".into(), "".into()));
        assert!(matches!(one.hold(10, 100), Err(ServiceError::Invalid(_))));
        assert!(matches!(one.hold(5, 4), Err(ServiceError::TooLarge(4))));
        let mut last = Piece { is_last: true, ..one };
        assert!(matches!(last.hold(1, 100), Err(ServiceError::Invalid(_))));
        assert!(last.hold(0, 100).is_ok());
    }

    #[test]
    fn an_event_gets_other_data_within_its_limit() {
        let mut event = Piece { event: Some(EventFormat::ServerSent), ..piece("id: 1\ndata: a\n\n") };
        assert_eq!(event.with_data("b", 100).unwrap(), b"id: 1\ndata: b\n\n");
        assert!(matches!(event.with_data(&"\n".repeat(50), 100), Err(ServiceError::TooLarge(100))));
        assert!(matches!(event.hold(1, 100), Err(ServiceError::Other(_))));
        let line = Piece { event: Some(EventFormat::Lines), ..piece("1\n") };
        assert!(matches!(line.with_data("a\nb", 100), Err(ServiceError::Invalid(_))));
    }
}
