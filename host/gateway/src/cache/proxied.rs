//! What trusted proxies in front of the gateway say of the target of a request. The upstream gets it and makes links and redirects of it, so
//! it is part of the key: the host that the gateway sees may be the same for several sites, and a proxy may pass on what its client says.

use http::HeaderMap;
use http::header::HeaderName;

use crate::http::forwarded::forwarded_targets;

const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Fields with a scheme.
const SCHEME: [HeaderName; 2] =
    [HeaderName::from_static("x-forwarded-proto"), HeaderName::from_static("x-forwarded-scheme")];

/// The parts of a key that come of such fields, with their names. What says no more than the request itself adds nothing, so that clients with and without a
/// proxy in between share responses. `host` has the form of a [`super::Place`].
pub fn key_parts(headers: &HeaderMap, scheme: &str, host: &str) -> Vec<(Box<str>, Box<str>)> {
    let port = if scheme == "https" { "443" } else { "80" };
    let is_host = |said: &str| {
        let without_port = said.strip_suffix(port).and_then(|said| said.strip_suffix(':'));
        without_port.unwrap_or(said).eq_ignore_ascii_case(host)
    };
    let mut parts = Vec::new();
    let mut add = |name: &HeaderName, is_known: &dyn Fn(&str) -> bool| {
        for line in headers.get_all(name) {
            if !line.to_str().is_ok_and(is_known) {
                // No filter can name a part so.
                parts.push((format!(":{name}").into(), line.as_bytes().escape_ascii().to_string().into()));
            }
        }
    };
    add(&HOST, &is_host);
    add(&PORT, &|said| said == port);
    add(&PREFIX, &|_| false);
    for name in &SCHEME {
        add(name, &|said| said.eq_ignore_ascii_case(scheme));
    }
    for (said_host, said_scheme) in forwarded_targets(headers) {
        let known_host = said_host.as_deref().is_none_or(is_host);
        let known_scheme = said_scheme.as_deref().is_none_or(|said| said.eq_ignore_ascii_case(scheme));
        if !known_host || !known_scheme {
            let text = format!("{};{}", said_host.unwrap_or_default(), said_scheme.unwrap_or_default());
            parts.push((":forwarded".into(), text.into()));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_proxies_say_of_the_target() {
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let table: [(Fields, &[&str]); 15] = [
            (&[], &[]),
            (&[("x-forwarded-host", "a.example"), ("x-forwarded-proto", "https"), ("x-forwarded-port", "443")], &[]),
            (&[("x-forwarded-host", "A.example:443")], &[]),
            (&[("x-forwarded-host", "evil.example")], &[":x-forwarded-host evil.example"]),
            (&[("x-forwarded-host", "a.example:80")], &[":x-forwarded-host a.example:80"]),
            (&[("x-forwarded-host", "evil, a.example")], &[":x-forwarded-host evil, a.example"]),
            (&[("x-forwarded-host", "a.example"), ("x-forwarded-host", "evil")], &[":x-forwarded-host evil"]),
            (&[("x-forwarded-prefix", "/shop")], &[":x-forwarded-prefix /shop"]),
            (&[("x-forwarded-port", "8443")], &[":x-forwarded-port 8443"]),
            (&[("x-forwarded-proto", "http")], &[":x-forwarded-proto http"]),
            (&[("x-forwarded-scheme", "nothttps")], &[":x-forwarded-scheme nothttps"]),
            // It says who asks, which no response depends on that is for all.
            (&[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1;host=a.example;proto=https")], &[]),
            (&[("forwarded", "for=192.0.2.1;host=evil, host=a.example")], &[":forwarded evil;"]),
            (&[("forwarded", "proto=http;host=a.example")], &[":forwarded a.example;http"]),
            (&[("forwarded", "host=\"evil")], &[":forwarded host=\\\"evil;"]),
        ];
        for (fields, expected) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let parts = key_parts(&headers, "https", "a.example");
            let parts: Vec<_> = parts.iter().map(|(name, value)| format!("{name} {value}")).collect();
            assert_eq!(parts, expected, "{fields:?}");
        }
    }
}
