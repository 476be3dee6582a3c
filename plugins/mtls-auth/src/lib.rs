//! Admits callers with the client certificate of a consumer. The listener has verified it. See README.md.

use serde_json::json;
use sluice_filter::{ClientCertificate, consumers, prelude::*};

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "default_by")]
    by: Vec<Property>,
    #[serde(default)]
    optional: bool,
}

/// What of a certificate is looked up.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "lowercase")]
enum Property {
    Sha256,
    Uri,
    Dns,
    Email,
    Ip,
    Subject,
}

struct MtlsAuth {
    by: Vec<Property>,
    optional: bool,
}

impl Filter for MtlsAuth {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        if config.by.is_empty() {
            return Err(ConfigError::new(
                "by",
                "expected at least one of `sha256`, `uri`, `dns`, `email`, `ip`, `subject`",
            ));
        }
        setup.needs(&json!({ "consumers": true }))?;
        Ok(Self { by: config.by, optional: config.optional })
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

impl Property {
    /// The kind of credential, and what the certificate has of it.
    fn of(self, certificate: &ClientCertificate) -> (&'static str, &[String]) {
        match self {
            Property::Sha256 => ("sha256", std::slice::from_ref(&certificate.sha256)),
            Property::Uri => ("uri", &certificate.uris),
            Property::Dns => ("dns", &certificate.dns_names),
            Property::Email => ("email", &certificate.emails),
            Property::Ip => ("ip", &certificate.ip_addresses),
            Property::Subject => ("subject", std::slice::from_ref(&certificate.subject)),
        }
    }
}

impl OnRequest for MtlsAuth {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        let certificate = match request.client_certificate()? {
            Some(certificate) => certificate,
            None if self.optional => {
                context::offer_challenge(CHALLENGE)?;
                return Ok(Verdict::Continue);
            }
            None => return refuse("certificate-missing", "a client certificate is needed"),
        };
        for property in &self.by {
            let (kind, values) = property.of(&certificate);
            for value in values.iter().filter(|value| !value.is_empty()) {
                if consumers::authenticate(kind, value)?.is_some() {
                    return Ok(Verdict::Continue);
                }
            }
        }
        refuse("certificate-unknown", "the client certificate is nobody's")
    }
}

/// No scheme of HTTP is for certificates, but a 401 has to name one (RFC 9110 §11.6.1).
const CHALLENGE: &str = "ClientCertificate";

fn refuse(reason: &str, detail: &str) -> Result<Verdict, Error> {
    let draft = Problem::new(401, "Unauthorized").detail(detail).draft().reason(reason);
    draft.header("www-authenticate", CHALLENGE).header("cache-control", "no-store").send()
}

fn default_by() -> Vec<Property> {
    vec![Property::Sha256, Property::Uri, Property::Dns, Property::Email, Property::Ip, Property::Subject]
}

sluice_filter::export!(MtlsAuth: OnRequest);

#[cfg(test)]
mod tests;
