//! The config, checked.

use serde_json::{Value, json};
use sluice_filter::{Attribute, ByteSize, CredentialPlace, Duration, is_token, prelude::*, spellings};

/// Answers are held whole, and a body is sent with each call.
const MAX_BODY: u64 = 1 << 20;

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) method: Method,
    #[serde(default = "default_request_headers")]
    pub(crate) request_headers: Vec<String>,
    #[serde(default)]
    pub(crate) body: Option<ByteSize>,
    #[serde(default)]
    pub(crate) upstream_headers: Vec<String>,
    /// What a client may not send: `upstream_headers` in all spellings that an upstream may take for them.
    #[serde(skip)]
    pub(crate) stripped: Vec<String>,
    #[serde(default)]
    pub(crate) client_headers: Vec<String>,
    #[serde(default = "default_refusal_headers")]
    pub(crate) refusal_headers: Vec<String>,
    #[serde(default)]
    pub(crate) consumer_header: Option<String>,
    #[serde(default)]
    pub(crate) known_consumers: bool,
    #[serde(default = "default_timeout")]
    pub(crate) timeout: Duration,
    #[serde(default)]
    pub(crate) on_unavailable: OnUnavailable,
    #[serde(default = "default_status")]
    pub(crate) status_on_unavailable: u16,
    #[serde(default)]
    pub(crate) cache: Option<Cache>,
}

#[derive(Debug, Deserialize, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    #[default]
    #[serde(rename = "GET")]
    Get,
    #[serde(rename = "POST")]
    Post,
    /// That of the request.
    #[serde(rename = "request")]
    Request,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnUnavailable {
    #[default]
    Closed,
    Open,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Cache {
    pub(crate) key: Vec<KeyPart>,
    #[serde(default = "default_ttl")]
    pub(crate) ttl: Duration,
    #[serde(default)]
    pub(crate) refusals: Vec<u16>,
    #[serde(default = "default_space")]
    pub(crate) space: String,
    #[serde(default)]
    pub(crate) secret: String,
    /// What else of the config makes an answer another one. Filters of this plugin may share a space.
    #[serde(skip)]
    pub(crate) scope: String,
}

/// What an answer is kept by.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum KeyPart {
    Method,
    Host,
    Path,
    Query,
    Attribute(Attribute),
}

impl TryFrom<String> for KeyPart {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Ok(match &*text {
            "method" => KeyPart::Method,
            "host" => KeyPart::Host,
            "path" => KeyPart::Path,
            "query" => KeyPart::Query,
            other => KeyPart::Attribute(other.parse()?),
        })
    }
}

impl KeyPart {
    pub(crate) fn value(&self, request: &Request) -> Result<Option<String>, Error> {
        match self {
            KeyPart::Method => request.method().map(Some),
            KeyPart::Host => request.authority().map(Some),
            KeyPart::Path => request.path().map(Some),
            KeyPart::Query => request.query(),
            KeyPart::Attribute(attribute) => attribute.value(request),
        }
    }

    /// Whether it tells callers apart.
    pub(crate) fn is_of_caller(&self) -> bool {
        match self {
            KeyPart::Method | KeyPart::Host | KeyPart::Path | KeyPart::Query => false,
            KeyPart::Attribute(attribute) => !matches!(attribute, Attribute::Route | Attribute::Param(_)),
        }
    }

    /// Whether the request has several values of it: one could be checked here, and another one used by the upstream.
    pub(crate) fn is_repeated(&self, request: &Request) -> Result<bool, Error> {
        Ok(match self {
            KeyPart::Attribute(Attribute::Header(name)) => request.header_bytes(name)?.len() > 1,
            KeyPart::Attribute(Attribute::Cookie(name)) => {
                CredentialPlace::Cookie(name.clone()).values(request)?.len() > 1
            }
            KeyPart::Method | KeyPart::Host | KeyPart::Path | KeyPart::Query | KeyPart::Attribute(_) => false,
        })
    }

    fn header(&self) -> Option<&str> {
        match self {
            KeyPart::Method | KeyPart::Host | KeyPart::Path | KeyPart::Query => None,
            KeyPart::Attribute(attribute) => attribute.header(),
        }
    }
}

impl Config {
    /// Checks it, and makes all names lower-case.
    pub(crate) fn check(mut self) -> Result<Self, ConfigError> {
        let lists = [
            ("request_headers", &mut self.request_headers),
            ("upstream_headers", &mut self.upstream_headers),
            ("client_headers", &mut self.client_headers),
            ("refusal_headers", &mut self.refusal_headers),
        ];
        for (key, names) in lists {
            for (at, name) in names.iter_mut().enumerate() {
                name.make_ascii_lowercase();
                check_name(name).map_err(|why| ConfigError::new(format!("{key}[{at}]"), why))?;
            }
        }
        for (at, name) in self.upstream_headers.iter().enumerate() {
            let spellings = spellings(name).ok_or_else(|| {
                ConfigError::new(format!("upstream_headers[{at}]"), format!("`{name}` has more than 6 `-` or `_`"))
            })?;
            for spelling in spellings {
                if !self.stripped.contains(&spelling) {
                    self.stripped.push(spelling);
                }
            }
        }
        if let Some(name) = &mut self.consumer_header {
            name.make_ascii_lowercase();
            check_name(name).map_err(|why| ConfigError::new("consumer_header", why))?;
        }
        if self.known_consumers && self.consumer_header.is_none() {
            return Err(ConfigError::new("known_consumers", "needs `consumer_header`"));
        }
        self.origin()?;
        if self.timeout.as_millis() == 0 || self.timeout.as_millis() > 60_000 {
            return Err(ConfigError::new("timeout", "expected 1ms to 60s"));
        }
        if !(400..=599).contains(&self.status_on_unavailable) {
            return Err(ConfigError::new("status_on_unavailable", "expected 400 to 599"));
        }
        if let Some(ByteSize(bytes)) = self.body {
            if bytes == 0 || bytes > MAX_BODY {
                return Err(ConfigError::new("body", "expected 1B to 1MiB"));
            }
            if self.method == Method::Get {
                return Err(ConfigError::new("body", "a GET has no body: set `method` to `POST` or `request`"));
            }
            if self.cache.is_some() {
                return Err(ConfigError::new("cache", "answers that depend on a body are not kept: remove `body`"));
            }
        }
        if let Some(cache) = &mut self.cache {
            cache.check()?;
            cache.scope = format!(
                "{:?}",
                (
                    (&self.url, self.method, &self.request_headers),
                    (&self.upstream_headers, &self.client_headers, &self.refusal_headers, &self.consumer_header),
                    (&cache.key, &cache.refusals),
                )
            );
        }
        Ok(self)
    }

    /// The timeout as calls take it.
    pub(crate) fn timeout_ms(&self) -> u32 {
        u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX)
    }

    /// The grants that it needs.
    pub(crate) fn needs(&self) -> Result<Value, ConfigError> {
        let mut read: Vec<&str> = self.request_headers.iter().map(String::as_str).collect();
        let write = [&self.upstream_headers[..], &self.client_headers, &self.refusal_headers].concat();
        let mut needs = json!({ "write_headers": write, "consumers": self.known_consumers });
        match self.origin()? {
            Origin::Http(origin) => needs["http"] = json!([origin]),
            Origin::Upstream(name) => needs["upstreams"] = json!([name]),
        }
        if let Some(cache) = &self.cache {
            read.extend(cache.key.iter().filter_map(KeyPart::header));
            needs["kv"] = json!([cache.space]);
        }
        needs["read_headers"] = read.into();
        Ok(needs)
    }

    fn origin(&self) -> Result<Origin<'_>, ConfigError> {
        let wrong =
            || ConfigError::new("url", "expected a URL that begins with `http://`, `https://` or `upstream://`");
        let (scheme, rest) = self.url.split_once("://").ok_or_else(wrong)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let host = &rest[..end];
        // As the gateway will read it: what a parser of URLs would have to change is refused, so that the grant names what is called.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if host.is_empty()
            || !host.bytes().all(is_plain)
            || !self.url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
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

/// Where the service is.
enum Origin<'u> {
    Http(&'u str),
    Upstream(&'u str),
}

impl Cache {
    fn check(&self) -> Result<(), ConfigError> {
        if !self.key.iter().any(KeyPart::is_of_caller) {
            return Err(ConfigError::new(
                "cache.key",
                "expected a part that tells callers apart, such as `header:authorization`: without one, all get the first one's answer",
            ));
        }
        if self.ttl.as_millis() == 0 || self.ttl.as_millis() > 86_400_000 {
            return Err(ConfigError::new("cache.ttl", "expected 1ms to 1d"));
        }
        if let Some(at) = self.refusals.iter().position(|status| !(300..=499).contains(status)) {
            return Err(ConfigError::new(format!("cache.refusals[{at}]"), "expected 300 to 499"));
        }
        Ok(())
    }
}

/// Refuses fields that belong to the connection, and those that this filter or the gateway sets.
fn check_name(name: &str) -> Result<(), String> {
    const TAKEN: [&str; 13] = [
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "content-encoding",
        "expect",
        "forwarded",
        "cdn-loop",
    ];
    if !is_token(name) {
        return Err(format!("`{name}` is not a header name"));
    }
    if TAKEN.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("proxy-auth") {
        return Err(format!("`{name}` is of the connection or set by the gateway, and is not passed on"));
    }
    Ok(())
}

fn default_request_headers() -> Vec<String> {
    ["accept", "authorization", "cookie", "origin", "user-agent"].map(str::to_owned).into()
}

fn default_refusal_headers() -> Vec<String> {
    ["www-authenticate", "location", "content-type", "cache-control"].map(str::to_owned).into()
}

fn default_timeout() -> Duration {
    Duration(std::time::Duration::from_millis(400))
}

fn default_status() -> u16 {
    503
}

fn default_ttl() -> Duration {
    Duration::from_secs(10)
}

fn default_space() -> String {
    "forward-auth".to_owned()
}
