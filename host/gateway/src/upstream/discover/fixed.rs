//! Endpoints by address: what the configuration says is all there is.

use std::sync::Arc;

use super::dns::literal;
use crate::upstream::endpoints::Listing;
use crate::upstream::resolver::{Addresses, LookupFamily};
use crate::upstream::spec::Endpoint;

pub(crate) struct Fixed(Vec<(Arc<Endpoint>, Addresses)>);

impl Fixed {
    /// `None` where an endpoint has a name that has to be asked for.
    pub(super) fn new(endpoints: &[Arc<Endpoint>], family: LookupFamily) -> Option<Self> {
        let located = endpoints.iter().map(|endpoint| Some((endpoint.clone(), literal(&endpoint.place, family)?)));
        located.collect::<Option<_>>().map(Fixed)
    }

    pub(super) fn listing(&self) -> Listing {
        Listing { endpoints: self.0.clone(), refresh_at: None }
    }
}
