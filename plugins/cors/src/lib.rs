//! Cross-origin resource sharing (the Fetch standard, "CORS protocol"): answers preflights and marks responses. See README.md.

mod origin;

use sluice_filter::{Draft, Duration, is_token, prelude::*};

use origin::Origins;

#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(deny_unknown_fields)]
struct Config {
    origins: Origins,
    #[serde(default = "default_methods")]
    methods: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    expose: Vec<String>,
    #[serde(default)]
    credentials: bool,
    #[serde(default = "default_max_age")]
    max_age: Duration,
    #[serde(default)]
    private_network: bool,
}

/// What a response may grant to another origin.
const FIELDS: [&str; 7] = [
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-expose-headers",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-allow-private-network",
    "access-control-max-age",
];

struct Cors {
    origins: Origins,
    /// `None`: any.
    methods: Option<Vec<String>>,
    allow_methods: String,
    /// `None`: any.
    headers: Option<Vec<String>>,
    allow_headers: String,
    expose: String,
    credentials: bool,
    max_age: String,
    private_network: bool,
}

impl Filter for Cors {
    type Config = Config;

    fn new(config: Config, _: &mut Setup) -> Result<Self, ConfigError> {
        // The Fetch standard: with credentials `*` is a literal in these fields, and any site could act as the user.
        if config.credentials && config.origins.any() {
            return Err(ConfigError::new("credentials", "can't be used with the origin `*`: name the origins"));
        }
        if config.credentials && config.expose.iter().any(|name| name == "*") {
            return Err(ConfigError::new("expose", "`*` has no meaning with credentials: name the headers"));
        }
        for (key, names) in [("methods", &config.methods), ("headers", &config.headers), ("expose", &config.expose)] {
            if let Some(i) = names.iter().position(|name| !is_token(name)) {
                return Err(ConfigError::new(format!("{key}[{i}]"), format!("`{}` is not a name", names[i])));
            }
        }
        let listed = |names: &[String]| (!names.iter().any(|name| name == "*")).then(|| names.to_vec());
        Ok(Self {
            methods: listed(&config.methods),
            allow_methods: config.methods.join(", "),
            headers: listed(&config.headers),
            allow_headers: config.headers.join(", "),
            expose: config.expose.join(", "),
            origins: config.origins,
            credentials: config.credentials,
            max_age: config.max_age.as_secs().to_string(),
            private_network: config.private_network,
        })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            docs: Some(include_str!("../README.md")),
            ..Describe::default()
        }
    }
}

impl OnRequest for Cors {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        let Some(origin) = request.header_text("origin")? else { return Ok(Verdict::Continue) };
        if request.method()? != "OPTIONS" {
            return Ok(Verdict::Continue);
        }
        let Some(method) = request.header_text("access-control-request-method")? else { return Ok(Verdict::Continue) };
        let asked = request.header_text("access-control-request-headers")?;
        let private = self.private_network
            && request.header("access-control-request-private-network")?.as_deref() == Some("true");
        self.preflight(&origin, &method, asked.as_deref(), private)
    }
}

impl OnResponse for Cors {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        // Caches must not hand one origin's answer to another, nor an answer without the fields to either.
        if !self.origins.any() {
            add_vary(response, "origin")?;
        }
        let origin = response.request().header_text("origin")?;
        let allowed = match &origin {
            // An answer for everybody is the same for everybody: a cache may give it to a script later.
            _ if self.origins.any() => "*",
            None => return Ok(Verdict::Continue),
            Some(origin) if self.origins.allow(origin) => origin,
            Some(_) => {
                // The upstream's own fields would speak for the gateway.
                return FIELDS.iter().try_for_each(|name| response.remove_header(name)).map(|()| Verdict::Continue);
            }
        };
        response.set_header("access-control-allow-origin", allowed)?;
        if self.credentials {
            response.set_header("access-control-allow-credentials", "true")?;
        } else {
            response.remove_header("access-control-allow-credentials")?;
        }
        if !self.expose.is_empty() {
            response.set_header("access-control-expose-headers", &self.expose)?;
        }
        Ok(Verdict::Continue)
    }
}

impl Cors {
    /// A preflight that is not allowed gets an answer without the fields, which the browser takes for a no.
    fn preflight(&self, origin: &str, method: &str, asked: Option<&str>, private: bool) -> Result<Verdict, Error> {
        let vary = "origin, access-control-request-method, access-control-request-headers";
        let draft: Draft = Response::draft().status(204).header("vary", vary);
        let asked_names = || asked.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
        // The methods that need no leave (the Fetch standard, "CORS-safelisted method") always have it.
        let method_allowed = ["GET", "HEAD", "POST"].contains(&method)
            || self.methods.as_ref().is_none_or(|methods| methods.iter().any(|one| one == method));
        let headers_allowed = match &self.headers {
            None => asked_names().all(is_token),
            Some(headers) => asked_names().all(|name| headers.iter().any(|one| one.eq_ignore_ascii_case(name))),
        };
        let refusal = match (self.origins.allow(origin), method_allowed && is_token(method), headers_allowed) {
            (false, ..) => Some("origin-not-allowed"),
            (_, false, _) => Some("method-not-allowed"),
            (.., false) => Some("header-not-allowed"),
            (true, true, true) => None,
        };
        if let Some(reason) = refusal {
            return draft.reason(reason).send();
        }
        let mut draft = draft.header("access-control-allow-origin", if self.origins.any() { "*" } else { origin });
        if self.credentials {
            draft = draft.header("access-control-allow-credentials", "true");
        }
        // `*` does not cover `authorization`, nor anything with credentials: what was asked for is named instead.
        draft = draft
            .header("access-control-allow-methods", if self.methods.is_some() { &self.allow_methods } else { method });
        let allow_headers = if self.headers.is_some() { &self.allow_headers } else { asked.unwrap_or_default() };
        if !allow_headers.is_empty() {
            draft = draft.header("access-control-allow-headers", allow_headers);
        }
        if private {
            draft = draft.header("access-control-allow-private-network", "true");
        }
        draft.header("access-control-max-age", &self.max_age).send()
    }
}

fn add_vary(response: &Response, name: &str) -> Result<(), Error> {
    let present = response.header_values("vary")?;
    let mut names = present.iter().flat_map(|line| line.split(',')).map(str::trim);
    if names.any(|one| one == "*" || one.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    response.append_header("vary", name)
}

fn default_methods() -> Vec<String> {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].map(str::to_owned).into()
}

fn default_max_age() -> Duration {
    Duration::from_secs(600)
}

sluice_filter::export!(Cors: OnRequest, OnResponse);

#[cfg(test)]
mod tests;
