//! The request as an upstream gets it.

use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, UPGRADE};
use http::{HeaderValue, Request, Uri, Version};

use http_body::Body as _;

use super::RouteHandler;
use super::context::RequestContext;
use super::deadline::ClientDeadline;
use super::error::{Kind, ProxyError};
use crate::filter::Hook;
use crate::http::body::Body;
use crate::http::cdn_loop;
use crate::http::coding;
use crate::http::lookalikes::strip_shadowed;
use crate::snapshot::routes::{HostPolicy, host_value};
use crate::upstream::{Extras, Timeouts};

/// As good as no deadline.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Hooks that see the request's headers while the upstream has them, or as they were before the changes for the upstream.
const READERS_MEANWHILE: [Hook; 5] =
    [Hook::SelectUpstream, Hook::OnResponseBody, Hook::OnResponseChunk, Hook::OnResponseEvent, Hook::OnComplete];

/// Where the headers of the exchange's request are while the upstream has the request. Copying them costs as much as a call of a
/// filter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestHeaders {
    /// The upstream has a copy: a hook reads them meanwhile, or reads them as they were.
    Copied,
    /// The upstream has them, and a hook reads them afterwards.
    Lent,
    /// The upstream has them, and nobody reads them afterwards.
    Moved,
}

impl RouteHandler<'_> {
    pub(super) fn timeouts(&self, start: Instant) -> Timeouts {
        let limits = &self.route.timeouts;
        Timeouts {
            connect: limits.connect,
            first_byte: limits.first_byte.unwrap_or(FOREVER),
            until: self.until(start, None).0,
            whole: limits.to_head(),
        }
    }

    /// What the attempts of a request have beyond the usual, where the route retries or passes deadlines on.
    pub(super) fn extras(&self, start: Instant, client: Option<ClientDeadline>, is_grpc: bool) -> Option<Extras<'_>> {
        let (retry, deadline) = (self.route.retry.as_ref(), self.route.deadline.as_ref());
        if retry.is_none() && deadline.is_none() {
            return None;
        }
        let (until, is_clients) = self.until(start, client);
        let of_call = client.and_then(|client| client.call_until);
        let of_exchange = self.route.timeouts.max_stream_duration.and_then(|whole| start.checked_add(whole));
        Some(Extras {
            until,
            is_clients,
            per_try_timeout: retry.and_then(|policy| policy.per_try_timeout),
            replay: retry.map_or(0, |policy| usize::try_from(policy.body.0).unwrap_or(usize::MAX)),
            deadline,
            is_grpc,
            call_until: of_call.into_iter().chain(of_exchange).min(),
            attempt_header: retry.and_then(|policy| policy.attempt_header.as_ref()),
        })
    }

    /// The request as the upstream gets it, and where the exchange's headers are meanwhile.
    pub(super) fn request(
        &self,
        context: &mut RequestContext,
    ) -> Result<(Box<Request<Body>>, RequestHeaders), ProxyError> {
        let route = self.route;
        let exchange = context.traversal.exchange();
        let target = match &route.rewrite {
            None => exchange.request.target.clone(),
            Some(rewrite) => rewrite
                .apply(&exchange.request.target, &exchange.params)
                .map_err(|e| ProxyError::new(Kind::BadRequest, format!("rewrite: {e}")))?,
        };
        let mut codings = Vec::new();
        let mut body = if exchange.request_body_replaced {
            let body = exchange.request_body.clone().unwrap_or_default();
            context.request_body.release();
            // The length and coding of the old body describe other bytes.
            exchange.request.headers.remove(CONTENT_ENCODING);
            exchange.request.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            Body::full(body)
        } else {
            // What can't be decoded was refused before.
            if context.traversal.takes_request_pieces() {
                codings = context.request_body.codings().unwrap_or_default();
            }
            context.request_body.take()
        };
        if context.traversal.takes_request_pieces() && !body.is_end_stream() {
            body = self.stream_request(context, body, &codings)?;
        }
        let protocol = context.upgrade_request.as_ref().map(|upgrade| &upgrade.protocol);
        let exchange = context.traversal.exchange();
        let mut request = Box::write(Box::new_uninit(), Request::new(body));
        *request.method_mut() = exchange.request.method.clone();
        *request.uri_mut() = Uri::from(target);
        *request.version_mut() = Version::HTTP_11;
        let pipeline = self.pipeline.pipeline();
        let has_one_of = |hooks: &[Hook]| hooks.iter().any(|hook| pipeline.has(*hook));
        let place = if protocol.is_some() || has_one_of(&READERS_MEANWHILE) {
            RequestHeaders::Copied
        } else if has_one_of(&[Hook::OnResponse, Hook::OnResponseTrailers]) {
            RequestHeaders::Lent
        } else {
            RequestHeaders::Moved
        };
        let headers = request.headers_mut();
        match place {
            RequestHeaders::Copied => headers.clone_from(&exchange.request.headers),
            RequestHeaders::Lent | RequestHeaders::Moved => std::mem::swap(headers, &mut exchange.request.headers),
        }
        if let Some(of_client) = &context.underscored {
            // Once more: filters have set fields that a client's may look like.
            strip_shadowed(headers, of_client);
        }
        cdn_loop::pass_on(headers);
        if has_one_of(&[Hook::OnResponseBody, Hook::OnResponseChunk, Hook::OnResponseEvent]) {
            coding::keep_decodable(headers);
        }
        match &route.host {
            HostPolicy::Keep => {
                let authority = &exchange.request.authority;
                // It is nearly always what the client has written.
                if headers.get(HOST).is_none_or(|host| host != authority.as_str()) {
                    headers.insert(HOST, host_value(authority));
                }
            }
            HostPolicy::Fixed(host) => {
                headers.insert(HOST, host_value(host));
            }
            // The endpoint puts its own name where there is none.
            HostPolicy::Upstream => {
                headers.remove(HOST);
            }
        }
        if let Some(protocol) = protocol {
            headers.insert(UPGRADE, protocol.clone());
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        Ok((request, place))
    }
}
