//! What the operator lets a filter reach, compiled to quick checks. Without a grant there is no reach beyond the exchange.

use std::sync::Arc;

use http::header::HeaderName;

use crate::http::headers::CREDENTIALS;
use crate::services;

/// What one filter may reach.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// Headers and trailers it may see.
    pub read: HeaderGrant,
    /// Headers and trailers it may set, add and remove.
    pub write: HeaderGrant,
    /// Whether it may see and replace bodies.
    pub no_bodies: bool,
    /// Origins, secrets and key-value spaces.
    pub services: services::Grants,
}

/// A set of header names. The default is every header but credentials.
#[derive(Debug, Clone)]
pub struct HeaderGrant {
    /// Whether all headers but credentials are in it.
    all: bool,
    names: Vec<HeaderName>,
    prefixes: Vec<String>,
    /// Credentials beyond the usual ones: the headers that carry API keys in this configuration.
    credentials: Arc<[HeaderName]>,
}

impl Default for HeaderGrant {
    fn default() -> Self {
        HeaderGrant { all: true, names: Vec::new(), prefixes: Vec::new(), credentials: Arc::new([]) }
    }
}

/// A name in a header grant that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a header name, `*`, or a prefix with `*` at its end")]
pub struct HeaderGrantError(pub String);

impl HeaderGrant {
    /// From names, prefixes with a `*` at the end, and `*` for all but credentials. A credential is granted only by its whole
    /// name. `credentials` are headers that carry credentials in this configuration beyond the usual ones.
    pub fn new<'a>(
        names: impl IntoIterator<Item = &'a str>,
        credentials: Arc<[HeaderName]>,
    ) -> Result<HeaderGrant, HeaderGrantError> {
        let mut grant = HeaderGrant { all: false, names: Vec::new(), prefixes: Vec::new(), credentials };
        for name in names {
            let bad = || HeaderGrantError(name.to_owned());
            match name.strip_suffix('*') {
                Some("") => grant.all = true,
                Some(prefix) => {
                    HeaderName::from_bytes(prefix.as_bytes()).map_err(|_| bad())?;
                    grant.prefixes.push(prefix.to_ascii_lowercase());
                }
                None => grant.names.push(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?),
            }
        }
        Ok(grant)
    }

    /// The default, with further headers that carry credentials.
    pub fn all_but(credentials: Arc<[HeaderName]>) -> HeaderGrant {
        HeaderGrant { credentials, ..HeaderGrant::default() }
    }

    /// Whether the header is granted.
    pub fn allows(&self, name: &HeaderName) -> bool {
        if self.names.contains(name) {
            return true;
        }
        (self.all || self.prefixes.iter().any(|p| name.as_str().starts_with(p.as_str()))) && !self.is_credential(name)
    }

    fn is_credential(&self, name: &HeaderName) -> bool {
        CREDENTIALS.contains(name) || self.credentials.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(grant: &HeaderGrant, name: &str) -> bool {
        grant.allows(&HeaderName::from_bytes(name.as_bytes()).unwrap())
    }

    #[test]
    fn credentials_have_to_be_named() {
        let all = HeaderGrant::all_but([HeaderName::from_static("x-partner-key")].into());
        assert!(allows(&all, "accept") && allows(&all, "x-anything"));
        for secret in ["authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key", "x-partner-key"] {
            assert!(!allows(&all, secret), "{secret}");
        }
        let named = HeaderGrant::new(["*", "Authorization"], Arc::new([])).unwrap();
        assert!(allows(&named, "authorization") && allows(&named, "accept") && !allows(&named, "cookie"));
        let prefix = HeaderGrant::new(["x-*"], Arc::new([])).unwrap();
        assert!(allows(&prefix, "x-user") && !allows(&prefix, "x-api-key") && !allows(&prefix, "accept"));
        let none = HeaderGrant::new([], Arc::new([])).unwrap();
        assert!(!allows(&none, "accept"));
        assert_eq!(HeaderGrant::new(["a b"], Arc::new([])).unwrap_err(), HeaderGrantError("a b".into()));
    }
}
