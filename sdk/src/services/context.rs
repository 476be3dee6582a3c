//! Typed facts handed from filter to filter within the exchange. Never sent to anybody.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

pub use crate::bindings::sluice::filter::context::Value;
use crate::{Error, host};

/// The value of a key.
///
/// # Errors
/// `WrongHook` outside an exchange, as for all reads below.
pub fn get(key: &str) -> Result<Option<Value>, Error> {
    Ok(host::context::get(key)?)
}

/// The value of a key if it is a text.
///
/// # Errors
/// `WrongHook`.
pub fn text(key: &str) -> Result<Option<String>, Error> {
    Ok(get(key)?.and_then(into_text))
}

/// The value of a key if it is a list of texts; a text is a list of one.
///
/// # Errors
/// `WrongHook`.
pub fn texts(key: &str) -> Result<Option<Vec<String>>, Error> {
    Ok(get(key)?.and_then(into_texts))
}

/// A JSON value of a key, read into a type.
///
/// # Errors
/// `Other` when it is JSON of another shape.
pub fn json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Error> {
    match get(key)? {
        Some(Value::Json(text)) => Ok(Some(serde_json::from_str(&text)?)),
        _ => Ok(None),
    }
}

/// A part of a JSON value, by the names of the members from the outside in.
///
/// # Errors
/// `WrongHook`.
pub fn path(key: &str, path: &[&str]) -> Result<Option<Value>, Error> {
    let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
    part(key, &path)
}

/// As [`path`], for names that are at hand as the host takes them.
pub(crate) fn part(key: &str, path: &[String]) -> Result<Option<Value>, Error> {
    Ok(host::context::get_path(key, path)?)
}

/// Sets a key for the filters after this one.
///
/// # Errors
/// `Invalid` for JSON that does not parse; `TooLarge` past 64 KiB or 64 keys.
pub fn set(key: &str, value: impl Into<Value>) -> Result<(), Error> {
    Ok(host::context::set(key, &value.into())?)
}

/// Sets a key to JSON text.
///
/// # Errors
/// As [`set`].
pub fn set_json(key: &str, text: impl Into<String>) -> Result<(), Error> {
    set(key, Value::Json(text.into()))
}

/// The name of the filter that set a key.
///
/// # Errors
/// `WrongHook`.
pub fn writer(key: &str) -> Result<Option<String>, Error> {
    Ok(host::context::writer(key)?)
}

/// The authenticated caller, if a filter has found one.
///
/// # Errors
/// `WrongHook`.
pub fn consumer() -> Result<Option<String>, Error> {
    Ok(host::context::consumer()?)
}

/// Says who the caller is.
///
/// # Errors
/// `WrongHook` outside the hooks that may.
pub fn set_consumer(name: &str) -> Result<(), Error> {
    Ok(host::context::set_consumer(name)?)
}

/// Where the ways to authenticate are that filters have offered.
const CHALLENGES: &str = "auth.challenges";

/// Says how a caller could have authenticated: for filters that let strangers pass. A filter behind them that refuses strangers can name it in the
/// `WWW-Authenticate` of its 401 (RFC 9110 §11.6.1).
///
/// # Errors
/// As [`set`].
pub fn offer_challenge(challenge: &str) -> Result<(), Error> {
    let mut known = challenges()?;
    if known.iter().any(|one| one == challenge) {
        return Ok(());
    }
    known.push(challenge.to_owned());
    set(CHALLENGES, known)
}

/// The challenges that filters before this one have offered, in their order.
///
/// # Errors
/// `WrongHook`.
pub fn challenges() -> Result<Vec<String>, Error> {
    Ok(texts(CHALLENGES)?.unwrap_or_default())
}

/// The text of a value of kind text, integer or boolean.
#[must_use]
pub fn into_text(value: Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Float(_) | Value::Texts(_) | Value::Json(_) => None,
    }
}

/// The one text of a value of any kind, for keys and names that are made of it: a text as it is, `true` and `false`, numbers without a
/// needless fraction (`7` for 7.0), and JSON without spaces, its members in the order of their names, for everything else (`["a","b"]`).
/// Numbers beyond 2^53 with a fraction or an exponent, and whole ones from 2^64, are rounded to the nearest double.
#[must_use]
pub fn canonical(value: Value) -> String {
    let json = match value {
        Value::Text(text) => return text,
        Value::Integer(number) => return number.to_string(),
        Value::Boolean(truth) => return truth.to_string(),
        Value::Float(number) => number.into(),
        Value::Texts(texts) => texts.into(),
        Value::Json(text) => match serde_json::from_str(&text) {
            Ok(json) => json,
            // The host has checked it.
            Err(_) => return text,
        },
    };
    match in_order(json) {
        serde_json::Value::String(text) => text,
        json => json.to_string(),
    }
}

fn in_order(json: serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    /// Below, every whole number is a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match json {
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < EXACT => (float as i64).into(),
            _ => Json::Number(number),
        },
        Json::Array(items) => items.into_iter().map(in_order).collect(),
        Json::Object(members) => {
            let members: BTreeMap<_, _> = members.into_iter().collect();
            Json::Object(members.into_iter().map(|(name, member)| (name, in_order(member))).collect())
        }
        Json::Null | Json::Bool(_) | Json::String(_) => json,
    }
}

/// The texts of a value of kind text or texts.
#[must_use]
pub fn into_texts(value: Value) -> Option<Vec<String>> {
    match value {
        Value::Text(text) => Some(vec![text]),
        Value::Texts(texts) => Some(texts),
        Value::Integer(_) | Value::Boolean(_) | Value::Float(_) | Value::Json(_) => None,
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Boolean(truth)
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}
