//! Changes headers, query, path and JSON bodies in both directions. See README.md.

mod config;
mod json;
mod query;
mod template;

use sluice_filter::{HeaderEdit, Hook, prelude::*};

use config::{BodyRules, Config, HeaderRules, RequestRules};
use query::{Query, encode};

struct Transform(Config);

/// What both messages have, so that one function edits either.
trait Message {
    fn header(&self, name: &str) -> Result<Option<String>, Error>;
    fn values(&self, name: &str) -> Result<Vec<String>, Error>;
    fn set(&self, name: &str, value: &str) -> Result<(), Error>;
    fn append(&self, name: &str, value: &str) -> Result<(), Error>;
    fn remove(&self, name: &str) -> Result<(), Error>;
    fn edit(&self, edits: &[HeaderEdit]) -> Result<(), Error>;
    fn body(&self) -> Result<Vec<u8>, Error>;
    fn set_body(&self, body: &[u8]) -> Result<(), Error>;
}

macro_rules! message {
    ($type:ty) => {
        impl Message for $type {
            fn header(&self, name: &str) -> Result<Option<String>, Error> {
                self.header(name)
            }
            fn values(&self, name: &str) -> Result<Vec<String>, Error> {
                self.header_values(name)
            }
            fn set(&self, name: &str, value: &str) -> Result<(), Error> {
                self.set_header(name, value)
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

message!(Request);
message!(Response);

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
            setup.response_body(config.max_body.0, &types)?;
        } else {
            setup.hook(Hook::OnResponseBody, false)?;
        }
        if config.request.headers.is_none() && config.request.query.is_none() && config.request.path.is_none() {
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
        let rules = &self.0.request;
        // Path and query first: their values may come from headers that are then removed.
        edit_path(rules, request)?;
        edit_query(rules, request)?;
        if let Some(headers) = &rules.headers {
            edit_headers(headers, request, request)?;
        }
        Ok(Verdict::Continue)
    }
}

impl OnRequestBody for Transform {
    fn on_request_body(&self, request: &Request) -> Result<Verdict, Error> {
        let Some(rules) = &self.0.request.body else { return Ok(Verdict::Continue) };
        if edit_body(rules, request, request)? {
            Ok(Verdict::Continue)
        } else {
            Problem::new(400, "Bad Request").detail("the body is not valid JSON").draft().reason("body-not-json").send()
        }
    }
}

impl OnResponse for Transform {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        if let Some(headers) = &self.0.response.headers {
            edit_headers(headers, response, response.request())?;
        }
        if let Some(status) = self.0.response.status {
            response.set_status(status)?;
        }
        Ok(Verdict::Continue)
    }
}

impl OnResponseBody for Transform {
    fn on_response_body(&self, response: &Response) -> Result<Verdict, Error> {
        if let Some(rules) = &self.0.response.body
            && !edit_body(rules, response, response.request())?
        {
            return Err(Error::new("the body of the response is not valid JSON"));
        }
        Ok(Verdict::Continue)
    }
}

fn edit_path(rules: &RequestRules, request: &Request) -> Result<(), Error> {
    let Some(rules) = &rules.path else { return Ok(()) };
    let mut path = match &rules.set {
        Some(template) => match template.fill(request, |value| encode(&value))? {
            // RFC 3986 §5.2.4: a value that is a dot segment would lead out of the path that it is put into.
            Some(path) if path.split('/').any(|segment| segment == "." || segment == "..") => {
                return Err(Error::new("path.set: a value is a dot segment"));
            }
            Some(path) => path,
            None => return Err(Error::new("path.set: a value is missing")),
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
    request.set_path(&path)
}

fn edit_query(rules: &RequestRules, request: &Request) -> Result<(), Error> {
    let Some(rules) = &rules.query else { return Ok(()) };
    let mut query = Query::parse(request.query()?.as_deref());
    for name in &rules.remove {
        query.remove(name);
    }
    for (from, to) in &rules.rename {
        query.rename(from, to);
    }
    for (name, template) in &rules.set {
        match template.fill(request, |value| value)? {
            Some(value) => query.set(name, &value),
            None => query.remove(name),
        }
    }
    for (name, template) in &rules.add {
        if let Some(value) = template.fill(request, |value| value)? {
            query.add(name, &value);
        }
    }
    if query.changed { request.set_query(query.finish().as_deref()) } else { Ok(()) }
}

/// Values are taken before anything is removed; a header whose value is missing is removed, so that a client's own never
/// stands in for it.
fn edit_headers(rules: &HeaderRules, message: &impl Message, request: &Request) -> Result<(), Error> {
    if let Some(edits) = &rules.fixed {
        return message.edit(edits);
    }
    let mut set = Vec::with_capacity(rules.set.len());
    for (name, template) in &rules.set {
        set.push((
            name,
            if template.fixed().is_some() { None } else { Some(template.fill(request, |value| value)?) },
            template,
        ));
    }
    let mut added = Vec::with_capacity(rules.add.len());
    for (name, template) in &rules.add {
        added.push((name, template.fill(request, |value| value)?));
    }
    for name in &rules.remove {
        message.remove(name)?;
    }
    for (from, to) in &rules.rename {
        let values = message.values(from)?;
        if let Some((first, rest)) = values.split_first() {
            message.set(to, first)?;
            for value in rest {
                message.append(to, value)?;
            }
            message.remove(from)?;
        }
    }
    for (name, value, template) in set {
        match (value, template.fixed()) {
            (Some(Some(value)), _) => message.set(name, &value)?,
            (_, Some(fixed)) => message.set(name, fixed)?,
            _ => message.remove(name)?,
        }
    }
    for (name, value) in added {
        if let Some(value) = value {
            message.append(name, &value)?;
        }
    }
    Ok(())
}

/// False for a body that is not JSON; an empty body has nothing to change.
fn edit_body(rules: &BodyRules, message: &impl Message, request: &Request) -> Result<bool, Error> {
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
        if message.header("etag")?.is_some_and(|etag| !etag.starts_with("W/")) {
            // RFC 9110 §8.8.3: a strong validator names these very bytes.
            message.remove("etag")?;
        }
        message.set_body(text.as_bytes())?;
    }
    Ok(true)
}

sluice_filter::export!(Transform: OnRequest, OnRequestBody, OnResponse, OnResponseBody);

#[cfg(test)]
mod tests;
