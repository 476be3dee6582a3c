//! Requests and responses as a filter reads and sets them: who may see and set which field, and in which hook.

use super::{during, in_exchange, unless};
use crate::bindings::sluice::filter::types::{Error, Field, HeaderChange, HeaderEdit};
use crate::testing::{Headers, Phase, World};
use crate::{ClientCertificate, is_token};

/// Headers that a filter sees and sets only when they are granted by name.
const CREDENTIALS: [&str; 8] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-amz-security-token",
];

/// Fields of one hop (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings"];

/// Fields that, beside those of one hop, frame or route a message, or tell of loops (RFC 8586 §2).
const FRAMING: [&str; 4] = ["cdn-loop", "content-length", "host", "trailer"];

/// Fields that mean nothing, or something dangerous, in trailers (RFC 9110 §6.5.1), beside credentials and those of one hop.
const NOT_IN_TRAILERS: [&str; 22] = [
    "age",
    "cache-control",
    "client-cert",
    "client-cert-chain",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "trailer",
    "vary",
    "warning",
    "www-authenticate",
];

const REQUEST: &[Phase] = &[Phase::OnRequest, Phase::OnRequestBody];
const RESPONSE_WRITE: &[Phase] = &[Phase::OnRequest, Phase::OnRequestBody, Phase::OnResponse, Phase::OnResponseBody];

/// Bytes of a field's value.
const LARGEST_VALUE: usize = 64 << 10;

fn granted(world: &World, grant: &str, name: &str) -> bool {
    let names = || world.services.grants[grant].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    !CREDENTIALS.contains(&name) || names().any(|granted| granted.eq_ignore_ascii_case(name) || granted == "*")
}

fn check_name(name: &str) -> Result<(), Error> {
    if !is_token(name) {
        return Err(Error::Invalid(format!("`{name}` is not a header name")));
    }
    Ok(())
}

/// `host` is never seen: the authority tells more.
fn may_read(world: &World, name: &str) -> bool {
    name != "host" && granted(world, "read_headers", name)
}

fn may_write(world: &World, name: &str) -> Result<(), Error> {
    check_name(name)?;
    if HOP_BY_HOP.contains(&name) || FRAMING.contains(&name) {
        return Err(Error::Invalid(format!("`{name}` frames or routes the message")));
    }
    if granted(world, "write_headers", name) {
        Ok(())
    } else {
        Err(Error::NotGranted(format!("grants.write_headers = [\"{name}\"]")))
    }
}

fn value_is_good(value: &[u8]) -> Result<(), Error> {
    if value.len() > LARGEST_VALUE {
        return Err(Error::TooLarge(LARGEST_VALUE as u64));
    }
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err(Error::Invalid("a header value with control characters".to_owned()));
    }
    Ok(())
}

/// The name of a trailer that the filter may set or remove.
fn trailer_to_write(world: &World, name: &str) -> Result<String, Error> {
    let name = name.to_ascii_lowercase();
    may_write(world, &name)?;
    if CREDENTIALS.contains(&name.as_str())
        || NOT_IN_TRAILERS.contains(&name.as_str())
        || ["if-", "proxy-", "x-forwarded-"].iter().any(|prefix| name.starts_with(prefix))
    {
        return Err(Error::Invalid(format!("`{name}` can't be a trailer")));
    }
    Ok(name)
}

/// The fields that the filter may see and that are text.
fn seen(world: &World, headers: &Headers) -> Vec<Field> {
    let fields = headers.0.iter().filter(|(name, _)| may_read(world, name));
    fields
        .filter_map(|(name, value)| Some(Field { name: name.clone(), value: String::from_utf8(value.clone()).ok()? }))
        .collect()
}

macro_rules! message {
    ($field:ident, read: $read:path, write: $write:expr, want: $want:expr, body: $body:expr, set_body: $set_body:expr) => {
        pub(crate) fn header(name: &str) -> Result<Option<String>, Error> {
            $read(|world| {
                let name = name.to_ascii_lowercase();
                check_name(&name)?;
                if !may_read(world, &name) {
                    return Ok(None);
                }
                Ok(world.exchange.$field.headers.get(&name).map(str::to_owned))
            })
        }

        pub(crate) fn header_values(name: &str) -> Result<Vec<String>, Error> {
            Ok(header_bytes(name)?.into_iter().filter_map(|value| String::from_utf8(value).ok()).collect())
        }

        pub(crate) fn header_bytes(name: &str) -> Result<Vec<Vec<u8>>, Error> {
            $read(|world| {
                let name = name.to_ascii_lowercase();
                check_name(&name)?;
                if !may_read(world, &name) {
                    return Ok(Vec::new());
                }
                let fields = &world.exchange.$field.headers.0;
                Ok(fields.iter().filter(|(key, _)| *key == name).map(|(_, value)| value.clone()).collect())
            })
        }

        pub(crate) fn headers() -> Result<Vec<Field>, Error> {
            $read(|world| Ok(seen(world, &world.exchange.$field.headers)))
        }

        pub(crate) fn set_header(name: &str, value: &str) -> Result<(), Error> {
            set_header_bytes(name, value.as_bytes())
        }

        pub(crate) fn set_header_bytes(name: &str, value: &[u8]) -> Result<(), Error> {
            during($write, |world| {
                may_write(world, &name.to_ascii_lowercase())?;
                value_is_good(value)?;
                world.exchange.$field.headers.set(name, value);
                Ok(())
            })
        }

        pub(crate) fn append_header(name: &str, value: &str) -> Result<(), Error> {
            during($write, |world| {
                may_write(world, &name.to_ascii_lowercase())?;
                value_is_good(value.as_bytes())?;
                world.exchange.$field.headers.append(name, value);
                Ok(())
            })
        }

        pub(crate) fn remove_header(name: &str) -> Result<(), Error> {
            during($write, |world| {
                may_write(world, &name.to_ascii_lowercase())?;
                world.exchange.$field.headers.remove(name);
                Ok(())
            })
        }

        pub(crate) fn edit_headers(edits: &[HeaderEdit]) -> Result<(), Error> {
            during($write, |world| {
                for edit in edits {
                    may_write(world, &edit.name.to_ascii_lowercase())?;
                    if let HeaderChange::Set(value) | HeaderChange::Append(value) = &edit.change {
                        value_is_good(value.as_bytes())?;
                    }
                }
                let headers = &mut world.exchange.$field.headers;
                for HeaderEdit { name, change } in edits {
                    match change {
                        HeaderChange::Set(value) => headers.set(name, value),
                        HeaderChange::Append(value) => headers.append(name, value),
                        HeaderChange::Remove => headers.remove(name),
                    }
                }
                Ok(())
            })
        }

        pub(crate) fn want_body(_max_bytes: u64) -> Result<(), Error> {
            during($want, |world| {
                world.wanted_body = true;
                Ok(())
            })
        }

        pub(crate) fn body_length() -> Result<u64, Error> {
            during($body, |world| Ok(world.exchange.$field.body.len() as u64))
        }

        pub(crate) fn body(offset: u64, length: u64) -> Result<Vec<u8>, Error> {
            during($body, |world| {
                let body = &world.exchange.$field.body;
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(body.len());
                let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(body.len());
                Ok(body[start..end].to_vec())
            })
        }

        pub(crate) fn set_body(body: &[u8]) -> Result<(), Error> {
            during($set_body, |world| {
                // The answer that a filter drafts in a request hook is its own.
                let is_response = stringify!($field) == "response";
                if !is_response || !REQUEST.contains(&world.phase) {
                    world.exchange.$field.headers.forget_bytes(is_response);
                }
                world.exchange.$field.body = body.to_vec();
                Ok(())
            })
        }
    };
}

/// In every hook but those on the way to the upstream, in which there is no response.
fn seen_response<T>(act: impl FnOnce(&mut World) -> Result<T, Error>) -> Result<T, Error> {
    unless(Phase::SelectUpstream, |world| match world.phase {
        Phase::OnRequestChunk => Err(Error::WrongHook),
        _ => act(world),
    })
}

pub(crate) mod request {
    use super::*;

    message!(request, read: in_exchange, write: REQUEST, want: &[Phase::OnRequest], body: &[Phase::OnRequestBody], set_body: REQUEST);

    macro_rules! reads {
        ($($name:ident $field:ident;)*) => { $(
            pub(crate) fn $name() -> Result<String, Error> {
                in_exchange(|world| Ok(world.exchange.request.$field.clone()))
            }
        )* };
    }

    reads! { method method; scheme scheme; authority authority; path path; protocol protocol; client_address client_address; id id; }

    pub(crate) fn client_certificate() -> Result<Option<String>, Error> {
        let json = |shown: &ClientCertificate| {
            serde_json::to_string(shown).map_err(|error| Error::Other(format!("the client's certificate: {error}")))
        };
        in_exchange(|world| world.exchange.request.client_certificate.as_ref().map(json).transpose())
    }

    pub(crate) fn set_method(method: &str) -> Result<(), Error> {
        during(REQUEST, |world| {
            if method.is_empty() || method == "CONNECT" || !method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')
            {
                return Err(Error::Invalid(format!("method `{method}`")));
            }
            method.clone_into(&mut world.exchange.request.method);
            Ok(())
        })
    }

    pub(crate) fn set_path(path: &str) -> Result<(), Error> {
        during(REQUEST, |world| {
            let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b);
            if !path.starts_with('/') || !path.bytes().all(good) {
                return Err(Error::Invalid(format!("path `{path}`")));
            }
            path.clone_into(&mut world.exchange.request.path);
            Ok(())
        })
    }

    pub(crate) fn query() -> Result<Option<String>, Error> {
        in_exchange(|world| Ok(world.exchange.request.query.clone()))
    }

    pub(crate) fn set_query(query: Option<&str>) -> Result<(), Error> {
        during(REQUEST, |world| {
            let good = |b: u8| b.is_ascii_graphic() && !b"#<>\"".contains(&b);
            if query.is_some_and(|query| !query.bytes().all(good)) {
                return Err(Error::Invalid(format!("query `{}`", query.unwrap_or_default())));
            }
            world.exchange.request.query = query.map(str::to_owned);
            Ok(())
        })
    }
}

pub(crate) mod response {
    use super::*;
    use crate::bindings::sluice::filter::response::Source;

    message!(response, read: seen_response, write: RESPONSE_WRITE, want: &[Phase::OnRequest, Phase::OnRequestBody, Phase::OnResponse], body: &[Phase::OnResponseBody], set_body: RESPONSE_WRITE);

    const TRAILERS: &[Phase] = &[Phase::OnResponseTrailers];

    pub(crate) fn origin() -> Result<Source, Error> {
        seen_response(|world| Ok(world.exchange.response.origin))
    }

    pub(crate) fn status() -> Result<u16, Error> {
        seen_response(|world| Ok(world.exchange.response.status))
    }

    pub(crate) fn cache_status() -> Result<Option<String>, Error> {
        seen_response(|world| {
            let is_request = REQUEST.contains(&world.phase);
            Ok(world.exchange.response.cache_status.clone().filter(|_| !is_request))
        })
    }

    pub(crate) fn set_status(status: u16) -> Result<(), Error> {
        during(RESPONSE_WRITE, |world| {
            if !(200..=599).contains(&status) {
                return Err(Error::Invalid(format!("status {status}")));
            }
            world.exchange.response.status = status;
            Ok(())
        })
    }

    pub(crate) fn set_reason(reason: &str) -> Result<(), Error> {
        during(RESPONSE_WRITE, |world| {
            let is_token = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
            if reason.is_empty() || reason.len() > 64 || !reason.bytes().all(is_token) {
                return Err(Error::Invalid(format!("reason `{reason}`")));
            }
            world.exchange.response.reason = Some(reason.to_owned());
            Ok(())
        })
    }

    pub(crate) fn trailer(name: &str) -> Result<Option<String>, Error> {
        during(TRAILERS, |world| {
            check_name(name)?;
            let is_seen = may_read(world, &name.to_ascii_lowercase());
            Ok(world.exchange.response.trailers.get(name).filter(|_| is_seen).map(str::to_owned))
        })
    }

    pub(crate) fn trailers() -> Result<Vec<Field>, Error> {
        during(TRAILERS, |world| Ok(seen(world, &world.exchange.response.trailers)))
    }

    pub(crate) fn set_trailer(name: &str, value: &str) -> Result<(), Error> {
        during(TRAILERS, |world| {
            let name = trailer_to_write(world, name)?;
            value_is_good(value.as_bytes())?;
            world.exchange.response.trailers.set(&name, value);
            Ok(())
        })
    }

    pub(crate) fn remove_trailer(name: &str) -> Result<(), Error> {
        during(TRAILERS, |world| {
            let name = trailer_to_write(world, name)?;
            world.exchange.response.trailers.remove(&name);
            Ok(())
        })
    }
}
