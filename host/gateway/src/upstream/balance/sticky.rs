//! Sticky sessions by a signed cookie. Its value is a keyed hash of the endpoint's name: it says nothing to who does not have the key, nobody
//! else can make one, and nothing has to be kept of a session.

use std::collections::HashMap;
use std::fmt::Write;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use crate::config::model::{SameSite, StickySession};

/// The bytes of a hash that are in a cookie (RFC 2104 §5: half of them or more).
const TAG: usize = 16;

/// The endpoints of a set by the values of their cookies.
#[derive(Debug)]
pub(in crate::upstream) struct Sessions {
    values: Vec<Box<str>>,
    endpoints: HashMap<Box<str>, usize>,
}

impl Sessions {
    /// Of an upstream's endpoints by their names.
    pub(in crate::upstream) fn new<'n>(key: &[u8], upstream: &str, names: impl Iterator<Item = &'n str>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let value = |name: &str| -> Box<str> {
            let mut signed = hmac::Context::with_key(&key);
            // The same address may serve several upstreams.
            [upstream, "\0", name].iter().for_each(|part| signed.update(part.as_bytes()));
            URL_SAFE_NO_PAD.encode(&signed.sign().as_ref()[..TAG]).into()
        };
        let values: Vec<Box<str>> = names.map(value).collect();
        let endpoints = values.iter().cloned().zip(0..).collect();
        Sessions { values, endpoints }
    }

    /// The endpoint that a cookie was made for, if it still is one.
    pub(in crate::upstream) fn endpoint(&self, value: &str) -> Option<usize> {
        self.endpoints.get(value).copied()
    }

    /// The `Set-Cookie` of an endpoint.
    pub(in crate::upstream) fn cookie(
        &self,
        endpoint: usize,
        settings: &StickySession,
        is_https: bool,
    ) -> Option<HeaderValue> {
        let StickySession { cookie, path, max_age, http_only, same_site, secure, .. } = settings;
        let mut text = format!("{cookie}={}; Path={path}", self.values.get(endpoint)?);
        if let Some(max_age) = max_age {
            let _ = write!(text, "; Max-Age={}", max_age.as_secs());
        }
        if secure.unwrap_or(is_https) {
            text.push_str("; Secure");
        }
        if *http_only {
            text.push_str("; HttpOnly");
        }
        text.push_str(match same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
            SameSite::None => "; SameSite=None",
        });
        HeaderValue::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> StickySession {
        StickySession {
            cookie: "at".into(),
            key: None,
            path: "/".into(),
            max_age: None,
            http_only: true,
            same_site: SameSite::Lax,
            secure: None,
        }
    }

    #[test]
    fn a_cookie_leads_to_its_endpoint_and_does_not_show_it() {
        let names = ["10.0.0.1:80", "10.0.0.2:80"];
        let sessions = Sessions::new(b"a key of the gateway", "orders", names.into_iter());
        for endpoint in 0..2 {
            let cookie = sessions.cookie(endpoint, &settings(), false).unwrap();
            let (value, attributes) = cookie.to_str().unwrap().strip_prefix("at=").unwrap().split_once("; ").unwrap();
            assert_eq!(sessions.endpoint(value), Some(endpoint));
            assert!(value.len() == 22 && !value.contains("10."), "{value}");
            assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
        }
        let value = sessions.values[0].clone();
        let same = Sessions::new(b"a key of the gateway", "orders", names.into_iter().rev());
        assert_eq!(same.endpoint(&value), Some(1), "by the name, in every gateway with the key");
        for (key, upstream) in [("another key, as long", "orders"), ("a key of the gateway", "users")] {
            assert_eq!(Sessions::new(key.as_bytes(), upstream, names.into_iter()).endpoint(&value), None);
        }
        assert_eq!(sessions.endpoint("10.0.0.1:80"), None);
    }

    #[test]
    fn attributes_of_the_cookie() {
        let sessions = Sessions::new(b"key", "u", ["a:80"].into_iter());
        let max_age = Some(std::time::Duration::from_secs(60));
        let same_site = SameSite::None;
        let other = StickySession { path: "/a".into(), max_age, http_only: false, same_site, ..settings() };
        let cookie = sessions.cookie(0, &other, true).unwrap();
        assert!(cookie.to_str().unwrap().ends_with("; Path=/a; Max-Age=60; Secure; SameSite=None"), "{cookie:?}");
        let never = StickySession { secure: Some(false), ..settings() };
        assert!(!sessions.cookie(0, &never, true).unwrap().to_str().unwrap().contains("Secure"));
    }
}
