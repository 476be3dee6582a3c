//! `request`: the request of the current exchange.

use std::sync::atomic::Ordering;

use http::uri::PathAndQuery;
use http::{HeaderName, Method, Version};
use wasmtime::Result as Outcome;

use super::fields::{self, Fields};
use super::{Interfaces, invalid};
use crate::abi::define::Define;
use crate::abi::{Bytes, Str};
use crate::bindings::Error;
use crate::call::state::CallState;
use crate::exchange::{BodyWish, HeaderEdit};
use crate::filter::{Hook, HookSet};

/// Bytes of a path or query that a filter sets.
const MAX_TARGET: usize = 64 << 10;
/// Bytes of a method that a filter sets.
const MAX_METHOD: usize = 64;

/// The header fields of the request.
pub(crate) const FIELDS: Fields = Fields {
    map: |state| Ok(&state.exchange(HookSet::ALL)?.request.headers),
    check: |state| state.hook(HookSet::REQUEST_WRITES).map(|_| ()),
    edit: CallState::edit_request_header,
};

/// Defines `request`.
pub(crate) fn link(linker: &mut impl Interfaces) -> Outcome<()> {
    let mut at = linker.interface("request")?;
    fields::link(&mut at, FIELDS)?;
    at.function::<(), _>("method", |state, ()| Ok(state.method()))?;
    at.function::<(Str,), _>("set-method", |state, (method,)| Ok(state.set_method(method)))?;
    at.function::<(), _>("scheme", |state, ()| Ok(state.scheme()))?;
    at.function::<(), _>("authority", |state, ()| Ok(state.authority()))?;
    at.function::<(), _>("path", |state, ()| Ok(state.path()))?;
    at.function::<(Str,), _>("set-path", |state, (path,)| Ok(state.set_path(path)))?;
    at.function::<(), _>("query", |state, ()| Ok(state.query()))?;
    at.function::<(Option<Str>,), _>("set-query", |state, (query,)| Ok(state.set_query(query)))?;
    at.function::<(), _>("protocol", |state, ()| Ok(state.protocol()))?;
    at.function::<(), _>("client-address", |state, ()| Ok(state.client_address()))?;
    at.function::<(), _>("client-certificate", |state, ()| Ok(state.client_certificate()))?;
    at.function::<(), _>("id", |state, ()| Ok(state.id()))?;
    at.function::<(u64,), _>("want-body", |state, (most,)| Ok(state.want_request_body(most)))?;
    at.function::<(), _>("body-length", |state, ()| Ok(state.request_body_length()))?;
    at.function::<(u64, u64), _>("body", |state, (offset, length)| Ok(state.request_body(offset, length)))?;
    at.function::<(Bytes,), _>("set-body", |state, (body,)| Ok(state.set_request_body(body)))
}

impl CallState {
    fn edit_request_header(&mut self, name: HeaderName, edit: HeaderEdit) -> Result<(), Error> {
        let present = fields::check_room(&self.exchange(HookSet::REQUEST_WRITES)?.request.headers, &name, &edit)?;
        self.charge_field(&name, &edit, present)?;
        self.exchange_mut(HookSet::REQUEST_WRITES)?.edit_request_header(name, edit);
        Ok(())
    }

    pub(crate) fn see_bodies(&self) -> Result<(), Error> {
        if self.shared.grants.no_bodies {
            return Err(Error::NotGranted("grants.body = true".into()));
        }
        Ok(())
    }

    fn method(&self) -> Result<String, Error> {
        Ok(self.exchange(HookSet::ALL)?.request.method.as_str().to_owned())
    }

    pub(crate) fn set_method(&mut self, method: &str) -> Result<(), Error> {
        self.hook(HookSet::REQUEST_WRITES)?;
        if method.len() > MAX_METHOD {
            return Err(Error::TooLarge(MAX_METHOD as u64));
        }
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| invalid(format!("`{method}` is not a method")))?;
        if method == Method::CONNECT {
            return Err(invalid("`CONNECT` can't be set"));
        }
        self.keep(0)?;
        self.exchange_mut(HookSet::REQUEST_WRITES)?.set_method(method);
        Ok(())
    }

    fn scheme(&self) -> Result<String, Error> {
        Ok(self.exchange(HookSet::ALL)?.request.scheme.as_str().to_owned())
    }

    fn authority(&self) -> Result<String, Error> {
        Ok(self.exchange(HookSet::ALL)?.request.authority.as_str().to_owned())
    }

    fn path(&self) -> Result<String, Error> {
        Ok(self.exchange(HookSet::ALL)?.request.target.path().to_owned())
    }

    fn set_path(&mut self, path: &str) -> Result<(), Error> {
        let exchange = self.exchange(HookSet::REQUEST_WRITES)?;
        check_path(path)?;
        let target = match exchange.request.target.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        self.set_target(target)
    }

    fn query(&self) -> Result<Option<String>, Error> {
        Ok(self.exchange(HookSet::ALL)?.request.target.query().map(str::to_owned))
    }

    fn set_query(&mut self, query: Option<&str>) -> Result<(), Error> {
        let path = self.exchange(HookSet::REQUEST_WRITES)?.request.target.path();
        let target = match query {
            Some(query) => {
                check_query(query)?;
                format!("{path}?{query}")
            }
            None => path.to_owned(),
        };
        self.set_target(target)
    }

    fn set_target(&mut self, target: String) -> Result<(), Error> {
        if target.len() > MAX_TARGET {
            return Err(Error::TooLarge(MAX_TARGET as u64));
        }
        let target: PathAndQuery =
            target.parse().map_err(|_| invalid(format!("`{target}` is not a request target")))?;
        self.keep(target.as_str().len())?;
        self.exchange_mut(HookSet::REQUEST_WRITES)?.set_target(target);
        Ok(())
    }

    fn protocol(&self) -> Result<String, Error> {
        Ok(match self.exchange(HookSet::ALL)?.request.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_3 => "HTTP/3",
            _ => "HTTP/1.1",
        }
        .to_owned())
    }

    fn client_address(&self) -> Result<String, Error> {
        Ok(self.exchange(HookSet::ALL)?.client.to_string())
    }

    fn client_certificate(&self) -> Result<Option<String>, Error> {
        Ok(self.exchange(HookSet::ALL)?.client_certificate.as_deref().map(str::to_owned))
    }

    fn id(&self) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(self.exchange(HookSet::ALL)?.id.as_bytes()).into_owned())
    }

    fn want_request_body(&mut self, max_bytes: u64) -> Result<(), Error> {
        self.hook(HookSet::REQUEST_BODY_WISH)?;
        self.see_bodies()?;
        if !self.shared.exports.contains(Hook::OnRequestBody) {
            return Err(invalid("this component does not export on-request-body"));
        }
        let wish = BodyWish { filter: self.index, max_bytes: self.allowed_body(max_bytes) };
        self.hook(HookSet::REQUEST_WRITES)?;
        self.keep(0)?;
        self.exchange_mut(HookSet::REQUEST_WRITES)?.wish_request_body(wish);
        Ok(())
    }

    /// What the filter gets of the size that it asks for. The operator hears once of a filter that asks for more.
    pub(crate) fn allowed_body(&self, asked: u64) -> u64 {
        let most = self.shared.limits.max_body;
        if asked > most && asked != u64::MAX && !self.is_rehearsal && !self.shared.was_cut.swap(true, Ordering::Relaxed)
        {
            let filter = &*self.shared.name;
            tracing::warn!(
                filter,
                "the filter asks for bodies of up to {asked} bytes, and `limits.body` allows {most}"
            );
        }
        asked.min(most)
    }

    fn request_body_length(&self) -> Result<u64, Error> {
        let exchange = self.exchange(HookSet::REQUEST_BODY)?;
        Ok(exchange.request_body.as_ref().map_or(0, |body| body.len() as u64))
    }

    fn request_body(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let exchange = self.exchange(HookSet::REQUEST_BODY)?;
        Ok(slice(exchange.request_body.as_ref(), offset, length))
    }

    fn set_request_body(&mut self, body: &[u8]) -> Result<(), Error> {
        self.hook(HookSet::REQUEST_WRITES)?;
        self.see_bodies()?;
        check_body(body, self.shared.limits.max_set_body())?;
        let body = self.keep_body(body)?;
        let exchange = self.exchange_mut(HookSet::REQUEST_WRITES)?;
        exchange.forget_request_bytes();
        exchange.set_request_body(body);
        Ok(())
    }
}

/// Up to `length` bytes from `offset`.
pub(crate) fn slice(body: Option<&bytes::Bytes>, offset: u64, length: u64) -> Vec<u8> {
    let Some(body) = body else { return Vec::new() };
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(body.len());
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(body.len());
    body.get(start..end).unwrap_or_default().to_vec()
}

pub(crate) fn check_body(body: &[u8], max: u64) -> Result<(), Error> {
    if body.len() as u64 > max { Err(Error::TooLarge(max)) } else { Ok(()) }
}

/// RFC 3986 §3.3: `pchar` and `/`.
fn check_path(path: &str) -> Result<(), Error> {
    if !path.starts_with('/') {
        return Err(invalid(format!("the path `{path}` does not start with `/`")));
    }
    check_characters(path, b"/")
}

/// RFC 3986 §3.4, and the brackets that many clients leave as they are.
fn check_query(query: &str) -> Result<(), Error> {
    check_characters(query, b"/?[]")
}

fn check_characters(text: &str, also: &[u8]) -> Result<(), Error> {
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let fits = match byte {
            b'%' => bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) || also.contains(&byte),
        };
        if !fits {
            return Err(invalid(format!("it has a byte at {at} that has to be percent-encoded")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_checked() {
        for good in ["/", "/a/b%20c", "/a:b@c;d=e", "//x"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/a b", "/a?b", "/a#b", "/%zz", "/%2", "/ü", "/a\r\nx: y"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
        assert!(check_query("a=b&c[]=/?").is_ok() && check_query("a b").is_err() && check_query("a#b").is_err());
    }

    #[test]
    fn a_body_is_read_in_parts() {
        let body = bytes::Bytes::from_static(b"0123456789");
        assert_eq!(slice(Some(&body), 8, 5), b"89");
        assert_eq!(slice(Some(&body), 2, 3), b"234");
        assert!(slice(Some(&body), u64::MAX, u64::MAX).is_empty() && slice(None, 0, 1).is_empty());
    }
}
