//! The tier that gateways share: asked before the upstream, and told of what is stored. Nothing waits for it longer than a call may.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, SET_COOKIE};
use sluice_cache::fields::{self, Vary};
use sluice_cache::key::QueryRule;
use sluice_cache::packed::{self, Packed};
use sluice_cache::policy::Normalise;
use sluice_cache::store::{Object, Purged, SharedPurges, Tags};
use sluice_cache::vary::Variant;

use super::RouteHandler;
use crate::cache::{RouteCache, Tier, place_host};
use crate::exchange::RequestHead;
use crate::http::buffer::MemoryBudget;
use crate::proxy::context::RequestContext;

/// The place of a response in the tier.
pub(super) struct Shared {
    tier: Arc<Tier>,
    purges: Arc<SharedPurges>,
    /// The last purge that is known, before the upstream is asked.
    known: u64,
    name: String,
    normalise: Normalise,
    query: QueryRule,
}

impl RouteHandler<'_> {
    /// None without a tier that can be used now.
    pub(super) fn shared(&self, context: &mut RequestContext, cache: &RouteCache) -> Option<Shared> {
        let tier = cache.shared.tier()?;
        let purges = tier.usable()?;
        let key = self.key(context, cache, purges.secret());
        Some(Shared {
            known: purges.number(),
            name: hex(key.to_bytes()),
            normalise: cache.config.policy.normalise,
            query: cache.config.key.query.clone(),
            tier,
            purges,
        })
    }
}

/// A response of the tier.
pub(super) struct Found {
    pub(super) response: Box<packed::Response>,
    /// A soft purge has reached it.
    pub(super) is_stale: bool,
}

impl Shared {
    /// What the tier has for a request.
    pub(super) async fn find(
        &self,
        request: &RequestHead,
        headers: &HeaderMap,
        budget: &MemoryBudget,
    ) -> Option<Found> {
        let secret = self.purges.secret();
        let bytes = self.tier.get(&self.name).await?;
        let _charge = budget.reserve(bytes.len()).ok()?;
        let response = match packed::read(&bytes, secret)? {
            Packed::Response(response) => response,
            Packed::Varies(names) => {
                let variant = Variant::new(&names, headers, &HeaderMap::new(), self.normalise, secret);
                let bytes = self.tier.get(&self.variant(&variant)).await?;
                let _charge = budget.reserve(bytes.len()).ok()?;
                match packed::read(&bytes, secret)? {
                    Packed::Response(response) if varies_by(&response.head, &names) => response,
                    Packed::Response(_) | Packed::Varies(_) => return None,
                }
            }
        };
        let explicit = fields::tags(&response.head).ok()?;
        let noted = response.notes.iter().flat_map(|notes| &notes.tags).map(|tag| tag.as_bytes());
        let host = place_host(&request.scheme, &request.authority);
        let tags = explicit.into_iter().chain(noted);
        let query = self.query.canonical(request.target.query());
        let tags = Tags::new(host, request.target.path(), query.as_deref(), tags, secret);
        let is_stale = match self.tier.check(&self.purges, response.born, &tags) {
            Purged::Gone => return None,
            Purged::Softly => true,
            Purged::No => false,
        };
        // What is not usable any more may not have been when this was read, and purges are told to another journal then.
        self.tier.usable().filter(|purges| Arc::ptr_eq(purges, &self.purges))?;
        Some(Found { response, is_stale })
    }

    /// Tells the tier of a response, behind the requests.
    pub(super) fn keep(self, object: &Arc<Object>, request: &HeaderMap) {
        let stored = object.stored();
        let left = stored.useful_for().saturating_sub(stored.age(SystemTime::now()));
        if left.is_zero() || object.body().len() > self.tier.most {
            return;
        }
        let head = object.head();
        let secret = self.purges.secret();
        // What a cookie says is for this gateway's clients to hear, if anybody's.
        if head.contains_key(SET_COOKIE) {
            return;
        }
        let names = object.variant().names();
        let mut marker = None;
        let name = match names {
            [] => self.name.clone(),
            names => {
                let variant = |response| Variant::new(names, request, response, self.normalise, secret).to_bytes();
                // Readers do not know the response, so its coding must not matter for what is compared.
                if variant(&head) != variant(&HeaderMap::new()) {
                    return;
                }
                marker = Some(packed::varies(names, secret));
                self.variant(&Variant::new(names, request, &head, self.normalise, secret))
            }
        };
        let packed = packed::response(object, self.known, secret);
        if packed.len() as u64 > self.tier.most {
            return;
        }
        tokio::task::spawn_local(async move {
            if let Some(marker) = marker {
                self.tier.put(&self.name, &marker, left).await;
            }
            self.tier.put(&name, &packed, left).await;
        });
    }

    /// The tier has nothing more for a request: the upstream's newest response is not stored.
    pub(super) fn displace(self, stored: &Object, request: &HeaderMap) {
        let name = match stored.variant().names() {
            [] => self.name.clone(),
            names => {
                let secret = self.purges.secret();
                self.variant(&Variant::new(names, request, &HeaderMap::new(), self.normalise, secret))
            }
        };
        tokio::task::spawn_local(async move {
            // What is no response is not used.
            self.tier.put(&name, b"-", Duration::from_secs(1)).await;
        });
    }

    fn variant(&self, variant: &Variant) -> String {
        format!("{}-{}", self.name, hex(variant.to_bytes()))
    }
}

fn varies_by(head: &HeaderMap, names: &[http::HeaderName]) -> bool {
    matches!(fields::vary(head), Vary::Fields(found) if *found == *names)
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
