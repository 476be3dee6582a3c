//! The claims of a token whose signature was found good.

use std::borrow::Cow;

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The claims, each still as JSON text within the payload.
pub(crate) struct Claims<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Claims<'a> {
    /// Reads an object. A claim given twice is refused (RFC 7519 §4).
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let claims: Self = serde_json::from_str(text).ok()?;
        let twice =
            claims.0.iter().enumerate().any(|(i, (name, _))| claims.0[..i].iter().any(|(other, _)| other == name));
        (!twice).then_some(claims)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A claim by its name, or by a path of names with dots (`realm_access.roles`) when there is none of that name.
    fn find(&self, name: &str) -> Option<&'a RawValue> {
        if let Some((_, value)) = self.0.iter().find(|(known, _)| known == name) {
            return Some(value);
        }
        let (first, rest) = name.split_once('.')?;
        let (_, inner) = self.0.iter().find(|(known, _)| known == first)?;
        serde_json::from_str::<Claims<'a>>(inner.get()).ok()?.find(rest)
    }

    /// A claim that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        let raw = self.find(name)?.get();
        // Almost all: the text was parsed as JSON once, so that nothing between the quotes but an escape needs another look.
        if let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
            && !inner.contains('\\')
        {
            return Some(Cow::Borrowed(inner));
        }
        serde_json::from_str::<Text<'a>>(raw).ok().map(|text| text.0)
    }

    /// A NumericDate (RFC 7519 §2): seconds, possibly with a fraction. `Err` when the claim is there but is not one.
    pub(crate) fn date(&self, name: &str) -> Result<Option<f64>, ()> {
        self.find(name).map(|raw| serde_json::from_str::<f64>(raw.get()).map_err(|_| ())).transpose()
    }

    /// Whether a claim that is a string or a list of strings has one that `accept` accepts.
    pub(crate) fn any(&self, name: &str, mut accept: impl FnMut(&str) -> bool) -> bool {
        let Some(raw) = self.find(name) else { return false };
        if let Ok(one) = serde_json::from_str::<Text<'_>>(raw.get()) {
            return accept(&one.0);
        }
        serde_json::from_str::<Vec<Text<'_>>>(raw.get()).is_ok_and(|list| list.iter().any(|one| accept(&one.0)))
    }

    /// The words of a claim: of a list its strings, of a string what is between the spaces (RFC 8693 §4.2).
    pub(crate) fn words(&self, name: &str) -> Vec<String> {
        let Some(raw) = self.find(name) else { return Vec::new() };
        if let Ok(one) = serde_json::from_str::<Text<'_>>(raw.get()) {
            return one.0.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        }
        serde_json::from_str(raw.get()).unwrap_or_default()
    }

    /// A claim as a header value: a string, number or boolean as it is, a list of strings with commas.
    pub(crate) fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        let raw = self.find(name)?;
        match raw.get().as_bytes().first()? {
            b'"' => self.text(name),
            b'[' => serde_json::from_str::<Vec<String>>(raw.get()).ok().map(|list| list.join(",").into()),
            b'{' => None,
            _ if raw.get() == "null" => None,
            _ => Some(raw.get().into()),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Claims<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::with_capacity(12);
                while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    members.push((name.0, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(Claims)
    }
}
