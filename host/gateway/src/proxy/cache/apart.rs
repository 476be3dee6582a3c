//! A request whose response is for it alone: a HEAD, a range or a condition of what is not stored, `no-store`.

use std::sync::Arc;
use std::time::SystemTime;

use http::Method;
use sluice_cache::freshness::{Failure, Times};
use sluice_cache::key::Key;
use sluice_cache::storable::Received;
use sluice_cache::store::{Generation, Object, Store};
use sluice_cache::validate::{HeadUpdate, freshen, head_update};

use super::keep::{again, takes_the_place};
use super::{Caller, Missing, forwarded, is_of_upstream, stale};
use crate::cache::{CacheResult, RouteCache, Unstored};
use crate::proxy::RouteHandler;
use crate::proxy::context::RequestContext;
use crate::proxy::deadline::ClientDeadline;
use crate::proxy::error::ProxyError;
use crate::upstream::UpstreamResponse;

impl RouteHandler<'_> {
    /// A request whose response is for it alone: nothing of it is stored, but a HEAD tells of what is.
    pub(super) async fn fetch_apart(
        &self,
        context: &mut RequestContext,
        deadline: Option<ClientDeadline>,
        (cache, store): (&RouteCache, &Store),
        missing: Missing,
    ) -> Result<(), ProxyError> {
        let sent = context.exchange().request.headers.clone();
        let requested = SystemTime::now();
        let outcome = Box::pin(self.fetch(context, &deadline, None)).await;
        let failure = match &outcome {
            Ok(response) => Failure::Status(response.head.status),
            Err(error) if is_of_upstream(error.kind) => Failure::NoResponse,
            Err(_) => return outcome.map(drop),
        };
        // The hooks to come and the conditions of the client need them.
        context.exchange().request.headers = sent;
        if let Some(stale) = stale(&missing, failure, cache) {
            return self.take_stale(context, cache, &missing, stale);
        }
        let response = outcome?;
        let times = Times { request: requested, response: SystemTime::now() };
        if let Some(stored) = &missing.stored
            && context.exchange().request.method == Method::HEAD
        {
            self.heard(context, (cache, store), (missing.key, stored, missing.born), &response, times);
        }
        self.answer(context, cache, response, (CacheResult::Miss, forwarded(missing.why, None, false)))
    }

    /// RFC 9111 §4.3.5. What may not be stored of the response to a GET is not taken from that to a HEAD, either.
    fn heard(
        &self,
        context: &mut RequestContext,
        (cache, store): (&RouteCache, &Store),
        (key, stored, born): (Key, &Arc<Object>, Generation),
        response: &UpstreamResponse,
        times: Times,
    ) {
        let head = stored.head();
        // What holds for a response that is stored holds for fields that are.
        let has_session = self.has_session(&context.attempts, cache, &response.head.headers);
        let exchange = context.exchange();
        let no_store = exchange.cache.as_ref().is_some_and(|notes| notes.no_store);
        if has_session || no_store {
            return;
        }
        match head_update(&head, stored.body().len(), response.head.status, &response.head.headers) {
            HeadUpdate::Update => {
                let request = &exchange.request;
                let caller = Caller::of(exchange);
                let of_caller = caller.fields(&request.headers, cache.config.key.consumer);
                let received = Received {
                    method: &Method::HEAD,
                    request: of_caller.as_ref().unwrap_or(&request.headers),
                    status: response.head.status,
                    response: &response.head.headers,
                    times,
                };
                let freshened = freshen(stored.status(), &head, stored.notes(), received, &cache.config.policy);
                match &freshened.storable {
                    Ok(storable) => {
                        let received = Received {
                            request: &request.headers,
                            status: stored.status(),
                            response: &freshened.head,
                            ..received
                        };
                        if let Some(object) = again((cache, store), (stored, born), request, storable, &received) {
                            // A GET may have brought something newer meanwhile.
                            let _ = store.replace(key, stored, object);
                        }
                    }
                    Err(refusal) => {
                        let of_one = caller.may_be_alone(&request.headers);
                        if takes_the_place(stored.status(), Unstored::Refused(*refusal), of_one) {
                            store.remove_object(&key, stored);
                            self.displace_shared(context, cache, stored);
                        }
                    }
                }
            }
            HeadUpdate::Outdated => {
                stored.mark_stale(times.response);
                self.displace_shared(context, cache, stored);
            }
            HeadUpdate::Nothing => {}
        }
    }

    /// The tier must not bring back what a HEAD has taken away.
    fn displace_shared(&self, context: &mut RequestContext, cache: &RouteCache, stored: &Object) {
        if let Some(shared) = self.shared(context, cache) {
            shared.displace(stored, &context.exchange().request.headers);
        }
    }
}
