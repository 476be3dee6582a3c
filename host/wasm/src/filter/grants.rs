//! What the operator lets a filter reach, compiled to quick checks. Without a grant there is no reach beyond the exchange.

use http::header::HeaderName;

use sluice_http::http::headers::CREDENTIALS;

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
    pub services: sluice_services::Grants,
}

/// The headers that a filter may see or set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderGrant {
    All,
    /// All but credentials, and these.
    AllButCredentials {
        and: Vec<HeaderName>,
    },
}

impl Default for HeaderGrant {
    fn default() -> Self {
        HeaderGrant::AllButCredentials { and: Vec::new() }
    }
}

impl HeaderGrant {
    /// Whether the header is granted.
    pub fn allows(&self, name: &HeaderName) -> bool {
        match self {
            HeaderGrant::All => true,
            HeaderGrant::AllButCredentials { and } => !CREDENTIALS.contains(name) || and.contains(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_have_to_be_named() {
        let allows = |grant: &HeaderGrant, name| grant.allows(&HeaderName::from_static(name));
        let usual = HeaderGrant::default();
        assert!(allows(&usual, "accept") && allows(&usual, "x-anything"));
        for secret in ["authorization", "cookie", "set-cookie", "proxy-authorization", "x-api-key"] {
            assert!(!allows(&usual, secret) && allows(&HeaderGrant::All, secret), "{secret}");
        }
        let named = HeaderGrant::AllButCredentials { and: vec![http::header::AUTHORIZATION] };
        assert!(allows(&named, "authorization") && allows(&named, "accept") && !allows(&named, "cookie"));
    }
}
