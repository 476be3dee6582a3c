//! What a token says of its holder, once somebody has found it good.

use std::{borrow::Cow, fmt};

use crate::{ClaimPath, context};
use serde::{
    Deserialize,
    de::{Deserializer, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// The claims of a token: the payload of a signed one, or the answer about one that was asked about. Texts without escapes are not copied.
///
/// ```
/// use sluice_filter::{ClaimPath, Claims};
///
/// let claims = Claims::parse(r#"{"sub": "ann", "realm_access": {"roles": ["a", "b"]}}"#).expect("an object");
/// let roles: ClaimPath = "realm_access.roles".parse().expect("a path");
/// assert_eq!((claims.text("sub"), claims.words(&roles)), (Some("ann"), vec!["a", "b"]));
/// assert!(Claims::parse(r#"{"sub": "ann", "sub": "bob"}"#).is_none());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Claims<'a>(Vec<(Cow<'a, str>, Claim<'a>)>);

/// The value of a claim. Texts without escapes are those of the payload.
#[derive(Debug, Clone, PartialEq)]
enum Claim<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// Over `i64::MAX`.
    Large(u64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Claim<'a>>),
    Object(Claims<'a>),
}

/// The key that a token is bound to (RFC 7800).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Confirmation<'c> {
    /// None: whoever has the token may use it.
    None,
    /// That of the certificate with this thumbprint (RFC 8705 §3.1): base64url of its SHA-256.
    Certificate(&'c str),
    /// Another one, such as that of DPoP (`jkt`, RFC 9449 §6).
    Other,
}

/// A claim that can't be handed on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotExact;

impl fmt::Display for NotExact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the claim has no exact form")
    }
}

impl std::error::Error for NotExact {}

/// From here on not every integer is a float (RFC 7493 §2.2): two such claims could read the same.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Members of an object.
const MOST_MEMBERS: usize = 1024;
/// So many members are compared with each other as they come; more are sorted.
const FEW: usize = 16;

impl<'a> Claims<'a> {
    /// Reads an object. A claim given twice, also a member of one, is refused (RFC 7519 §4), and so are one that is nested too deep and an object
    /// of more than 1,024 members.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        match serde_json::from_str(text) {
            Ok(Claim::Object(claims)) => Some(claims),
            _ => None,
        }
    }

    /// Whether there is such a claim. One that is `null` says nothing, and is none.
    #[must_use]
    pub fn has(&self, path: &ClaimPath) -> bool {
        self.find(path).is_some_and(|claim| *claim != Claim::Null)
    }

    fn find(&self, path: &ClaimPath) -> Option<&Claim<'a>> {
        path.ways().find_map(|way| {
            let (first, inner) = way.split_first()?;
            inner.iter().try_fold(self.get(first)?, |claim, name| match claim {
                Claim::Object(members) => members.get(name),
                _ => None,
            })
        })
    }

    fn get(&self, name: &str) -> Option<&Claim<'a>> {
        self.0.iter().find(|(known, _)| same(known, name)).map(|(_, claim)| claim)
    }

    /// A claim that is a string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.text()
    }

    /// A claim that is `true` or `false`.
    #[must_use]
    pub fn boolean(&self, name: &str) -> Option<bool> {
        match self.get(name) {
            Some(Claim::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    /// A NumericDate (RFC 7519 §2): seconds, possibly with a fraction.
    ///
    /// # Errors
    /// When the claim is there but is not one.
    pub fn date(&self, name: &str) -> Result<Option<f64>, NotExact> {
        match self.get(name) {
            None => Ok(None),
            Some(Claim::Integer(seconds)) => Ok(Some(*seconds as f64)),
            Some(Claim::Large(seconds)) => Ok(Some(*seconds as f64)),
            Some(Claim::Float(seconds)) => Ok(Some(*seconds)),
            Some(_) => Err(NotExact),
        }
    }

    /// What `cnf` says. A confirmation that is not understood is one: the token must not pass as if it were not bound.
    #[must_use]
    pub fn confirmation(&self) -> Confirmation<'_> {
        match self.get("cnf") {
            None => Confirmation::None,
            Some(Claim::Object(members)) if members.get("jkt").is_none() => {
                members.text("x5t#S256").map_or(Confirmation::Other, Confirmation::Certificate)
            }
            Some(_) => Confirmation::Other,
        }
    }

    /// Whether a claim that is a string or a list of strings has one that `accept` accepts.
    #[must_use]
    pub fn any(&self, name: &str, mut accept: impl FnMut(&str) -> bool) -> bool {
        match self.get(name) {
            Some(Claim::Text(one)) => accept(one),
            Some(Claim::List(list)) => texts(list).is_some_and(|list| list.into_iter().any(accept)),
            _ => false,
        }
    }

    /// The words of a claim: of a list its strings, of a string what is between the spaces (RFC 8693 §4.2).
    #[must_use]
    pub fn words(&self, path: &ClaimPath) -> Vec<&str> {
        match self.find(path) {
            Some(Claim::Text(one)) => one.split(' ').filter(|word| !word.is_empty()).collect(),
            Some(Claim::List(list)) => texts(list).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// A claim as a header value: a string, number or boolean as it is, a list of strings with commas. None for what has no such form.
    ///
    /// # Errors
    /// For what would be read as something else: a string with control characters or blanks around it, and a list with such a string or with one
    /// that has a comma.
    pub fn header(&self, path: &ClaimPath) -> Result<Option<String>, NotExact> {
        // Encoded, or without the blanks around it, it could be taken for another caller's.
        let is_exact = |text: &str| {
            text.trim_ascii().len() == text.len()
                && !text.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f)
        };
        let Some(claim) = self.find(path) else { return Ok(None) };
        Ok(Some(match claim {
            Claim::Text(text) if is_exact(text) => text.clone().into_owned(),
            Claim::Text(_) => return Err(NotExact),
            Claim::Bool(value) => value.to_string(),
            Claim::Integer(value) => value.to_string(),
            Claim::Large(value) => value.to_string(),
            Claim::Float(value) if value.abs() < EXACT => value.to_string(),
            Claim::List(list) => match texts(list) {
                Some(list) if list.iter().all(|one| is_exact(one) && !one.contains(',')) => list.join(","),
                Some(_) => return Err(NotExact),
                None => return Ok(None),
            },
            Claim::Float(_) | Claim::Null | Claim::Object(_) => return Ok(None),
        }))
    }

    /// A claim as the name of somebody, in the form of [`context::canonical`].
    ///
    /// # Errors
    /// For a number that can't be told from its neighbours: it would give one caller the name of another.
    pub fn name(&self, path: &ClaimPath) -> Result<Option<String>, NotExact> {
        let Some(claim) = self.find(path) else { return Ok(None) };
        Ok(Some(match claim {
            Claim::Null => return Ok(None),
            Claim::Text(text) => text.clone().into_owned(),
            Claim::Float(value) if value.abs() >= EXACT => return Err(NotExact),
            Claim::Bool(_)
            | Claim::Integer(_)
            | Claim::Large(_)
            | Claim::Float(_)
            | Claim::List(_)
            | Claim::Object(_) => context::canonical(context::Value::Json(claim.json().to_string())),
        }))
    }
}

impl Claim<'_> {
    fn json(&self) -> Value {
        match self {
            Claim::Null => Value::Null,
            Claim::Bool(value) => Value::from(*value),
            Claim::Integer(value) => Value::from(*value),
            Claim::Large(value) => Value::from(*value),
            Claim::Float(value) => Value::from(*value),
            Claim::Text(text) => Value::from(&**text),
            Claim::List(list) => list.iter().map(Claim::json).collect(),
            Claim::Object(Claims(members)) => {
                Value::Object(members.iter().map(|(name, claim)| (name.to_string(), claim.json())).collect())
            }
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Claim::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Names of claims have three letters, mostly: the call that compares longer ones costs more than they do.
fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().eq(other.bytes())
}

/// A list of nothing but strings.
fn texts<'c>(list: &'c [Claim<'_>]) -> Option<Vec<&'c str>> {
    list.iter().map(Claim::text).collect()
}

impl<'de> Deserialize<'de> for Claim<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyClaim)
    }
}

struct AnyClaim;

impl<'de> Visitor<'de> for AnyClaim {
    type Value = Claim<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Claim::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Claim::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Claim::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Claim::Large(value), Claim::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Claim::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Claim::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Claim::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
        let mut list = Vec::new();
        while let Some(claim) = seq.next_element()? {
            list.push(claim);
        }
        Ok(Claim::List(list))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut members: Vec<(Cow<'de, str>, Claim<'de>)> = Vec::with_capacity(8);
        while let Some(Name(name)) = map.next_key()? {
            if members.len() == MOST_MEMBERS {
                return Err(M::Error::custom("too many members"));
            }
            if members.len() < FEW && members.iter().any(|(known, _)| same(known, &name)) {
                return Err(M::Error::custom("a name given twice"));
            }
            members.push((name, map.next_value()?));
        }
        if members.len() > FEW && has_twice(&members) {
            return Err(M::Error::custom("a name given twice"));
        }
        Ok(Claim::Object(Claims(members)))
    }
}

/// Whether a name is there twice, in less than the square of their number: whoever signs a token decides how many there are.
fn has_twice(members: &[(Cow<'_, str>, Claim<'_>)]) -> bool {
    let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ClaimPath {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_exact_or_refused() {
        let rows = [
            (r#""a b""#, Ok(Some("a b"))),
            ("7.0", Ok(Some("7"))),
            ("9223372036854775809", Ok(Some("9223372036854775809"))),
            (r#"["a", 1.5, {"c": null, "b": 2.0}]"#, Ok(Some(r#"["a",1.5,{"b":2,"c":null}]"#))),
            ("null", Ok(None)),
            ("1e20", Err(NotExact)),
        ];
        for (value, name) in rows {
            let text = format!(r#"{{"https://example.com/org": {{"id": {value}}}}}"#);
            let claims = Claims::parse(&text).unwrap();
            let found = claims.name(&path(r#"["https://example.com/org", "id"]"#));
            assert_eq!(found.as_ref().map(Option::as_deref), name.as_ref().copied(), "{value}");
        }
    }

    #[test]
    fn what_is_no_set_of_claims() {
        let twice = [r#"{"a": 1, "a": 1}"#, r#"{"a": {"b": 1, "b": 2}}"#, r#"{"a": [{"b": 1, "\u0062": 2}]}"#];
        for text in twice.into_iter().chain(["", "[]", "1", "{", r#"{"a": 1e400}"#, r#"{"a": 1} {}"#]) {
            assert!(Claims::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn many_members_are_read_in_time_and_more_are_refused() {
        let of = |names: &mut dyn Iterator<Item = usize>| {
            let members: Vec<String> = names.map(|number| format!(r#""{number}":0"#)).collect();
            format!("{{{}}}", members.join(","))
        };
        for count in [15, 16, 17, 18, MOST_MEMBERS] {
            assert!(Claims::parse(&of(&mut (0..count))).is_some(), "{count}");
            for twice in [0, count - 2] {
                let names = &mut (0..count - 1).chain([twice]);
                assert!(Claims::parse(&of(names)).is_none(), "{count}: {twice} twice");
            }
        }
        let many = of(&mut (0..MOST_MEMBERS + 1));
        assert!(Claims::parse(&many).is_none() && Claims::parse(&format!(r#"{{"a": [{many}]}}"#)).is_none());
    }

    #[test]
    fn claims_as_headers() {
        let rows = [
            (r#""a b""#, Some("a b")),
            ("-7", Some("-7")),
            ("18446744073709551615", Some("18446744073709551615")),
            ("1.5", Some("1.5")),
            // These would not be told from their neighbours.
            ("18446744073709551616", None),
            ("1e20", None),
            ("true", Some("true")),
            ("null", None),
            (r#"["a", "b"]"#, Some("a,b")),
            (r#"["a", 1]"#, None),
            ("{}", None),
        ];
        for (value, header) in rows {
            let text = format!(r#"{{"x": {{"y": {value}}}}}"#);
            let claims = Claims::parse(&text).unwrap();
            assert_eq!(claims.header(&path("x.y")).unwrap().as_deref(), header, "{value}");
        }
    }

    #[test]
    fn a_claim_brings_no_second_header_and_no_second_member() {
        for value in
            [r#""A\r\nx: 1""#, r#"" a""#, r#""a\t""#, r#""\u0000""#, r#"["a,admin"]"#, r#"["a", " b"]"#, r#"["a\n"]"#]
        {
            let text = format!(r#"{{"x": {value}}}"#);
            assert_eq!(Claims::parse(&text).unwrap().header(&path("x")), Err(NotExact), "{value}");
        }
        let deep = format!(r#"{{"x": {}1{}}}"#, "[".repeat(200), "]".repeat(200));
        assert!(Claims::parse(&deep).is_none(), "too deep");
    }

    #[test]
    fn dates_and_words() {
        let text = r#"{"exp": 17.5, "nbf": 18446744073709551615, "iat": "1", "scope": "a  b", "roles": ["c d"], "x.y": "dot"}"#;
        let claims = Claims::parse(text).unwrap();
        assert_eq!(
            (claims.date("exp"), claims.date("none"), claims.date("iat")),
            (Ok(Some(17.5)), Ok(None), Err(NotExact))
        );
        assert_eq!(claims.date("nbf"), Ok(Some(18_446_744_073_709_551_615.0)));
        assert_eq!((claims.words(&path("scope")), claims.words(&path("roles"))), (vec!["a", "b"], vec!["c d"]));
        assert!(claims.any("roles", |role| role == "c d") && !claims.any("exp", |_| true));
        assert_eq!(claims.text("x.y"), Some("dot"));
        let claims = Claims::parse(r#"{"sub": null, "a": {"b": null, "c": 0}}"#).unwrap();
        assert!(claims.has(&path("a.c")) && !claims.has(&path("sub")) && !claims.has(&path("a.b")));
    }
}
