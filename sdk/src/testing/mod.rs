//! A gateway in miniature for native tests: the same host functions against values in memory.
//!
//! ```
//! use sluice_filter::{prelude::*, testing::{Exchange, Harness}};
//!
//! #[derive(Deserialize)]
//! struct Config { name: String }
//! struct Tag(String);
//!
//! impl Filter for Tag {
//!     type Config = Config;
//!     fn new(config: Config, _: &mut Setup) -> Result<Self, ConfigError> { Ok(Tag(config.name)) }
//! }
//!
//! impl OnRequest for Tag {
//!     fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
//!         request.set_header("x-tag", &self.0)?;
//!         Ok(Verdict::Continue)
//!     }
//! }
//!
//! let tag = Harness::<Tag>::new(serde_json::json!({ "name": "blue" })).expect("a good config");
//! let mut exchange = Exchange::get("/orders?page=2");
//! assert_eq!(tag.on_request(&mut exchange), Ok(Verdict::Continue));
//! assert_eq!(exchange.request.headers.get("x-tag"), Some("blue"));
//! assert!(Harness::<Tag>::new(serde_json::json!({ "name": 3 })).is_err_and(|e| e.starts_with("name: ")));
//! ```

mod consumers;
pub(crate) mod host;
mod message;
mod pieces;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value as Json;

use crate::hooks::{hook_table, traits::*};
use crate::{Chunk, Error, Event, Filter, Finished, Request, Response, Route, Verdict, context::Value, export, http};
pub use consumers::{Consumer, KnownConsumer};
pub use message::{Headers, RequestMessage, ResponseMessage};

/// One request and its response, with the facts gathered on the way. Hooks of several harnesses may be run over one
/// exchange, as a pipeline does.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The request, as the filters have left it.
    pub request: RequestMessage,
    /// The response, or the draft of a filter's answer.
    pub response: ResponseMessage,
    /// The context: the value and the name of the plugin that set it.
    pub context: BTreeMap<String, (Value, String)>,
    /// The authenticated caller.
    pub consumer: Option<String>,
    /// What is known of it, if it is a consumer of the operator's.
    pub known_consumer: Option<KnownConsumer>,
    /// The route: its name, `{param}` values, upstreams and endpoints.
    pub route: RouteFacts,
    /// What `select_upstream` chose.
    pub choice: Choice,
    /// What filters have told the cache of the route.
    pub cache: CacheNotes,
    /// What `on_complete` sees as `summary`.
    pub summary: String,
    state: HashMap<u64, Vec<u8>>,
    piece: sluice_services::piece::Piece,
    /// Among the requests at the same time, until this and its clones are dropped.
    places: Vec<Arc<sluice_services::places::Place>>,
}

/// The route of an exchange.
#[derive(Debug, Clone, Default)]
pub struct RouteFacts {
    /// Its name.
    pub name: String,
    /// The values of its `{param}`s.
    pub params: BTreeMap<String, String>,
    /// The names of its upstreams.
    pub upstreams: Vec<String>,
    /// Their endpoints.
    pub endpoints: Vec<crate::Endpoint>,
    /// Labels by upstream, address and label.
    pub labels: BTreeMap<(String, String, String), String>,
    /// How endpoints are, by upstream and address; one that is not here is well.
    pub states: BTreeMap<(String, String), crate::EndpointState>,
    /// Attempts that failed.
    pub failures: Vec<crate::Failure>,
    /// Attempts that failed, with what is known of each.
    pub failed_attempts: Vec<crate::FailedAttempt>,
    /// What the request may still do; none is the first attempt of a route without retries.
    pub retry: Option<crate::RetryState>,
}

/// What a filter chose in `select_upstream`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// An upstream.
    pub upstream: Option<String>,
    /// Endpoints in order of preference.
    pub endpoints: Vec<String>,
    /// A hash key.
    pub hash_key: Option<String>,
    /// Whether the next attempt is the last.
    pub no_retry: bool,
}

/// What filters have told the cache of the route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheNotes {
    /// Parts of the key, by their names.
    pub key_parts: BTreeMap<String, String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Milliseconds for which the response is fresh, may be sent while another one is fetched, and in place of an error.
    pub freshness: Option<(u64, Option<u64>, Option<u64>)>,
    /// Whether the response is not to be stored.
    pub no_store: bool,
}

impl Exchange {
    /// A request with a method and a target (`/path?query`).
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            request: RequestMessage::new(method, target),
            response: ResponseMessage::draft(),
            context: BTreeMap::new(),
            consumer: None,
            known_consumer: None,
            route: RouteFacts { name: "test".to_owned(), ..RouteFacts::default() },
            choice: Choice::default(),
            cache: CacheNotes::default(),
            summary: "{}".to_owned(),
            state: HashMap::new(),
            piece: sluice_services::piece::Piece::default(),
            places: Vec::new(),
        }
    }

    /// A `GET` request.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// Adds a request header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request.headers.append(name, value);
        self
    }

    /// Sets the request body and its content type.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        self.request.headers.set("content-type", content_type);
        self.request.body = body.as_ref().to_vec();
        self
    }

    /// Sets the upstreams of the route.
    #[must_use]
    pub fn upstreams(mut self, names: &[&str]) -> Self {
        self.route.upstreams = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Puts the upstream's response in place, for the response hooks.
    pub fn respond(&mut self, response: ResponseMessage) {
        self.response = response;
    }
}

/// The keys of a filter's config, as the unknown-key error lists them: for a test that the config's schema has them all.
/// Empty when unknown keys are not refused.
#[must_use]
pub fn config_keys<F: Filter>() -> std::collections::BTreeSet<String> {
    let refusal = export::make::<F>(r#"{"-": 0}"#).err().map(|refusal| refusal.to_string()).unwrap_or_default();
    let known = refusal.split_once("known keys: ").map(|(_, known)| known).unwrap_or_default();
    known.split(", ").filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

/// The defaults in the schema of a filter that are not those of its config: a config has to mean the same with a default written out as without the key.
/// `base` is a config that has each table with defaults, and an element of each list of such tables; a default that it can't reach is named, too.
#[must_use]
pub fn wrong_defaults<F: Filter<Config: std::fmt::Debug>>(base: &Json) -> Vec<String> {
    let schema = serde_json::from_str(F::describe().schema.unwrap_or("{}")).unwrap_or_default();
    let read = |value: &Json| match crate::config::parse::<F::Config>(&value.to_string()) {
        Ok(config) => format!("{config:?}"),
        Err(error) => error.to_string(),
    };
    let mut wrong = Vec::new();
    each_default(&schema, &schema, "", &mut |pointer, default| {
        let (mut with, mut without) = (base.clone(), base.clone());
        let (table, key) = pointer.rsplit_once('/').unwrap_or_default();
        let tables = (with.pointer_mut(table), without.pointer_mut(table));
        let (Some(Json::Object(set)), Some(Json::Object(unset))) = tables else {
            wrong.push(format!("{pointer}: the base does not have this table"));
            return;
        };
        set.insert(key.to_owned(), default.clone());
        unset.remove(key);
        let (with, without) = (read(&with), read(&without));
        if with != without {
            wrong.push(format!("{pointer}: {default} means {with}, and without it {without}"));
        }
    });
    wrong
}

/// Calls for each default in a schema, with the JSON pointer of its key in a config.
fn each_default(whole: &Json, schema: &Json, at: &str, found: &mut impl FnMut(&str, &Json)) {
    if let Some(definition) = schema["$ref"].as_str().and_then(|path| whole.pointer(path.trim_start_matches('#'))) {
        each_default(whole, definition, at, found);
    }
    for choice in ["oneOf", "anyOf"].iter().filter_map(|key| schema[key].as_array()).flatten() {
        each_default(whole, choice, at, found);
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}/{key}");
        if let Some(default) = property.get("default") {
            found(&at, default);
        }
        each_default(whole, property, &at, found);
    }
    if schema["items"].is_object() {
        each_default(whole, &schema["items"], &format!("{at}/0"), found);
    }
}

macro_rules! phases {
    ($(
        $(#[$doc:meta])*
        $hook:ident {
            $(#[$errors:meta])*
            $method:ident($about:ident: $handle:ident) $answer:ident $name:literal $world:literal
        }
    )*) => {
        /// Where the filter stands: decides which functions have a meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Phase {
            Configure,
            $($hook,)*
        }
    };
}

hook_table!(phases);

type Outbound = Box<dyn FnMut(&http::Outgoing) -> Result<http::Incoming, Error>>;

/// What lies behind the host functions and outlives an exchange.
struct Services {
    name: String,
    id: u64,
    /// The gateway's own services.
    gateway: Arc<sluice_services::Services>,
    /// Moves their clock; in microseconds.
    now: Arc<AtomicU64>,
    secrets: HashMap<String, String>,
    outbound: Option<Outbound>,
    key_sets: Vec<Arc<sluice_services::KeySet>>,
    verifiers: Vec<sluice_services::TokenVerifier>,
    consumer_verifiers: Vec<sluice_services::consumers::ConsumerTokenVerifier>,
    log: Vec<String>,
    counters: BTreeMap<String, f64>,
    grants: Json,
    hooks: BTreeMap<String, bool>,
    request_bodies: Option<(u64, Vec<String>)>,
    response_bodies: Option<(u64, Vec<String>)>,
    pieces: BTreeMap<&'static str, Vec<String>>,
    needs: Option<Json>,
    random: u64,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What the host functions act on during a call.
struct World {
    phase: Phase,
    exchange: Exchange,
    services: Services,
    failed: Option<String>,
    wanted_body: bool,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// A filter with its config, and what the gateway holds for it.
#[derive(Debug)]
pub struct Harness<F> {
    filter: F,
    services: RefCell<Option<Services>>,
    kind: PhantomData<F>,
}

impl<F: Filter> Harness<F> {
    /// Makes the filter from its config, with the grants that it says it needs: by [`crate::Setup::needs`], or else in its `describe`.
    ///
    /// # Errors
    /// The refusal as the gateway shows it: `key.path: message`. Also when the grants of `describe` are not JSON.
    pub fn new(config: Json) -> Result<Self, String> {
        let grants = F::describe().grants.map_or(Ok(Json::Null), serde_json::from_str);
        let grants = grants.map_err(|error| format!("the grants of `describe` are not JSON: {error}"))?;
        let harness = Self::with_grants(config, grants)?;
        if let Some(needs) = harness.needs() {
            harness.with(|services| services.grants = needs);
        }
        Ok(harness)
    }

    /// The same with other grants, an object shaped like the `grants` table in `gateway.toml`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_grants(config: Json, grants: Json) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (clock, now) = sluice_services::Clock::manual(1_700_000_000_000_000);
        let services = Services {
            name: std::any::type_name::<F>().rsplit("::").next().unwrap_or_default().to_lowercase(),
            id,
            gateway: sluice_services::Services::new(clock, Arc::new(host::NoNetwork)),
            now,
            secrets: HashMap::new(),
            outbound: None,
            key_sets: Vec::new(),
            verifiers: Vec::new(),
            consumer_verifiers: Vec::new(),
            log: Vec::new(),
            counters: BTreeMap::new(),
            grants,
            hooks: BTreeMap::new(),
            request_bodies: None,
            response_bodies: None,
            pieces: BTreeMap::new(),
            needs: None,
            random: id.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        };
        let mut exchange = Exchange::get("/");
        let (made, services) = enter(Phase::Configure, &mut exchange, services, || {
            export::make::<F>(&config.to_string()).map_err(|refusal| refusal.to_string())
        });
        Ok(Self { filter: made.0?, services: RefCell::new(Some(services)), kind: PhantomData })
    }

    /// Moves the clock on.
    pub fn advance(&self, by: std::time::Duration) {
        let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.with(|services| services.now.fetch_add(by, Ordering::AcqRel));
    }

    /// Sets the clock, in seconds since 1970.
    pub fn set_now(&self, seconds: u64) {
        self.with(|services| services.now.store(seconds * 1_000_000, Ordering::Release));
    }

    /// Gives the filter a secret.
    pub fn secret(&self, name: &str, value: &str) {
        self.with(|services| services.secrets.insert(name.to_owned(), value.to_owned()));
    }

    /// Answers the filter's outbound calls.
    pub fn outbound(&self, answer: impl FnMut(&http::Outgoing) -> Result<http::Incoming, Error> + 'static) {
        self.with(|services| services.outbound = Some(Box::new(answer)));
    }

    /// The lines that the filter has logged, each as `level: message`.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.with(|services| services.log.clone())
    }

    /// The value of a counter, a gauge, or the sum of a histogram, by name and labels: `denied{reason="expired"}`.
    #[must_use]
    pub fn metric(&self, series: &str) -> Option<f64> {
        self.with(|services| services.counters.get(series).copied())
    }

    /// Whether the filter has left a hook on (by its name in the interface, such as `on-response`).
    #[must_use]
    pub fn wants(&self, hook: &str) -> bool {
        self.with(|services| services.hooks.get(hook).copied().unwrap_or(true))
    }

    /// The request bodies that the filter asked for when it was made: the largest, and the media types.
    #[must_use]
    pub fn request_bodies(&self) -> Option<(u64, Vec<String>)> {
        self.with(|services| services.request_bodies.clone())
    }

    /// The response bodies that the filter asked for when it was made.
    #[must_use]
    pub fn response_bodies(&self) -> Option<(u64, Vec<String>)> {
        self.with(|services| services.response_bodies.clone())
    }

    /// The media types that the filter asked for in a piece hook (by its name in the interface, such as `on-response-event`).
    #[must_use]
    pub fn pieces(&self, hook: &str) -> Option<Vec<String>> {
        self.with(|services| services.pieces.get(hook).cloned())
    }

    /// The grants that the filter said its config needs ([`crate::Setup::needs`]).
    #[must_use]
    pub fn needs(&self) -> Option<Json> {
        self.with(|services| services.needs.clone())
    }

    fn with<T>(&self, use_them: impl FnOnce(&mut Services) -> T) -> T {
        use_them(self.services.borrow_mut().as_mut().expect("no hook of this harness is running"))
    }

    /// Runs one hook; a failure leaves the exchange as it was.
    fn run<T>(
        &self,
        phase: Phase,
        exchange: &mut Exchange,
        hook: impl FnOnce(&F) -> Result<T, Error>,
    ) -> Result<T, String> {
        let services = self.services.borrow_mut().take().expect("no hook of this harness is running");
        let before = exchange.clone();
        let ((result, failed), services) = enter(phase, exchange, services, || hook(&self.filter));
        *self.services.borrow_mut() = Some(services);
        let result = result.map_err(|error| error.to_string()).and_then(|value| failed.map_or(Ok(value), Err));
        if result.is_err() {
            *exchange = before;
        }
        result
    }
}

fn enter<T>(
    phase: Phase,
    exchange: &mut Exchange,
    services: Services,
    call: impl FnOnce() -> T,
) -> ((T, Option<String>), Services) {
    let taken = std::mem::replace(exchange, Exchange::get("/"));
    let world = World { phase, exchange: taken, services, failed: None, wanted_body: false };
    WORLD.with(|slot| *slot.borrow_mut() = Some(world));
    let result = call();
    let world = WORLD.with(|slot| slot.borrow_mut().take()).expect("set above");
    *exchange = world.exchange;
    exchange.request.wanted_body |= world.wanted_body && matches!(phase, Phase::OnRequest);
    exchange.response.wanted_body |= world.wanted_body && matches!(phase, Phase::OnResponse);
    ((result, world.failed), world.services)
}

macro_rules! hooks {
    ($(
        $(#[$doc:meta])*
        $hook:ident {
            $(#[$errors:meta])*
            $method:ident($about:ident: $handle:ident) $answer:ident $name:literal $world:literal
        }
    )*) => { $(
        impl<F: $hook> Harness<F> {
            /// Runs the hook.
            ///
            /// # Errors
            /// The reason when the hook failed; the exchange is then as it was before.
            pub fn $method(&self, exchange: &mut Exchange) -> Result<hooks!(@$answer), String> {
                self.run(Phase::$hook, exchange, |filter| filter.$method(&$handle(())))
            }
        }
    )* };
    (@verdict) => { Verdict };
    (@nothing) => { () };
}

hook_table!(hooks);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConfigError, Describe, Setup};

    #[derive(Debug)]
    struct Plain;

    impl Filter for Plain {
        type Config = ();
        fn new((): (), _: &mut Setup) -> Result<Self, ConfigError> {
            Ok(Plain)
        }
        fn describe() -> Describe {
            Describe { grants: Some(r#"{"read_headers": ["*"]}"#), ..Describe::default() }
        }
    }

    impl OnRequest for Plain {
        fn on_request(&self, request: &Request) -> Result<Verdict, Error> {
            Ok(if request.header("cookie")?.is_some() { Verdict::Respond } else { Verdict::Continue })
        }
    }

    #[test]
    fn a_filter_without_a_config_gets_an_empty_table() {
        assert!(Harness::<Plain>::new(serde_json::json!({})).is_ok());
        let refused = Harness::<Plain>::new(serde_json::json!({ "name": "x" })).expect_err("a key");
        assert_eq!(refused, "name: unknown key `name`, there are no keys here");
    }

    #[test]
    fn grants_that_are_not_json_are_refused() {
        #[derive(Debug)]
        struct Mistaken;
        impl Filter for Mistaken {
            type Config = ();
            fn new((): (), _: &mut Setup) -> Result<Self, ConfigError> {
                Ok(Mistaken)
            }
            fn describe() -> Describe {
                Describe { grants: Some("{read_headers: []}"), ..Describe::default() }
            }
        }
        let refused = Harness::<Mistaken>::new(serde_json::json!({})).expect_err("no JSON");
        assert!(refused.starts_with("the grants of `describe` are not JSON: "), "{refused}");
    }

    #[test]
    fn a_star_grants_every_header() {
        let mut exchange = Exchange::get("/").header("cookie", "a=b");
        let ask = |filter: Harness<Plain>, exchange: &mut Exchange| filter.on_request(exchange);
        let described = Harness::<Plain>::new(serde_json::json!({})).expect("a filter");
        assert_eq!(ask(described, &mut exchange), Ok(Verdict::Respond));
        let bare = Harness::<Plain>::with_grants(serde_json::json!({}), Json::Null).expect("a filter");
        assert_eq!(ask(bare, &mut exchange), Ok(Verdict::Continue));
    }

    #[test]
    fn trailers_have_the_rules_of_headers_and_their_own() {
        #[derive(Debug)]
        struct Ends;
        impl Filter for Ends {
            type Config = ();
            fn new((): (), _: &mut Setup) -> Result<Self, ConfigError> {
                Ok(Ends)
            }
        }
        impl OnResponseTrailers for Ends {
            fn on_response_trailers(&self, response: &Response) -> Result<(), Error> {
                let names: Vec<_> = response.trailers()?.into_iter().map(|(name, _)| name).collect();
                let refused = |name: &str| {
                    let tries = [response.set_trailer(name, "1"), response.remove_trailer(name)];
                    tries.iter().all(Result::is_err).then(|| name.to_owned())
                };
                let all: Vec<_> = ["Vary", "te", "If-Match", "CDN-Loop", "set-cookie", "X-Sum"]
                    .into_iter()
                    .filter_map(refused)
                    .collect();
                response.set_trailer("x-seen", &names.join(" "))?;
                response.set_trailer("x-cookie", response.trailer("Set-Cookie")?.as_deref().unwrap_or("none"))?;
                response.set_trailer("x-refused", &all.join(" "))
            }
        }
        let mut exchange = Exchange::get("/");
        let trailers = &mut exchange.response.trailers;
        for (name, value) in [("grpc-status", &b"0"[..]), ("set-cookie", b"a=b"), ("x-bytes", b"\xff"), ("x-sum", b"9")]
        {
            trailers.set(name, value);
        }
        let filter = Harness::<Ends>::new(serde_json::json!({})).expect("a filter");
        filter.on_response_trailers(&mut exchange).expect("no failure");
        let trailers = &exchange.response.trailers;
        assert_eq!(trailers.get("x-seen"), Some("grpc-status x-sum"));
        assert_eq!(trailers.get("x-cookie"), Some("none"));
        assert_eq!(trailers.get("x-refused"), Some("Vary te If-Match CDN-Loop set-cookie"));
        assert!(!trailers.has("x-sum") && trailers.has("x-bytes"));
    }
}
