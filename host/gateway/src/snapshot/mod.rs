//! `Config` → `Snapshot`: everything ready to serve, immutable, shared by all workers; and each worker's view of it. Building one takes
//! time (components are compiled and tried), so it happens on the loader's thread.

mod caches;
mod expose;
mod expose_acme;
mod expose_limits;
mod expose_state;
mod filters;
mod https;
mod listeners;
mod local;
mod loops;
pub(crate) mod needs;
pub mod routes;
pub mod split;
mod upstreams;
mod validities;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderName;

use crate::cache::ResponseCache;
use crate::certs::{CertStore, OrderedPlace, PendingChallenges};
use crate::config::model::{self, Name, Wanted};
use crate::config::{ConfigError, ConfigErrors, KeyPart, Loaded};
use crate::consumers::{ConsumerFiles, ConsumerPlan, PlanError};
use crate::filter::{Pipeline, Plugin, Runtime};
use crate::outbound::OutboundClient;
use crate::route::Router;
use crate::server::Listeners;
use crate::services::{Services, state};
use crate::telemetry::{Metrics, UpstreamId};
use crate::upstream::{EndpointRegistry, Resolver, Sources, Upstream};

pub use expose::expose;
pub use filters::KEY_SET_WAIT;
pub(crate) use filters::filter_spec;
pub use https::HttpsRedirects;
pub use listeners::{ListenerError, check_read_again, settings as listener_settings};
pub use local::{LocalSnapshot, UpstreamHandle};
pub use validities::Validities;

use routes::Route;

/// How long making the first instances of filters may hold up a start or a reload. What is left after that is made when it is needed.
const PREWARM: Duration = Duration::from_secs(5);

/// A configuration that is ready to serve.
pub struct Snapshot {
    /// Another one for each snapshot of the process.
    pub number: u64,
    pub router: Router,
    pub https_redirects: HttpsRedirects,
    /// In the order of the router's.
    pub routes: Vec<Route>,
    /// By which filters call upstreams.
    pub calls: Route,
    pub upstreams: Vec<(Arc<Upstream>, UpstreamId)>,
    pub pipelines: Vec<Arc<Pipeline>>,
    pub id_header: HeaderName,
    pub listeners: Listeners,
    /// The bytes of bodies that the filters of a worker may work on at once.
    pub max_filtered_bodies: u64,
    /// Asks the name servers of this configuration.
    pub resolver: Arc<Resolver>,
    /// Kept so that the next snapshot need not load them again.
    plugins: Vec<(Name, Arc<Plugin>, filters::Source)>,
    /// Of the certificates that it uses, also of those that took the place of others while it serves.
    pub validities: ArcSwap<Validities>,
    /// The places of certificates that are ordered, in the order of the configuration's.
    pub ordered: Vec<OrderedPlace>,
    /// What authorities may ask for; none where nothing is ordered.
    pub challenges: Option<Arc<PendingChallenges>>,
    /// The consumers of its configuration.
    consumers: ConsumerPlan,
    pub cache: Arc<ResponseCache>,
    /// Its memory, in bytes, where a route needs it.
    cache_memory: Option<u64>,
    /// The store behind it that gateways share, and the bytes of a response there.
    cache_tier: Option<(Arc<state::Store>, u64)>,
    services: Arc<Services>,
    /// What an operator should know, as lines for the log and `check`.
    pub warnings: Vec<String>,
}

/// What a snapshot is built with; all of it outlives the snapshot.
pub struct SnapshotBuilder {
    pub runtime: Arc<Runtime>,
    pub services: Arc<Services>,
    pub certs: CertStore,
    pub metrics: Arc<Metrics>,
    /// Sends what the services ask for; has the resolver of the running snapshot.
    pub outbound: Arc<OutboundClient>,
    pub endpoints: Arc<EndpointRegistry>,
    pub cache: Arc<ResponseCache>,
    /// What upstreams find their endpoints with.
    pub sources: Arc<Sources>,
    pub consumers: Arc<ConsumerFiles>,
}

impl SnapshotBuilder {
    /// Builds a snapshot. `before` lends what has not changed. All errors are found at once, each at its place in the file.
    pub fn build(&self, loaded: &Loaded, before: Option<&Snapshot>) -> Result<Snapshot, ConfigErrors> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let config = &loaded.config;
        let mut errors = Vec::new();
        let mut warnings = Vec::new();

        let consumers = self.consumers.plan(&config.consumers, &config.gateway.consumer_files);
        let consumers = consumers.map_err(|found| errors.extend(found.into_iter().map(|error| error.at(loaded))));
        let plugins = self.plugins(loaded, before, &mut errors, &mut warnings);
        let filters = self.filters(loaded, &plugins, before, &mut errors, &mut warnings);
        let resolver = self.outbound.resolver().with_servers(&config.gateway.nameservers);
        let shared = (&self.endpoints, &resolver, &self.sources);
        let upstreams = upstreams::build(loaded, before, &self.metrics, shared, &mut errors);
        warnings.extend(upstreams.iter().filter_map(|(upstream, _)| upstream.warning()));
        let ordered: Vec<_> = config.acme_certificates.iter().map(|wanted| self.ordered_place(wanted)).collect();
        let validities = Validities::of(config, &ordered);
        warnings.extend(validities.warnings());
        let listeners = listeners::build(loaded, (&self.certs, &ordered), &mut errors, &mut warnings);
        let router = routes::router(loaded).map_err(|found| errors.extend(found));
        let https_redirects = HttpsRedirects::build(config).map_err(|error| {
            errors.push(loaded.error_on(&key(&["listeners"]), error.to_string()));
        });
        let mut pipelines: Vec<(Vec<_>, Arc<Pipeline>)> = Vec::new();
        let mut built = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            // Routes with the same filters share a pipeline, and so its instances.
            let pipeline = match pipelines.iter().position(|(names, _)| *names == route.pipeline) {
                Some(known) => known,
                None => {
                    // Without one of its filters there already is an error.
                    let mut built = |name: &Name| filters.get(name).cloned();
                    let steps: Vec<_> = route.pipeline.iter().filter_map(|step| step.try_map(&mut built)).collect();
                    filters::warn_of_strangers(&steps, &route.name, &mut warnings);
                    match Pipeline::new(&steps) {
                        Ok(pipeline) => pipelines.push((route.pipeline.clone(), pipeline)),
                        Err(error) => {
                            errors.push(loaded.error_on(&key(&["routes", &route.name, "pipeline"]), error.to_string()));
                            continue;
                        }
                    }
                    pipelines.len() - 1
                }
            };
            caches::warn(loaded, route, &pipelines[pipeline].1, &mut warnings);
            let upstream = |name: &str| config.upstreams.iter().position(|upstream| *upstream.name == *name);
            let shared = (&*self.metrics, &*self.endpoints, &self.cache);
            match routes::route(route, pipeline, (&config.upstreams, upstream), shared, (number, before)) {
                Ok(route) => built.push(route),
                Err(message) => errors.push(loaded.error_on(&key(&["routes", &route.name]), message)),
            }
        }
        let without_filters = pipelines.iter().position(|(names, _)| names.is_empty()).unwrap_or(pipelines.len());
        if without_filters == pipelines.len() {
            pipelines.push((Vec::new(), Pipeline::empty()));
        }
        let cache_tier = config.cache.state.as_ref().filter(|_| built.iter().any(|route| route.cache.is_some()));
        let cache_tier = cache_tier.and_then(|shared| {
            let spec = config.states.iter().find(|spec| *spec.name == *shared.name.as_str())?;
            match self.services.stores.open(spec.clone()) {
                Ok(store) => Some((store, shared.max_object.0)),
                Err(why) => {
                    errors.push(loaded.error_on(&key(&["state", &spec.name]), why));
                    None
                }
            }
        });
        let calls = routes::calls(&config.calls, number, without_filters, &upstreams, &self.metrics);
        match (router, https_redirects, listeners, consumers) {
            (Ok(router), Ok(https_redirects), Some(listeners), Ok(consumers)) if errors.is_empty() => Ok(Snapshot {
                warnings: warnings
                    .into_iter()
                    .chain(consumers.warnings.iter().cloned())
                    .chain(loops::warnings(loaded, &router))
                    .collect(),
                number,
                router,
                https_redirects,
                cache: Arc::clone(&self.cache),
                cache_memory: built.iter().any(|route| route.cache.is_some()).then_some(config.cache.memory.0),
                cache_tier,
                services: Arc::clone(&self.services),
                routes: built,
                calls,
                upstreams,
                pipelines: pipelines.into_iter().map(|(_, pipeline)| pipeline).collect(),
                id_header: config.gateway.request_id_header.clone(),
                max_filtered_bodies: config.gateway.max_filtered_bodies.0,
                listeners,
                resolver,
                plugins: plugins.into_iter().map(|(name, loaded)| (name, loaded.plugin, loaded.source)).collect(),
                validities: ArcSwap::from_pointee(validities),
                challenges: (!ordered.is_empty()).then(|| Arc::clone(self.certs.challenges())),
                ordered,
                consumers,
            }),
            _ => Err(ConfigErrors::new(errors)),
        }
    }
}

impl SnapshotBuilder {
    fn ordered_place(&self, certificate: &model::AcmeCertificate) -> OrderedPlace {
        match certificate.wanted {
            Wanted::Names(_) => OrderedPlace::One(self.certs.managed(&certificate.name)),
            Wanted::OnDemand(_) => OrderedPlace::OnDemand(self.certs.on_demand(&certificate.name)),
        }
    }
}

impl PlanError {
    fn at(self, loaded: &Loaded) -> ConfigError {
        match self {
            PlanError::File(number, message) => {
                let mut path = key(&["gateway", "consumer_files"]);
                path.push(KeyPart::Index(number));
                loaded.error_on(&path, message)
            }
            PlanError::Consumer(name, message) => loaded.error_on(&key(&["consumers", &name]), message),
        }
    }
}

impl Snapshot {
    /// Makes the first instances of filters that take long to make, one for each worker, so that no request waits for one. To be called
    /// before it is served.
    pub fn prewarm(&self, workers: NonZeroUsize) {
        let until = Instant::now() + PREWARM;
        let mut known = HashSet::new();
        let filters = self.pipelines.iter().flat_map(|pipeline| pipeline.filters());
        let mut filters: Vec<_> = filters.filter(|filter| known.insert(Arc::as_ptr(filter))).collect();
        for _ in 0..workers.get() {
            filters.retain(|filter| {
                // The rest are told that they go live all the same.
                let made = filter.prewarm(Instant::now() < until);
                made.unwrap_or_else(|error| {
                    tracing::warn!(filter = %filter.name(), %error, "no instance could be made ahead of need");
                    false
                })
            });
        }
    }

    /// Whether a route has a cache.
    pub fn has_caches(&self) -> bool {
        self.cache_memory.is_some()
    }

    /// The consumers are those of this snapshot from now on.
    pub fn apply_consumers(&self, files: &ConsumerFiles) {
        files.apply(&self.consumers);
    }

    /// Limits and circuit breakers are as this snapshot says from now on. To be called when it is about to be served, not before: they are
    /// shared with the running one.
    pub fn apply_limits(&self) {
        self.upstreams.iter().for_each(|(upstream, _)| upstream.apply_limits());
        self.routes.iter().filter_map(|route| route.limits.as_ref()).for_each(|limits| limits.apply());
        match self.cache_memory {
            Some(memory) => {
                let caches = self.routes.iter().filter_map(|route| route.cache.as_ref());
                self.cache.apply(memory, caches.map(|cache| &cache.config.key.query));
                self.cache.share(self.cache_tier.as_ref(), &self.services.stores);
            }
            None => self.cache.retire(),
        }
    }
}

/// A key path of names.
fn key(parts: &[&str]) -> Vec<KeyPart> {
    parts.iter().map(|part| KeyPart::Key((*part).to_owned())).collect()
}

type Errors = Vec<ConfigError>;
