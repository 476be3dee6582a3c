//! Asks an external service whether a request may pass, as nginx's `auth_request` and Traefik's ForwardAuth do. See README.md.

mod answer;
mod config;

use sluice_filter::{
    HeaderEdit, Hook, bytes_to_text, consumers, http,
    http::{Field, Outgoing},
    prelude::*,
    shortened,
};

use answer::{Answer, Cached};
use config::{Config, Method, OnUnavailable};

/// Bytes of a consumer's name; a longer one is known by its hash.
const LONGEST_CONSUMER: usize = 1024;

pub(crate) struct ForwardAuth {
    config: Config,
}

impl Filter for ForwardAuth {
    type Config = Config;

    fn new(config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        let config = config.check()?;
        setup.needs(&config.needs()?)?;
        setup.hook(Hook::OnRequestBody, config.body.is_some())?;
        setup.hook(Hook::OnResponse, !config.client_headers.is_empty())?;
        Ok(Self { config })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            docs: Some(include_str!("../README.md")),
            authenticates: true,
            ..Describe::default()
        }
    }
}

impl OnRequest for ForwardAuth {
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        match self.config.body {
            Some(max) => {
                request.want_body(max.0)?;
                Ok(Verdict::Continue)
            }
            None => self.decide(request, Vec::new()),
        }
    }
}

impl OnRequestBody for ForwardAuth {
    fn on_request_body(&self, request: &Request) -> Result<Verdict, Error> {
        self.decide(request, request.body()?)
    }
}

impl OnResponse for ForwardAuth {
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        let fields: Option<Vec<(String, String)>> = state::get()?;
        for (name, value) in fields.unwrap_or_default() {
            response.append_header(&name, &value)?;
        }
        Ok(Verdict::Continue)
    }
}

impl ForwardAuth {
    fn decide(&self, request: &Request, body: Vec<u8>) -> Result<Verdict, Error> {
        let cached = match &self.config.cache {
            Some(cache) => Cached::find(cache, request, self.config.timeout_ms())?,
            None => Cached::Off,
        };
        let answer = match cached {
            Cached::Hit(answer) => answer,
            Cached::Undecided => return self.unavailable(request),
            cached @ (Cached::Off | Cached::Miss(_) | Cached::Late(_)) => {
                let asked = self.ask(request, body);
                match (cached, &self.config.cache, &asked) {
                    (Cached::Miss(key), Some(cache), asked) => answer::keep(cache, &key, asked.as_ref().ok())?,
                    (Cached::Late(key), Some(cache), Ok(answer)) => answer::keep_late(cache, &key, answer)?,
                    (_, _, _) => {}
                }
                match asked {
                    Ok(answer) => answer,
                    Err(error @ (Error::NotGranted(_) | Error::WrongHook | Error::Invalid(_))) => return Err(error),
                    Err(_) => return self.unavailable(request),
                }
            }
        };
        if answer.allows() { self.allow(request, &answer) } else { self.refuse(&answer) }
    }

    /// Asks the service. An answer of it that decides nothing (5xx) is an error.
    fn ask(&self, request: &Request, body: Vec<u8>) -> Result<Answer, Error> {
        let method = match self.config.method {
            Method::Get => "GET".to_owned(),
            Method::Post => "POST".to_owned(),
            Method::Request => request.method()?,
        };
        let mut headers = Vec::new();
        let mut add = |name: &str, value: String| headers.push(Field { name: name.to_owned(), value });
        // All values of a field: the service must not see another one than the upstream.
        for name in &self.config.request_headers {
            for value in request.header_bytes(name)? {
                add(name, bytes_to_text(value));
            }
        }
        if self.config.body.is_some() && !self.config.request_headers.iter().any(|name| name == "content-type") {
            for value in request.header_bytes("content-type")? {
                add("content-type", bytes_to_text(value));
            }
        }
        let target = match request.query()? {
            Some(query) => format!("{}?{query}", request.path()?),
            None => request.path()?,
        };
        add("x-forwarded-method", request.method()?);
        add("x-forwarded-proto", request.scheme()?);
        add("x-forwarded-host", request.authority()?);
        add("x-forwarded-uri", target);
        add("x-forwarded-for", request.client_address()?);
        let outgoing = Outgoing { method, url: self.config.url.clone(), headers, body };
        let incoming = http::send_one(outgoing, self.config.timeout_ms())?;
        Answer::of(incoming, &self.config).ok_or_else(|| Error::new("the service has not decided"))
    }

    /// Tells the upstream what the service has said. What the client has said in these fields is gone in any case.
    fn allow(&self, request: &Request, answer: &Answer) -> Result<Verdict, Error> {
        let mut edits: Vec<HeaderEdit> = self.config.stripped.iter().map(HeaderEdit::remove).collect();
        for name in &self.config.upstream_headers {
            edits.extend(answer.values(name).map(|value| HeaderEdit::append(name, value)));
        }
        let header = self.config.consumer_header.as_ref();
        let name = header.and_then(|header| answer.values(header).next()).filter(|name| !name.is_empty());
        if self.config.known_consumers {
            // An answer that names nobody names none of them.
            if !name.map_or(Ok(false), |name| consumers::vouch(name, "forward-auth"))? {
                let problem = Problem::new(403, "Forbidden").detail("the caller is not known here");
                return problem.draft().reason("consumer-unknown").header("cache-control", "no-store").send();
            }
        } else if let Some(name) = name {
            context::set_consumer(&shortened(name.to_owned(), LONGEST_CONSUMER)?)?;
        }
        let fields: Vec<_> = answer.fields(&self.config.client_headers).collect();
        if !fields.is_empty() {
            match state::set(&fields) {
                // The response would have no room for them, either.
                Err(Error::TooLarge(_)) => log::warn("the fields of client_headers are too large and left out"),
                set => set?,
            }
        }
        request.edit_headers(&edits)?;
        Ok(Verdict::Continue)
    }

    fn refuse(&self, answer: &Answer) -> Result<Verdict, Error> {
        let mut draft = Response::draft().status(answer.status).reason(&format!("refused:{}", answer.status));
        for (name, value) in answer.fields(&self.config.refusal_headers) {
            draft = draft.append_header(name, value);
        }
        if answer.values("cache-control").next().is_none()
            || !self.config.refusal_headers.iter().any(|name| name == "cache-control")
        {
            draft = draft.header("cache-control", "no-store");
        }
        draft.body(&answer.body).send()
    }

    fn unavailable(&self, request: &Request) -> Result<Verdict, Error> {
        match self.config.on_unavailable {
            OnUnavailable::Open => {
                let edits: Vec<HeaderEdit> = self.config.stripped.iter().map(HeaderEdit::remove).collect();
                request.edit_headers(&edits)?;
                Ok(Verdict::Continue)
            }
            OnUnavailable::Closed => {
                let problem = Problem::new(self.config.status_on_unavailable, "Not decided");
                let draft = problem.detail("it can't be found out now whether the request may pass").draft();
                draft.reason("auth-unavailable").header("cache-control", "no-store").send()
            }
        }
    }
}

sluice_filter::export!(ForwardAuth: OnRequest, OnRequestBody, OnResponse);

#[cfg(test)]
mod tests;
