//! Changes headers, query, path and JSON bodies in both directions. See README.md.

mod config;
mod json;
mod query;
mod template;

use sluice_filter::{HeaderEdit, Hook, prelude::*};

use config::{BodyRules, Config, HeaderRules, RequestRules};
use query::{Query, has_dot_segment};
use template::Form;

struct Transform(Config);

/// What a request for a part of a representation has (RFC 9110 §14.2). Of a part, no JSON can be changed, and with it, a client would read what
/// the rules remove.
const RANGES: [&str; 2] = ["range", "if-range"];

/// What is said of the bytes of a body, and is no longer true of others: digests (RFC 9530, RFC 3230, RFC 1864), ranges (RFC 9110 §14) and,
/// if it is strong, the validator (§8.8.3).
const STALE: [&str; 7] =
    ["content-digest", "repr-digest", "digest", "content-md5", "content-range", "accept-ranges", "etag"];

/// What is said of the age of a representation and how long it may be stored, beside `cache-control` (RFC 9111 §5, RFC 9213).
const OF_STORING: [&str; 5] = ["age", "cdn-cache-control", "expires", "last-modified", "surrogate-control"];

/// Why an edit can't be made.
enum Stop {
    /// Because of what the client has sent: the reason for the operator, the status with its title, and the text for the client.
    Refuse(&'static str, u16, &'static str, String),
    Fail(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fail(error)
    }
}

impl Stop {
    fn bad_request(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::Refuse(reason, 400, "Bad Request", detail.into())
    }

    fn verdict(result: Result<(), Stop>) -> Result<Verdict, Error> {
        match result {
            Ok(()) => Ok(Verdict::Continue),
            Err(Stop::Refuse(reason, status, title, detail)) => {
                Problem::new(status, title).detail(detail).draft().reason(reason).send()
            }
            Err(Stop::Fail(error)) => Err(error),
        }
    }
}

/// What both messages have, so that one function edits either.
trait Message {
    /// Whether it comes from the client, who then is answered where it can't be edited.
    const IS_REQUEST: bool;
    fn bytes(&self, name: &str) -> Result<Vec<Vec<u8>>, Error>;
    fn set(&self, name: &str, value: &str) -> Result<(), Error>;
    fn set_bytes(&self, name: &str, value: &[u8]) -> Result<(), Error>;
    fn append(&self, name: &str, value: &str) -> Result<(), Error>;
    fn remove(&self, name: &str) -> Result<(), Error>;
    fn edit(&self, edits: &[HeaderEdit]) -> Result<(), Error>;
    fn body(&self) -> Result<Vec<u8>, Error>;
    fn set_body(&self, body: &[u8]) -> Result<(), Error>;
}

macro_rules! message {
    ($type:ty, $is_request:literal) => {
        impl Message for $type {
            const IS_REQUEST: bool = $is_request;
            fn bytes(&self, name: &str) -> Result<Vec<Vec<u8>>, Error> {
                self.header_bytes(name)
            }
            fn set(&self, name: &str, value: &str) -> Result<(), Error> {
                self.set_header(name, value)
            }
            fn set_bytes(&self, name: &str, value: &[u8]) -> Result<(), Error> {
                self.set_header_bytes(name, value)
            }
            fn append(&self, name: &str, value: &str) -> Result<(), Error> {
                self.append_header(name, value)
            }
            fn remove(&self, name: &str) -> Result<(), Error> {
                self.remove_header(name)
            }
            fn edit(&self, edits: &[HeaderEdit]) -> Result<(), Error> {
                self.edit_headers(edits)
            }
            fn body(&self) -> Result<Vec<u8>, Error> {
                self.body()
            }
            fn set_body(&self, body: &[u8]) -> Result<(), Error> {
                self.set_body(body)
            }
        }
    };
}

message!(Request, true);
message!(Response, false);

impl Filter for Transform {
    type Config = Config;

    fn new(mut config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        config.check()?;
        for rules in [&mut config.request.headers, &mut config.response.headers].into_iter().flatten() {
            rules.fix();
        }
        setup.needs(&config.needs())?;
        let types = ["application/json", "*/*+json"];
        if config.request.body.is_some() {
            setup.request_body(config.max_body.0, &types)?;
        } else {
            setup.hook(Hook::OnRequestBody, false)?;
        }
        if config.response.body.is_some() {
            // The last one may have parts of these types.
            setup.response_body(config.max_body.0, &[types[0], types[1], "multipart/byteranges"])?;
        } else {
            setup.hook(Hook::OnResponseBody, false)?;
        }
        let request = &config.request;
        let is_changed = request.headers.is_some() || request.query.is_some() || request.path.is_some();
        if !is_changed && config.response.body.is_none() {
            setup.hook(Hook::OnRequest, false)?;
        }
        if config.response.headers.is_none() && config.response.status.is_none() {
            setup.hook(Hook::OnResponse, false)?;
        }
        Ok(Self(config))
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            docs: Some(include_str!("../README.md")),
            ..Describe::default()
        }
    }
}

impl OnRequest for Transform {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        Stop::verdict(self.edit_request(request))
    }
}

impl Transform {
    fn edit_request(&self, request: &Request) -> Result<(), Stop> {
        let rules = &self.0.request;
        // Path and query first: their values may come from headers that are then removed.
        edit_path(rules, request)?;
        edit_query(rules, request)?;
        if let Some(headers) = &rules.headers {
            edit_headers(headers, request, request)?;
        }
        if self.0.response.body.is_some() {
            remove(request, &RANGES)?;
        }
        Ok(())
    }
}

impl OnRequestBody for Transform {
    fn on_request_body(&self, request: &Request) -> Result<Verdict, Error> {
        let Some(rules) = &self.0.request.body else { return Ok(Verdict::Continue) };
        let edited = edit_body(rules, request, request).and_then(|is_json| match is_json {
            true => Ok(()),
            false => Err(Stop::bad_request("body-not-json", "the body is not valid JSON")),
        });
        Stop::verdict(edited)
    }
}

impl OnResponse for Transform {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        if let Some(headers) = &self.0.response.headers {
            let edited = Stop::verdict(edit_headers(headers, response, response.request()))?;
            if edited == Verdict::Respond {
                return Ok(edited);
            }
        }
        if let Some(status) = self.0.response.status {
            response.set_status(status)?;
        }
        Ok(Verdict::Continue)
    }
}

impl OnResponseBody for Transform {
    fn on_response_body(&self, response: &Response) -> Result<Verdict, Error> {
        let Some(rules) = &self.0.response.body else { return Ok(Verdict::Continue) };
        if response.status()? == 206 {
            // The answer keeps the other fields of the response. What is said of the part, and how long it may be stored, is not true of it.
            remove(response, &STALE)?;
            remove(response, &OF_STORING)?;
            let detail = "the upstream sent a part of a representation without being asked for one";
            let draft = Problem::new(502, "Bad Gateway").detail(detail).draft().reason("unasked-part");
            return draft.header("cache-control", "no-store").send();
        }
        let edited = edit_body(rules, response, response.request()).and_then(|is_json| match is_json {
            true => Ok(()),
            false => Err(Stop::Fail(Error::new("the body of the response is not valid JSON"))),
        });
        Stop::verdict(edited)
    }
}

fn edit_path(rules: &RequestRules, request: &Request) -> Result<(), Stop> {
    let Some(rules) = &rules.path else { return Ok(()) };
    let mut path = match &rules.set {
        Some(template) => match template.fill(request, Form::Path)? {
            Some(path) if has_dot_segment(&path) => {
                return Err(Stop::bad_request("bad-path", "a value of the new path is a dot segment"));
            }
            Some(path) => path,
            None => return Err(Stop::bad_request("bad-path", "a value of the new path is missing")),
        },
        None => request.path()?,
    };
    if let Some(prefix) = &rules.remove_prefix
        && let Some(rest) = path.strip_prefix(prefix.trim_end_matches('/'))
        && (rest.is_empty() || rest.starts_with('/'))
    {
        path = if rest.is_empty() { "/".to_owned() } else { rest.to_owned() };
    }
    if let Some(prefix) = &rules.add_prefix {
        path.insert_str(0, prefix.trim_end_matches('/'));
    }
    request.set_path(&path).map_err(too_long)
}

/// The client has sent so much that the new target would be larger than one can be.
fn too_long(error: Error) -> Stop {
    match error {
        Error::TooLarge(_) => Stop::Refuse("target-too-long", 414, "URI Too Long", "the target is too long".to_owned()),
        error => Stop::Fail(error),
    }
}

fn edit_query(rules: &RequestRules, request: &Request) -> Result<(), Stop> {
    let Some(rules) = &rules.query else { return Ok(()) };
    let mut query = Query::parse(request.query()?.as_deref());
    for name in &rules.remove {
        query.remove(name);
    }
    for (from, to) in &rules.rename {
        query.rename(from, to);
    }
    for (name, template) in &rules.set {
        match template.fill(request, Form::Query)? {
            Some(value) => query.set(name, &value),
            None => query.remove(name),
        }
    }
    for (name, template) in &rules.add {
        if let Some(value) = template.fill(request, Form::Query)? {
            query.add(name, &value);
        }
    }
    if query.changed { request.set_query(query.finish().as_deref()).map_err(too_long) } else { Ok(()) }
}

/// Values are taken before anything is removed; a header whose value is missing is removed, so that a client's own never
/// stands in for it.
fn edit_headers<M: Message>(rules: &HeaderRules, message: &M, request: &Request) -> Result<(), Stop> {
    if let Some(edits) = &rules.fixed {
        return message.edit(edits).map_err(no_room::<M>);
    }
    let mut set = Vec::with_capacity(rules.set.len());
    for (name, template) in &rules.set {
        let value = match template.fixed() {
            Some(_) => None,
            None => {
                let filled = template.fill(request, Form::Text)?;
                Some(filled.map(|value| header_value::<M>(name, template.trimmed(&value))).transpose()?)
            }
        };
        set.push((name, value, template));
    }
    let mut added = Vec::with_capacity(rules.add.len());
    for (name, template) in &rules.add {
        let filled = template.fill(request, Form::Text)?;
        let value = filled.map(|value| header_value::<M>(name, template.trimmed(&value))).transpose()?;
        added.push((name, value));
    }
    for name in &rules.remove {
        message.remove(name)?;
    }
    for (from, to) in &rules.rename {
        rename(message, from, to).map_err(no_room::<M>)?;
    }
    for (name, value, template) in set {
        let done = match (value, template.fixed()) {
            (Some(Some(value)), _) => message.set(name, &value),
            (_, Some(fixed)) => message.set(name, fixed),
            _ => message.remove(name),
        };
        done.map_err(no_room::<M>)?;
    }
    for (name, value) in added {
        if let Some(value) = value {
            message.append(name, &value).map_err(no_room::<M>)?;
        }
    }
    Ok(())
}

/// Gives all values of a header another name.
fn rename(message: &impl Message, from: &str, to: &str) -> Result<(), Error> {
    let values = message.bytes(from)?;
    let Some((first, rest)) = values.split_first() else { return Ok(()) };
    match values.iter().map(|value| str::from_utf8(value).ok()).collect::<Option<Vec<_>>>() {
        Some(_) if rest.is_empty() => message.set_bytes(to, first)?,
        Some(texts) => {
            message.remove(to)?;
            texts.iter().try_for_each(|text| message.append(to, text))?;
        }
        // Bytes can't be appended; in one line, the values mean the same (RFC 9110 §5.3).
        None => message.set_bytes(to, &values.join(&b", "[..]))?,
    }
    message.remove(from)
}

/// A value that a header can have: blanks around it would be lost. A client whose value can't be one is told so: encoded or trimmed, it could
/// be taken for another one's. A response gets the encoded form, since its request is over.
fn header_value<M: Message>(name: &str, value: &str) -> Result<String, Stop> {
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    let begin = value.len() - value.trim_ascii_start().len();
    let end = value.trim_ascii_end().len();
    let is_bad = |at: usize, byte: u8| is_control(byte) || at < begin || at >= end;
    if !value.bytes().enumerate().any(|(at, byte)| is_bad(at, byte)) {
        return Ok(value.to_owned());
    }
    if M::IS_REQUEST {
        let detail = format!("the value for the header {name} has control characters, or blanks around it");
        return Err(Stop::bad_request("bad-value", detail));
    }
    Ok(value.char_indices().fold(String::with_capacity(value.len() + 8), |mut out, (at, letter)| {
        match u8::try_from(letter) {
            Ok(byte) if is_bad(at, byte) => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(letter),
        }
        out
    }))
}

/// More fields, or bytes of them, than a message can have: those of a request are the client's.
fn no_room<M: Message>(error: Error) -> Stop {
    match error {
        Error::TooLarge(_) if M::IS_REQUEST => Stop::Refuse(
            "headers-too-large",
            431,
            "Request Header Fields Too Large",
            "the header fields are too large".to_owned(),
        ),
        error => Stop::Fail(error),
    }
}

/// Removes what is there of these fields, as far as the filter may see and set them.
fn remove(message: &impl Message, names: &[&str]) -> Result<(), Error> {
    for name in names {
        if !message.bytes(name)?.is_empty() {
            match message.remove(name) {
                // The gateway has warned of the missing grant when it loaded the filter.
                Err(Error::NotGranted(_)) => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

/// False for a body that is not JSON; an empty body has nothing to change.
fn edit_body<M: Message>(rules: &BodyRules, message: &M, request: &Request) -> Result<bool, Stop> {
    let Ok(mut text) = String::from_utf8(message.body()?) else { return Ok(false) };
    if text.is_empty() {
        return Ok(true);
    }
    if !json::is_json(&text) {
        return Ok(false);
    }
    let mut changed = false;
    for pointer in &rules.remove {
        changed |= json::remove(&mut text, &pointer.0);
    }
    for (pointer, to) in &rules.rename {
        changed |= json::rename(&mut text, &pointer.0, to);
    }
    for (pointer, value) in &rules.set {
        changed |= match value.fill(request)? {
            Some(value) => json::set(&mut text, &pointer.0, &value),
            None => json::remove(&mut text, &pointer.0),
        };
    }
    for (pointer, value) in &rules.add {
        if let Some(value) = value.fill(request)? {
            changed |= json::add(&mut text, &pointer.0, &value);
        }
    }
    if changed {
        let [stale @ .., etag] = &STALE;
        remove(message, stale)?;
        if !message.bytes(etag)?.iter().all(|value| value.starts_with(b"W/")) {
            remove(message, &[etag])?;
        }
        match message.set_body(text.as_bytes()) {
            Err(Error::TooLarge(_)) if M::IS_REQUEST => {
                return Err(Stop::Refuse(
                    "body-too-large",
                    413,
                    "Content Too Large",
                    "the changed body is too large".to_owned(),
                ));
            }
            set => set?,
        }
    }
    Ok(true)
}

sluice_filter::export!(Transform: OnRequest, OnRequestBody, OnResponse, OnResponseBody);

#[cfg(test)]
mod tests;
