//! The messages of an exchange in memory.

use crate::{ClientCertificate, Source};

/// Header fields in order, with lower-case names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub(crate) Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value, if it is there and is UTF-8.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).and_then(|(_, value)| str::from_utf8(value).ok())
    }

    /// Whether there is a value, UTF-8 or not.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
    }

    /// All values that are UTF-8.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .filter_map(|(_, value)| str::from_utf8(value).ok())
            .collect()
    }

    /// Sets one value in place of all.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove(name);
        self.append(name, value);
    }

    /// Adds a value.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.0.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
    }

    /// Removes all values.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// Takes away what is said of the bytes of a body, as the gateway does when a filter replaces it.
    pub(crate) fn forget_bytes(&mut self, is_response: bool) {
        for name in ["content-encoding", "content-digest", "repr-digest", "digest", "content-md5"] {
            self.remove(name);
        }
        if !is_response {
            return;
        }
        self.remove("accept-ranges");
        if let Some(strong) = self.get("etag").filter(|tag| !tag.starts_with("W/")).map(str::to_owned) {
            match strong.starts_with('"') {
                true => self.set("etag", format!("W/{strong}")),
                false => self.remove("etag"),
            }
        }
    }
}

/// A request in memory.
#[derive(Debug, Clone)]
pub struct RequestMessage {
    /// The method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// The host, with the port if there was one.
    pub authority: String,
    /// The path without the query.
    pub path: String,
    /// The query without `?`.
    pub query: Option<String>,
    /// `HTTP/1.1` until set.
    pub protocol: String,
    /// `192.0.2.1` until set.
    pub client_address: String,
    /// None until set.
    pub client_certificate: Option<ClientCertificate>,
    /// The request id.
    pub id: String,
    /// The header fields.
    pub headers: Headers,
    /// The decoded body.
    pub body: Vec<u8>,
    /// Whether a filter has called `want_body`.
    pub wanted_body: bool,
}

impl RequestMessage {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        Self {
            method: method.to_owned(),
            scheme: "http".to_owned(),
            authority: "localhost".to_owned(),
            path: path.to_owned(),
            query,
            protocol: "HTTP/1.1".to_owned(),
            client_address: "192.0.2.1".to_owned(),
            client_certificate: None,
            id: "test-request".to_owned(),
            headers: Headers::default(),
            body: Vec::new(),
            wanted_body: false,
        }
    }
}

/// A response in memory.
#[derive(Debug, Clone)]
pub struct ResponseMessage {
    /// Who made it.
    pub origin: Source,
    /// The status.
    pub status: u16,
    /// The header fields.
    pub headers: Headers,
    /// The decoded body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Headers,
    /// Whether a filter has called `want_body`.
    pub wanted_body: bool,
    /// Why it is given, if a filter has said so.
    pub reason: Option<String>,
    /// What the cache of the route has done; none where the route has no cache.
    pub cache_status: Option<String>,
}

impl ResponseMessage {
    /// A response from the upstream.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { origin: Source::Upstream, status, ..Self::draft() }
    }

    pub(crate) fn draft() -> Self {
        Self {
            origin: Source::Filter,
            status: 200,
            headers: Headers::default(),
            body: Vec::new(),
            trailers: Headers::default(),
            wanted_body: false,
            reason: None,
            cache_status: None,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Sets the body and its content type.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        self.headers.set("content-type", content_type);
        self.body = body.as_ref().to_vec();
        self
    }
}
