//! The config, checked.

use serde_json::{Value, json};
use sluice_filter::{ClaimPath, CredentialPlace, Duration, Throttle, prelude::*};

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) url: String,
    pub(crate) client_id: String,
    #[serde(default = "default_secret")]
    pub(crate) client_secret: String,
    #[serde(default)]
    pub(crate) client_auth: ClientAuth,
    #[serde(default = "default_places")]
    pub(crate) places: Vec<CredentialPlace>,
    #[serde(default)]
    pub(crate) issuer: Option<String>,
    #[serde(default)]
    pub(crate) audience: Option<String>,
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
    #[serde(default = "default_scope_claim")]
    pub(crate) scope_claim: ClaimPath,
    #[serde(default = "default_consumer_claim")]
    pub(crate) consumer_claim: ClaimPath,
    #[serde(default)]
    pub(crate) known_consumers: bool,
    #[serde(default)]
    pub(crate) optional: bool,
    #[serde(default = "default_realm")]
    pub(crate) realm: String,
    #[serde(default = "yes")]
    pub(crate) forward_token: bool,
    #[serde(default = "default_timeout")]
    pub(crate) timeout: Duration,
    #[serde(default)]
    pub(crate) cache: Cache,
    #[serde(default)]
    pub(crate) circuit: Circuit,
    /// How long after an answer has become too old it still counts for safe methods, while the server is away.
    #[serde(default)]
    pub(crate) stale_if_error: Option<Duration>,
    #[serde(default)]
    pub(crate) throttle: Option<Throttle>,
}

/// How the gateway shows the server who it is.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientAuth {
    /// RFC 6749 §2.3.1, in `authorization`.
    #[default]
    ClientSecretBasic,
    /// The same, in the form.
    ClientSecretPost,
    /// The secret is a bearer token (RFC 7662 §2.1).
    Bearer,
}

/// How long answers are kept.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cache {
    pub(crate) space: String,
    pub(crate) ttl: Duration,
    pub(crate) negative_ttl: Duration,
}

impl Default for Cache {
    fn default() -> Self {
        Cache { space: "introspection".to_owned(), ttl: Duration::from_secs(60), negative_ttl: Duration::from_secs(10) }
    }
}

/// When the server is not asked for a while.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Circuit {
    /// Failures in a row; 0 for never.
    pub(crate) failures: u32,
    pub(crate) open: Duration,
}

impl Default for Circuit {
    fn default() -> Self {
        Circuit { failures: 5, open: Duration::from_secs(10) }
    }
}

impl Config {
    /// Checks what serde can't.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.origin()?;
        if self.places.is_empty() {
            return Err(ConfigError::new("places", "expected at least one place, such as `header:authorization`"));
        }
        if self.client_id.is_empty() {
            return Err(ConfigError::new("client_id", "expected the name of the gateway at the server"));
        }
        if self.realm.bytes().any(|b| !(b' '..=b'~').contains(&b) || b == b'"' || b == b'\\') {
            return Err(ConfigError::new("realm", "printable ASCII without quotes and backslashes"));
        }
        let is_scope = |scope: &String| {
            scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') && !scope.is_empty()
        };
        if let Some(at) = self.scopes.iter().position(|scope| !is_scope(scope)) {
            return Err(ConfigError::new(format!("scopes[{at}]"), "not a scope (RFC 6749 §3.3)"));
        }
        for (key, time, least, most) in [
            ("timeout", self.timeout, 1, 60_000),
            ("cache.ttl", self.cache.ttl, 1, 86_400_000),
            ("cache.negative_ttl", self.cache.negative_ttl, 1, 3_600_000),
            ("circuit.open", self.circuit.open, 1, 3_600_000),
            ("stale_if_error", self.stale_if_error.unwrap_or(Duration::from_secs(1)), 1, 86_400_000),
        ] {
            if !(least..=most).contains(&time.as_millis()) {
                return Err(ConfigError::new(key, format!("expected {least}ms to {}s", most / 1000)));
            }
        }
        self.throttle.iter().try_for_each(|throttle| throttle.check("throttle"))
    }

    /// The timeout as calls take it.
    pub(crate) fn timeout_ms(&self) -> u32 {
        u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX)
    }

    /// The grants that it needs.
    pub(crate) fn needs(&self) -> Result<Value, ConfigError> {
        let read: Vec<&str> = self.places.iter().filter_map(CredentialPlace::header).collect();
        let is_removed = |place: &&CredentialPlace| !self.forward_token || header_of(place).is_none();
        let write: Vec<&str> = self.places.iter().filter(is_removed).filter_map(CredentialPlace::header).collect();
        let mut needs = json!({
            "read_headers": read, "write_headers": write, "kv": [self.cache.space], "consumers": self.known_consumers,
            "secrets": { &*self.client_secret: "${env:CLIENT_SECRET}" },
        });
        match self.origin()? {
            Origin::Http(origin) => needs["http"] = json!([origin]),
            Origin::Upstream(name) => needs["upstreams"] = json!([name]),
        }
        Ok(needs)
    }

    fn origin(&self) -> Result<Origin<'_>, ConfigError> {
        let wrong =
            || ConfigError::new("url", "expected a URL that begins with `http://`, `https://` or `upstream://`");
        let (scheme, rest) = self.url.split_once("://").ok_or_else(wrong)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let host = &rest[..end];
        if host.is_empty() || host.contains('@') || self.url.contains(|c: char| c.is_control() || c == ' ' || c == '#')
        {
            return Err(wrong());
        }
        match scheme {
            "http" | "https" => Ok(Origin::Http(&self.url[..scheme.len() + 3 + end])),
            "upstream" => Ok(Origin::Upstream(host)),
            _ => Err(wrong()),
        }
    }
}

/// Where the server is.
enum Origin<'u> {
    Http(&'u str),
    Upstream(&'u str),
}

/// The header of a place that is one.
pub(crate) fn header_of(place: &CredentialPlace) -> Option<&str> {
    match place {
        CredentialPlace::Header(name) => Some(name),
        _ => None,
    }
}

fn default_secret() -> String {
    "client_secret".to_owned()
}

fn default_places() -> Vec<CredentialPlace> {
    vec![CredentialPlace::Header("authorization".to_owned())]
}

fn claim(name: &str) -> ClaimPath {
    ClaimPath::new([name]).expect("a name that is not empty")
}

fn default_scope_claim() -> ClaimPath {
    claim("scope")
}

fn default_consumer_claim() -> ClaimPath {
    claim("sub")
}

fn default_realm() -> String {
    "gateway".to_owned()
}

fn default_timeout() -> Duration {
    Duration(std::time::Duration::from_millis(400))
}

const fn yes() -> bool {
    true
}
