//! What a match asks for beside host and path, evaluated only for routes that the tree has found.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderName};
use http::{HeaderMap, Method};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;

use super::{FieldSpec, MatchSpec, RequestView};

/// All of them have to hold.
#[derive(Debug)]
pub(super) struct Conditions {
    methods: Vec<Method>,
    headers: Vec<FieldSpec<HeaderName>>,
    query: Vec<FieldSpec<String>>,
    cookies: Vec<FieldSpec<String>>,
    client_ip: Vec<IpNet>,
}

impl Conditions {
    /// `None` when nothing is asked for.
    pub(super) fn build(spec: &MatchSpec) -> Option<Box<Conditions>> {
        let conditions = Conditions {
            methods: spec.methods.clone(),
            headers: spec.headers.clone(),
            query: spec.query.clone(),
            cookies: spec.cookies.clone(),
            client_ip: spec.client_ip.clone(),
        };
        let asks = !conditions.methods.is_empty()
            || !conditions.headers.is_empty()
            || !conditions.query.is_empty()
            || !conditions.cookies.is_empty()
            || !conditions.client_ip.is_empty();
        asks.then(|| Box::new(conditions))
    }

    pub(super) fn hold(&self, view: &RequestView) -> bool {
        (self.methods.is_empty() || self.methods.contains(view.method))
            && self.headers.iter().all(|FieldSpec { name, value: wanted }| {
                let mut lines = view.headers.get_all(name).iter();
                lines.any(|line| wanted.holds(std::str::from_utf8(line.as_bytes()).ok()))
            })
            && self.query.iter().all(|field| match query_value(view.query.unwrap_or(""), &field.name) {
                Some(value) => field.value.holds(Some(&value)),
                None => false,
            })
            && self.cookies.iter().all(|field| match cookie(view.headers, &field.name) {
                Some(value) => field.value.holds(Some(value)),
                None => false,
            })
            && (self.client_ip.is_empty() || self.client_ip.iter().any(|net| net.contains(&view.client_ip)))
    }
}

/// The first value of a parameter, decoded as forms are.
fn query_value<'a>(query: &'a str, wanted: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decoded(name) == wanted).then(|| form_decoded(value))
    })
}

fn form_decoded(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned());
    }
    percent_decode_str(text).decode_utf8_lossy()
}

/// The first value of a cookie (RFC 6265 §4.2.1). HTTP/2 may send one line for each (RFC 9113 §8.2.3).
fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    headers.get_all(COOKIE).iter().filter_map(|line| std::str::from_utf8(line.as_bytes()).ok()).find_map(|line| {
        line.split(';').find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == wanted).then_some(value)
        })
    })
}
