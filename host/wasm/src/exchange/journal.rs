//! Edits of the call in progress and how to take them back. Edits apply at once, so that a filter reads what it wrote;
//! each leaves an undo record, and a call that did not end well is rolled back.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_ENCODING, ETAG, Entry as Field, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use sluice_http::http::body::BodyError;
use sluice_http::http::buffer::MemoryBudget;
use sluice_http::http::coding::DIGESTS;
use sluice_http::http::compression::weakened;
use smallvec::SmallVec;

use super::{BodyWish, CacheNotes, Caller, Context, ContextEntry, ContextError, Exchange, Reason, Selection, Value};

/// The values of a header field: mostly none or one.
pub type Values = SmallVec<[HeaderValue; 1]>;

/// How to take one edit back.
#[derive(Debug)]
pub enum Undo {
    Method(Method),
    Target(PathAndQuery),
    RequestHeader(HeaderName, Values),
    RequestBody(Option<Bytes>, bool),
    Status(StatusCode),
    Reason(Option<Box<Reason>>),
    ResponseHeader(HeaderName, Values),
    ResponseBody(Option<Bytes>, bool),
    Trailer(HeaderName, Values),
    Context(String, Option<Box<ContextEntry>>),
    Caller(Option<Caller>),
    State(usize, Option<Bytes>),
    Selection(Selection),
    RequestWish(Option<BodyWish>),
    ResponseWishes(Vec<BodyWish>),
    Cache(Option<Box<CacheNotes>>),
}

/// An edit of one header field.
#[derive(Debug)]
pub enum HeaderEdit {
    Set(HeaderValue),
    Append(HeaderValue),
    Remove,
}

/// Answers the values that were there before; none when the edit has changed nothing.
fn edit(map: &mut HeaderMap, name: &HeaderName, edit: HeaderEdit) -> Option<Values> {
    match edit {
        HeaderEdit::Set(value) => Some(match map.entry(name) {
            Field::Occupied(mut field) => field.insert_mult(value).collect(),
            Field::Vacant(field) => {
                field.insert(value);
                Values::new()
            }
        }),
        HeaderEdit::Append(value) => {
            let before = map.get_all(name).iter().cloned().collect();
            map.append(name, value);
            Some(before)
        }
        // A look-up more, but a vacant entry would take the name and might let the map grow.
        HeaderEdit::Remove if !map.contains_key(name) => None,
        HeaderEdit::Remove => match map.entry(name) {
            Field::Occupied(field) => Some(field.remove_entry_mult().1.collect()),
            Field::Vacant(_) => None,
        },
    }
}

fn put_back(map: &mut HeaderMap, name: &HeaderName, before: Values) {
    map.remove(name);
    for value in before {
        map.append(name, value);
    }
}

impl Exchange {
    /// Keeps all edits since the last commit or roll-back.
    pub fn commit(&mut self) {
        self.journal.clear();
    }

    /// Takes back all edits since the last commit, newest first, and drops the draft.
    pub fn roll_back(&mut self) {
        self.draft = None;
        self.take_back(0);
    }

    /// Takes back the newest edits, until the journal is as long as it was before them.
    pub fn take_back(&mut self, length: usize) {
        while self.journal.len() > length
            && let Some(undo) = self.journal.pop()
        {
            match undo {
                Undo::Method(method) => self.request.method = method,
                Undo::Target(target) => self.request.target = target,
                Undo::RequestHeader(name, before) => put_back(&mut self.request.headers, &name, before),
                Undo::RequestBody(body, replaced) => {
                    self.request_body = body;
                    self.request_body_replaced = replaced;
                }
                Undo::Context(key, before) => self.context.restore(&key, before.map(|entry| *entry)),
                Undo::Caller(before) => {
                    self.context.set_caller(before);
                }
                Undo::State(index, before) => self.states[index] = before,
                Undo::Selection(before) => self.selection = before,
                Undo::RequestWish(before) => self.request_body_wish = before,
                Undo::ResponseWishes(before) => self.response_body_wishes = before,
                Undo::Cache(before) => self.cache = before,
                Undo::ResponseBody(body, replaced) => {
                    self.response_body_replaced = replaced;
                    if let Some(response) = &mut self.response {
                        response.body = body;
                    }
                }
                Undo::Status(status) => {
                    if let Some(response) = &mut self.response {
                        response.status = status;
                    }
                }
                Undo::Reason(before) => {
                    if let Some(response) = &mut self.response {
                        response.reason = before;
                    }
                }
                Undo::ResponseHeader(name, before) => {
                    if let Some(response) = &mut self.response {
                        put_back(&mut response.headers, &name, before);
                    }
                }
                Undo::Trailer(name, before) => {
                    if let Some(trailers) = self.response.as_mut().and_then(|r| r.trailers.as_mut()) {
                        put_back(trailers, &name, before);
                    }
                }
            }
        }
    }

    pub fn set_method(&mut self, method: Method) {
        let before = std::mem::replace(&mut self.request.method, method);
        self.journal.push(Undo::Method(before));
    }

    pub fn set_target(&mut self, target: PathAndQuery) {
        let before = std::mem::replace(&mut self.request.target, target);
        self.journal.push(Undo::Target(before));
    }

    pub fn edit_request_header(&mut self, name: HeaderName, change: HeaderEdit) {
        if let Some(before) = edit(&mut self.request.headers, &name, change) {
            self.journal.push(Undo::RequestHeader(name, before));
        }
    }

    pub fn set_request_body(&mut self, body: Bytes) {
        let before = self.request_body.replace(body);
        self.journal.push(Undo::RequestBody(before, self.request_body_replaced));
        self.request_body_replaced = true;
    }

    /// Nothing happens when there is no response.
    pub fn set_status(&mut self, status: StatusCode) {
        if let Some(response) = &mut self.response {
            let before = std::mem::replace(&mut response.status, status);
            self.journal.push(Undo::Status(before));
        }
    }

    /// Nothing happens when there is no response.
    pub fn set_reason(&mut self, reason: Box<Reason>) {
        if let Some(response) = &mut self.response {
            let before = response.reason.replace(reason);
            self.journal.push(Undo::Reason(before));
        }
    }

    /// Nothing happens when there is no response.
    pub fn edit_response_header(&mut self, name: HeaderName, change: HeaderEdit) {
        if let Some(response) = &mut self.response
            && let Some(before) = edit(&mut response.headers, &name, change)
        {
            self.journal.push(Undo::ResponseHeader(name, before));
        }
    }

    /// Takes away what a request says of the bytes of its body, which are others now.
    pub fn forget_request_bytes(&mut self) {
        self.edit_request_header(CONTENT_ENCODING, HeaderEdit::Remove);
        for name in DIGESTS {
            self.edit_request_header(name, HeaderEdit::Remove);
        }
    }

    /// The same of a response, whose parts are no longer those that the upstream would send, either. Its entity tag becomes a weak one.
    pub fn forget_response_bytes(&mut self) {
        self.edit_response_header(CONTENT_ENCODING, HeaderEdit::Remove);
        self.edit_response_header(ACCEPT_RANGES, HeaderEdit::Remove);
        for name in DIGESTS {
            self.edit_response_header(name.clone(), HeaderEdit::Remove);
            self.edit_trailer(name, HeaderEdit::Remove);
        }
        let tag = self.response.as_ref().and_then(|response| response.headers.get(ETAG));
        match tag.and_then(weakened) {
            None => {}
            Some(None) => self.edit_response_header(ETAG, HeaderEdit::Remove),
            Some(Some(weak)) => self.edit_response_header(ETAG, HeaderEdit::Set(weak)),
        }
    }

    /// Nothing happens when there is no response.
    pub fn set_response_body(&mut self, body: Bytes) {
        if let Some(response) = &mut self.response {
            let before = response.body.replace(body);
            self.journal.push(Undo::ResponseBody(before, self.response_body_replaced));
            self.response_body_replaced = true;
        }
    }

    /// Nothing happens when there are no trailers.
    pub fn edit_trailer(&mut self, name: HeaderName, change: HeaderEdit) {
        if let Some(trailers) = self.response.as_mut().and_then(|r| r.trailers.as_mut())
            && let Some(before) = edit(trailers, &name, change)
        {
            self.journal.push(Undo::Trailer(name, before));
        }
    }

    pub fn set_context(&mut self, key: &str, value: Value, writer: Arc<str>) -> Result<(), ContextError> {
        let before = Context::set(&mut self.context, key, value, writer)?;
        self.journal.push(Undo::Context(key.to_owned(), before.map(Box::new)));
        Ok(())
    }

    /// A part of a fact; see [`Context::path`]. The tree of a JSON text is kept, and so charged to `budget`.
    pub fn context_path(
        &mut self,
        key: &str,
        path: &[impl AsRef<str>],
        budget: &MemoryBudget,
    ) -> Result<Option<Value>, BodyError> {
        if let Some(parsed) = self.context.parse(key) {
            self.keep(parsed.bytes, budget)?;
            self.context.keep_parsed(key, parsed);
        }
        Ok(self.context.path(key, path))
    }

    pub fn set_caller(&mut self, caller: Caller) {
        let before = self.context.set_caller(Some(caller));
        self.journal.push(Undo::Caller(before));
    }

    /// The private slot of a filter, by its index in the pipeline.
    pub fn state(&self, filter: usize) -> Option<&Bytes> {
        self.states.get(filter).and_then(Option::as_ref)
    }

    pub fn set_state(&mut self, filter: usize, value: Bytes) {
        if self.states.len() <= filter {
            self.states.resize(filter + 1, None);
        }
        let before = self.states[filter].replace(value);
        self.journal.push(Undo::State(filter, before));
    }

    pub fn set_selection(&mut self, selection: Selection) {
        let before = std::mem::replace(&mut self.selection, selection);
        self.journal.push(Undo::Selection(before));
    }

    pub fn wish_request_body(&mut self, wish: BodyWish) {
        let before = self.request_body_wish.replace(wish);
        self.journal.push(Undo::RequestWish(before));
    }

    /// Changes what the cache is told.
    pub fn note_for_cache(&mut self, change: impl FnOnce(&mut CacheNotes)) {
        self.journal.push(Undo::Cache(self.cache.clone()));
        change(self.cache.get_or_insert_default());
    }

    pub fn wish_response_body(&mut self, wish: BodyWish) {
        self.journal.push(Undo::ResponseWishes(self.response_body_wishes.clone()));
        self.response_body_wishes.retain(|w| w.filter != wish.filter);
        self.response_body_wishes.push(wish);
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn exchange() -> Box<Exchange> {
        let request = RequestHead {
            method: Method::GET,
            scheme: Scheme::HTTP,
            authority: "example.org".parse().unwrap(),
            target: "/a?b=c".parse().unwrap(),
            version: Version::HTTP_11,
            headers: HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from_static("*/*"))]),
        };
        let route = Arc::new(RouteFacts { name: "r".into(), upstreams: vec![], snapshot: 0 });
        Exchange::new(HeaderValue::from_static("id"), [127, 0, 0, 1].into(), request, route)
    }

    #[test]
    fn a_failed_call_leaves_nothing_behind() {
        let mut ex = exchange();
        ex.response = Some(Box::new(ResponseHead::new(ResponseSource::Upstream, StatusCode::OK)));
        let accept = http::header::ACCEPT;
        ex.edit_request_header(accept.clone(), HeaderEdit::Set(HeaderValue::from_static("text/html")));
        ex.edit_request_header(accept.clone(), HeaderEdit::Append(HeaderValue::from_static("text/plain")));
        ex.edit_request_header(HeaderName::from_static("x-new"), HeaderEdit::Set(HeaderValue::from_static("1")));
        ex.set_method(Method::POST);
        ex.set_target("/other".parse().unwrap());
        ex.set_status(StatusCode::IM_A_TEAPOT);
        ex.set_reason(Box::new(Reason::new("f".into(), "teapot")));
        ex.set_state(3, Bytes::from_static(b"s"));
        ex.set_context("k", Value::Integer(1), "f".into()).unwrap();
        ex.set_caller(Caller { name: "alice".into(), known: None });
        ex.set_response_body(Bytes::from_static(b"body"));
        ex.note_for_cache(|notes| notes.add_tag("red"));
        ex.note_for_cache(|notes| notes.set_key_part("plan", "gold"));
        ex.roll_back();
        assert_eq!(ex.cache, None);
        assert_eq!(ex.request.headers.get_all(&accept).iter().collect::<Vec<_>>(), ["*/*"]);
        assert!(!ex.request.headers.contains_key("x-new"));
        assert_eq!((ex.request.method.as_str(), ex.request.target.as_str()), ("GET", "/a?b=c"));
        let response = ex.response.as_ref().unwrap();
        assert_eq!((response.status, response.body.is_none()), (StatusCode::OK, true));
        assert!(response.reason.is_none());
        assert!(ex.state(3).is_none() && ex.context.entry("k").is_none() && ex.context.consumer().is_none());
        assert!(!ex.response_body_replaced && ex.journal.is_empty());
    }

    #[test]
    fn committed_edits_survive_a_later_roll_back() {
        let mut ex = exchange();
        ex.set_method(Method::PUT);
        ex.commit();
        ex.set_method(Method::DELETE);
        ex.roll_back();
        assert_eq!(ex.request.method, Method::PUT);
    }
}
