//! Asks the server about a token (RFC 7662 §2).

use base64::{Engine, engine::general_purpose::STANDARD};
use sluice_filter::{
    Claims, http,
    http::{Field, Outgoing},
    prelude::*,
    secrets,
};

use super::config::{ClientAuth, Config};

/// The most bytes of an answer: it goes into the context.
const LARGEST_ANSWER: usize = 32 << 10;

const TOO_LARGE: &str = "its answer is too large";

/// What the server has said of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is good; the answer itself, whose members are its claims.
    Active(String),
    Inactive,
}

/// Why there is no answer that decides; never with the token.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server is away, or says that it can't answer now.
    Away(String),
    /// It has answered, and says nothing clear of this token. Another one may be answered well.
    Unclear(String),
    /// Nothing that a later call could mend.
    Wrong(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Wrong(error)
    }
}

/// Asks.
pub(crate) fn ask(config: &Config, token: &str) -> Result<Answer, Failure> {
    let secret = secrets::get(&config.client_secret)?;
    let mut form = format!("token={}&token_type_hint=access_token", encoded(token));
    let mut headers =
        vec![field("content-type", "application/x-www-form-urlencoded"), field("accept", "application/json")];
    match config.client_auth {
        ClientAuth::ClientSecretBasic => {
            // RFC 6749 §2.3.1: each is encoded as a form is, before they are put together.
            let pair = format!("{}:{}", encoded(&config.client_id), encoded(&secret));
            headers.push(field("authorization", &format!("Basic {}", STANDARD.encode(pair))));
        }
        ClientAuth::ClientSecretPost => {
            form += &format!("&client_id={}&client_secret={}", encoded(&config.client_id), encoded(&secret));
        }
        ClientAuth::Bearer => headers.push(field("authorization", &format!("Bearer {secret}"))),
    }
    let request = Outgoing { method: "POST".to_owned(), url: config.url.clone(), headers, body: form.into_bytes() };
    let incoming = match http::send_one(request, config.timeout_ms()) {
        Ok(incoming) => incoming,
        Err(error @ (Error::NotGranted(_) | Error::WrongHook | Error::Invalid(_))) => return Err(error.into()),
        Err(Error::TooLarge(_)) => return Err(Failure::Unclear(TOO_LARGE.to_owned())),
        Err(error) => return Err(Failure::Away(error.to_string())),
    };
    match incoming.status {
        200 => read(incoming.body).map_err(|why| Failure::Unclear(why.to_owned())),
        status @ (429 | 500..) => Err(Failure::Away(format!("it answers {status}"))),
        status => Err(Failure::Unclear(format!("it answers {status}"))),
    }
}

/// Reads an answer (RFC 7662 §2.2). One that says nothing clear is none: it makes no token good, and none bad.
fn read(body: Vec<u8>) -> Result<Answer, &'static str> {
    if body.len() > LARGEST_ANSWER {
        return Err(TOO_LARGE);
    }
    let text = String::from_utf8(body).map_err(|_| "its answer is not UTF-8")?;
    let claims = Claims::parse(&text)
        .ok_or("its answer is no JSON object, is nested too deep, or has a member twice or too many")?;
    let is_active = claims.boolean("active").ok_or("its answer does not say whether the token is active")?;
    drop(claims);
    Ok(if is_active { Answer::Active(text) } else { Answer::Inactive })
}

fn field(name: &str, value: &str) -> Field {
    Field { name: name.to_owned(), value: value.to_owned() }
}

/// As forms are encoded (WHATWG URL §5.2).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}
