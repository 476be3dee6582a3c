//! Header fields as filters see and set them, for requests, responses and trailers alike.

use http::header::ValueIter;
use http::{HeaderMap, HeaderName, HeaderValue};
use wasmtime::Result as Outcome;
use wasmtime::component::{ComponentType, Lift, LinkerInstance, WasmList, WasmStr};

use super::super::bindings::{Error, Field};
use super::super::state::CallState;
use super::{Cx, anywhere, invalid};
use crate::exchange::{HeaderEdit, ResponseHead};

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
pub(in super::super) struct Fields {
    /// What there is to read now.
    pub(super) map: for<'a> fn(&'a CallState) -> Result<&'a HeaderMap, Error>,
    /// Whether the hook may edit them.
    pub(super) check: fn(&CallState) -> Result<(), Error>,
    pub(in super::super) edit: fn(&mut CallState, HeaderName, HeaderEdit) -> Result<(), Error>,
}

/// Defines the functions that requests and responses have in common. Names and values stay in the guest's memory until they are
/// parsed.
pub(super) fn link(at: &mut LinkerInstance<'_, CallState>, of: Fields) -> Outcome<()> {
    at.func_wrap("header", move |cx: Cx<'_>, (name,): (WasmStr,)| {
        let (state, name) = (cx.data(), name.to_str(&cx)?);
        Ok(((of.map)(state).and_then(|map| first(state, map, &name)),))
    })?;
    at.func_wrap("header-values", move |cx: Cx<'_>, (name,): (WasmStr,)| {
        let (state, name) = (cx.data(), name.to_str(&cx)?);
        let texts = |values: ValueIter<'_, _>| values.filter_map(text).collect::<Vec<_>>();
        Ok(((of.map)(state).and_then(|map| state.see(map, &name, texts)),))
    })?;
    at.func_wrap("header-bytes", move |cx: Cx<'_>, (name,): (WasmStr,)| {
        let (state, name) = (cx.data(), name.to_str(&cx)?);
        let bytes = |values: ValueIter<'_, HeaderValue>| values.map(|v| v.as_bytes().to_vec()).collect::<Vec<_>>();
        Ok(((of.map)(state).and_then(|map| state.see(map, &name, bytes)),))
    })?;
    at.func_wrap("headers", move |cx: Cx<'_>, ()| {
        let state = cx.data();
        Ok(((of.map)(state).map(|map| all(state, map)),))
    })?;
    at.func_wrap("set-header", move |mut cx: Cx<'_>, (name, to): (WasmStr, WasmStr)| {
        let edit = of.checked(&cx, &name, || Ok(value(to.to_str(&cx)?.as_bytes()).map(HeaderEdit::Set)))?;
        Ok((of.apply(&mut cx, edit),))
    })?;
    at.func_wrap("set-header-bytes", move |mut cx: Cx<'_>, (name, to): (WasmStr, WasmList<u8>)| {
        let edit = of.checked(&cx, &name, || Ok(value(to.as_le_slice(&cx)).map(HeaderEdit::Set)))?;
        Ok((of.apply(&mut cx, edit),))
    })?;
    at.func_wrap("append-header", move |mut cx: Cx<'_>, (name, more): (WasmStr, WasmStr)| {
        let edit = of.checked(&cx, &name, || Ok(value(more.to_str(&cx)?.as_bytes()).map(HeaderEdit::Append)))?;
        Ok((of.apply(&mut cx, edit),))
    })?;
    at.func_wrap("remove-header", move |mut cx: Cx<'_>, (name,): (WasmStr,)| {
        let edit = of.checked(&cx, &name, || Ok(Ok(HeaderEdit::Remove)))?;
        Ok((of.apply(&mut cx, edit),))
    })?;
    at.func_wrap("edit-headers", move |mut cx: Cx<'_>, (edits,): (WasmList<GuestEdit>,)| {
        if edits.len() > MAX_EDITS {
            return Ok((Err(Error::TooLarge(MAX_EDITS as u64)),));
        }
        let before = match (of.check)(cx.data()).and_then(|()| cx.data().before_edits()) {
            Ok(before) => before,
            Err(refused) => return Ok((Err(refused),)),
        };
        for at in 0..edits.len() {
            let Some(edit) = edits.get(&mut cx, at).transpose()? else { break };
            let checked = of.checked(&cx, &edit.name, || edit.change.read(&cx))?;
            if let Err(refused) = of.apply(&mut cx, checked) {
                cx.data_mut().take_back_edits(before);
                return Ok((Err(refused),));
            }
        }
        Ok((Ok(()),))
    })
}

/// `types.header-edit`, its texts still with the guest.
#[derive(ComponentType, Lift)]
#[component(record)]
struct GuestEdit {
    name: WasmStr,
    change: GuestChange,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum GuestChange {
    #[component(name = "set")]
    Set(WasmStr),
    #[component(name = "append")]
    Append(WasmStr),
    #[component(name = "remove")]
    Remove,
}

impl GuestChange {
    fn read(&self, cx: &Cx<'_>) -> Outcome<Result<HeaderEdit, Error>> {
        Ok(match self {
            GuestChange::Set(to) => value(to.to_str(cx)?.as_bytes()).map(HeaderEdit::Set),
            GuestChange::Append(more) => value(more.to_str(cx)?.as_bytes()).map(HeaderEdit::Append),
            GuestChange::Remove => Ok(HeaderEdit::Remove),
        })
    }
}

/// An edit that may be made, or why it may not.
type Checked = Result<(HeaderName, HeaderEdit), Error>;

impl Fields {
    /// Checks the hook, the name and what `edit` reads. The outer error is a trap: text that is none.
    pub(super) fn checked(
        self,
        cx: &Cx<'_>,
        name: &WasmStr,
        edit: impl FnOnce() -> Outcome<Result<HeaderEdit, Error>>,
    ) -> Outcome<Checked> {
        let state = cx.data();
        let name = name.to_str(cx)?;
        let name = match (self.check)(state).and_then(|()| state.writable(&name)) {
            Ok(name) => name,
            Err(error) => return Ok(Err(error)),
        };
        Ok(edit()?.map(|edit| (name, edit)))
    }

    pub(super) fn apply(self, cx: &mut Cx<'_>, edit: Checked) -> Result<(), Error> {
        let (name, edit) = edit?;
        (self.edit)(cx.data_mut(), name, edit)
    }
}

/// The length of the journal, the draft, and the bytes set so far.
pub(in super::super) struct BeforeEdits(usize, Option<Box<ResponseHead>>, usize);

fn text(value: &HeaderValue) -> Option<String> {
    std::str::from_utf8(value.as_bytes()).ok().map(str::to_owned)
}

/// The first value that is text.
pub(super) fn first(state: &CallState, map: &HeaderMap, name: &str) -> Result<Option<String>, Error> {
    state.see(map, name, |mut values| values.find_map(text))
}

/// All fields that the filter may see and that are text.
pub(super) fn all(state: &CallState, map: &HeaderMap) -> Vec<Field> {
    let grant = &state.shared.grants.read;
    map.iter()
        .filter(|(name, _)| grant.allows(name))
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
        let mut names = self.kit.names.borrow_mut();
        let known = names.find(name, &self.shared.grants).map_err(Error::Invalid)?;
        Ok(if known.readable { read(map.get_all(&known.name).into_iter()) } else { T::default() })
    }

    /// The name of a field that the filter may set.
    pub(in super::super) fn writable(&self, text: &str) -> Result<HeaderName, Error> {
        let mut names = self.kit.names.borrow_mut();
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
    pub(in super::super) fn before_edits(&self) -> Result<BeforeEdits, Error> {
        let exchange = self.exchange(anywhere)?;
        // A draft has no journal, but it is short, and mostly there is none.
        Ok(BeforeEdits(exchange.journal.len(), exchange.draft.clone(), self.field_bytes))
    }

    pub(in super::super) fn take_back_edits(&mut self, BeforeEdits(length, draft, field_bytes): BeforeEdits) {
        self.field_bytes = field_bytes;
        if let Some(exchange) = self.exchange.as_deref_mut() {
            exchange.take_back(length);
            exchange.draft = draft;
        }
    }

    /// Counts what the call sets.
    pub(super) fn charge_field(&mut self, name: &HeaderName, edit: &HeaderEdit) -> Result<(), Error> {
        let (HeaderEdit::Set(value) | HeaderEdit::Append(value)) = edit else { return Ok(()) };
        let total = self.field_bytes + name.as_str().len() + value.len() + FIELD_BYTES;
        if total > MAX_SET {
            return Err(Error::TooLarge(MAX_SET as u64));
        }
        self.field_bytes = total;
        Ok(())
    }
}

/// A value that may be sent: RFC 9110 §5.5.
pub(super) fn value(bytes: &[u8]) -> Result<HeaderValue, Error> {
    if bytes.len() > MAX_VALUE {
        return Err(Error::TooLarge(MAX_VALUE as u64));
    }
    // RFC 9110 §5.5: white space around a value is no part of it.
    HeaderValue::from_bytes(bytes.trim_ascii()).map_err(|_| invalid("the value has a control character"))
}

/// Refuses a field that would make the map too large. A map panics at some ten thousand names, and what it holds is memory of
/// the gateway.
pub(super) fn check_room(map: &HeaderMap, name: &HeaderName, edit: &HeaderEdit) -> Result<(), Error> {
    let is_full = match edit {
        HeaderEdit::Remove => false,
        HeaderEdit::Set(_) => map.keys_len() >= MAX_FIELDS && !map.contains_key(name),
        HeaderEdit::Append(_) => match map.get_all(name).iter().count() {
            0 => map.keys_len() >= MAX_FIELDS,
            values => values >= MAX_FIELDS,
        },
    };
    if is_full { Err(Error::TooLarge(MAX_FIELDS as u64)) } else { Ok(()) }
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
