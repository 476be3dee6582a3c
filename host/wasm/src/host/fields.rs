//! Header fields as filters see and set them, for requests, responses and trailers alike.

use http::header::ValueIter;
use http::{HeaderMap, HeaderName, HeaderValue};
use wasmtime::Result as Outcome;

use super::invalid;
use crate::abi::define::Define;
use crate::abi::{self, Bytes, Edit, GuestChange, List, Str};
use crate::bindings::{Error, Field};
use crate::call::names::is_readable;
use crate::call::state::CallState;
use crate::exchange::{HeaderEdit, ResponseHead, kept};
use crate::filter::HookSet;

/// Bytes of one value that a filter sets.
const MAX_VALUE: usize = 64 << 10;
/// Names that a message can have once a filter adds one, and values that one name can have.
const MAX_FIELDS: usize = 256;
/// Changes of one `edit-headers`.
const MAX_EDITS: usize = 256;
/// Bytes of names and values that a filter sets in one call.
const MAX_SET: usize = 256 << 10;
/// What a field is charged beside its name and value, as in RFC 9113 §6.5.2.
const FIELD_BYTES: usize = 32;

/// The header fields of one message.
#[derive(Clone, Copy)]
pub(crate) struct Fields {
    /// What there is to read now.
    pub(crate) map: for<'a> fn(&'a CallState) -> Result<&'a HeaderMap, Error>,
    /// Whether the hook may edit them.
    pub(crate) check: fn(&CallState) -> Result<(), Error>,
    pub(crate) edit: fn(&mut CallState, HeaderName, HeaderEdit) -> Result<(), Error>,
}

/// Defines the functions that requests and responses have in common.
pub(crate) fn link(at: &mut impl Define, of: Fields) -> Outcome<()> {
    at.function::<(Str,), _>("header", move |state, (name,)| {
        Ok((of.map)(state).and_then(|map| first(state, map, name)))
    })?;
    at.function::<(Str,), _>("header-values", move |state, (name,)| {
        let texts = |values: ValueIter<'_, _>| values.filter_map(text).collect::<Vec<_>>();
        Ok((of.map)(state).and_then(|map| state.see(map, name, texts)))
    })?;
    at.function::<(Str,), _>("header-bytes", move |state, (name,)| {
        let bytes = |values: ValueIter<'_, HeaderValue>| values.map(|v| v.as_bytes().to_vec()).collect::<Vec<_>>();
        Ok((of.map)(state).and_then(|map| state.see(map, name, bytes)))
    })?;
    at.function::<(), _>("headers", move |state, ()| Ok((of.map)(state).map(|map| all(state, map))))?;
    at.function::<(Str, Str), _>("set-header", move |state, (name, to)| {
        Ok(of.change(state, name, || value(to.as_bytes()).map(HeaderEdit::Set)))
    })?;
    at.function::<(Str, Bytes), _>("set-header-bytes", move |state, (name, to)| {
        Ok(of.change(state, name, || value(to).map(HeaderEdit::Set)))
    })?;
    at.function::<(Str, Str), _>("append-header", move |state, (name, more)| {
        Ok(of.change(state, name, || value(more.as_bytes()).map(HeaderEdit::Append)))
    })?;
    at.function::<(Str,), _>("remove-header", move |state, (name,)| {
        Ok(of.change(state, name, || Ok(HeaderEdit::Remove)))
    })?;
    at.function::<(List<Edit>,), _>("edit-headers", move |state, (edits,)| Ok(of.change_all(state, &edits)))
}

impl Fields {
    /// Checks the hook, the name and the edit, and makes it.
    fn change(
        self,
        state: &mut CallState,
        name: &str,
        edit: impl FnOnce() -> Result<HeaderEdit, Error>,
    ) -> Result<(), Error> {
        (self.check)(state)?;
        let name = state.writable(name)?;
        (self.edit)(state, name, edit()?)
    }

    /// Makes all edits, or none.
    fn change_all(self, state: &mut CallState, edits: &[(&str, GuestChange<'_>)]) -> Result<(), Error> {
        if edits.len() > MAX_EDITS {
            return Err(Error::TooLarge(MAX_EDITS as u64));
        }
        (self.check)(state)?;
        let before = state.before_edits()?;
        let mut edits = edits.iter();
        let done = edits.try_for_each(|(name, change)| {
            self.change(state, name, || match change {
                GuestChange::Set(to) => value(to.as_bytes()).map(HeaderEdit::Set),
                GuestChange::Append(more) => value(more.as_bytes()).map(HeaderEdit::Append),
                GuestChange::Remove => Ok(HeaderEdit::Remove),
            })
        });
        if done.is_err() {
            state.take_back_edits(before);
        }
        done
    }
}

/// The length of the journal, the draft, and the bytes set so far.
pub(crate) struct BeforeEdits(usize, Option<Box<ResponseHead>>, usize);

fn text(value: &HeaderValue) -> Option<String> {
    abi::text(value.as_bytes()).ok().map(str::to_owned)
}

/// The first value that is text.
pub(crate) fn first(state: &CallState, map: &HeaderMap, name: &str) -> Result<Option<String>, Error> {
    state.see(map, name, |mut values| values.find_map(text))
}

/// All fields that the filter may see and that are text.
pub(crate) fn all(state: &CallState, map: &HeaderMap) -> Vec<Field> {
    let grants = &state.shared.grants;
    map.iter()
        .filter(|(name, _)| is_readable(name, grants))
        .filter_map(|(name, value)| Some(Field { name: name.as_str().to_owned(), value: text(value)? }))
        .collect()
}

impl CallState {
    /// Reads the values of a field; a field that the filter may not see has none.
    fn see<T: Default>(
        &self,
        map: &HeaderMap,
        name: &str,
        read: impl FnOnce(ValueIter<'_, HeaderValue>) -> T,
    ) -> Result<T, Error> {
        let mut names = self.resources.names.borrow_mut();
        let known = names.find(name, &self.shared.grants).map_err(Error::Invalid)?;
        Ok(if known.readable { read(map.get_all(&known.name).into_iter()) } else { T::default() })
    }

    /// The name of a field that the filter may set.
    pub(crate) fn writable(&self, text: &str) -> Result<HeaderName, Error> {
        let mut names = self.resources.names.borrow_mut();
        let known = names.find(text, &self.shared.grants).map_err(Error::Invalid)?;
        if known.framing {
            return Err(invalid(format!("`{text}` frames or routes the message and is set by the gateway")));
        }
        if !known.writable {
            return Err(Error::NotGranted(format!("grants.write_headers = [\"{text}\"]")));
        }
        Ok(known.name.clone())
    }

    /// Where edits begin that are all made or none.
    pub(crate) fn before_edits(&self) -> Result<BeforeEdits, Error> {
        let exchange = self.exchange(HookSet::ALL)?;
        // A draft has no journal, but it is short, and mostly there is none.
        Ok(BeforeEdits(exchange.journal.len(), exchange.draft.clone(), self.field_bytes))
    }

    pub(crate) fn take_back_edits(&mut self, BeforeEdits(length, draft, field_bytes): BeforeEdits) {
        self.field_bytes = field_bytes;
        if let Some(exchange) = self.exchange.as_deref_mut() {
            exchange.take_back(length);
            exchange.draft = draft;
        }
    }

    /// Counts what the call sets, and what its undo record keeps of the values that are `present`.
    pub(crate) fn charge_field(&mut self, name: &HeaderName, edit: &HeaderEdit, present: usize) -> Result<(), Error> {
        let (HeaderEdit::Set(value) | HeaderEdit::Append(value)) = edit else { return self.keep(0) };
        let bytes = name.as_str().len() + value.len() + FIELD_BYTES;
        let total = self.field_bytes + bytes;
        if total > MAX_SET {
            return Err(Error::TooLarge(MAX_SET as u64));
        }
        self.keep(bytes + kept::values(present))?;
        self.field_bytes = total;
        Ok(())
    }
}

/// A value that may be sent: RFC 9110 §5.5.
pub(crate) fn value(bytes: &[u8]) -> Result<HeaderValue, Error> {
    if bytes.len() > MAX_VALUE {
        return Err(Error::TooLarge(MAX_VALUE as u64));
    }
    // RFC 9110 §5.5: white space around a value is no part of it.
    HeaderValue::from_bytes(bytes.trim_ascii()).map_err(|_| invalid("the value has a control character"))
}

/// Refuses a field that would make the map too large. A map panics at some ten thousand names, and what it holds is memory of
/// the gateway. Answers how many values are there to which one is appended.
pub(crate) fn check_room(map: &HeaderMap, name: &HeaderName, edit: &HeaderEdit) -> Result<usize, Error> {
    let mut present = 0;
    let is_full = match edit {
        HeaderEdit::Remove => false,
        HeaderEdit::Set(_) => map.keys_len() >= MAX_FIELDS && !map.contains_key(name),
        HeaderEdit::Append(_) => match map.get_all(name).iter().count() {
            0 => map.keys_len() >= MAX_FIELDS,
            values => {
                present = values;
                values >= MAX_FIELDS
            }
        },
    };
    if is_full { Err(Error::TooLarge(MAX_FIELDS as u64)) } else { Ok(present) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_takes_so_many_names_and_values() {
        let one = || HeaderValue::from_static("1");
        let name = |number: usize| HeaderName::try_from(format!("x-{number}")).unwrap();
        let mut map = HeaderMap::new();
        for number in 0..MAX_FIELDS {
            assert!(check_room(&map, &name(number), &HeaderEdit::Append(one())).is_ok());
            map.append(name(number), one());
        }
        let full =
            |map: &HeaderMap, number, edit| matches!(check_room(map, &name(number), &edit), Err(Error::TooLarge(256)));
        assert!(full(&map, MAX_FIELDS, HeaderEdit::Append(one())) && full(&map, MAX_FIELDS, HeaderEdit::Set(one())));
        assert!(!full(&map, MAX_FIELDS, HeaderEdit::Remove) && !full(&map, 7, HeaderEdit::Set(one())));
        while map.get_all(name(7)).iter().count() < MAX_FIELDS {
            assert!(!full(&map, 7, HeaderEdit::Append(one())));
            map.append(name(7), one());
        }
        assert!(full(&map, 7, HeaderEdit::Append(one())) && !full(&map, 7, HeaderEdit::Set(one())));
    }
}
