//! `GET /api/v1/cache/lookup`: why a request is a hit or a miss.

use std::time::{Duration, SystemTime};

use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use schemars::JsonSchema;
use serde::Serialize;
use sluice_cache::directives::RequestDirectives;
use sluice_cache::fields;
use sluice_cache::freshness::reuse;
use sluice_cache::key::{Key, KeyInput};
use sluice_cache::storable::looks_up;
use sluice_cache::store::{Object, Purged, Store};

use super::Context;
use super::api::Timestamp;
use super::cache::{Located, located};
use super::endpoint::Parameter;
use super::problem::Problem;
use crate::cache::{RouteCache, key_parts};
use crate::exchange::CacheNotes;
use crate::filter::Hook;
use crate::http::target::routing_host;
use crate::route::{Ingress, RequestView};
use crate::snapshot::Snapshot;
use crate::snapshot::routes::{Action, Route};

/// Fields of the request that are heeded.
const MOST_HEADERS: usize = 64;

pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "url",
        description: "The URL of the request, as its client sends it.",
        example: "https://shop.example/name",
        required: true,
    },
    Parameter { name: "method", description: "Its method, if that is not GET.", example: "HEAD", required: false },
    Parameter {
        name: "header",
        description: "A field of the request, such as `accept-encoding: gzip`. It can be given several times.",
        example: "accept-encoding: gzip",
        required: false,
    },
    Parameter {
        name: "listener",
        description: "The listener that it comes to, if that is not any.",
        example: "https",
        required: false,
    },
    Parameter {
        name: "key-part",
        description: "What a filter adds to the key: its name, `=` and its value. It can be given several times.",
        example: "plan=gold",
        required: false,
    },
    Parameter {
        name: "consumer",
        description: "The caller that a filter would find, if it finds one.",
        example: "acme",
        required: false,
    },
];

/// What the cache would do with a request.
#[derive(Serialize, JsonSchema)]
pub(super) struct Lookup {
    /// The route that takes it.
    route: String,
    /// Why the cache does not handle it; none if it does.
    bypass: Option<String>,
    /// For each upstream that the request may go to: their responses are kept apart.
    upstreams: Vec<OfUpstream>,
}

#[derive(Serialize, JsonSchema)]
struct OfUpstream {
    upstream: String,
    /// The key, a hash that is another one in each process.
    key: String,
    /// `serve`, `serve-stale`, `serve-stale-and-revalidate`, `revalidate`, `fetch` or `gateway-timeout`.
    decision: &'static str,
    /// `fresh`, `missing`, `stale`, `purged`, `no-cache` or `request`; `vary` if only other variants are stored.
    reason: &'static str,
    /// Why the last response for the key was not stored, if that is known.
    not_stored: Option<NotStored>,
    /// The stored responses, the most recent first.
    variants: Vec<Variant>,
}

#[derive(Serialize, JsonSchema)]
struct NotStored {
    reason: String,
    at: Timestamp,
}

/// A stored response.
#[derive(Serialize, JsonSchema)]
struct Variant {
    /// Whether the request selects it.
    selected: bool,
    status: u16,
    /// The fields of requests that it varies by.
    vary: Vec<String>,
    /// The bytes of its content.
    content: u64,
    received: Timestamp,
    age_seconds: u64,
    /// How long it is fresh in all.
    lifetime_seconds: u64,
    /// What gives it this lifetime: `response`, or a key of the route's `cache`: `ttl`, `negative_ttl`, `heuristic`.
    lifetime_from: &'static str,
    stale_while_revalidate_seconds: u64,
    stale_if_error_seconds: u64,
    etag: Option<String>,
    /// The words of its `Surrogate-Key` and `Cache-Tag`.
    tags: Vec<String>,
    /// The number of purges before its request was sent: those after it reach it.
    generation: u64,
    /// `no`, `soft` (it is stale) or `hard` (it is gone).
    purged: &'static str,
}

/// A request as it is asked about.
struct Asked {
    scheme: Scheme,
    located: Located,
    method: Method,
    headers: HeaderMap,
    listener: Option<String>,
    consumer: Option<String>,
    /// What filters would add to the key, by name.
    parts: Vec<(Box<str>, Box<str>)>,
}

pub(super) fn lookup(context: &Context, query: &str) -> Result<Lookup, Problem> {
    let asked = Asked::read(query)?;
    let snapshot = context.control.snapshot();
    let route = asked.route(&snapshot)?;
    let Action::Forward(split) = &route.action else {
        return Ok(Lookup {
            route: route.facts.name.to_string(),
            bypass: Some("the route asks no upstream".into()),
            upstreams: Vec::new(),
        });
    };
    let chooses = snapshot.pipelines.get(route.pipeline).is_some_and(|pipeline| pipeline.has(Hook::SelectUpstream));
    let bypass = match (&route.cache, looks_up(&asked.method, &asked.headers, false)) {
        (None, _) => Some("the route has no `cache`".to_owned()),
        (Some(_), Err(why)) => Some(why.to_string()),
        (Some(_), Ok(())) if chooses => {
            Some("a filter of the route chooses the upstream (`select-upstream`)".to_owned())
        }
        (Some(_), Ok(())) => None,
    };
    let upstreams = match (&route.cache, snapshot.cache.store()) {
        (Some(cache), Some(store)) => {
            let names = split.targets.iter().filter_map(|target| snapshot.upstreams.get(*target));
            names.map(|(upstream, _)| asked.of_upstream(route, cache, store, upstream.name())).collect()
        }
        (Some(_), None) | (None, _) => Vec::new(),
    };
    Ok(Lookup { route: route.facts.name.to_string(), bypass, upstreams })
}

impl Asked {
    fn read(query: &str) -> Result<Asked, Problem> {
        let (mut url, mut listener, mut consumer) = (None, None, None);
        let (mut method, mut headers, mut notes) = (Method::GET, HeaderMap::new(), CacheNotes::default());
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "url" => url = Some(value),
                "listener" => listener = Some(value.into_owned()),
                "consumer" => consumer = Some(value.into_owned()),
                "key-part" => {
                    let (name, value) = value.split_once('=').ok_or_else(|| {
                        Problem::unprocessable(format!("`key-part`: `{value}` is not like `plan=gold`"))
                    })?;
                    notes.set_key_part(name, value);
                }
                "method" => {
                    method = Method::from_bytes(value.as_bytes())
                        .map_err(|_| Problem::unprocessable(format!("`method`: `{value}` is not a method")))?;
                }
                "header" if headers.len() < MOST_HEADERS => {
                    let (name, value) = field(&value).ok_or_else(|| {
                        Problem::unprocessable(format!("`header`: `{value}` is not a field like `accept-language: de`"))
                    })?;
                    headers.append(name, value);
                }
                "header" => return Err(Problem::unprocessable(format!("expected at most {MOST_HEADERS} of `header`"))),
                other => {
                    let expected: Vec<_> = PARAMETERS.iter().map(|parameter| format!("`{}`", parameter.name)).collect();
                    let expected = expected.join(", ");
                    return Err(Problem::unprocessable(format!("unknown parameter `{other}`, expected {expected}")));
                }
            }
        }
        let url = url.ok_or_else(|| Problem::unprocessable("expected the parameter `url`"))?;
        let located = located("url", &url)?;
        let scheme = if url.starts_with("https:") { Scheme::HTTPS } else { Scheme::HTTP };
        if let Ok(host) = HeaderValue::try_from(&located.host) {
            headers.insert(header::HOST, host);
        }
        Ok(Asked { scheme, located, method, headers, listener, consumer, parts: notes.key_parts })
    }

    /// The route that takes the request.
    fn route<'s>(&self, snapshot: &'s Snapshot) -> Result<&'s Route, Problem> {
        let Located { host, path, query } = &self.located;
        let none = || Problem::unknown("route for", &format!("{} {host}{path}", self.method));
        let authority: Authority = host.parse().map_err(|_| none())?;
        let sni = routing_host(&authority);
        let mut listeners = snapshot.listeners.settings.iter().map(|(name, _)| &**name);
        let at = |listener: &str| {
            let ingress =
                Ingress { listener, scheme: &self.scheme, sni: (self.scheme == Scheme::HTTPS).then_some(sni) };
            snapshot.router.find(&RequestView {
                ingress: &ingress,
                host: sni,
                path,
                method: &self.method,
                query: query.as_deref(),
                headers: &self.headers,
                client_ip: None,
            })
        };
        let found = match &self.listener {
            Some(listener) => snapshot.listeners.find(listener).and_then(|_| at(listener)),
            None => listeners.find_map(at),
        };
        found.and_then(|found| snapshot.routes.get(found.index)).ok_or_else(none)
    }

    fn of_upstream(&self, route: &Route, cache: &RouteCache, store: &Store, upstream: &str) -> OfUpstream {
        let policy = &cache.config.policy;
        let mut parts = self.parts.clone();
        parts.extend(key_parts(&self.headers, self.scheme.as_str(), &self.located.host));
        let key = cache.config.key.key(
            &KeyInput {
                group: &route.facts.name,
                upstream,
                scheme: self.scheme.as_str(),
                host: &self.located.host,
                path: &self.located.path,
                query: self.located.query.as_deref(),
                headers: &self.headers,
                consumer: self.consumer.as_deref(),
                parts: &parts,
            },
            store.secret(),
        );
        let stored = store.inspect(&key);
        let selects = |object: &Object| object.variant().matches(&self.headers, store.secret());
        let selected = stored.iter().position(|(object, purged)| *purged != Purged::Gone && selects(object));
        let now = SystemTime::now();
        let candidate = selected.map(|at| {
            let (object, purged) = &stored[at];
            let candidate = object.candidate();
            sluice_cache::freshness::Candidate {
                // When that was shows at the first hit.
                marked_stale: candidate.marked_stale.or((*purged == Purged::Softly).then_some(now)),
                ..candidate
            }
        });
        let decided = reuse(&RequestDirectives::of(&self.headers), candidate, now, policy);
        let varies = selected.is_none() && stored.iter().any(|(_, purged)| *purged != Purged::Gone);
        OfUpstream {
            upstream: upstream.to_owned(),
            key: hex(&key),
            decision: decided.decision.as_str(),
            reason: if varies { "vary" } else { decided.reason.as_str() },
            not_stored: cache
                .shared
                .why_unstored(&key)
                .map(|noted| NotStored { reason: noted.why.to_string(), at: noted.at.into() }),
            variants: stored
                .iter()
                .enumerate()
                .map(|(at, (object, purged))| variant(object, *purged, selected == Some(at), now))
                .collect(),
        }
    }
}

fn variant(object: &Object, purged: Purged, selected: bool, now: SystemTime) -> Variant {
    let (head, stored) = (object.head(), object.stored());
    let (while_revalidate, if_error) = stored.stale_windows();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Variant {
        selected,
        status: object.status().as_u16(),
        vary: object.variant().names().iter().map(|name| name.as_str().to_owned()).collect(),
        content: object.body().len(),
        received: stored.received().into(),
        age_seconds: stored.age(now).as_secs(),
        lifetime_seconds: stored.lifetime().as_secs(),
        lifetime_from: stored.source().as_str(),
        stale_while_revalidate_seconds: seconds(while_revalidate),
        stale_if_error_seconds: seconds(if_error),
        etag: head.get(header::ETAG).map(|etag| text(etag.as_bytes())),
        tags: fields::tags(&head).unwrap_or_default().into_iter().map(text).collect(),
        generation: object.born().number(),
        purged: match purged {
            Purged::No if object.candidate().marked_stale.is_some() => "soft",
            Purged::No => "no",
            Purged::Softly => "soft",
            Purged::Gone => "hard",
        },
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs()
}

fn hex(key: &Key) -> String {
    key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A line of a request head.
fn field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}
