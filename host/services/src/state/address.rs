//! The address of a server as it is written in the configuration.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::{Host, Url};

const DEFAULT_PORT: u16 = 6379;

/// One server, Sentinel or node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    Tcp { host: Box<str>, port: u16, tls: bool },
    Unix(PathBuf),
}

/// Why a text is no address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAddress(&'static str);

impl FromStr for ServerAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(ServerAddress::Unix(path)),
                false => Err(BadAddress("the path of a socket begins with `/`")),
            };
        }
        let url =
            Url::parse(text).map_err(|_| BadAddress("expected redis://HOST:PORT, rediss://HOST:PORT or unix:/PATH"))?;
        let tls = match url.scheme() {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(BadAddress("expected redis://, rediss:// (with TLS) or unix:")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadAddress("credentials belong to the keys `username` and `password`"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(BadAddress(
                "expected nothing behind the port; the number of a database belongs to the key `database`",
            ));
        }
        let host: Box<str> = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_ascii_lowercase().into(),
            Some(Host::Ipv4(address)) => address.to_string().into(),
            Some(Host::Ipv6(address)) => address.to_string().into(),
            Some(Host::Domain(_)) | None => return Err(BadAddress("it has no host")),
        };
        Ok(ServerAddress::Tcp { host, port: url.port().unwrap_or(DEFAULT_PORT), tls })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Tcp { host, port, tls } => {
                let scheme = if *tls { "rediss" } else { "redis" };
                match host.contains(':') {
                    true => write!(f, "{scheme}://[{host}]:{port}"),
                    false => write!(f, "{scheme}://{host}:{port}"),
                }
            }
            ServerAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("redis://10.0.0.5:6380", "redis://10.0.0.5:6380"),
            ("redis://cache", "redis://cache:6379"),
            ("valkey://cache/", "redis://cache:6379"),
            ("rediss://Cache.Example:7000", "rediss://cache.example:7000"),
            ("redis://[::1]:6379", "redis://[::1]:6379"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock"),
        ] {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "",
            "10.0.0.5:6379",
            "http://a",
            "redis://",
            "redis://u:p@a",
            "redis://a/1",
            "redis://a?x=1",
            "unix:redis.sock",
        ] {
            text.parse::<ServerAddress>().unwrap_err();
        }
    }
}
