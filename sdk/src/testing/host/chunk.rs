//! The piece of a body that a hook sees, with the rules of the gateway.

use sluice_services::ServiceError;
use sluice_services::events::Event;
use sluice_services::piece::Piece;

use super::during;
use crate::bindings::sluice::filter::types::Error;
use crate::testing::Phase;

const PIECES: &[Phase] = &[Phase::OnRequestChunk, Phase::OnResponseChunk, Phase::OnResponseEvent];
const CHUNKS: &[Phase] = &[Phase::OnRequestChunk, Phase::OnResponseChunk];
const EVENTS: &[Phase] = &[Phase::OnResponseEvent];

/// The gateway's default of `limits.body`.
const MOST_HELD: u64 = 1 << 20;
const MOST_SET: u64 = 2 * MOST_HELD;

fn with<T>(phases: &[Phase], act: impl FnOnce(&mut Piece) -> Result<T, ServiceError>) -> Result<T, Error> {
    during(phases, |world| Ok(act(&mut world.exchange.piece)?))
}

pub(crate) fn length() -> Result<u64, Error> {
    with(PIECES, |piece| Ok(piece.bytes.len() as u64))
}

pub(crate) fn read(offset: u64, length: u64) -> Result<Vec<u8>, Error> {
    with(PIECES, |piece| {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(piece.bytes.len());
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(piece.bytes.len());
        Ok(piece.bytes[start..end].to_vec())
    })
}

pub(crate) fn is_last() -> Result<bool, Error> {
    with(PIECES, |piece| Ok(piece.is_last))
}

pub(crate) fn replace(bytes: &[u8]) -> Result<(), Error> {
    with(PIECES, |piece| {
        if bytes.len() as u64 > MOST_SET {
            return Err(ServiceError::TooLarge(MOST_SET));
        }
        piece.said.replacement = Some(bytes.to_vec().into());
        Ok(())
    })
}

pub(crate) fn hold(tail: u64) -> Result<(), Error> {
    with(CHUNKS, |piece| piece.hold(tail, MOST_HELD))
}

pub(crate) fn end() -> Result<(), Error> {
    with(PIECES, |piece| {
        piece.said.ends = true;
        Ok(())
    })
}

pub(crate) fn pass_rest() -> Result<(), Error> {
    with(PIECES, |piece| {
        piece.said.passes_rest = true;
        Ok(())
    })
}

pub(crate) fn event_name() -> Result<Option<String>, Error> {
    with(EVENTS, |piece| Ok(piece.event().and_then(Event::name)))
}

pub(crate) fn event_id() -> Result<Option<String>, Error> {
    with(EVENTS, |piece| Ok(piece.event().and_then(Event::id)))
}

pub(crate) fn event_data() -> Result<Option<String>, Error> {
    with(EVENTS, |piece| Ok(piece.event().and_then(Event::data)))
}

pub(crate) fn set_event_data(data: &str) -> Result<(), Error> {
    with(EVENTS, |piece| {
        piece.said.replacement = Some(piece.with_data(data, MOST_SET)?.into());
        Ok(())
    })
}
