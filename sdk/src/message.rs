//! The request and the response of the current exchange: handles without content, whose methods are host calls.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::bindings::sluice::filter::{
    response::Source,
    types::{HeaderChange, HeaderEdit, Verdict},
};
use crate::{Error, Route, bindings::sluice::filter::types::Field, cookies, host};

/// How much of a body one host call moves.
const CHUNK: u64 = 16 << 20;

impl HeaderEdit {
    /// Sets a header to one value, in place of all it had.
    pub fn set(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), change: HeaderChange::Set(value.into()) }
    }

    /// Adds a value to a header.
    pub fn append(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), change: HeaderChange::Append(value.into()) }
    }

    /// Removes all values of a header.
    pub fn remove(name: impl Into<String>) -> Self {
        Self { name: name.into(), change: HeaderChange::Remove }
    }
}

macro_rules! headers {
    ($message:ident) => {
        /// The first value of a header, if it is there and the filter may see it.
        ///
        /// # Errors
        /// `WrongHook` where there is no such message.
        pub fn header(&self, name: &str) -> Result<Option<String>, Error> {
            Ok(host::$message::header(name)?)
        }

        /// As [`Self::header`], and where no value is UTF-8, the first one in the form of [`crate::bytes_to_text`]: a header that the client has sent is
        /// never taken for one that it has not.
        ///
        /// # Errors
        /// `WrongHook` where there is no such message.
        pub fn header_text(&self, name: &str) -> Result<Option<String>, Error> {
            match self.header(name)? {
                Some(value) => Ok(Some(value)),
                None => Ok(self.header_bytes(name)?.into_iter().next().map(crate::bytes_to_text)),
            }
        }

        /// All values of a header that are UTF-8, in order.
        ///
        /// # Errors
        /// `WrongHook` where there is no such message.
        pub fn header_values(&self, name: &str) -> Result<Vec<String>, Error> {
            Ok(host::$message::header_values(name)?)
        }

        /// All values of a header, also those that are not UTF-8.
        ///
        /// # Errors
        /// `WrongHook` where there is no such message.
        pub fn header_bytes(&self, name: &str) -> Result<Vec<Vec<u8>>, Error> {
            Ok(host::$message::header_bytes(name)?)
        }

        /// All headers that the filter may see, with lower-case names.
        ///
        /// # Errors
        /// `WrongHook` where there is no such message.
        pub fn headers(&self) -> Result<Vec<(String, String)>, Error> {
            Ok(host::$message::headers()?.into_iter().map(pair).collect())
        }

        /// Sets a header to one value, in place of all it had.
        ///
        /// # Errors
        /// `NotGranted`, or `Invalid` for a field that frames the message or a malformed name or value.
        pub fn set_header(&self, name: &str, value: &str) -> Result<(), Error> {
            Ok(host::$message::set_header(name, value)?)
        }

        /// The same, for a value that is not UTF-8.
        ///
        /// # Errors
        /// As [`Self::set_header`].
        pub fn set_header_bytes(&self, name: &str, value: &[u8]) -> Result<(), Error> {
            Ok(host::$message::set_header_bytes(name, value)?)
        }

        /// Adds a value to a header.
        ///
        /// # Errors
        /// As [`Self::set_header`].
        pub fn append_header(&self, name: &str, value: &str) -> Result<(), Error> {
            Ok(host::$message::append_header(name, value)?)
        }

        /// Removes all values of a header; not an error when there is none.
        ///
        /// # Errors
        /// `NotGranted` or `WrongHook`.
        pub fn remove_header(&self, name: &str) -> Result<(), Error> {
            Ok(host::$message::remove_header(name)?)
        }

        /// Makes these changes in their order, or none when one is refused. Cheaper than a call for each.
        ///
        /// # Errors
        /// As [`Self::set_header`].
        pub fn edit_headers(&self, edits: &[HeaderEdit]) -> Result<(), Error> {
            Ok(match edits {
                [] => {}
                // One is cheaper without the list.
                [HeaderEdit { name, change: HeaderChange::Set(value) }] => host::$message::set_header(name, value)?,
                [HeaderEdit { name, change: HeaderChange::Append(value) }] => {
                    host::$message::append_header(name, value)?
                }
                [HeaderEdit { name, change: HeaderChange::Remove }] => host::$message::remove_header(name)?,
                _ => host::$message::edit_headers(edits)?,
            })
        }

        /// Asks for the body of this message: the body hook is then called, unless the body is over `max_bytes` or the
        /// operator's `limits.body`.
        ///
        /// # Errors
        /// `WrongHook` outside the head hooks, `NotGranted` where the filter may not see bodies, `Invalid` without the body hook.
        pub fn want_body(&self, max_bytes: u64) -> Result<(), Error> {
            Ok(host::$message::want_body(max_bytes)?)
        }

        /// The whole body, decoded (in the body hook).
        ///
        /// # Errors
        /// `WrongHook` outside the body hook.
        pub fn body(&self) -> Result<Vec<u8>, Error> {
            let length = host::$message::body_length()?;
            let mut body = host::$message::body(0, length.min(CHUNK))?;
            while (body.len() as u64) < length {
                let more = host::$message::body(body.len() as u64, CHUNK)?;
                if more.is_empty() {
                    break;
                }
                body.extend_from_slice(&more);
            }
            Ok(body)
        }

        /// Replaces the body.
        ///
        /// # Errors
        /// `WrongHook` where the body can't be replaced, `TooLarge` over the operator's limit.
        pub fn set_body(&self, body: impl AsRef<[u8]>) -> Result<(), Error> {
            Ok(host::$message::set_body(body.as_ref())?)
        }
    };
}

fn pair(field: Field) -> (String, String) {
    (field.name, field.value)
}

/// The request of the current exchange.
#[derive(Debug)]
pub struct Request(pub(crate) ());

impl Request {
    headers!(request);

    /// The method, such as `GET`.
    ///
    /// # Errors
    /// `WrongHook` outside an exchange, as for all reads below.
    pub fn method(&self) -> Result<String, Error> {
        Ok(host::request::method()?)
    }

    /// Sets the method.
    ///
    /// # Errors
    /// `Invalid` unless it is a token other than `CONNECT`.
    pub fn set_method(&self, method: &str) -> Result<(), Error> {
        Ok(host::request::set_method(method)?)
    }

    /// `http` or `https`.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn scheme(&self) -> Result<String, Error> {
        Ok(host::request::scheme()?)
    }

    /// The host the client asked for, with the port if it gave one.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn authority(&self) -> Result<String, Error> {
        Ok(host::request::authority()?)
    }

    /// The path without the query.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn path(&self) -> Result<String, Error> {
        Ok(host::request::path()?)
    }

    /// Sets the path.
    ///
    /// # Errors
    /// `Invalid` unless it starts with `/` and has only path characters.
    pub fn set_path(&self, path: &str) -> Result<(), Error> {
        Ok(host::request::set_path(path)?)
    }

    /// The query without `?`.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn query(&self) -> Result<Option<String>, Error> {
        Ok(host::request::query()?)
    }

    /// Sets or removes the query.
    ///
    /// # Errors
    /// `Invalid` for characters that a query can't have.
    pub fn set_query(&self, query: Option<&str>) -> Result<(), Error> {
        Ok(host::request::set_query(query)?)
    }

    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn protocol(&self) -> Result<String, Error> {
        Ok(host::request::protocol()?)
    }

    /// The address of the client; `unix:` where it came over a Unix socket.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn client_address(&self) -> Result<String, Error> {
        Ok(host::request::client_address()?)
    }

    /// The certificate that the client has shown and the listener has verified.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn client_certificate(&self) -> Result<Option<ClientCertificate>, Error> {
        let Some(text) = host::request::client_certificate()? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Error::new(format_args!("the client's certificate: {error}")))
    }

    /// The request id, as in the access log.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn id(&self) -> Result<String, Error> {
        Ok(host::request::id()?)
    }

    /// The value of the first cookie of this name, without the blanks around it, or in the form of [`crate::bytes_to_text`] where it is not UTF-8. Needs the grant
    /// `read_headers = ["cookie"]`.
    ///
    /// # Errors
    /// `WrongHook`.
    pub fn cookie(&self, name: &str) -> Result<Option<String>, Error> {
        let lines = self.header_bytes("cookie")?;
        let value = lines.iter().find_map(|line| cookies::values(line, name).next());
        Ok(value.map(|value| crate::bytes_to_text(value.to_vec())))
    }

    /// The route that serves the request.
    #[must_use]
    pub fn route(&self) -> &Route {
        &Route(())
    }
}

/// A certificate that a client has shown (mutual TLS).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ClientCertificate {
    /// The subject, such as `CN=alice,O=Acme` (RFC 4514).
    pub subject: String,
    /// The issuer, in the same form.
    pub issuer: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// The SHA-256 of the certificate in hexadecimal.
    pub sha256: String,
    /// The start of its validity, in seconds since the Unix epoch.
    pub not_before: i64,
    /// The end of its validity, in seconds since the Unix epoch.
    pub not_after: i64,
    /// The DNS names of the subject.
    pub dns_names: Vec<String>,
    /// The URIs of the subject, such as its SPIFFE ID.
    pub uris: Vec<String>,
    /// The e-mail addresses of the subject.
    pub emails: Vec<String>,
    /// The IP addresses of the subject.
    pub ip_addresses: Vec<String>,
    /// The certificate itself.
    pub pem: String,
}

impl ClientCertificate {
    /// Its SHA-256 as tokens have it that are bound to it (`x5t#S256`, RFC 8705 §3.1): base64url. None if it is not known.
    #[must_use]
    pub fn thumbprint(&self) -> Option<String> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let pairs = self.sha256.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        let digest = pairs.collect::<Option<Vec<u8>>>().filter(|digest| digest.len() == 32)?;
        Some(URL_SAFE_NO_PAD.encode(digest))
    }
}

/// The response of the current exchange.
#[derive(Debug)]
pub struct Response(pub(crate) ());

impl Response {
    headers!(response);

    /// Starts an answer of the filter's own, to be ended by [`Draft::send`].
    pub fn draft() -> Draft {
        Draft { refused: None }
    }

    /// Who made this response: the upstream, a filter, or the gateway.
    ///
    /// # Errors
    /// `WrongHook` outside the response hooks.
    pub fn origin(&self) -> Result<Source, Error> {
        Ok(host::response::origin()?)
    }

    /// The status code.
    ///
    /// # Errors
    /// `WrongHook` outside an exchange.
    pub fn status(&self) -> Result<u16, Error> {
        Ok(host::response::status()?)
    }

    /// What the cache of the route has done, in a word such as `hit` or `miss`. None in a request hook, and where the route has no cache.
    ///
    /// # Errors
    /// `WrongHook` outside an exchange.
    pub fn cache_status(&self) -> Result<Option<String>, Error> {
        Ok(host::response::cache_status()?)
    }

    /// Sets the status code.
    ///
    /// # Errors
    /// `Invalid` outside 200–599.
    pub fn set_status(&self, status: u16) -> Result<(), Error> {
        Ok(host::response::set_status(status)?)
    }

    /// Says why the response is given, as a token such as `token-expired`: for the access log and the metrics, never for the client.
    ///
    /// # Errors
    /// `Invalid` unless it has 1 to 64 letters, digits, `-`, `_`, `.` or `:`.
    pub fn set_reason(&self, reason: &str) -> Result<(), Error> {
        Ok(host::response::set_reason(reason)?)
    }

    /// The first value of a trailer (in `on_response_trailers`).
    ///
    /// # Errors
    /// `WrongHook` elsewhere.
    pub fn trailer(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(host::response::trailer(name)?)
    }

    /// All trailers.
    ///
    /// # Errors
    /// `WrongHook` outside `on_response_trailers`.
    pub fn trailers(&self) -> Result<Vec<(String, String)>, Error> {
        Ok(host::response::trailers()?.into_iter().map(pair).collect())
    }

    /// Sets a trailer.
    ///
    /// # Errors
    /// `Invalid` for a field that may not be a trailer.
    pub fn set_trailer(&self, name: &str, value: &str) -> Result<(), Error> {
        Ok(host::response::set_trailer(name, value)?)
    }

    /// Removes a trailer.
    ///
    /// # Errors
    /// `WrongHook` outside `on_response_trailers`.
    pub fn remove_trailer(&self, name: &str) -> Result<(), Error> {
        Ok(host::response::remove_trailer(name)?)
    }

    /// The request that this answers.
    #[must_use]
    pub fn request(&self) -> &Request {
        &Request(())
    }
}

/// An answer of the filter's own. The first refusal is kept and comes out of [`Draft::send`].
#[derive(Debug)]
#[must_use = "end it with send()"]
pub struct Draft {
    refused: Option<Error>,
}

impl Draft {
    /// Sets the status; 200 until set.
    pub fn status(self, status: u16) -> Self {
        self.then(|| Ok(host::response::set_status(status)?))
    }

    /// Says why, as [`Response::set_reason`] does.
    pub fn reason(self, reason: &str) -> Self {
        self.then(|| Ok(host::response::set_reason(reason)?))
    }

    /// Sets a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.then(|| Ok(host::response::set_header(name, value)?))
    }

    /// Adds a value to a header.
    pub fn append_header(self, name: &str, value: &str) -> Self {
        self.then(|| Ok(host::response::append_header(name, value)?))
    }

    /// Sets the body.
    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        self.then(|| Ok(host::response::set_body(body.as_ref())?))
    }

    /// Sets a JSON body and its content type.
    pub fn json(self, value: &impl Serialize) -> Self {
        self.header("content-type", "application/json")
            .then(|| Ok(host::response::set_body(&serde_json::to_vec(value)?)?))
    }

    /// The verdict that answers with this draft.
    ///
    /// # Errors
    /// The first call that was refused.
    pub fn send(self) -> Result<Verdict, Error> {
        match self.refused {
            None => Ok(Verdict::Respond),
            Some(error) => Err(error),
        }
    }

    fn then(mut self, step: impl FnOnce() -> Result<(), Error>) -> Self {
        if self.refused.is_none() {
            self.refused = step().err();
        }
        self
    }
}

/// A problem-details answer (RFC 9457), of the same form as the gateway's own errors. [`Self::draft`] takes headers.
#[derive(Debug)]
#[must_use = "end it with send() or draft()"]
pub struct Problem {
    status: u16,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem of the general kind (`about:blank`) with a status and a title.
    pub fn new(status: u16, title: &str) -> Self {
        let mut members = Map::new();
        members.insert("type".into(), "about:blank".into());
        members.insert("title".into(), title.into());
        members.insert("status".into(), status.into());
        Self { status, members }
    }

    /// What was wrong with this request, for the client.
    pub fn detail(self, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        self.member("detail", detail)
    }

    /// Any other member.
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.into(), value.into());
        self
    }

    /// A draft with this body, for more headers.
    pub fn draft(mut self) -> Draft {
        if let Ok(id) = host::request::id() {
            self.members.insert("request_id".into(), id.into());
        }
        Response::draft()
            .status(self.status)
            .header("content-type", "application/problem+json")
            .body(Value::Object(self.members).to_string())
    }

    /// The verdict that answers with this problem.
    ///
    /// # Errors
    /// The first call that was refused.
    pub fn send(self) -> Result<Verdict, Error> {
        self.draft().send()
    }
}

/// The finished exchange, in `on_complete`.
#[derive(Debug)]
pub struct Finished(pub(crate) ());

impl Finished {
    /// The members of the access log as a JSON object.
    ///
    /// # Errors
    /// `WrongHook` elsewhere.
    pub fn summary(&self) -> Result<String, Error> {
        Ok(host::route::summary()?)
    }

    /// The request, as it was sent on.
    #[must_use]
    pub fn request(&self) -> &Request {
        &Request(())
    }

    /// The response, as the client got it.
    #[must_use]
    pub fn response(&self) -> &Response {
        &Response(())
    }
}
