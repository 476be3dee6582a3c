//! `chunk`: the piece of a body that a hook is called with. What it says of the piece counts once the call has ended well.

use wasmtime::Result as Outcome;

use super::Interfaces;
use super::request::{check_body, slice};
use crate::abi::define::Define;
use crate::abi::{Bytes, Str};
use crate::bindings::Error;
use crate::call::state::CallState;
use crate::exchange::Piece;
use crate::filter::HookSet;
use sluice_services::events::Event;

/// Defines `chunk`.
pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    let mut at = linker.interface("chunk")?;
    at.function::<(), _>("length", |state, ()| {
        Ok(state.piece(HookSet::PIECES).map(|piece| piece.map_or(0, |piece| piece.bytes.len() as u64)))
    })?;
    at.function::<(u64, u64), _>("read", |state, (offset, length)| {
        Ok(state.piece(HookSet::PIECES).map(|piece| slice(piece.map(|piece| &piece.bytes), offset, length)))
    })?;
    at.function::<(), _>("is-last", |state, ()| {
        Ok(state.piece(HookSet::PIECES).map(|piece| piece.is_none_or(|piece| piece.is_last)))
    })?;
    at.function::<(Bytes,), _>("replace", |state, (bytes,)| Ok(state.replace_piece(bytes)))?;
    at.function::<(u64,), _>("hold", |state, (tail,)| Ok(state.hold_piece(tail)))?;
    at.function::<(), _>("end", |state, ()| Ok(state.edit_piece(HookSet::PIECES, |piece| piece.said.ends = true)))?;
    at.function::<(), _>("pass-rest", |state, ()| {
        Ok(state.edit_piece(HookSet::PIECES, |piece| piece.said.passes_rest = true))
    })?;
    at.function::<(), _>("event-name", |state, ()| Ok(state.event(|event| event.name())))?;
    at.function::<(), _>("event-id", |state, ()| Ok(state.event(|event| event.id())))?;
    at.function::<(), _>("event-data", |state, ()| Ok(state.event(|event| event.data())))?;
    at.function::<(Str,), _>("set-event-data", |state, (data,)| Ok(state.set_event_data(data)))
}

impl CallState {
    /// The piece, in one of these hooks. The trial at load has none.
    fn piece(&self, allowed: HookSet) -> Result<Option<&Piece>, Error> {
        Ok(self.exchange(allowed)?.piece.as_deref())
    }

    fn edit_piece(&mut self, allowed: HookSet, edit: impl FnOnce(&mut Piece)) -> Result<(), Error> {
        if let Some(piece) = self.exchange_mut(allowed)?.piece.as_deref_mut() {
            edit(piece);
        }
        Ok(())
    }

    fn replace_piece(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hook(HookSet::PIECES)?;
        check_body(bytes, self.shared.limits.max_set_body())?;
        let bytes = self.keep_body(bytes)?;
        self.edit_piece(HookSet::PIECES, |piece| piece.said.replacement = Some(bytes))
    }

    fn hold_piece(&mut self, tail: u64) -> Result<(), Error> {
        let most = self.shared.limits.max_body;
        match self.exchange_mut(HookSet::CHUNKS)?.piece.as_deref_mut() {
            Some(piece) => Ok(piece.hold(tail, most)?),
            None => Ok(()),
        }
    }

    fn event(&self, part: impl FnOnce(Event<'_>) -> Option<String>) -> Result<Option<String>, Error> {
        Ok(self.piece(HookSet::EVENTS)?.and_then(Piece::event).and_then(part))
    }

    fn set_event_data(&mut self, data: &str) -> Result<(), Error> {
        let most = self.shared.limits.max_set_body();
        let Some(piece) = self.piece(HookSet::EVENTS)? else { return Ok(()) };
        let with = piece.with_data(data, most)?;
        let bytes = self.keep_body(&with)?;
        self.edit_piece(HookSet::EVENTS, |piece| piece.said.replacement = Some(bytes))
    }
}
