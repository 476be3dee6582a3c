//! What a config names of a request: `ip`, `header:x-tenant`, `claim:org.id`. One type for all filters, so that a name means the same
//! everywhere, and a value that is there always has a text: one that can't be read never counts as absent.

use std::collections::HashSet;
use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

use crate::{Error, Request, config::is_token, context, cookies, crypto};

/// The context key of the claims of the caller's token.
const CLAIMS: &str = "auth.claims";
/// Names on the way to a claim.
const DEEPEST: usize = 16;

/// A value of the request, by its name in a config: `ip`, `consumer`, `route`, `header:NAME`, `cookie:NAME`, `param:NAME`,
/// `claim:NAME`, or `{ claim = ["NAME", "MEMBER"] }`.
///
/// ```
/// use sluice_filter::{Attribute, ClaimPath};
///
/// assert_eq!("header:X-Tenant".parse(), Ok(Attribute::Header("x-tenant".to_owned())));
/// let config = r#"{ "claim": ["https://example.com/org", "id"] }"#;
/// let path = ClaimPath::new(["https://example.com/org", "id"]).expect("names");
/// assert_eq!(sluice_filter::serde_json::from_str::<Attribute>(config).expect("a claim"), Attribute::Claim(path));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attribute {
    /// The address of the client.
    Ip,
    /// The authenticated caller.
    Consumer,
    /// The name of the route.
    Route,
    /// A request header: its first value.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A `{param}` of the route's path.
    Param(String),
    /// A claim of the caller's token, from the context `auth.claims`.
    Claim(ClaimPath),
}

impl Attribute {
    /// The attribute of a kind (`header`) and, where there are many of the kind, a name.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn named(kind: &str, name: Option<&str>) -> Result<Self, String> {
        let token = |name: &str, what: &str| match is_token(name) {
            true => Ok(name.to_owned()),
            false => Err(format!("`{name}` is not a {what} name")),
        };
        match (kind, name) {
            ("ip", None) => Ok(Self::Ip),
            ("consumer", None) => Ok(Self::Consumer),
            ("route", None) => Ok(Self::Route),
            ("header", Some(name)) if name.eq_ignore_ascii_case("host") => {
                Err("no filter sees the field `host`".to_owned())
            }
            ("header", Some(name)) => Ok(Self::Header(token(name, "header")?.to_ascii_lowercase())),
            ("cookie", Some(name)) => Ok(Self::Cookie(token(name, "cookie")?)),
            ("param", Some(name)) if !name.is_empty() => Ok(Self::Param(name.to_owned())),
            ("claim", Some(path)) => path.parse().map(Self::Claim),
            _ => Err("expected `ip`, `consumer`, `route`, `header:NAME`, `cookie:NAME`, `param:NAME` or `claim:NAME`"
                .to_owned()),
        }
    }

    /// Its value as text; none when the request does not have it. Each value has one text, and different values have different
    /// ones, with these exceptions: a header or cookie that is not UTF-8 has the form of [`bytes_to_text`], and [`context::canonical`] says
    /// which numbers can't be told apart.
    ///
    /// # Errors
    /// `WrongHook` outside an exchange.
    pub fn value(&self, request: &Request) -> Result<Option<String>, Error> {
        match self {
            Self::Ip => request.client_address().map(Some),
            Self::Consumer => context::consumer(),
            Self::Route => request.route().name().map(Some),
            Self::Header(name) => request.header_text(name),
            Self::Cookie(name) => request.cookie(name),
            Self::Param(name) => request.route().param(name),
            Self::Claim(path) => path.value(),
        }
    }

    /// All its values, each once; none when the request does not have it. Only a header and a cookie can have several: whoever sends one decides
    /// how many, and which of them the upstream takes is not known here. Their texts are those of [`Attribute::value`].
    ///
    /// # Errors
    /// `WrongHook` outside an exchange.
    pub fn values(&self, request: &Request) -> Result<Vec<String>, Error> {
        let mut found: Vec<String> = match self {
            Self::Header(name) => request.header_bytes(name)?.into_iter().map(bytes_to_text).collect(),
            Self::Cookie(name) => {
                let lines = request.header_bytes("cookie")?;
                let values = lines.iter().flat_map(|line| cookies::values(line, name));
                values.map(|value| bytes_to_text(value.to_vec())).collect()
            }
            Self::Ip | Self::Consumer | Self::Route | Self::Param(_) | Self::Claim(_) => {
                return Ok(self.value(request)?.into_iter().collect());
            }
        };
        if let [_, _, ..] = found[..] {
            let mut seen = HashSet::new();
            found.retain(|value| seen.insert(value.clone()));
        }
        Ok(found)
    }

    /// The header that has to be granted for it.
    #[must_use]
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Header(name) => Some(name),
            Self::Cookie(_) => Some("cookie"),
            Self::Ip | Self::Consumer | Self::Route | Self::Param(_) | Self::Claim(_) => None,
        }
    }

    /// Whether a request has it only behind a filter that authenticates.
    #[must_use]
    pub fn needs_authentication(&self) -> bool {
        matches!(self, Self::Consumer | Self::Claim(_))
    }
}

impl std::str::FromStr for Attribute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name)));
        Self::named(kind, name)
            .map_err(|why| if why.starts_with("expected `ip`") { format!("unknown key `{text}`, {why}") } else { why })
    }
}

impl<'de> Deserialize<'de> for Attribute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl<'de> Visitor<'de> for Named {
            type Value = Attribute;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key such as \"ip\" or \"header:x-tenant\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Attribute, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attribute, A::Error> {
                let alone = || de::Error::custom("expected one key, `claim`, with a list of names");
                match map.next_entry::<String, ClaimPath>()? {
                    Some((key, path)) if key == "claim" && map.next_key::<String>()?.is_none() => {
                        Ok(Attribute::Claim(path))
                    }
                    _ => Err(alone()),
                }
            }
        }
        deserializer.deserialize_any(Named)
    }
}

/// The way to a claim, as a config writes it:
///
/// - a text: the claim of this name, `https://example.com/tenant`; if there is none and the name has dots, the member behind them,
///   `realm_access.roles`. With two dots and more, each way to take the last of them as parts of one name is tried, longest first.
/// - a list of names from the outside in, `["https://example.com/org", "id"]`, which leaves no doubt. Where only a text fits, the list is
///   written as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath {
    text: String,
    /// What it can mean, in the order in which it is looked up.
    ways: Vec<Vec<String>>,
}

impl ClaimPath {
    /// The path through these names.
    ///
    /// # Errors
    /// Says what is wrong with the names.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let way: Vec<String> = names.into_iter().map(Into::into).collect();
        if way.is_empty() || way.len() > DEEPEST || way.iter().any(String::is_empty) {
            return Err(format!("expected a list of 1 to {DEEPEST} names"));
        }
        let text = if let [name] = &way[..] { name.clone() } else { serde_json::Value::from(way.clone()).to_string() };
        Ok(Self { text, ways: vec![way] })
    }

    /// What it can mean, in the order in which it is looked up: lists of names from the outside in.
    pub fn ways(&self) -> impl Iterator<Item = &[String]> {
        self.ways.iter().map(Vec::as_slice)
    }

    /// As the config has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The value of the claim as [`context::canonical`] has it; none when the token has no such claim, or it is `null`.
    ///
    /// # Errors
    /// `WrongHook` outside an exchange.
    pub fn value(&self) -> Result<Option<String>, Error> {
        for way in &self.ways {
            if let Some(value) = context::part(CLAIMS, way)? {
                return Ok(Some(context::canonical(value)));
            }
        }
        Ok(None)
    }
}

impl std::str::FromStr for ClaimPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('[') {
            let names: Vec<String> =
                serde_json::from_str(text).map_err(|_| format!("`{text}` is not a JSON list of names"))?;
            return Self::new(names);
        }
        if text.is_empty() {
            return Err("expected the name of a claim".to_owned());
        }
        let mut ways = vec![vec![text.to_owned()]];
        let (mut begun, mut rest) = (Vec::new(), text);
        while let Some((name, behind)) = rest.split_once('.') {
            // A part without letters is none: such a text is a name, or nothing.
            if name.is_empty() || behind.is_empty() || begun.len() + 2 > DEEPEST {
                break;
            }
            begun.push(name.to_owned());
            ways.push(begun.iter().cloned().chain([behind.to_owned()]).collect());
            rest = behind;
        }
        Ok(Self { text: text.to_owned(), ways })
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ClaimPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Path;
        impl<'de> Visitor<'de> for Path {
            type Value = ClaimPath;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a claim, or a list of names")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ClaimPath, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ClaimPath, A::Error> {
                let mut names: Vec<String> = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                ClaimPath::new(names).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Path)
    }
}

/// The bytes as text: themselves where they are UTF-8, and otherwise with `%XX` for each `%` and each byte that is not printable ASCII.
#[must_use]
pub fn bytes_to_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        error.as_bytes().iter().fold(String::new(), |mut out, byte| {
            match byte {
                b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
            out
        })
    })
}

/// A value that may be long as one that is not: over `longest` bytes, `sha256:` and its SHA-256 in hexadecimal. For keys and names whose
/// length whoever sends them must not decide; a consumer and a key of the limiter have at most 1,024 bytes.
///
/// # Errors
/// `TooLarge` past 1 MiB, `WrongHook` in `configure`.
pub fn shortened(value: String, longest: usize) -> Result<String, Error> {
    if value.len() <= longest {
        return Ok(value);
    }
    let mut out = "sha256:".to_owned();
    for byte in crypto::hash("sha-256", value.as_bytes())? {
        out.push_str(&format!("{byte:02x}"));
    }
    Ok(out)
}

/// What counts as one caller of an address (as [`Request::client_address`] has it): an IPv6 caller has a whole /64 to call from, and an IPv4
/// address that is written as one of IPv6 is that address.
#[must_use]
pub fn network(address: String) -> String {
    match address.parse::<std::net::Ipv6Addr>() {
        Ok(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.to_string(),
            None => {
                let [a, b, c, d, ..] = v6.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        },
        Err(_) => address,
    }
}

/// The name of a header with `-` and `_` at all places that have either, in lower case: upstreams that read headers as CGI variables (RFC 3875
/// §4.1.18) take all of them for one. A filter that vouches for a header removes each. None for a name with more than 6 such places.
#[must_use]
pub fn spellings(name: &str) -> Option<Vec<String>> {
    const MOST: usize = 6;
    let is_either = |letter: char| matches!(letter, '-' | '_');
    if name.matches(is_either).count() > MOST {
        return None;
    }
    Some(name.to_ascii_lowercase().chars().fold(vec![String::new()], |begun, letter| {
        let letters: &[char] = if is_either(letter) { &['-', '_'] } else { &[letter] };
        begun.iter().flat_map(|begin| letters.iter().map(move |letter| format!("{begin}{letter}"))).collect()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_one() {
        let of = |address: &str| network(address.to_owned());
        assert_eq!(of("2001:db8:0:1:2::3"), of("2001:db8:0:1::9"));
        assert_ne!(of("2001:db8:0:1::3"), of("2001:db8:0:2::3"));
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("unix:"), "unix:");
    }

    #[test]
    fn all_that_cgi_takes_for_one_name() {
        assert_eq!(spellings("X-User_id").unwrap(), ["x-user-id", "x-user_id", "x_user-id", "x_user_id"]);
        assert_eq!(spellings("a-b-c-d-e-f-g").map(|all| all.len()), Some(64));
        assert_eq!(spellings("a-b-c-d-e-f-g-h"), None);
    }

    #[test]
    fn a_claim_is_looked_up_by_its_whole_name_first() {
        let ways = |text: &str| -> Vec<Vec<String>> { text.parse::<ClaimPath>().unwrap().ways };
        assert_eq!(ways("sub"), [["sub"]]);
        assert_eq!(ways("a.b.c"), [vec!["a.b.c"], vec!["a", "b.c"], vec!["a", "b", "c"]]);
        let tenant = "https://example.com/tenant";
        assert_eq!(ways(tenant), [vec![tenant], vec!["https://example", "com/tenant"]]);
        assert_eq!(ways(r#"["https://example.com/org", "id"]"#), [["https://example.com/org", "id"]]);
        assert_eq!(
            (ways(".a"), ways("a..b")),
            (vec![vec![".a".to_owned()]], vec![vec!["a..b".into()], vec!["a".into(), ".b".into()]])
        );
        for wrong in ["", "[]", "[1]", r#"[""]"#, "[a]"] {
            assert!(wrong.parse::<ClaimPath>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_attributes() {
        let refused = |text: &str| text.parse::<Attribute>().unwrap_err();
        assert_eq!("cookie:ab".parse(), Ok(Attribute::Cookie("ab".into())));
        assert!(refused("adress").starts_with("unknown key `adress`, expected `ip`"));
        assert!(refused("ip:x").starts_with("unknown key `ip:x`"));
        assert_eq!(refused("header:a b"), "`a b` is not a header name");
        assert_eq!(refused("header:Host"), "no filter sees the field `host`");
        assert_eq!(refused("claim:"), "expected the name of a claim");
        let read = |json: &str| serde_json::from_str::<Attribute>(json).map_err(|error| error.to_string());
        assert_eq!(read(r#"{"claim": ["a", "b"]}"#), Ok(Attribute::Claim(ClaimPath::new(["a", "b"]).unwrap())));
        assert!(read(r#"{"claim": []}"#).is_err_and(|why| why.starts_with("expected a list of 1 to 16 names")));
        assert!(read(r#"{"header": ["a"]}"#).is_err_and(|why| why.starts_with("expected one key, `claim`")));
    }

    #[test]
    fn bytes_that_are_not_utf_8_have_a_text() {
        for (bytes, expected) in [("a%é".as_bytes(), "a%é"), (b"caf\xe9 50%", "caf%E9 50%25"), (b"\xff\t", "%FF%09")]
        {
            assert_eq!(bytes_to_text(bytes.to_vec()), expected);
        }
    }
}
