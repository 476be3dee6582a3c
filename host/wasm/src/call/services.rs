//! The services as one filter reaches them.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_services::filter_metrics::FilterSeries;
use sluice_services::kv::KvSpace;
use sluice_services::limiter::CounterSpace;
use sluice_services::places::PlaceSpace;
use sluice_services::state::{ExactCounters, LeasedCounters, Limits, Place, RemoteValues, SharedPlaces, Values};
use sluice_services::{Grants, Services};

/// What one filter counts, keeps and measures with.
#[derive(Clone)]
pub(crate) struct FilterServices {
    pub(crate) services: Arc<Services>,
    pub(crate) counters: Counters,
    pub(crate) places: Places,
    pub(crate) spaces: Spaces,
    pub(crate) series: Arc<FilterSeries>,
}

/// What a filter counts with.
#[derive(Clone)]
pub(crate) enum Counters {
    /// In memory.
    Local(Arc<CounterSpace>),
    Leased(Arc<LeasedCounters>),
    /// In a store, for which each call waits.
    Exact(Arc<ExactCounters>),
}

/// What a filter counts requests at the same time with.
#[derive(Clone)]
pub(crate) enum Places {
    Local(Arc<PlaceSpace>),
    /// In a store, for which each call waits.
    Shared(Arc<SharedPlaces>),
}

/// What a filter keeps values in.
#[derive(Clone)]
pub(crate) enum Spaces {
    Local(HashMap<String, Arc<KvSpace>>),
    /// In a store, for which each call waits.
    Remote(HashMap<String, Arc<RemoteValues>>),
}

impl FilterServices {
    /// Counters and values are private to the plugin, metrics to the filter.
    pub(crate) fn new(
        services: &Arc<Services>,
        plugin: &str,
        filter: &str,
        grants: &Grants,
        place: Option<&Place>,
    ) -> FilterServices {
        let local = |name: &String| (name.clone(), services.kv.space(plugin, name, grants.kv_quota));
        let in_memory = || services.limiter.space(plugin);
        let counters = match place.map(|place| (&place.store, place.limits)) {
            None | Some((_, Limits::Local)) => Counters::Local(in_memory()),
            Some((store, Limits::Leased { most })) => Counters::Leased(services.stores.leased(plugin, store, most)),
            Some((store, Limits::Exact)) => {
                Counters::Exact(Arc::new(ExactCounters::new(store.clone(), plugin, in_memory())))
            }
        };
        let held_here = services.limiter.places(plugin);
        let places = match place.filter(|place| place.shares_places()) {
            None => Places::Local(held_here),
            Some(place) => Places::Shared(services.stores.places(plugin, &place.store, held_here)),
        };
        let spaces = match place.filter(|place| place.values == Values::Shared) {
            None => {
                let spaces: HashMap<_, _> = grants.kv.iter().map(local).collect();
                // A configuration before this one may have kept values in a store that was away.
                spaces.values().for_each(|space| space.keeps_for_itself());
                Spaces::Local(spaces)
            }
            Some(place) => {
                let remote = |name: &String| {
                    let (name, local) = local(name);
                    let values = RemoteValues::new(place.store.clone(), plugin, &name, grants.kv_quota, local);
                    (name, Arc::new(values))
                };
                Spaces::Remote(grants.kv.iter().map(remote).collect())
            }
        };
        FilterServices { services: services.clone(), counters, places, spaces, series: services.metrics.filter(filter) }
    }
}
