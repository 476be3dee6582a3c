//! The services as one filter reaches them.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_services::filter_metrics::FilterSeries;
use sluice_services::kv::KvSpace;
use sluice_services::limiter::CounterSpace;
use sluice_services::{Grants, Services};

/// What one filter counts, keeps and measures with.
#[derive(Clone)]
pub(crate) struct FilterServices {
    pub(crate) services: Arc<Services>,
    pub(crate) counters: Arc<CounterSpace>,
    pub(crate) spaces: HashMap<String, Arc<KvSpace>>,
    pub(crate) series: Arc<FilterSeries>,
}

impl FilterServices {
    /// Counters and values are private to the plugin, metrics to the filter.
    pub(crate) fn new(services: &Arc<Services>, plugin: &str, filter: &str, grants: &Grants) -> FilterServices {
        let space = |name: &String| (name.clone(), services.kv.space(plugin, name, grants.kv_quota));
        FilterServices {
            services: services.clone(),
            counters: services.limiter.space(plugin),
            spaces: grants.kv.iter().map(space).collect(),
            series: services.metrics.filter(filter),
        }
    }
}
