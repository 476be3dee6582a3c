//! One request and its response as filters see them: heads, buffered bodies, typed context, private state and the choice of
//! an upstream, with a journal that takes a failed call's edits back. No wasm, no sockets, no policy.

mod cache;
mod candidates;
mod context;
mod journal;
pub mod kept;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use sluice_http::http::body::{BodyError, MemoryBudget};
use sluice_http::http::forwarded::ClientAddress;
use sluice_services::places::Place;

pub use cache::{CacheFreshness, CacheNotes};
pub use candidates::{Candidate, CandidateSource, Candidates};
pub use context::{Caller, Context, ContextEntry, ContextError, KnownConsumer, Value, entry_bytes};
pub use journal::{HeaderEdit, Undo, Values};
pub use kept::Kept;
pub use sluice_services::piece::{Piece, Said};

/// The request head as the pipeline has left it so far.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub method: Method,
    pub scheme: Scheme,
    /// `Host` or `:authority`, lower-case, with the port if there was one.
    pub authority: Authority,
    pub target: PathAndQuery,
    pub version: Version,
    pub headers: HeaderMap,
}

/// Who made a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseSource {
    Upstream,
    Filter,
    Gateway,
}

/// Why a response is given, as a filter has put it for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The name of the filter.
    pub filter: Arc<str>,
    pub text: Box<str>,
    /// The reasons of several filters whose answers have become one; `text` has them all.
    pub parts: Vec<Reason>,
}

impl Reason {
    /// What one filter has said.
    pub fn new(filter: Arc<str>, text: &str) -> Self {
        Reason { filter, text: text.into(), parts: Vec::new() }
    }

    /// The reasons of several filters as one. None without reasons.
    pub fn of_all(parts: Vec<Reason>) -> Option<Box<Reason>> {
        let text: Vec<String> = parts.iter().map(|part| format!("{}={}", part.filter, part.text)).collect();
        let filter = parts.first()?.filter.clone();
        Some(Box::new(Reason { filter, text: text.join(" ").into(), parts }))
    }

    /// Each reason with the filter that has said it.
    pub fn single(&self) -> &[Reason] {
        if self.parts.is_empty() { std::slice::from_ref(self) } else { &self.parts }
    }
}

/// A response head, with a body when one is buffered or was set by a filter.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub origin: ResponseSource,
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The decoded body: `Some` once buffered for a filter or set by one.
    pub body: Option<Bytes>,
    pub trailers: Option<HeaderMap>,
    /// Never sent; boxed since it is rare.
    pub reason: Option<Box<Reason>>,
}

impl ResponseHead {
    /// A head without headers.
    pub fn new(origin: ResponseSource, status: StatusCode) -> Self {
        ResponseHead { origin, status, headers: HeaderMap::new(), body: None, trailers: None, reason: None }
    }
}

/// An attempt of this exchange that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    pub upstream: Arc<str>,
    pub address: Arc<str>,
    /// As metrics show it.
    pub kind: &'static str,
    pub reason: String,
    /// Of a response that was not passed on.
    pub status: Option<StatusCode>,
    /// Whether the endpoint may have processed the request.
    pub sent: bool,
}

/// What is used up and what is left of the attempts of a request, for `route.retries`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RetryState {
    /// The number of the next attempt, from 1.
    pub attempt: u32,
    /// Attempts after the next one that the route allows.
    pub left: u32,
    /// Retries that the upstream's budget has room for.
    pub budget: Option<u32>,
}

/// What a filter has chosen at `select-upstream`; all `None` leaves it to the balancer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    pub upstream: Option<Arc<str>>,
    pub endpoints: Option<Vec<String>>,
    pub hash_key: Option<String>,
    /// The next attempt is the last.
    pub no_retry: bool,
}

impl Selection {
    /// Whether nothing was chosen.
    pub fn is_empty(&self) -> bool {
        *self == Selection::default()
    }
}

/// What a filter may read of a route.
#[derive(Debug)]
pub struct RouteFacts {
    pub name: Arc<str>,
    /// The upstreams that the route lists, by name.
    pub upstreams: Vec<Arc<str>>,
    /// The number of the snapshot that the route is of.
    pub snapshot: u64,
}

impl RouteFacts {
    /// The same for one worker: counting references that several cores use costs more than what a request does with them.
    pub fn apart(&self) -> Arc<RouteFacts> {
        let apart = |name: &Arc<str>| Arc::from(&**name);
        let upstreams = self.upstreams.iter().map(apart).collect();
        Arc::new(RouteFacts { name: apart(&self.name), upstreams, snapshot: self.snapshot })
    }
}

/// A body that a filter asked for during this exchange, by `request.want-body` or `response.want-body`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyWish {
    /// The index of the filter in its pipeline.
    pub filter: usize,
    pub max_bytes: u64,
}

/// One exchange. It moves into a store for the time of a call and back; it is boxed so that this is one pointer.
#[derive(Debug)]
pub struct Exchange {
    /// As in `x-request-id`.
    pub id: HeaderValue,
    pub client: ClientAddress,
    /// When the head of the response has to be there.
    pub until: Option<Instant>,
    /// The certificate that the client has shown and the listener has verified, as JSON text.
    pub client_certificate: Option<Arc<str>>,
    pub request: RequestHead,
    /// The decoded request body, once it is buffered for a filter or set by one.
    pub request_body: Option<Bytes>,
    /// True once a filter has replaced the request body: it is then sent from `request_body`, without content coding.
    pub request_body_replaced: bool,
    /// The response: the upstream's, a filter's or the gateway's.
    pub response: Option<Box<ResponseHead>>,
    /// True once a filter has replaced the response body.
    pub response_body_replaced: bool,
    /// The answer that the filter being called drafts in a request hook. Dropped unless its verdict is `respond`.
    pub draft: Option<Box<ResponseHead>>,
    pub route: Arc<RouteFacts>,
    /// Values of `{param}`s as they stand in the path, percent-encoded.
    pub params: Vec<(Arc<str>, String)>,
    pub context: Context,
    /// The private slot of each filter, by its index in the pipeline.
    pub states: Vec<Option<Bytes>>,
    /// Filled before `select-upstream`, when a filter of the pipeline has that hook.
    pub candidates: Candidates,
    pub failures: Vec<Failure>,
    /// Filled with the candidates.
    pub retry: RetryState,
    pub selection: Selection,
    pub request_body_wish: Option<BodyWish>,
    /// Wishes for the response body, at most one for each filter.
    pub response_body_wishes: Vec<BodyWish>,
    /// The piece of a body that a filter is being called with.
    pub piece: Option<Box<Piece>>,
    /// What filters have told the cache of the route, if they have.
    pub cache: Option<Box<CacheNotes>>,
    /// What that has done, in a word; before the response hooks.
    pub cache_status: Option<&'static str>,
    /// The access log's members as JSON, set before `on-complete`.
    pub summary: Option<String>,
    /// Undo records of the call in progress.
    pub journal: Vec<Undo>,
    /// The sandboxes of filters that have one of their own for this exchange, by their index in the pipeline: for their next hooks, and
    /// gone with the exchange.
    pub sandboxes: Vec<(usize, Box<dyn Any + Send>)>,
    /// What filters have it keep, as it is charged.
    pub kept: Kept,
    /// Its places among the requests at the same time. They are free again when the exchange has ended, which may be later than this is dropped.
    pub places: Vec<Place>,
}

impl Exchange {
    /// The length of the request's body, as far as it is buffered.
    pub fn request_body_len(&self) -> usize {
        self.request_body.as_ref().map_or(0, Bytes::len)
    }

    /// The length of the response's body, as far as it is buffered.
    pub fn response_body_len(&self) -> usize {
        self.response.as_ref().and_then(|response| response.body.as_ref()).map_or(0, Bytes::len)
    }

    /// Another one that has what is there of the request so far, for hooks that are called while its response is on its way.
    /// It is charged to `budget`.
    pub fn fork(&self, budget: &MemoryBudget) -> Result<Box<Self>, BodyError> {
        let mut fork = Exchange::new(self.id.clone(), self.client, self.request.clone(), self.route.clone());
        fork.until = self.until;
        fork.client_certificate.clone_from(&self.client_certificate);
        fork.params.clone_from(&self.params);
        fork.context = self.context.clone();
        fork.states.clone_from(&self.states);
        fork.candidates = self.candidates.anew();
        fork.measure(budget)?;
        Ok(fork)
    }

    /// A new exchange at the moment its route is known.
    pub fn new(id: HeaderValue, client: ClientAddress, request: RequestHead, route: Arc<RouteFacts>) -> Box<Self> {
        // Made in its place: `Box::new` would have all of it copied there from the stack.
        Box::write(
            Box::new_uninit(),
            Exchange {
                id,
                client,
                until: None,
                client_certificate: None,
                request,
                request_body: None,
                request_body_replaced: false,
                response: None,
                response_body_replaced: false,
                draft: None,
                route,
                params: Vec::new(),
                context: Context::default(),
                states: Vec::new(),
                candidates: Candidates::default(),
                failures: Vec::new(),
                retry: RetryState::default(),
                selection: Selection::default(),
                request_body_wish: None,
                response_body_wishes: Vec::new(),
                piece: None,
                cache: None,
                cache_status: None,
                summary: None,
                journal: Vec::new(),
                sandboxes: Vec::new(),
                kept: Kept::default(),
                places: Vec::new(),
            },
        )
    }
}
