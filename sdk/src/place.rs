//! Where a request carries a credential, for filters that look for one in more places than `authorization`.

mod query;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use crate::{Error, Request, cookies, is_token};

/// A place for a credential, by its name in a config: `header:NAME`, `query:NAME` or `cookie:NAME`.
///
/// ```
/// use sluice_filter::CredentialPlace;
///
/// assert_eq!("header:X-Api-Key".parse(), Ok(CredentialPlace::Header("x-api-key".to_owned())));
/// assert!("body:key".parse::<CredentialPlace>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialPlace {
    /// A request header, in lower case.
    Header(String),
    /// A parameter of the query.
    Query(String),
    /// A cookie.
    Cookie(String),
}

impl CredentialPlace {
    /// The header that it is in, which a filter has to be granted.
    #[must_use]
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Header(name) => Some(name),
            Self::Cookie(_) => Some("cookie"),
            Self::Query(_) => None,
        }
    }

    /// Whether it is part of the URL, which browsers and logs keep.
    #[must_use]
    pub fn is_in_url(&self) -> bool {
        matches!(self, Self::Query(_))
    }

    /// All credentials that the request has there, decoded. One that is not UTF-8 is there, too, with U+FFFD for what can't be read: it is
    /// nobody's, but it was sent.
    ///
    /// # Errors
    /// `WrongHook` outside an exchange.
    pub fn values(&self, request: &Request) -> Result<Vec<String>, Error> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self {
            Self::Header(name) => Ok(request.header_bytes(name)?.iter().map(|value| text(value)).collect()),
            Self::Query(name) => Ok(query::values(request.query()?.as_deref().unwrap_or_default(), name)),
            Self::Cookie(name) => {
                let lines = request.header_bytes("cookie")?;
                Ok(lines.iter().flat_map(|line| cookies::values(line, name)).map(text).collect())
            }
        }
    }

    /// Takes the credentials out of the request, so that neither the upstream nor its log has them. One in the query goes from the
    /// `referer`, too: a page whose URL has it sends it along with what it loads.
    ///
    /// # Errors
    /// `NotGranted` where the filter may not set the header.
    pub fn remove(&self, request: &Request) -> Result<(), Error> {
        match self {
            Self::Header(name) => request.remove_header(name),
            Self::Query(name) => {
                if let Some(query) = request.query()?.filter(|query| query::has(query, name)) {
                    request.set_query(query::without(&query, name).as_deref())?;
                }
                self.remove_from_referer(request)
            }
            Self::Cookie(name) => {
                let lines = request.header_bytes("cookie")?;
                let kept: Vec<Vec<u8>> = lines.iter().map(|line| cookies::without(line, name)).collect();
                if kept == lines {
                    return Ok(());
                }
                let kept: Vec<&[u8]> = kept.iter().map(Vec::as_slice).filter(|line| !line.is_empty()).collect();
                request.remove_header("cookie")?;
                // One field has them all (RFC 6265 §5.4).
                if kept.is_empty() { Ok(()) } else { request.set_header_bytes("cookie", &kept.join(&b"; "[..])) }
            }
        }
    }

    /// Takes a credential of the query out of the `referer`. Does nothing for other places.
    ///
    /// # Errors
    /// `NotGranted` where the filter may not set `referer`.
    pub fn remove_from_referer(&self, request: &Request) -> Result<(), Error> {
        let Self::Query(name) = self else { return Ok(()) };
        let values = request.header_bytes("referer")?;
        let is_in = |value: &[u8]| {
            let text = String::from_utf8_lossy(value);
            text.split_once('?').is_some_and(|(_, query)| query::has(query, name))
        };
        if !values.iter().any(|value| is_in(value)) {
            return Ok(());
        }
        let [value] = values.as_slice() else { return request.remove_header("referer") };
        let Some((page, query)) = std::str::from_utf8(value).ok().and_then(|text| text.split_once('?')) else {
            return request.remove_header("referer");
        };
        match query::without(query, name) {
            Some(query) => request.set_header("referer", &format!("{page}?{query}")),
            None => request.set_header("referer", page),
        }
    }
}

impl FromStr for CredentialPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("header", name)) if is_token(name) && !name.eq_ignore_ascii_case("host") => {
                Ok(Self::Header(name.to_ascii_lowercase()))
            }
            Some(("query", name)) if !name.is_empty() => Ok(Self::Query(name.to_owned())),
            Some(("cookie", name)) if is_token(name) => Ok(Self::Cookie(name.to_owned())),
            _ => Err("expected `header:NAME`, `query:NAME` or `cookie:NAME`".to_owned()),
        }
    }
}

impl fmt::Display for CredentialPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Header(name) => ("header", name),
            Self::Query(name) => ("query", name),
            Self::Cookie(name) => ("cookie", name),
        };
        write!(f, "{kind}:{name}")
    }
}

impl<'de> Deserialize<'de> for CredentialPlace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl de::Visitor<'_> for Named {
            type Value = CredentialPlace;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a place such as \"header:x-api-key\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<CredentialPlace, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Exchange, Harness};
    use crate::{ConfigError, Filter, OnRequest, Setup, Verdict};

    struct Removes(CredentialPlace);

    impl Filter for Removes {
        type Config = CredentialPlace;
        fn new(place: CredentialPlace, _: &mut Setup) -> Result<Self, ConfigError> {
            Ok(Removes(place))
        }
    }

    impl OnRequest for Removes {
        fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
            self.0.remove(request).map(|()| Verdict::Continue)
        }
    }

    #[test]
    fn a_credential_of_the_url_leaves_the_referer_too() {
        let filter = Harness::<Removes>::new("query:key".into()).expect("a filter");
        let rows: [(&[&[u8]], Option<&str>); 6] = [
            (&[b"https://a.test/page?x=1&k%65y=secret&y=%6b"], Some("https://a.test/page?x=1&y=%6b")),
            (&[b"https://a.test/page?key=secret"], Some("https://a.test/page")),
            (&[b"https://a.test/key=secret"], Some("https://a.test/key=secret")),
            (&[b"https://a.test/?q=1"], Some("https://a.test/?q=1")),
            (&[b"https://a.test/\xff?key=secret"], None),
            (&[b"https://a.test/", b"https://a.test/?key=secret"], None),
        ];
        for (values, expected) in rows {
            let mut exchange = Exchange::get("/");
            values.iter().for_each(|value| exchange.request.headers.append("referer", value));
            assert_eq!(filter.on_request(&mut exchange), Ok(Verdict::Continue));
            assert_eq!(exchange.request.headers.get("referer"), expected);
        }
    }
}
