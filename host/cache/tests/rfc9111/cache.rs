//! A cache made of the rules and the store, without sockets and clocks: what the gateway does between client and upstream, in one function.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use sluice_cache::answer::{Answer, Content, answer};
use sluice_cache::digest::Secret;
use sluice_cache::directives::RequestDirectives;
use sluice_cache::freshness::{Decision, Failure, OnError, Times, on_error, reuse};
use sluice_cache::invalidate;
use sluice_cache::key::{Key, KeyInput, KeyRule};
use sluice_cache::policy::Policy;
use sluice_cache::storable::{Received, Storable, looks_up, storable};
use sluice_cache::store::{Body, BodyBuilder, Draft, Found, Generation, Limits, Object, Place, Purge, Store, Strength};
use sluice_cache::validate::{HeadUpdate, freshen, head_update, identify, make_conditional};
use url::Url;

pub(crate) type Fields = &'static [(&'static str, &'static str)];

/// All times are seconds after this one: Sun, 06 Nov 1994 08:49:37 GMT.
pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777 + seconds)
}

pub(crate) fn headers(fields: Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

/// What the upstream does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// It answers, to a conditional request also with a 304.
    Answers {
        status: u16,
        fields: Fields,
        content: &'static str,
    },
    /// It breaks off within the content.
    BreaksOff {
        fields: Fields,
        content: &'static str,
    },
    Fails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The upstream answered.
    Upstream,
    /// The store, fresh.
    Hit,
    /// The store, stale.
    Stale,
    /// The store, after the upstream has confirmed it.
    Validated,
    /// The store, since the upstream has failed.
    StaleOnError,
    /// The gateway: 504 to `only-if-cached`.
    NotStored,
    /// The gateway: the upstream has failed.
    Error,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) source: Source,
    pub(crate) status: u16,
    pub(crate) head: HeaderMap,
    pub(crate) content: String,
    /// What the upstream got, if it was asked.
    pub(crate) forwarded: Option<HeaderMap>,
}

pub(crate) struct Cache {
    store: Store,
    policy: Policy,
}

struct Exchange<'a> {
    method: &'a Method,
    path: &'a str,
    request: &'a HeaderMap,
    upstream: Upstream,
    times: Times,
    key: Key,
}

impl Cache {
    pub(crate) fn new(policy: Policy) -> Cache {
        let limits = Limits { bytes: 1 << 20, object: 1 << 17, variants: 8 };
        Cache { store: Store::new(limits, Secret::new([9; 16])), policy }
    }

    pub(crate) fn request(
        &self,
        now: u64,
        delay: u64,
        method: &Method,
        path: &str,
        request: &HeaderMap,
        upstream: Upstream,
    ) -> Response {
        let (target, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let input = KeyInput {
            group: "",
            upstream: "",
            scheme: "https",
            host: "example.com",
            path: target,
            query,
            headers: request,
            consumer: None,
            parts: &[],
        };
        let key = KeyRule::default().key(&input, self.store.secret());
        let times = Times { request: at(now), response: at(now + delay) };
        let exchange = Exchange { method, path, request, upstream, times, key };
        if looks_up(method, request, false).is_err() {
            return self.write_through(&exchange);
        }
        let found = match self.store.find(&key, request) {
            Found::Object(object) => Some(object),
            Found::OtherVariants | Found::Nothing => None,
        };
        let directives = RequestDirectives::of(request);
        let candidate = found.as_ref().map(|object| object.candidate());
        let decided = reuse(&directives, candidate, times.request, &self.policy);
        let hit = |source, object: &Object, age| respond(source, object, &exchange, age, None);
        match (decided.decision, &found) {
            (Decision::Fresh, Some(object)) => hit(Source::Hit, object, Some(decided.age)),
            (Decision::Stale, Some(object)) => hit(Source::Stale, object, Some(decided.age)),
            (Decision::StaleWhileRevalidate, Some(object)) => {
                self.forward(&exchange, Some(object));
                hit(Source::Stale, object, Some(decided.age))
            }
            (Decision::Revalidate | Decision::Fetch, found) => self.forward(&exchange, found.as_deref()),
            (Decision::GatewayTimeout, _) => gateway(Source::NotStored, None),
            (Decision::Fresh | Decision::Stale | Decision::StaleWhileRevalidate, None) => {
                unreachable!("nothing to send")
            }
        }
    }

    fn write_through(&self, exchange: &Exchange) -> Response {
        let Upstream::Answers { status, fields, content } = exchange.upstream else {
            return gateway(Source::Error, Some(exchange.request.clone()));
        };
        let (status, response) = (StatusCode::from_u16(status).unwrap(), headers(fields));
        if invalidate::invalidates(exchange.method, status) {
            let target = Url::parse("https://example.com").unwrap().join(exchange.path).unwrap();
            for url in invalidate::others(&target, &response).iter().chain([&target]) {
                let purge = Purge::Url { host: url.host_str().unwrap(), path: url.path(), query: url.query() };
                self.store.purge(&purge, Strength::Hard, exchange.times.response);
            }
        }
        from_upstream(status, response, content, exchange.request.clone())
    }

    /// Asks the upstream, and stores or updates what may be.
    fn forward(&self, exchange: &Exchange, stored: Option<&Object>) -> Response {
        let born = self.store.generation();
        let mut forwarded = exchange.request.clone();
        let head = stored.map(Object::head);
        let conditional = head.as_ref().is_some_and(|head| make_conditional(&mut forwarded, head));
        let failure = match exchange.upstream {
            Upstream::Fails => Failure::NoResponse,
            Upstream::Answers { status, .. } => Failure::Status(StatusCode::from_u16(status).unwrap()),
            Upstream::BreaksOff { .. } => Failure::Status(StatusCode::OK),
        };
        if let Some(object) = stored {
            let directives = RequestDirectives::of(exchange.request);
            let decided = on_error(&directives, object.candidate(), failure, exchange.times.request, &self.policy);
            if let OnError::ServeStale { age, .. } = decided {
                return respond(Source::StaleOnError, object, exchange, Some(age), Some(forwarded));
            }
        }
        let (status, fields, content, ended) = match exchange.upstream {
            Upstream::Fails => return gateway(Source::Error, Some(forwarded)),
            Upstream::Answers { status, fields, content } => {
                (StatusCode::from_u16(status).unwrap(), fields, content, true)
            }
            Upstream::BreaksOff { fields, content } => (StatusCode::OK, fields, content, false),
        };
        let response = headers(fields);
        let received = Received {
            method: exchange.method,
            request: exchange.request,
            status,
            response: &response,
            times: exchange.times,
        };
        if let (true, StatusCode::NOT_MODIFIED, Some(object), Some(head)) = (conditional, status, stored, &head) {
            if identify(&response, &[head]).is_empty() {
                // Validators of something else: it has to be asked again, without conditions.
                return from_upstream(status, response, "", forwarded);
            }
            let freshened = freshen(object.status(), head, None, received, &self.policy);
            let Ok(storable) = freshened.storable else {
                return from_upstream(object.status(), freshened.head, "", forwarded);
            };
            let received = Received { status: object.status(), response: &freshened.head, ..received };
            let object = self.stored(&storable, &received, object.body().clone(), exchange, born).unwrap();
            return respond(Source::Validated, &object, exchange, None, Some(forwarded));
        }
        if *exchange.method == Method::HEAD {
            self.heard(exchange, received, stored, born);
        } else if let Ok(storable) = storable(received, &self.policy)
            && ended
        {
            let mut body = BodyBuilder::new(None, 1 << 16).unwrap();
            body.push(content.as_bytes()).unwrap();
            // Without the announced length, it is not stored.
            self.stored(&storable, &received, body.finish(), exchange, born);
        }
        from_upstream(status, response, content, forwarded)
    }

    /// RFC 9111 §4.3.5.
    fn heard(&self, exchange: &Exchange, received: Received, stored: Option<&Object>, born: Generation) {
        let Some(object) = stored else { return };
        match head_update(&object.head(), object.body().len(), received.status, received.response) {
            HeadUpdate::Update => {
                let freshened = freshen(object.status(), &object.head(), None, received, &self.policy);
                if let Ok(storable) = freshened.storable {
                    let received = Received { status: object.status(), response: &freshened.head, ..received };
                    self.stored(&storable, &received, object.body().clone(), exchange, born);
                }
            }
            HeadUpdate::Outdated => object.mark_stale(exchange.times.response),
            HeadUpdate::Nothing => {}
        }
    }

    fn stored(
        &self,
        storable: &Storable,
        received: &Received,
        body: Body,
        exchange: &Exchange,
        born: Generation,
    ) -> Option<Arc<Object>> {
        let (path, query) =
            exchange.path.split_once('?').map_or((exchange.path, None), |(path, query)| (path, Some(query)));
        let place = Place { host: "example.com", path, query, notes: None };
        let draft = Draft::new(storable, received, &place, born, &self.policy, self.store.secret()).unwrap();
        let object = draft.finish(body).ok()?;
        Some(self.store.insert(exchange.key, object).unwrap())
    }
}

fn respond(
    source: Source,
    object: &Object,
    exchange: &Exchange,
    age: Option<Duration>,
    forwarded: Option<HeaderMap>,
) -> Response {
    let answered = answer(object, exchange.method, exchange.request, age, || "B".into());
    let Answer { status, head, content } = match answered {
        Ok(answer) => answer,
        Err(error) => return Response { source, status: 416, head: error.head, content: String::new(), forwarded },
    };
    let content = match content {
        Content::Empty => Vec::new(),
        Content::Part(part) => object.body().slice(part).flatten().collect(),
        Content::Multipart(_) => b"multipart".to_vec(),
    };
    Response { source, status: status.as_u16(), head, content: String::from_utf8(content).unwrap(), forwarded }
}

fn from_upstream(status: StatusCode, head: HeaderMap, content: &str, forwarded: HeaderMap) -> Response {
    let (source, status, content) = (Source::Upstream, status.as_u16(), content.to_owned());
    Response { source, status, head, content, forwarded: Some(forwarded) }
}

fn gateway(source: Source, forwarded: Option<HeaderMap>) -> Response {
    let head = HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
    Response { source, status: 504, head, content: String::new(), forwarded }
}
