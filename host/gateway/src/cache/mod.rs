//! The HTTP cache of the process: the store that all workers share, and what is purged of it. It outlives snapshots. The rules and the store
//! are in `sluice-cache`; `proxy/cache/` asks them for each request.

mod encoded;
mod proxied;
mod tier;
mod unstored;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, StatusCode};
use sluice_cache::digest::Secret;
use sluice_cache::invalidate;
use sluice_cache::key::{Key, QueryRule};
use sluice_cache::store::{Limits, Purge, Store, Strength};
use url::Url;

use crate::config::model;
use crate::http::path::normalise_path;
use crate::services::state::{self, Stores};

pub use self::encoded::{Encoded, Form, State};
pub use self::proxied::key_parts;
pub use self::tier::Tier;
pub use self::unstored::{Noted, NotesOfUnstored, Unstored};
pub use crate::config::model::PurgeGrant;

/// The responses of one key that differ by what they vary by: clients choose that, and would fill the store with one page.
const MAX_VARIANTS: usize = 32;

/// One response takes no more of the memory than this part.
const LARGEST: u64 = 8;

/// The memory that one response takes at most, of this much.
pub fn largest(memory: u64) -> u64 {
    memory / LARGEST
}

/// Coded forms of responses take this part of the memory besides.
const ENCODED: u64 = 4;

/// What a request that a route's cache has seen came to, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheResult {
    /// A fresh response from the store.
    Hit,
    /// A stale one, as the client or `stale-while-revalidate` allows.
    Stale,
    /// A stale one in place of an error.
    StaleIfError,
    /// A stored response that the upstream has confirmed.
    Revalidated,
    /// A fresh response of the tier that gateways share.
    Shared,
    /// The response to another request for the same.
    Collapsed,
    /// The upstream's response.
    Miss,
    /// The cache does not handle the request.
    Bypass,
    /// The client wanted a stored response only, and there is none.
    NotStored,
    /// The request has taken responses away.
    Purge,
}

impl CacheResult {
    pub fn name(self) -> &'static str {
        match self {
            CacheResult::Hit => "hit",
            CacheResult::Stale => "stale",
            CacheResult::StaleIfError => "stale-if-error",
            CacheResult::Revalidated => "revalidated",
            CacheResult::Shared => "shared",
            CacheResult::Collapsed => "collapsed",
            CacheResult::Miss => "miss",
            CacheResult::Bypass => "bypass",
            CacheResult::NotStored => "not-stored",
            CacheResult::Purge => "purge",
        }
    }
}

/// The cache of a route.
pub struct RouteCache {
    pub shared: Arc<ResponseCache>,
    pub config: model::RouteCache,
}

/// The cache of the process.
#[derive(Default)]
pub struct ResponseCache {
    /// Made when the first route with a cache is served.
    store: OnceLock<Store>,
    /// What the keys of routes have of a query.
    queries: ArcSwap<Vec<QueryRule>>,
    /// For those who ask why something is not stored.
    unstored: OnceLock<NotesOfUnstored>,
    /// What other gateways have, too.
    tier: ArcSwapOption<Tier>,
    /// For routes that compress.
    pub encoded: Encoded,
}

impl ResponseCache {
    /// The store has this much memory from now on, and the keys of routes have these parts of a query.
    pub fn apply<'r>(&self, memory: u64, queries: impl Iterator<Item = &'r QueryRule>) {
        let mut distinct = Vec::new();
        for rule in queries {
            if !distinct.contains(rule) {
                distinct.push(rule.clone());
            }
        }
        self.queries.store(Arc::new(distinct));
        self.encoded.apply(memory / ENCODED);
        let limits = Limits { bytes: memory, object: largest(memory), variants: MAX_VARIANTS };
        match self.store.get() {
            Some(store) => store.set_limits(limits),
            None => {
                let mut secret = [0; 16];
                // Without randomness there is no TLS either; who knows the secret can make keys collide.
                aws_lc_rs::rand::fill(&mut secret).expect("the system has random numbers");
                let _ = self.store.set(Store::new(limits, Secret::new(secret)));
            }
        }
    }

    /// None before a route with a cache was served.
    pub fn store(&self) -> Option<&Store> {
        self.store.get()
    }

    /// This store is behind the memory from now on, or none.
    pub fn share(self: &Arc<Self>, store: Option<&(Arc<state::Store>, u64)>, stores: &Stores) {
        let Some((store, most)) = store else { return self.tier.store(None) };
        if !self.tier.load().as_ref().is_some_and(|tier| tier.is_of(store, *most)) {
            let tier = Tier::new(store, *most, self, |journal, reader| stores.follow(journal, reader));
            self.tier.store(Some(tier));
        }
    }

    /// What is behind the memory, if anything is.
    pub fn tier(&self) -> Option<Arc<Tier>> {
        self.tier.load_full()
    }

    /// Gives about so much memory back.
    pub fn release(&self, bytes: u64) {
        if let Some(store) = self.store() {
            store.release(bytes);
        }
        // A share of what it takes: forms are made again more easily than responses are fetched.
        self.encoded.release(bytes / ENCODED);
    }

    /// No route has a cache any more. What is stored goes: nobody tells it of changes meanwhile.
    pub fn retire(&self) {
        self.tier.store(None);
        if let Some(store) = self.store() {
            store.purge(&Purge::Everything, Strength::Hard, SystemTime::now());
            self.release(u64::MAX);
        }
    }

    /// A response for a key is not stored.
    pub fn note_unstored(&self, key: Key, why: Unstored) {
        self.unstored.get_or_init(NotesOfUnstored::default).note(key, why);
    }

    /// Why the last response for a key was not stored, as far as that is known.
    pub fn why_unstored(&self, key: &Key) -> Option<Noted> {
        self.unstored.get()?.of(key)
    }

    /// Takes stored responses away, or makes them stale.
    pub fn purge(&self, what: &Purge<'_>, strength: Strength) {
        // First, so that nothing of the tier is used that this takes away: it waits to be told.
        if let Some(tier) = &*self.tier.load() {
            tier.purge(what, strength);
        }
        if let Some(store) = self.store() {
            store.purge(what, strength, SystemTime::now());
        }
    }

    /// Takes the responses of a URL away, or makes them stale. Keys have parts of its query only, where a route says so: what is stored for
    /// it is found by each of those.
    pub fn purge_url(&self, host: &str, path: &str, query: Option<&str>, strength: Strength) {
        let mut forms = vec![query.map(Cow::Borrowed)];
        for rule in self.queries.load().iter() {
            let form = rule.canonical(query);
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        for query in forms {
            self.purge(&Purge::Url { host, path, query: query.as_deref() }, strength);
        }
    }

    /// RFC 9111 §4.4: what a response to an unsafe request makes invalid.
    pub fn invalidate(&self, place: &Place<'_>, method: &Method, status: StatusCode, response: &HeaderMap) {
        if self.store().is_none() || !invalidate::invalidates(method, status) {
            return;
        }
        self.purge_url(place.host, place.path, place.query, Strength::Hard);
        let query = place.query.map(|query| format!("?{query}")).unwrap_or_default();
        let target = format!("{}://{}{}{query}", place.scheme, place.host, place.path);
        let Ok(target) = Url::parse(&target) else { return };
        for url in invalidate::others(&target, response) {
            // In the form in which requests are known: `/%7Eada` is `/~ada`.
            if let (Some(host), Ok(path)) = (url_host(&url), normalise_path(url.path())) {
                self.purge_url(&host, &path, url.query(), Strength::Hard);
            }
        }
    }
}

/// Where a request goes, in the form of keys and purges: as the client has sent it, after the filters and before a rewrite, since purges and
/// `Location` name public URLs. The path is in normal form, the host in lower case and without the port of its scheme.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub scheme: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// The host of a request in the form of a [`Place`].
pub fn place_host<'a>(scheme: &Scheme, authority: &'a Authority) -> &'a str {
    let port = if *scheme == Scheme::HTTPS { ":443" } else { ":80" };
    authority.as_str().strip_suffix(port).unwrap_or(authority.as_str())
}

/// The same of a URL.
pub fn url_host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_form() {
        let of = |scheme, authority| place_host(&scheme, &Authority::from_static(authority)).to_owned();
        assert_eq!(of(Scheme::HTTP, "a.example:80"), "a.example");
        assert_eq!(of(Scheme::HTTPS, "a.example:443"), "a.example");
        assert_eq!(of(Scheme::HTTPS, "a.example:80"), "a.example:80");
        let url = |text| url_host(&Url::parse(text).unwrap()).unwrap();
        assert_eq!(url("http://A.example:80/x"), "a.example");
        assert_eq!(url("http://a.example:8080/x"), "a.example:8080");
    }
}
