//! What filters tell the cache: in request hooks before the look-up, in response hooks before the response is stored. A fetch waits with
//! storing until the response hooks of the request that has begun it are through.

use std::sync::Arc;

use sluice_cache::notes::{Freshness, Notes};
use tokio::sync::oneshot;

use crate::exchange::CacheNotes;
use crate::proxy::RouteHandler;
use crate::proxy::context::RequestContext;

/// What the filters of a request have said; none: not all of them have seen the response, and one might have said more.
pub(in crate::proxy) type Told = Option<Box<CacheNotes>>;

impl RouteHandler<'_> {
    /// Where a response hook may say something of what is about to be stored: what it says.
    pub(super) fn listen(&self, context: &mut RequestContext) -> Option<oneshot::Receiver<Told>> {
        if !self.pipeline.pipeline().tells_cache() {
            return None;
        }
        let (tell, told) = oneshot::channel();
        context.tells_cache = Some(tell);
        Some(told)
    }
}

/// The response hooks of a request are through.
pub(in crate::proxy) fn tell(context: &mut RequestContext) {
    let Some(tell) = context.tells_cache.take() else { return };
    let told = match context.error {
        None => Some(context.exchange().cache.take().unwrap_or_default()),
        Some(_) => None,
    };
    // The fetch may have come to nothing.
    let _ = tell.send(told);
}

/// The notes for a stored response.
pub(super) fn stored_notes(told: &CacheNotes) -> Option<Arc<Notes>> {
    let freshness = told.freshness.map(|freshness| Freshness {
        lifetime: freshness.lifetime,
        stale_while_revalidate: freshness.stale_while_revalidate,
        stale_if_error: freshness.stale_if_error,
    });
    Notes { tags: told.tags.clone(), freshness }.shared()
}
