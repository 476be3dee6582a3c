//! What a match asks for beside host and path, evaluated only for routes that the tree has found.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderName};
use http::{HeaderMap, Method};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use regex::Regex;

use super::pattern::whole;
use super::{FieldSpec, MatchSpec, RequestView, RouteError, ValuePattern};

/// All of them have to hold.
#[derive(Debug)]
pub(super) struct Conditions {
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Test)>,
    query: Vec<(String, Test)>,
    cookies: Vec<(String, Test)>,
    client_ip: Vec<IpNet>,
}

#[derive(Debug)]
enum Test {
    Present,
    Exact(String),
    Regex(Regex),
}

impl Conditions {
    /// `None` when nothing is asked for. Adds what is wrong to `errors`.
    pub(super) fn build(route: &str, spec: &MatchSpec, errors: &mut Vec<RouteError>) -> Option<Box<Conditions>> {
        let mut fields = |specs: &[FieldSpec]| {
            let mut tests = Vec::with_capacity(specs.len());
            for field in specs {
                match test(&field.value) {
                    Ok(test) => tests.push((field.name.clone(), test)),
                    Err((pattern, why)) => errors.push(RouteError::Regex { route: route.into(), pattern, why }),
                }
            }
            tests
        };
        let (named, query, cookies) = (fields(&spec.headers), fields(&spec.query), fields(&spec.cookies));
        let mut headers = Vec::with_capacity(named.len());
        for (name, test) in named {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => headers.push((name, test)),
                Err(_) => errors.push(RouteError::HeaderName { route: route.into(), name }),
            }
        }
        let conditions =
            Conditions { methods: spec.methods.clone(), headers, query, cookies, client_ip: spec.client_ip.clone() };
        let asks = !conditions.methods.is_empty()
            || !conditions.headers.is_empty()
            || !conditions.query.is_empty()
            || !conditions.cookies.is_empty()
            || !conditions.client_ip.is_empty();
        asks.then(|| Box::new(conditions))
    }

    pub(super) fn hold(&self, view: &RequestView) -> bool {
        (self.methods.is_empty() || self.methods.contains(view.method))
            && self.headers.iter().all(|(name, test)| {
                let mut lines = view.headers.get_all(name).iter();
                lines.any(|line| test.holds(std::str::from_utf8(line.as_bytes()).ok()))
            })
            && self.query.iter().all(|(name, test)| match query_value(view.query.unwrap_or(""), name) {
                Some(value) => test.holds(Some(&value)),
                None => false,
            })
            && self.cookies.iter().all(|(name, test)| match cookie(view.headers, name) {
                Some(value) => test.holds(Some(value)),
                None => false,
            })
            && (self.client_ip.is_empty() || self.client_ip.iter().any(|net| net.contains(&view.client_ip)))
    }
}

impl Test {
    /// Whether a value passes; `None` is one that is there but not text.
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Test::Present => true,
            Test::Exact(wanted) => value == Some(wanted),
            Test::Regex(regex) => value.is_some_and(|value| regex.is_match(value)),
        }
    }
}

fn test(value: &ValuePattern) -> Result<Test, (String, String)> {
    Ok(match value {
        ValuePattern::Present => Test::Present,
        ValuePattern::Exact(text) => Test::Exact(text.clone()),
        ValuePattern::Regex(text) => Test::Regex(whole(text).map_err(|why| (text.clone(), why.to_string()))?),
    })
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
