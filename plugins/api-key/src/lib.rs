//! Admits callers with an API key of a consumer. See README.md.

use serde_json::json;
use sluice_filter::{CredentialPlace, Hook, Throttle, consumers, prelude::*};

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default = "default_places")]
    places: Vec<CredentialPlace>,
    #[serde(default = "default_realm")]
    realm: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    forward_key: bool,
    #[serde(default)]
    throttle: Option<Throttle>,
}

pub(crate) struct ApiKey {
    places: Vec<CredentialPlace>,
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
        if !config.realm.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"\"\\".contains(&byte)) {
            return Err(ConfigError::new("realm", "expected visible ASCII without `\"` and `\\`"));
        }
        if let Some(throttle) = &config.throttle {
            throttle.check("throttle")?;
        }
        let in_url = config.places.iter().any(|place| matches!(place, CredentialPlace::Query(_)));
        setup.hook(Hook::OnResponse, in_url)?;
        let headers: Vec<&str> = config.places.iter().filter_map(CredentialPlace::header).collect();
        let written = if config.forward_key { Vec::new() } else { headers.clone() };
        setup.needs(&json!({ "consumers": true, "read_headers": headers, "write_headers": written }))?;
        let challenge = format!("ApiKey realm=\"{}\"", config.realm);
        let Config { places, optional, forward_key, throttle, .. } = config;
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

impl OnRequest for ApiKey {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        match self.decide(request) {
            Err(error @ (Error::Unavailable(_) | Error::Timeout)) => Throttle::undecided(&error),
            decided => decided,
        }
    }
}

impl ApiKey {
    fn decide(&self, request: &Request) -> Result<Verdict, Error> {
        if let Some(throttle) = &self.throttle
            && let Some(seconds) = throttle.refused(request, None)?
        {
            return Throttle::refuse(seconds);
        }
        let mut keys = Vec::new();
        for place in &self.places {
            let found = place.values(request)?;
            // What is forwarded to the upstream, and logged there, is nobody's key.
            if !self.forward_key {
                if found.is_empty() { place.remove_from_referer(request)? } else { place.remove(request)? }
            }
            if matches!(place, CredentialPlace::Query(_)) && !found.is_empty() {
                state::set_bytes(b"in-url")?;
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

    fn refuse(&self, reason: &str, detail: &str) -> Result<Verdict, Error> {
        let draft = Problem::new(401, "Unauthorized").detail(detail).draft().reason(reason);
        draft.header("www-authenticate", &self.challenge).header("cache-control", "no-store").send()
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

fn default_places() -> Vec<CredentialPlace> {
    vec![CredentialPlace::Header("x-api-key".to_owned())]
}

fn default_realm() -> String {
    "api".to_owned()
}

sluice_filter::export!(ApiKey: OnRequest, OnResponse);

#[cfg(test)]
mod tests;
