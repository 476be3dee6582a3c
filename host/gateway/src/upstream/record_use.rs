//! What each request does with the record of its endpoint, without the request: for benchmarks.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::attempt::{self, UpstreamResponse};
use super::balance::Affinity;
use super::endpoints::LocalEndpoints;
use super::error::AttemptError;
use super::local::{Choice, LocalUpstream};
use super::spec::Upstream;
use crate::exchange::{ResponseHead, ResponseSource};
use crate::http::body::Body;

/// One worker's view of an upstream, and a response to note.
pub struct RecordUse {
    upstream: Rc<LocalUpstream>,
    endpoints: Rc<LocalEndpoints>,
    response: Result<UpstreamResponse, AttemptError>,
}

impl RecordUse {
    pub fn new(upstream: &Arc<Upstream>) -> Self {
        let upstream = LocalUpstream::new(Arc::clone(upstream), None);
        let head = Box::new(ResponseHead::new(ResponseSource::Upstream, StatusCode::OK));
        let response = Ok(UpstreamResponse { head, body: Body::Empty, upgraded: None });
        RecordUse { endpoints: upstream.endpoints(), upstream, response }
    }

    /// Chooses an address, counts a request there, notes its response and counts back. False: there is no address.
    pub fn request(&self) -> bool {
        let chosen = self.upstream.choose(&self.endpoints, Choice::Balanced(Affinity::default()), None, &[]);
        let Some(pool) = chosen.and_then(|host| self.endpoints.pool(host)) else { return false };
        pool.record().enter();
        attempt::observe(self.upstream.upstream(), pool, &self.response, Duration::from_micros(800));
        pool.record().leave();
        true
    }
}
