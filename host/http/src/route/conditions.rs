//! What a match asks for beside host and path, evaluated only for routes that the tree has found.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{COOKIE, HeaderName};
use http::uri::Scheme;
use http::{HeaderMap, Method};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;

use super::{FieldSpec, HostPattern, Ingress, MatchSpec, RequestView, methods};

/// All of them have to hold.
#[derive(Debug)]
pub(super) struct Conditions {
    /// Only where the match asks where a request came in.
    ingress: Option<Box<IngressConditions>>,
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
            ingress: IngressConditions::build(spec),
            methods: spec.methods.clone(),
            headers: spec.headers.clone(),
            query: spec.query.clone(),
            cookies: spec.cookies.clone(),
            client_ip: spec.client_ip.clone(),
        };
        let asks = conditions.ingress.is_some()
            || !conditions.methods.is_empty()
            || !conditions.headers.is_empty()
            || !conditions.query.is_empty()
            || !conditions.cookies.is_empty()
            || !conditions.client_ip.is_empty();
        asks.then(|| Box::new(conditions))
    }

    pub(super) fn hold(&self, view: &RequestView) -> bool {
        self.ingress.as_ref().is_none_or(|ingress| ingress.hold(view.ingress))
            && (self.methods.is_empty() || methods::take(&self.methods, view.method))
            && self.headers.iter().all(|field| field.holds(view.headers))
            && self.query.iter().all(|field| match query_parameter(view.query.unwrap_or(""), &field.name) {
                Some(value) => field.value.holds(value.as_bytes()),
                None => false,
            })
            && self.cookies.iter().all(|field| match cookie(view.headers, &field.name) {
                Some(value) => field.value.holds(value),
                None => false,
            })
            && (self.client_ip.is_empty()
                || view.client_ip.is_some_and(|address| self.client_ip.iter().any(|net| net.contains(&address))))
    }
}

impl FieldSpec<HeaderName> {
    /// Whether one of the lines of the header has the value.
    pub fn holds(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(&self.name).iter();
        lines.any(|line| self.value.holds(line.as_bytes()))
    }
}

impl Conditions {
    pub(super) fn names(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }
}

/// What a match asks of the place where a request came in.
#[derive(Debug)]
struct IngressConditions {
    listeners: Vec<Arc<str>>,
    scheme: Option<Scheme>,
    sni: Vec<HostPattern>,
}

impl IngressConditions {
    fn build(spec: &MatchSpec) -> Option<Box<IngressConditions>> {
        let conditions =
            IngressConditions { listeners: spec.listeners.clone(), scheme: spec.scheme.clone(), sni: spec.sni.clone() };
        let asks = !conditions.listeners.is_empty() || conditions.scheme.is_some() || !conditions.sni.is_empty();
        asks.then(|| Box::new(conditions))
    }

    fn hold(&self, ingress: &Ingress) -> bool {
        (self.listeners.is_empty() || self.listeners.iter().any(|name| **name == *ingress.listener))
            && self.scheme.as_ref().is_none_or(|scheme| scheme == ingress.scheme)
            && (self.sni.is_empty() || ingress.sni.is_some_and(|name| self.sni.iter().any(|one| one.holds(name))))
    }
}

/// The first value of a parameter, decoded as forms are.
pub fn query_parameter<'a>(query: &'a str, wanted: &str) -> Option<Cow<'a, str>> {
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

/// The first value of a cookie (RFC 6265 §4.2.1), which need not be UTF-8. HTTP/2 may send one line for each (RFC 9113 §8.2.3). Servers and
/// filters trim what is around a name and before a value, so that must not hide a cookie here.
pub fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a [u8]> {
    headers.get_all(COOKIE).iter().find_map(|line| {
        line.as_bytes().split(|byte| *byte == b';').find_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (trimmed(&pair[..at]) == wanted.as_bytes()).then(|| pair[at + 1..].trim_ascii_start())
        })
    })
}

/// Without what no name of a cookie has (RFC 6265 §4.1.1), such as blanks, also those of Unicode.
fn trimmed(name: &[u8]) -> &[u8] {
    let begin = name.iter().position(u8::is_ascii_graphic).unwrap_or(name.len());
    let end = name.iter().rposition(u8::is_ascii_graphic).map_or(begin, |last| last + 1);
    &name[begin..end]
}
