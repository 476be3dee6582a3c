//! Masks, removes or hashes what may not leave: members of JSON by pointers, and texts by patterns. See README.md.

mod config;
mod detect;
mod edit;
mod json;
mod pattern;
mod pointer;
mod rules;
mod window;

use serde_json::json;
use sluice_filter::{Chunk, Event, Hook, crypto, metrics, prelude::*};

use config::{Config, Message, NotJson};
use edit::Edits;
use rules::Rules;
use window::Window;

pub(crate) struct Redact {
    rules: Rules,
    not_json: NotJson,
    hash_key: Vec<u8>,
    is_of_responses: bool,
    /// Media types of responses that are redacted while they stream.
    streamed: Vec<String>,
}

/// With these a client asks for a part of a representation, which the rules can't be applied to.
const RANGES: [&str; 2] = ["range", "if-range"];
/// What is said of the bytes of a body, and is no longer true of others: digests (RFC 9530, RFC 3230, RFC 1864), ranges (RFC 9110 §14) and,
/// if it is strong, the validator (§8.8.3).
const STALE: [&str; 7] =
    ["content-digest", "repr-digest", "digest", "content-md5", "content-range", "accept-ranges", "etag"];
/// What is said of the age of a representation and how long it may be stored, beside `cache-control` (RFC 9111 §5, RFC 9213).
const OF_STORING: [&str; 5] = ["age", "cdn-cache-control", "expires", "last-modified", "surrogate-control"];
/// The most that the gateway digests at a time.
const DIGESTED: usize = 1 << 20;

/// What both messages have.
trait Body {
    /// Whether it comes from the client.
    const IS_REQUEST: bool;
    fn bytes(&self, name: &str) -> Result<Vec<Vec<u8>>, Error>;
    fn remove(&self, name: &str) -> Result<(), Error>;
    fn body(&self) -> Result<Vec<u8>, Error>;
    fn set_body(&self, body: &[u8]) -> Result<(), Error>;
}

macro_rules! body {
    ($type:ty, $is_request:literal) => {
        impl Body for $type {
            const IS_REQUEST: bool = $is_request;
            fn bytes(&self, name: &str) -> Result<Vec<Vec<u8>>, Error> {
                self.header_bytes(name)
            }
            fn remove(&self, name: &str) -> Result<(), Error> {
                self.remove_header(name)
            }
            fn body(&self) -> Result<Vec<u8>, Error> {
                self.body()
            }
            fn set_body(&self, body: &[u8]) -> Result<(), Error> {
                self.set_body(body)
            }
        }
    };
}

body!(Request, true);
body!(Response, false);

impl Filter for Redact {
    type Config = Config;

    fn new(mut config: Config, setup: &mut Setup) -> Result<Self, ConfigError> {
        let rules = config.rules()?;
        let is_of = |message| config.messages.contains(&message);
        let mut types: Vec<&str> = config.json.iter().map(String::as_str).collect();
        if types.is_empty() {
            return Err(ConfigError::new("json", "expected at least one media type"));
        }
        if is_of(Message::Request) {
            setup.request_body(config.max_body.0, &types)?;
        } else {
            setup.hook(Hook::OnRequestBody, false)?;
        }
        if is_of(Message::Response) {
            // This one may have parts of these types.
            types.push("multipart/byteranges");
            setup.response_body(config.max_body.0, &types)?;
        } else {
            setup.hook(Hook::OnRequest, false)?;
            setup.hook(Hook::OnResponseBody, false)?;
        }
        let is_of_responses = is_of(Message::Response);
        let texts: Vec<&str> = config.text.iter().map(String::as_str).collect();
        // Pointers lead nowhere in a text.
        let has_texts = !texts.is_empty() && !rules.patterns.is_empty();
        if has_texts && is_of(Message::Request) {
            setup.request_chunks(&texts)?;
        } else {
            setup.hook(Hook::OnRequestChunk, false)?;
        }
        let mut streamed = Vec::new();
        if has_texts && is_of_responses {
            setup.response_chunks(&texts)?;
            streamed.append(&mut config.text);
        } else {
            setup.hook(Hook::OnResponseChunk, false)?;
        }
        if !config.events.is_empty() && is_of_responses {
            let events: Vec<&str> = config.events.iter().map(String::as_str).collect();
            setup.response_events(&events)?;
            streamed.append(&mut config.events);
        } else {
            setup.hook(Hook::OnResponseEvent, false)?;
        }
        if streamed.is_empty() {
            setup.hook(Hook::OnResponse, false)?;
        }
        let mut changed = STALE.to_vec();
        if is_of_responses {
            changed.extend(RANGES);
        }
        setup.needs(&json!({ "write_headers": changed }))?;
        let hash_key = config.hash_key.unwrap_or_default().into_bytes();
        Ok(Self { rules, not_json: config.not_json, hash_key, is_of_responses, streamed })
    }

    fn describe() -> Describe {
        Describe {
            schema: Some(include_str!("../schema.json")),
            docs: Some(include_str!("../README.md")),
            ..Describe::default()
        }
    }
}

impl OnRequest for Redact {
    /// Upstreams answer with the whole then (RFC 9110 §14.2), and no client gets a part that the rules have not seen.
    fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
        if self.is_of_responses {
            remove(request, &RANGES)?;
        }
        Ok(Verdict::Continue)
    }
}

impl OnRequestBody for Redact {
    fn on_request_body(&self, request: &Request) -> Result<Verdict, Error> {
        self.redact(request)
    }
}

impl OnResponseBody for Redact {
    fn on_response_body(&self, response: &Response) -> Result<Verdict, Error> {
        if response.status()? == 206 {
            return refuse(response, Refusal::UnaskedPart);
        }
        self.redact(response)
    }
}

impl OnResponse for Redact {
    /// What streams has no head any more that could say that it is refused.
    fn on_response(&self, response: &Response) -> Result<Verdict, Error> {
        if response.status()? != 206 {
            return Ok(Verdict::Continue);
        }
        let of = response.header_text("content-type")?.unwrap_or_default();
        match self.streamed.iter().any(|pattern| is_of_type(pattern, &of)) {
            true => refuse(response, Refusal::UnaskedPart),
            false => Ok(Verdict::Continue),
        }
    }
}

impl OnRequestChunk for Redact {
    fn on_request_chunk(&self, chunk: &Chunk) -> Result<(), Error> {
        self.redact_chunk(chunk)
    }
}

impl OnResponseChunk for Redact {
    fn on_response_chunk(&self, chunk: &Chunk) -> Result<(), Error> {
        self.redact_chunk(chunk)
    }
}

impl OnResponseEvent for Redact {
    fn on_response_event(&self, event: &Event) -> Result<(), Error> {
        let Some(data) = event.data()? else {
            // A comment, or data that is no text.
            return match self.not_json == NotJson::Pass || str::from_utf8(&event.bytes()?).is_ok() {
                true => Ok(()),
                false => self.drop_event(event),
            };
        };
        let edits = match json::find(data.as_bytes(), &self.rules) {
            Ok(edits) => edits,
            // An event without data, and how streams of language models end.
            Err(json::NotJson) if data.is_empty() || data == "[DONE]" => return Ok(()),
            Err(json::NotJson) if !self.rules.pointers.is_empty() && self.not_json == NotJson::Refuse => {
                return self.drop_event(event);
            }
            Err(json::NotJson) => Window::default().push(&self.rules, data.as_bytes(), true).1,
        };
        if edits.list.is_empty() {
            return Ok(());
        }
        let redacted = self.apply(data.as_bytes(), &edits)?;
        event.set_data(&String::from_utf8(redacted).map_err(|_| Error::new("the data is no text any more"))?)
    }
}

/// Why a message goes no further.
#[derive(Clone, Copy)]
enum Refusal {
    NotJson,
    UnaskedPart,
    TooLarge,
}

impl Refusal {
    fn reason(self) -> &'static str {
        match self {
            Refusal::NotJson => "body-not-json",
            Refusal::UnaskedPart => "unasked-part",
            Refusal::TooLarge => "body-too-large",
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Refusal::NotJson => "the body is not valid JSON",
            Refusal::UnaskedPart => "the upstream sent a part of a representation without being asked for one",
            Refusal::TooLarge => "the body is too large with what is redacted in it",
        }
    }
}

impl Redact {
    /// Redacts what is decided of a text, and keeps the rest back.
    fn redact_chunk(&self, chunk: &Chunk) -> Result<(), Error> {
        let mut window = state::get_bytes()?.and_then(|bytes| Window::from_bytes(&bytes)).unwrap_or_default();
        let text = chunk.bytes()?;
        let (decided, edits) = window.push(&self.rules, &text, chunk.is_last()?);
        if !edits.list.is_empty() {
            chunk.replace(self.apply(&text[..decided], &edits)?)?;
        }
        if decided < text.len() {
            chunk.hold((text.len() - decided) as u64)?;
        }
        state::set_bytes(&window.to_bytes())
    }

    /// Leaves an event out that can't be redacted: the others may go on.
    fn drop_event(&self, event: &Event) -> Result<(), Error> {
        metrics::count("not_json_total", &[], 1)?;
        event.replace([])
    }

    /// Redacts a whole JSON document.
    fn redact(&self, message: &impl Body) -> Result<Verdict, Error> {
        let body = message.body()?;
        if body.is_empty() {
            return Ok(Verdict::Continue);
        }
        let Ok(edits) = json::find(&body, &self.rules) else {
            metrics::count("not_json_total", &[], 1)?;
            return match self.not_json {
                NotJson::Pass => Ok(Verdict::Continue),
                NotJson::Refuse => refuse(message, Refusal::NotJson),
            };
        };
        if edits.list.is_empty() {
            return Ok(Verdict::Continue);
        }
        let redacted = self.apply(&body, &edits)?;
        let [stale @ .., etag] = &STALE;
        remove(message, stale)?;
        if !message.bytes(etag)?.iter().all(|value| value.starts_with(b"W/")) {
            remove(message, &[etag])?;
        }
        match message.set_body(&redacted) {
            Err(Error::TooLarge(_)) => refuse(message, Refusal::TooLarge),
            set => set.map(|()| Verdict::Continue),
        }
    }

    /// The text with its edits, which are counted.
    fn apply(&self, text: &[u8], edits: &Edits) -> Result<Vec<u8>, Error> {
        for (rule, count) in edits.counts() {
            metrics::count("redacted_total", &[("rule", &self.rules.list[rule].0)], count)?;
        }
        edits.apply(text, |edit| self.rules.replacement(edit, |subject| self.digest(subject)))
    }

    /// A digest that only who has the key can make, so that short values can't be found by trying all of them.
    fn digest(&self, subject: &[u8]) -> Result<String, Error> {
        let digest = match subject.len() <= DIGESTED {
            true => crypto::hmac("sha-256", &self.hash_key, subject)?,
            false => {
                let parts = subject.chunks(DIGESTED).map(|part| crypto::hmac("sha-256", &self.hash_key, part));
                crypto::hmac("sha-256", &self.hash_key, &parts.collect::<Result<Vec<_>, _>>()?.concat())?
            }
        };
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The answer in place of a message that can't be redacted.
fn refuse<M: Body>(message: &M, refusal: Refusal) -> Result<Verdict, Error> {
    let problem = match (M::IS_REQUEST, refusal) {
        (true, Refusal::TooLarge) => Problem::new(413, "Content Too Large"),
        (true, Refusal::NotJson | Refusal::UnaskedPart) => Problem::new(400, "Bad Request"),
        (false, Refusal::NotJson | Refusal::UnaskedPart | Refusal::TooLarge) => {
            // The answer keeps the other fields of the response: what is said of its bytes, and how long it may be stored, is not true of it.
            remove(message, &STALE)?;
            remove(message, &OF_STORING)?;
            Problem::new(502, "Bad Gateway")
        }
    };
    problem.detail(refusal.detail()).draft().reason(refusal.reason()).header("cache-control", "no-store").send()
}

/// Whether a content type is of a type as the config has them: `text/plain`, `text/*`, `*/*+json`.
fn is_of_type(pattern: &str, content_type: &str) -> bool {
    let parts = |of: &str| {
        let essence = of.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence.split_once('/').map(|(kind, sub)| (kind.to_owned(), sub.to_owned()))
    };
    let (Some((kind, sub)), Some((wanted_kind, wanted_sub))) = (parts(content_type), parts(pattern)) else {
        return false;
    };
    (wanted_kind == "*" || wanted_kind == kind)
        && match wanted_sub.strip_prefix('*') {
            Some(suffix) => sub.ends_with(suffix),
            None => sub == wanted_sub,
        }
}

/// Removes what is there of these fields, as far as the filter may see and set them.
fn remove(message: &impl Body, names: &[&str]) -> Result<(), Error> {
    for name in names {
        if !message.bytes(name)?.is_empty() {
            match message.remove(name) {
                // The gateway has warned of the missing grant when it loaded the filter.
                Err(Error::NotGranted(_)) => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

sluice_filter::export!(
    Redact: OnRequest,
    OnRequestBody,
    OnRequestChunk,
    OnResponse,
    OnResponseBody,
    OnResponseChunk,
    OnResponseEvent
);

#[cfg(test)]
mod tests;
