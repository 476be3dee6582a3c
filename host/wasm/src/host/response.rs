//! `response`: the response of the current exchange, or in a request hook the answer that the filter drafts.

use std::sync::LazyLock;

use http::{HeaderName, StatusCode};
use wasmtime::Result as Outcome;

use super::fields::{self, Fields};
use super::request::{check_body, slice};
use super::{Interfaces, invalid};
use crate::abi::define::Define;
use crate::abi::{Bytes, Str};
use crate::bindings::{Error, Field, response};
use crate::call::state::CallState;
use crate::exchange::{BodyWish, Exchange, HeaderEdit, Reason, ResponseHead, ResponseSource};
use crate::filter::{Hook, HookSet};
use sluice_http::http::headers::is_forbidden_in_trailers;

/// Bytes of a reason.
const MAX_REASON: usize = 64;

fn draft(exchange: &mut Exchange) -> &mut ResponseHead {
    exchange.draft.get_or_insert_with(|| Box::new(ResponseHead::new(ResponseSource::Filter, StatusCode::OK)))
}

/// What a request hook reads of an answer of which nothing is drafted yet.
static UNDRAFTED: LazyLock<ResponseHead> = LazyLock::new(|| ResponseHead::new(ResponseSource::Filter, StatusCode::OK));

/// The header fields of the response.
pub(crate) const FIELDS: Fields = Fields {
    map: |state| Ok(&state.response()?.headers),
    check: |state| state.hook(HookSet::RESPONSE_WRITES).map(|_| ()),
    edit: CallState::edit_response_header,
};

/// Defines `response`.
pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    let mut at = linker.interface("response")?;
    fields::link(&mut at, FIELDS)?;
    at.function::<(), _>("origin", |state, ()| Ok(state.origin()))?;
    at.function::<(), _>("status", |state, ()| Ok(state.status()))?;
    at.function::<(), _>("cache-status", |state, ()| Ok(state.cache_status()))?;
    at.function::<(u16,), _>("set-status", |state, (status,)| Ok(state.set_status(status)))?;
    at.function::<(Str,), _>("set-reason", |state, (reason,)| Ok(state.set_reason(reason)))?;
    at.function::<(u64,), _>("want-body", |state, (most,)| Ok(state.want_response_body(most)))?;
    at.function::<(), _>("body-length", |state, ()| Ok(state.response_body_length()))?;
    at.function::<(u64, u64), _>("body", |state, (offset, length)| Ok(state.response_body(offset, length)))?;
    at.function::<(Bytes,), _>("set-body", |state, (body,)| Ok(state.set_response_body(body)))?;
    at.function::<(Str,), _>("trailer", |state, (name,)| Ok(state.trailer(name)))?;
    at.function::<(), _>("trailers", |state, ()| Ok(state.trailers()))?;
    at.function::<(Str, Str), _>("set-trailer", |state, (name, value)| {
        Ok(state.edit_trailer(name, || fields::value(value.as_bytes()).map(HeaderEdit::Set)))
    })?;
    at.function::<(Str,), _>("remove-trailer", |state, (name,)| Ok(state.edit_trailer(name, || Ok(HeaderEdit::Remove))))
}

impl CallState {
    /// The response to read: the draft in a request hook.
    fn response(&self) -> Result<&ResponseHead, Error> {
        let hook = self.hook(HookSet::RESPONSE_READS)?;
        let exchange = self.exchange(HookSet::RESPONSE_READS)?;
        if hook.is_request() {
            return Ok(exchange.draft.as_deref().unwrap_or(&UNDRAFTED));
        }
        exchange.response.as_deref().ok_or_else(|| Error::Unavailable("there is no response".into()))
    }

    fn edit_response_header(&mut self, name: HeaderName, edit: HeaderEdit) -> Result<(), Error> {
        let hook = self.hook(HookSet::RESPONSE_WRITES)?;
        let exchange = self.exchange(HookSet::RESPONSE_WRITES)?;
        let edited = if hook.is_request() { exchange.draft.as_deref() } else { exchange.response.as_deref() };
        let present = match edited {
            Some(edited) => fields::check_room(&edited.headers, &name, &edit)?,
            None => 0,
        };
        self.charge_field(&name, &edit, present)?;
        let exchange = self.exchange_mut(HookSet::RESPONSE_WRITES)?;
        if !hook.is_request() {
            exchange.edit_response_header(name, edit);
            return Ok(());
        }
        let headers = &mut draft(exchange).headers;
        match edit {
            HeaderEdit::Set(value) => {
                headers.insert(name, value);
            }
            HeaderEdit::Append(value) => {
                headers.append(name, value);
            }
            HeaderEdit::Remove => {
                headers.remove(name);
            }
        }
        Ok(())
    }

    fn edit_trailer(&mut self, name: &str, edit: impl FnOnce() -> Result<HeaderEdit, Error>) -> Result<(), Error> {
        self.hook(HookSet::TRAILERS)?;
        let name = self.writable(name)?;
        if is_forbidden_in_trailers(&name) {
            return Err(invalid(format!("`{name}` can't be a trailer")));
        }
        let edit = edit()?;
        let present = match trailers(self.exchange(HookSet::TRAILERS)?) {
            Some(map) => fields::check_room(map, &name, &edit)?,
            None => 0,
        };
        self.charge_field(&name, &edit, present)?;
        self.exchange_mut(HookSet::TRAILERS)?.edit_trailer(name, edit);
        Ok(())
    }
}

fn trailers(exchange: &Exchange) -> Option<&http::HeaderMap> {
    exchange.response.as_ref()?.trailers.as_ref()
}

impl CallState {
    fn origin(&self) -> Result<response::Source, Error> {
        Ok(match self.response()?.origin {
            ResponseSource::Upstream => response::Source::Upstream,
            ResponseSource::Filter => response::Source::Filter,
            ResponseSource::Gateway => response::Source::Gateway,
        })
    }

    fn status(&self) -> Result<u16, Error> {
        Ok(self.response()?.status.as_u16())
    }

    fn cache_status(&self) -> Result<Option<String>, Error> {
        let hook = self.hook(HookSet::RESPONSE_READS)?;
        let status = self.exchange(HookSet::RESPONSE_READS)?.cache_status;
        Ok(status.filter(|_| !hook.is_request()).map(str::to_owned))
    }

    fn set_status(&mut self, status: u16) -> Result<(), Error> {
        let hook = self.hook(HookSet::RESPONSE_WRITES)?;
        let code = match StatusCode::from_u16(status) {
            Ok(code) if (200..600).contains(&status) => code,
            _ => return Err(invalid(format!("{status} is not a status of a final response"))),
        };
        self.keep(0)?;
        let exchange = self.exchange_mut(HookSet::RESPONSE_WRITES)?;
        if hook.is_request() {
            draft(exchange).status = code;
        } else {
            exchange.set_status(code);
        }
        Ok(())
    }

    fn set_reason(&mut self, reason: &str) -> Result<(), Error> {
        let hook = self.hook(HookSet::RESPONSE_WRITES)?;
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        if reason.is_empty() || reason.len() > MAX_REASON || !reason.bytes().all(is_token) {
            return Err(invalid(format!(
                "a reason has 1 to {MAX_REASON} letters, digits, `-`, `_`, `.` or `:`, such as `token-expired`"
            )));
        }
        self.keep(size_of::<Reason>() + reason.len())?;
        let reason = Box::new(Reason::new(self.shared.name.clone(), reason));
        let exchange = self.exchange_mut(HookSet::RESPONSE_WRITES)?;
        if hook.is_request() {
            draft(exchange).reason = Some(reason);
        } else {
            exchange.set_reason(reason);
        }
        Ok(())
    }

    fn want_response_body(&mut self, max_bytes: u64) -> Result<(), Error> {
        let allowed = HookSet::RESPONSE_BODY_WISH;
        self.hook(allowed)?;
        self.see_bodies()?;
        if !self.shared.exports.contains(Hook::OnResponseBody) {
            return Err(invalid("this component does not export on-response-body"));
        }
        let wish = BodyWish { filter: self.index, max_bytes: self.allowed_body(max_bytes) };
        self.keep(size_of_val(&*self.exchange(allowed)?.response_body_wishes))?;
        self.exchange_mut(allowed)?.wish_response_body(wish);
        Ok(())
    }

    fn response_body_length(&self) -> Result<u64, Error> {
        let response = self.exchange(HookSet::RESPONSE_BODY)?.response.as_ref();
        Ok(response.and_then(|r| r.body.as_ref()).map_or(0, |body| body.len() as u64))
    }

    fn response_body(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let response = self.exchange(HookSet::RESPONSE_BODY)?.response.as_ref();
        Ok(slice(response.and_then(|r| r.body.as_ref()), offset, length))
    }

    fn set_response_body(&mut self, body: &[u8]) -> Result<(), Error> {
        let hook = self.hook(HookSet::RESPONSE_WRITES)?;
        // The body of an answer that the filter drafts is its own: no grant is needed for it.
        if !hook.is_request() {
            self.see_bodies()?;
        }
        check_body(body, self.shared.limits.max_set_body())?;
        let body = self.keep_body(body)?;
        let exchange = self.exchange_mut(HookSet::RESPONSE_WRITES)?;
        if hook.is_request() {
            draft(exchange).body = Some(body);
        } else {
            exchange.forget_response_bytes();
            exchange.set_response_body(body);
        }
        Ok(())
    }

    fn trailer(&self, name: &str) -> Result<Option<String>, Error> {
        match trailers(self.exchange(HookSet::TRAILERS)?) {
            Some(map) => fields::first(self, map, name),
            None => Ok(None),
        }
    }

    fn trailers(&self) -> Result<Vec<Field>, Error> {
        let map = trailers(self.exchange(HookSet::TRAILERS)?);
        Ok(map.map(|map| fields::all(self, map)).unwrap_or_default())
    }
}
