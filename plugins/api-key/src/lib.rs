//! Admits callers with an API key of a consumer. See README.md.

mod query;

use serde_json::json;
use sluice_filter::{Hook, Throttle, consumers, is_token, prelude::*};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default = "default_places")]
    places: Vec<String>,
    #[serde(default = "default_realm")]
    realm: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    forward_key: bool,
    #[serde(default)]
    throttle: Option<Throttle>,
}

/// Where a key may be.
enum Place {
    Header(String),
    Query(String),
    Cookie(String),
}

pub(crate) struct ApiKey {
    places: Vec<Place>,
    challenge: String,
    optional: bool,
    forward_key: bool,
    throttle: Option<Throttle>,
}

impl Filter for ApiKey {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        if config.places.is_empty() {
            return Err(ConfigError::new("places", "expected at least one place, such as `header:x-api-key`"));
        }
        let place = |(at, text): (usize, &String)| {
            Place::parse(text).map_err(|why| ConfigError::new(format!("places[{at}]"), why))
        };
        let places: Vec<Place> = config.places.iter().enumerate().map(place).collect::<Result<_, _>>()?;
        if !config.realm.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"\"\\".contains(&byte)) {
            return Err(ConfigError::new("realm", "expected visible ASCII without `\"` and `\\`"));
        }
        if let Some(throttle) = &config.throttle {
            throttle.check("throttle")?;
        }
        setup.hook(Hook::OnResponse, places.iter().any(Place::is_in_url))?;
        let headers: Vec<&str> = places.iter().filter_map(Place::header).collect();
        let written = if config.forward_key { Vec::new() } else { headers.clone() };
        setup.needs(&json!({ "consumers": true, "read_headers": headers, "write_headers": written }))?;
        let challenge = format!("ApiKey realm=\"{}\"", config.realm);
        let Config { optional, forward_key, throttle, .. } = config;
        Ok(Self { places, challenge, optional, forward_key, throttle })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            grants: Some(r#"{"consumers": true}"#),
            docs: Some(include_str!("../README.md")),
            authenticates: true,
        }
    }
}

impl Place {
    fn parse(text: &str) -> Result<Place, String> {
        match text.split_once(':') {
            Some(("header", name)) if is_token(name) && !name.eq_ignore_ascii_case("host") => {
                Ok(Place::Header(name.to_ascii_lowercase()))
            }
            Some(("query", name)) if !name.is_empty() => Ok(Place::Query(name.to_owned())),
            Some(("cookie", name)) if is_token(name) => Ok(Place::Cookie(name.to_owned())),
            _ => Err("expected `header:NAME`, `query:NAME` or `cookie:NAME`".to_owned()),
        }
    }

    fn is_in_url(&self) -> bool {
        matches!(self, Place::Query(_))
    }

    /// The header that it is in.
    fn header(&self) -> Option<&str> {
        match self {
            Place::Header(name) => Some(name),
            Place::Cookie(_) => Some("cookie"),
            Place::Query(_) => None,
        }
    }

    /// The keys that are there. One that is not UTF-8 is nobody's, but it is one.
    fn keys(&self, request: &Request) -> Result<Vec<String>, Error> {
        match self {
            Place::Header(name) => Ok(request
                .header_bytes(name)?
                .into_iter()
                .map(|value| String::from_utf8_lossy(&value).into_owned())
                .collect()),
            Place::Query(name) => Ok(query::values(request.query()?.as_deref().unwrap_or_default(), name)),
            Place::Cookie(name) => {
                let lines = request.header_bytes("cookie")?;
                let values = lines.iter().flat_map(|line| cookies(line, name));
                Ok(values.map(|value| String::from_utf8_lossy(value).into_owned()).collect())
            }
        }
    }

    /// Takes the keys out of the request.
    fn clean(&self, request: &Request) -> Result<(), Error> {
        match self {
            Place::Header(name) => request.remove_header(name),
            Place::Query(name) => match request.query()? {
                Some(query) if query::has(&query, name) => request.set_query(query::without(&query, name).as_deref()),
                Some(_) | None => Ok(()),
            },
            Place::Cookie(name) => {
                let lines = request.header_bytes("cookie")?;
                let kept: Vec<Vec<u8>> = lines.iter().map(|line| without_cookie(line, name)).collect();
                if kept == lines {
                    return Ok(());
                }
                let kept: Vec<&[u8]> = kept.iter().map(Vec::as_slice).filter(|line| !line.is_empty()).collect();
                request.remove_header("cookie")?;
                // One field has them all (RFC 6265 §5.4).
                if kept.is_empty() { Ok(()) } else { request.set_header_bytes("cookie", &kept.join(&b"; "[..])) }
            }
        }
    }
}

/// Takes the key out of what a page sends on that was loaded with it in its URL: the upstream would log it.
fn clean_referer(request: &Request, name: &str) -> Result<(), Error> {
    let fields = request.header_bytes("referer")?;
    let parts = |field: &[u8]| {
        String::from_utf8_lossy(field).split_once('?').map(|(page, query)| (page.to_owned(), query.to_owned()))
    };
    let mut pages = fields.iter().filter_map(|field| parts(field)).filter(|(_, query)| query::has(query, name));
    let Some((page, query)) = pages.next() else { return Ok(()) };
    // RFC 9110 §10.1.3: one URL without a fragment. What is none goes as a whole.
    if fields.len() > 1 || !page.bytes().all(|byte| byte.is_ascii_graphic()) {
        return request.remove_header("referer");
    }
    match query::without(&query, name) {
        Some(rest) => request.set_header("referer", &format!("{page}?{rest}")),
        None => request.set_header("referer", &page),
    }
}

/// The values of the cookies of this name.
fn cookies<'l>(line: &'l [u8], name: &str) -> impl Iterator<Item = &'l [u8]> {
    let pairs = line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    pairs.filter_map(move |pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The pairs of a `Cookie` field but for those of this name.
fn without_cookie(line: &[u8], name: &str) -> Vec<u8> {
    let is_it = |pair: &[u8]| pair.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
    let pairs: Vec<&[u8]> = line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).collect();
    if !pairs.iter().any(|pair| is_it(pair)) {
        return line.to_vec();
    }
    pairs.into_iter().filter(|pair| !is_it(pair)).collect::<Vec<_>>().join(&b"; "[..])
}

impl OnRequest for ApiKey {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        if let Some(throttle) = &self.throttle
            && let Some(seconds) = throttle.refused(request, None)?
        {
            return Throttle::refuse(seconds);
        }
        let mut keys = Vec::new();
        for place in &self.places {
            let found = place.keys(request)?;
            // What is forwarded to the upstream, and logged there, is nobody's key.
            if !found.is_empty() && !self.forward_key {
                place.clean(request)?;
            }
            if let Place::Query(name) = place {
                if !self.forward_key {
                    clean_referer(request, name)?;
                }
                if !found.is_empty() {
                    state::set_bytes(b"in-url")?;
                }
            }
            keys.extend(found);
        }
        let key = match keys.as_slice() {
            [] if self.optional => {
                context::offer_challenge(&self.challenge)?;
                return Ok(Verdict::Continue);
            }
            [] => return self.refuse("key-missing", "an API key is needed"),
            [first, others @ ..] if others.iter().all(|other| other == first) => first,
            // One of them may be checked here, and another one behind the gateway.
            _ => {
                let problem = Problem::new(400, "Bad Request").detail("the request has several API keys");
                return problem.draft().reason("several-keys").header("cache-control", "no-store").send();
            }
        };
        if !key.is_empty() && consumers::authenticate("key", key)?.is_some() {
            return Ok(Verdict::Continue);
        }
        if let Some(throttle) = &self.throttle
            && let Some(seconds) = throttle.attempt(request, None)?
        {
            return Throttle::refuse(seconds);
        }
        self.refuse("key-unknown", "the API key is not valid")
    }
}

/// A page whose URL has a key must not tell that URL to others (W3C Referrer Policy §3.1).
impl OnResponse for ApiKey {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        if state::get_bytes()?.is_some() {
            response.set_header("referrer-policy", "no-referrer")?;
        }
        Ok(Verdict::Continue)
    }
}

impl ApiKey {
    fn refuse(&self, reason: &str, detail: &str) -> Result<Verdict, Error> {
        let draft = Problem::new(401, "Unauthorized").detail(detail).draft().reason(reason);
        draft.header("www-authenticate", &self.challenge).header("cache-control", "no-store").send()
    }
}

fn default_places() -> Vec<String> {
    vec!["header:x-api-key".to_owned()]
}

fn default_realm() -> String {
    "api".to_owned()
}

sluice_filter::export!(ApiKey: OnRequest, OnResponse);

#[cfg(test)]
mod tests;
