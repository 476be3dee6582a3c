//! Content codings that the gateway changes: of requests, for upstreams that can't take them off, and of responses. Compression comes after all
//! filters: what they see is what the upstream has sent. Whether and how is decided by the head of the request when it comes in (filters and
//! the upstream may change or take it), and by that of the response when it goes out. The rules are in `http/compression.rs`.

mod effort;
mod stored;

use std::cell::Cell;
use std::rc::Rc;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};

pub(super) use self::effort::Busyness;

use super::RouteHandler;
use super::context::RequestContext;
use super::error::ProxyError;
use super::send::OutgoingResponse;
use crate::cache::Form;
use crate::filter::BodySource;
use crate::http::body::Body;
use crate::http::buffer::Share;
use crate::http::coding::{Coding, Encoder, Encoding, Level, encode_whole, preferred};
use crate::http::compression::{
    Skip, announced_length, exempts, forbids, forget_digests, has_weak_tag, is_fixed, mark, vary, weaken,
};
use crate::http::headers::CREDENTIALS;
use crate::snapshot::routes::Compression;

/// Content up to this size that is here as a whole is compressed at once, and then has a length.
const AT_ONCE: usize = 32 << 10;
/// What a body holds beside its encoder: a part that was read, and one that is to be sent.
const BUFFERS: usize = 64 << 10;

/// What a request says of the form of its response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    coding: Result<Coding, Skip>,
    has_weak_tag: bool,
}

impl Wish {
    /// By the head as the client has sent it.
    pub(super) fn of(request: &HeaderMap, rule: &Compression, has_certificate: bool) -> Wish {
        let has_credentials = || has_certificate || CREDENTIALS.iter().any(|name| request.contains_key(name));
        let coding = match (forbids(request), preferred(request, &rule.encodings.0)) {
            (Some(why), _) => Err(why),
            (None, None) => Err(Skip::NotAcceptable),
            (None, Some(_)) if !rule.credentials && has_credentials() => Err(Skip::Credentials),
            (None, Some(coding)) => Ok(coding),
        };
        Wish { coding, has_weak_tag: has_weak_tag(request) }
    }
}

/// What was put on a response, for logs and metrics.
#[derive(Debug, Clone)]
pub(super) struct Compressed {
    pub(super) coding: Coding,
    /// The bytes of its content that were read.
    pub(super) input: Rc<Cell<u64>>,
}

impl RouteHandler<'_> {
    /// Takes the coding off the body of a request, for upstreams that can't. It is read as a whole, as for a filter.
    pub(super) async fn decompress_request(&self, context: &mut RequestContext) -> Result<(), ProxyError> {
        if !context.request_body.is_coded()
            || context.request_body.is_empty()
            || context.exchange().request_body_replaced
            // It is decoded for the filters that see its pieces.
            || context.traversal.takes_request_pieces()
            || is_fixed(&context.exchange().request.headers)
        {
            return Ok(());
        }
        // A filter may have read it.
        let decoded = match context.exchange().request_body.clone() {
            Some(decoded) => decoded,
            None => {
                let mut source = context.request_body.source(&self.worker.budget);
                let decoded = source.buffer(self.route.max_body).await;
                decoded.map_err(|error| ProxyError::undecoded_request(&error))?
            }
        };
        let exchange = context.exchange();
        exchange.request_body = Some(decoded);
        exchange.request_body_replaced = true;
        forget_digests(&mut exchange.request.headers);
        Ok(())
    }

    /// Compresses a response if its client and its head allow it.
    pub(super) fn compress(&self, context: &mut RequestContext, response: &mut OutgoingResponse) {
        let (Some(rule), Some(wish)) = (&self.route.compression, context.compression) else { return };
        if response.head.status == StatusCode::NOT_MODIFIED {
            // RFC 9110 §15.4.5: the fields that a 200 would have had.
            vary(&mut response.head.headers);
            if wish.has_weak_tag && wish.coding.is_ok() {
                weaken(&mut response.head.headers);
            }
            return;
        }
        match self.coding(context, rule, wish, response) {
            Ok(coding) => {
                if self.encode(context, rule.levels.of(coding), rule.adaptive, response) {
                    mark(&mut response.head.headers, coding);
                } else {
                    self.skip(Skip::Memory);
                }
            }
            Err(why) => self.skip(why),
        }
    }

    fn skip(&self, why: Skip) {
        self.local.metrics.compression_skipped(self.route.metrics, why.name());
    }

    /// The coding that the response gets. Says that it may have one where that depends on the client.
    fn coding(
        &self,
        context: &RequestContext,
        rule: &Compression,
        wish: Wish,
        response: &mut OutgoingResponse,
    ) -> Result<Coding, Skip> {
        let OutgoingResponse { head, body } = response;
        let announced = announced_length(&head.headers);
        // The body of a response to a HEAD is empty, and what it announces is the length of another one.
        let length = match context.method {
            Method::HEAD => announced,
            _ => body.exact_size().or(announced),
        };
        if context.grpc {
            return Err(Skip::Grpc);
        }
        match exempts(head.status, &head.headers, length, (rule.min_size.0, &rule.types)) {
            Some(why) => return Err(why),
            None => vary(&mut head.headers),
        }
        let coding = wish.coding?;
        match !rule.credentials && context.consumer.is_some() {
            true => Err(Skip::Credentials),
            false => Ok(coding),
        }
    }

    /// Puts a coding on the body, unless there is no room for the work.
    fn encode(
        &self,
        context: &mut RequestContext,
        configured: Level,
        is_adaptive: bool,
        response: &mut OutgoingResponse,
    ) -> bool {
        let OutgoingResponse { head, body } = response;
        if context.method == Method::HEAD {
            *body = Body::Empty;
            return true;
        }
        let input = Rc::new(Cell::new(0));
        if let Some(form) = self.stored_form(context, configured, body) {
            input.set(body.exact_size().unwrap_or_default());
            *body = stored::body(form);
            context.compressed = Some(Compressed { coding: configured.coding, input });
            return true;
        }
        let level = match is_adaptive {
            true => self.worker.busyness.effort().lower(configured),
            false => configured,
        };
        let is_prompt = head.headers.get(CONTENT_TYPE).is_some_and(|value| is_event_stream(value.as_bytes()));
        let encoded = match body {
            Body::Full { data, trailers: None } if data.len() <= AT_ONCE => {
                input.set(data.len() as u64);
                encode_whole(data, level).map(Body::full).ok()
            }
            _ => {
                let length = body.exact_size();
                let charge = self.worker.budget.reserve_for(Share::Compression, level.memory(length) + BUFFERS);
                charge.ok().zip(Encoder::new(level, length).ok()).map(|(charge, encoder)| {
                    let source = std::mem::take(body).counted(Rc::clone(&input));
                    Body::stream(Encoding::new(source, encoder, is_prompt, charge))
                })
            }
        };
        let Some(encoded) = encoded else { return false };
        *body = encoded;
        context.compressed = Some(Compressed { coding: level.coding, input });
        true
    }

    /// The form of a stored response that is sent as it is stored.
    fn stored_form(&self, context: &mut RequestContext, level: Level, body: &Body) -> Option<Form> {
        let object = context.stored.take().filter(|object| body.exact_size() == Some(object.body().len()))?;
        self.route.cache.as_ref()?.shared.encoded.form(&object, level)
    }
}

fn is_event_stream(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{ACCEPT_ENCODING, AUTHORIZATION, COOKIE, HeaderName, RANGE};

    use super::*;
    use crate::config::model::{ByteSize, Encodings, Levels};
    use crate::http::media_types::MediaTypes;

    #[test]
    fn what_a_request_says_of_its_response() {
        let rule = |credentials| Compression {
            encodings: Encodings(vec![Coding::Gzip]),
            min_size: ByteSize(0),
            types: MediaTypes::new(Vec::new()),
            credentials,
            adaptive: false,
            levels: Levels { zstd: 1, br: 1, gzip: 1 },
        };
        let wish = |fields: &[(HeaderName, &'static str)], credentials, has_certificate| {
            let fields = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            Wish::of(&fields.collect(), &rule(credentials), has_certificate).coding
        };
        let (gzip, cookie) = ((ACCEPT_ENCODING, "gzip"), (COOKIE, "a=b"));
        assert_eq!(wish(std::slice::from_ref(&gzip), false, false), Ok(Coding::Gzip));
        assert_eq!(wish(&[], false, false), Err(Skip::NotAcceptable));
        assert_eq!(wish(&[gzip.clone(), (RANGE, "bytes=0-1")], true, false), Err(Skip::Range));
        assert_eq!(wish(&[gzip.clone(), cookie.clone()], false, false), Err(Skip::Credentials));
        assert_eq!(wish(&[gzip.clone(), (AUTHORIZATION, "Bearer x")], false, false), Err(Skip::Credentials));
        assert_eq!(wish(std::slice::from_ref(&gzip), false, true), Err(Skip::Credentials), "a client certificate");
        assert_eq!(wish(&[gzip, cookie], true, true), Ok(Coding::Gzip));
    }

    #[test]
    fn event_streams_are_known_by_their_type() {
        for yes in ["text/event-stream", "Text/Event-Stream; charset=utf-8", " text/event-stream ;"] {
            assert!(is_event_stream(yes.as_bytes()), "{yes}");
        }
        assert!(!is_event_stream(b"text/event-stream2"));
    }
}
