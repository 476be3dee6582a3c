//! Admits callers with the user name and password of a consumer (RFC 7617). See README.md.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::json;
use sluice_filter::{Throttle, consumers, passwords, prelude::*};

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default = "default_realm")]
    realm: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    forward_credentials: bool,
    #[serde(default)]
    throttle: Throttle,
}

pub(crate) struct BasicAuth {
    challenge: String,
    optional: bool,
    forward_credentials: bool,
    throttle: Throttle,
}

impl Filter for BasicAuth {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        if !config.realm.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"\"\\".contains(&byte)) {
            return Err(ConfigError::new("realm", "expected visible ASCII without `\"` and `\\`"));
        }
        config.throttle.check("throttle")?;
        let written: &[&str] = if config.forward_credentials { &[] } else { &["authorization"] };
        setup.needs(&json!({ "consumers": true, "read_headers": ["authorization"], "write_headers": written }))?;
        // RFC 7617 §2.1: what clients may send beyond ASCII.
        let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", config.realm);
        let Config { optional, forward_credentials, throttle, .. } = config;
        Ok(Self { challenge, optional, forward_credentials, throttle })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            grants: Some(r#"{"consumers": true, "read_headers": ["authorization"]}"#),
            docs: Some(include_str!("../README.md")),
            authenticates: true,
        }
    }
}

/// What the `Authorization` field says.
enum Credentials {
    /// No such field, or one of another scheme.
    Missing,
    Malformed(&'static str),
    Pair {
        user: String,
        password: Vec<u8>,
    },
}

/// Clients leave the padding out, or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Credentials {
    fn of(request: &Request) -> Result<Credentials, Error> {
        let fields = request.header_bytes("authorization")?;
        let [field] = fields.as_slice() else {
            return Ok(match fields.len() {
                0 => Credentials::Missing,
                _ => Credentials::Malformed("more than one authorization header"),
            });
        };
        Ok(Credentials::parse(field))
    }

    fn parse(field: &[u8]) -> Credentials {
        let Some((scheme, rest)) = field.split_at_checked(5) else { return Credentials::Missing };
        if !scheme.eq_ignore_ascii_case(b"basic") || !(rest.is_empty() || rest.starts_with(b" ")) {
            return Credentials::Missing;
        }
        let Ok(pair) = BASE64.decode(rest.trim_ascii()) else {
            return Credentials::Malformed("the credentials are not base64");
        };
        // RFC 7617 §2: the first colon ends the name, and neither part has control characters.
        let Some(colon) = pair.iter().position(|byte| *byte == b':') else {
            return Credentials::Malformed("the credentials have no colon");
        };
        if pair.iter().any(u8::is_ascii_control) {
            return Credentials::Malformed("the credentials have control characters");
        }
        let (user, password) = pair.split_at(colon);
        match std::str::from_utf8(user) {
            Ok(user) => Credentials::Pair { user: user.to_owned(), password: password[1..].to_vec() },
            Err(_) => Credentials::Malformed("the user name is not UTF-8"),
        }
    }
}

impl OnRequest for BasicAuth {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        match self.decide(request) {
            Err(error @ (Error::Unavailable(_) | Error::Timeout)) => Throttle::undecided(&error),
            decided => decided,
        }
    }
}

impl BasicAuth {
    fn decide(&self, request: &Request) -> Result<Verdict, Error> {
        let (user, password) = match Credentials::of(request)? {
            Credentials::Missing if self.optional => {
                context::offer_challenge(&self.challenge)?;
                return Ok(Verdict::Continue);
            }
            Credentials::Missing => return self.refuse("credentials-missing", "a user name and a password are needed"),
            Credentials::Malformed(detail) => {
                let draft = Problem::new(400, "Bad Request").detail(detail).draft().reason("bad-authorization");
                return draft.header("cache-control", "no-store").send();
            }
            Credentials::Pair { user, password } => (user, password),
        };
        // Before the password is looked at in any way, so that the answer says nothing of it.
        if let Some(seconds) = self.throttle.refused(request, Some(&user))? {
            return Throttle::refuse(seconds);
        }
        if consumers::recall_password(&user, &password)?.is_none() {
            if let Some(seconds) = self.throttle.attempt(request, Some(&user))? {
                return Throttle::refuse(seconds);
            }
            match passwords::authenticate(&user, &password) {
                Ok(Some(_)) => {}
                Ok(None) => return self.refuse("credentials-wrong", "the user name or the password is wrong"),
                Err(Error::Unavailable(_) | Error::Timeout) => return busy(),
                Err(error) => return Err(error),
            }
        }
        if !self.forward_credentials {
            request.remove_header("authorization")?;
        }
        Ok(Verdict::Continue)
    }

    fn refuse(&self, reason: &str, detail: &str) -> Result<Verdict, Error> {
        let draft = Problem::new(401, "Unauthorized").detail(detail).draft().reason(reason);
        draft.header("www-authenticate", &self.challenge).header("cache-control", "no-store").send()
    }
}

fn busy() -> Result<Verdict, Error> {
    let problem = Problem::new(503, "Service Unavailable").detail("too many passwords wait to be verified");
    problem.draft().reason("passwords-busy").header("retry-after", "1").header("cache-control", "no-store").send()
}

fn default_realm() -> String {
    "api".to_owned()
}

sluice_filter::export!(BasicAuth: OnRequest);

#[cfg(test)]
mod tests;
