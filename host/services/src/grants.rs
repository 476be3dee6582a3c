//! What the operator lets a filter reach: origins, secrets and key-value spaces.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::ServiceError;
use super::addresses::Reach;

/// The grants of one filter (the plugin's, narrowed by the filter's own).
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// `grants.http`
    pub http: Origins,
    /// `grants.upstreams`
    pub upstreams: BTreeSet<String>,
    /// `grants.secrets`
    pub secrets: Secrets,
    /// `grants.kv`
    pub kv: BTreeSet<String>,
    /// `grants.kv_quota`: bytes in each of these spaces.
    pub kv_quota: u64,
    /// `grants.consumers`: whether it may look credentials of consumers up.
    pub consumers: bool,
}

impl Grants {
    /// Refuses an upstream that is not granted.
    pub fn check_upstream(&self, name: &str) -> Result<(), ServiceError> {
        if self.upstreams.contains(name) {
            return Ok(());
        }
        Err(ServiceError::NotGranted(format!("grants.upstreams = [{name:?}]")))
    }

    /// Refuses a space that is not granted.
    pub fn check_kv(&self, space: &str) -> Result<(), ServiceError> {
        if self.kv.contains(space) {
            return Ok(());
        }
        Err(ServiceError::NotGranted(format!("grants.kv = [{space:?}]")))
    }
}

/// Secrets by name. Their `Debug` shows the names only.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// The secret of this name, or the grant that is missing.
    pub fn find(&self, name: &str) -> Result<&str, ServiceError> {
        match self.0.get(name) {
            Some(secret) => Ok(secret),
            None => Err(ServiceError::NotGranted(format!("grants.secrets = {{ {name} = \"…\" }}"))),
        }
    }
}

impl FromIterator<(String, String)> for Secrets {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(secrets: T) -> Self {
        Secrets(secrets.into_iter().collect())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// `scheme://host:port` of an outbound call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub https: bool,
    /// Lower-case; an IPv6 address is without brackets.
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// The origin of an absolute `http` or `https` URL. A URL with user information is refused: it would put credentials
    /// into logs, and it is a well-known way to disguise the host.
    pub fn of(url: &url::Url) -> Result<Self, ServiceError> {
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            other => return Err(ServiceError::Invalid(format!("the scheme `{other}` is neither http nor https"))),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ServiceError::Invalid("the url has user information".to_owned()));
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) => name.to_ascii_lowercase(),
            Some(url::Host::Ipv4(ip)) => ip.to_string(),
            Some(url::Host::Ipv6(ip)) => ip.to_string(),
            None => return Err(ServiceError::Invalid("the url has no host".to_owned())),
        };
        let port = url.port_or_known_default().unwrap_or(if https { 443 } else { 80 });
        Ok(Origin { https, host, port })
    }

    /// `host` or `host:port` as the `Host` header and `:authority` have it: the default port is left out.
    pub fn authority(&self) -> String {
        let default_port = if self.https { 443 } else { 80 };
        match (self.host.contains(':'), self.port == default_port) {
            (false, true) => self.host.clone(),
            (false, false) => format!("{}:{}", self.host, self.port),
            (true, true) => format!("[{}]", self.host),
            (true, false) => format!("[{}]:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }
}

/// An origin as `grants.http` has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrantedOrigin {
    pub origin: Origin,
    /// Its name may lead to private addresses.
    pub allow_private: bool,
}

/// The granted origins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Origins(Vec<GrantedOrigin>);

impl Origins {
    /// Reads origins of public addresses. An entry is a scheme and a host, maybe with a port; `Invalid` names one that has more.
    pub fn parse<'a>(origins: impl IntoIterator<Item = &'a str>) -> Result<Self, ServiceError> {
        let granted = |text| Ok(GrantedOrigin { origin: parse_origin(text)?, allow_private: false });
        origins.into_iter().map(granted).collect::<Result<_, _>>().map(Origins)
    }

    /// Refuses an origin that is not granted: scheme, host and port have to be equal. Answers where its calls may go.
    pub fn check(&self, origin: &Origin) -> Result<Reach, ServiceError> {
        let of_origin = self.0.iter().filter(|granted| granted.origin == *origin);
        match of_origin.map(|granted| granted.allow_private).reduce(|one, other| one || other) {
            Some(allow_private) => Ok(Reach::of(origin, allow_private)),
            None => Err(ServiceError::NotGranted(format!("grants.http = [\"{origin}\"]"))),
        }
    }

    /// The origins, in the order of the grant.
    pub fn iter(&self) -> impl Iterator<Item = &GrantedOrigin> {
        self.0.iter()
    }
}

impl FromIterator<GrantedOrigin> for Origins {
    fn from_iter<T: IntoIterator<Item = GrantedOrigin>>(origins: T) -> Self {
        Origins(origins.into_iter().collect())
    }
}

fn parse_origin(text: &str) -> Result<Origin, ServiceError> {
    let invalid = |why: String| ServiceError::Invalid(format!("`{text}` is not an origin: {why}"));
    let url = url::Url::parse(text).map_err(|e| invalid(e.to_string()))?;
    let origin = Origin::of(&url).map_err(|e| invalid(e.to_string()))?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it has more than scheme, host and port".to_owned()));
    }
    Ok(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Result<Origin, ServiceError> {
        Origin::of(&url::Url::parse(url).unwrap())
    }

    #[test]
    fn origins_are_equal_in_scheme_host_and_port() {
        let granted = Origins::parse(["https://Auth.internal", "http://127.0.0.1:9000", "http://[::1]:80"]).unwrap();
        let cases = [
            ("https://auth.internal/x?y", true),
            ("https://auth.internal:443/", true),
            ("https://auth.internal:8443/", false),
            ("http://auth.internal/", false),
            ("https://auth.internal.evil.com/", false),
            ("https://evil.com/https://auth.internal", false),
            ("http://127.0.0.1:9000/a", true),
            ("http://2130706433:9000/a", true),
            ("http://127.0.0.1/", false),
            ("http://[::1]/", true),
        ];
        for (url, allowed) in cases {
            assert_eq!(granted.check(&origin(url).unwrap()).is_ok(), allowed, "{url}");
        }
    }

    #[test]
    fn a_refusal_names_the_grant() {
        let error = Origins::default().check(&origin("https://a.example:444/x").unwrap()).unwrap_err();
        assert_eq!(error, ServiceError::NotGranted("grants.http = [\"https://a.example:444\"]".to_owned()));
        let error = Grants::default().check_upstream("users").unwrap_err();
        assert_eq!(error, ServiceError::NotGranted("grants.upstreams = [\"users\"]".to_owned()));
        let error = Grants::default().check_kv("s").unwrap_err();
        assert_eq!(error, ServiceError::NotGranted("grants.kv = [\"s\"]".to_owned()));
        assert!(matches!(Secrets::default().find("k"), Err(ServiceError::NotGranted(_))));
    }

    #[test]
    fn disguised_and_foreign_urls_are_refused() {
        for url in ["https://auth.internal@evil.com/", "https://u:p@auth.internal/", "ftp://auth.internal/"] {
            assert!(matches!(origin(url), Err(ServiceError::Invalid(_))), "{url}");
        }
        for text in ["https://a/path", "https://a?x", "a.example", "https://", "file:///etc"] {
            assert!(Origins::parse([text]).is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secrets: Secrets = [("name".to_owned(), "hidden".to_owned())].into_iter().collect();
        assert_eq!(secrets.find("name"), Ok("hidden"));
        assert!(!format!("{secrets:?}").contains("hidden"));
    }
}
