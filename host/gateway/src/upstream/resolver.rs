//! Names to addresses, for all workers: a cache over the name servers of the configuration, or else of the system, that asks again by TTL
//! and keeps the last good answer when DNS fails. A snapshot has a resolver; a reload shares it if the servers are the same, and else
//! only its answers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::oneshot;

use crate::background::Background;
pub use crate::config::model::TtlBounds;

/// How long a caller waits for a new answer while an old one is at hand.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names that nobody asked for are dropped from the cache beyond this many.
const MAX_NAMES: usize = 4096;
/// Where a name server listens (RFC 1035 §4.2).
const PORT: u16 = 53;
/// How long the address of a literal may be used.
const LITERAL: Duration = Duration::from_secs(86_400);

/// The addresses of a name.
pub type Addresses = Arc<[IpAddr]>;

/// Why a name has no addresses.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DnsError {
    #[error("no address for `{name}`")]
    Lookup { name: Arc<str>, source: Arc<NetError> },
    #[error("no address for `{0}`: the answer is empty")]
    Empty(Arc<str>),
    #[error("no address for `{0}`: the gateway is shutting down")]
    Stopped(Arc<str>),
}

/// Addresses of a name, never empty, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    pub addresses: Addresses,
    pub fresh_until: Instant,
}

/// Asks name servers.
pub struct Resolver {
    /// None for those of the system.
    servers: Vec<SocketAddr>,
    /// Made, and the configuration of the system read, when the first name is asked for.
    client: OnceLock<Result<TokioResolver, Arc<NetError>>>,
    cache: Arc<Cache>,
    /// Where questions are asked; `None` where the caller runs.
    background: Option<Background>,
}

/// Answers by name. They are used to their end, whoever is asked from now on.
#[derive(Default)]
struct Cache {
    answers: Mutex<HashMap<Arc<str>, Cached>>,
    /// Questions under way, so that many who need a name ask once.
    asking: Mutex<HashMap<Arc<str>, Question>>,
}

/// A question under way: who holds it asks. It has the last failure, for those who waited for it.
type Question = Arc<tokio::sync::Mutex<Option<(Instant, DnsError)>>>;

struct Cached {
    addresses: Addresses,
    at: Instant,
    ttl: Duration,
}

impl Cached {
    fn answer(&self, bounds: TtlBounds) -> Resolution {
        let fresh = self.ttl.clamp(bounds.min, bounds.max.max(bounds.min));
        Resolution { addresses: self.addresses.clone(), fresh_until: self.at + fresh }
    }
}

impl Resolver {
    /// A resolver without answers yet.
    pub fn new(servers: &[SocketAddr], background: Option<Background>) -> Arc<Self> {
        let (client, cache) = (OnceLock::new(), Arc::default());
        Arc::new(Resolver { servers: servers.to_vec(), client, cache, background })
    }

    /// One that asks these servers and has the answers of this one; this one if it asks them.
    #[must_use]
    pub fn with_servers(self: &Arc<Self>, servers: &[SocketAddr]) -> Arc<Self> {
        if self.servers == servers {
            return Arc::clone(self);
        }
        let (cache, background) = (Arc::clone(&self.cache), self.background.clone());
        Arc::new(Resolver { servers: servers.to_vec(), client: OnceLock::new(), cache, background })
    }

    /// The addresses of a name. IP literals and `localhost` (RFC 6761 §6.3) need no DNS. When DNS fails, the last good
    /// answer is given again, and the next question goes out after the lower bound.
    pub async fn resolve(self: &Arc<Self>, name: &Arc<str>, bounds: TtlBounds) -> Result<Resolution, DnsError> {
        if let Some(addresses) = literal(name) {
            return Ok(Resolution { addresses, fresh_until: Instant::now() + LITERAL });
        }
        let Some(old) = self.known(name, bounds) else { return self.ask(name, bounds).await };
        if old.fresh_until > Instant::now() {
            return Ok(old);
        }
        let reason = match tokio::time::timeout(PATIENCE, self.ask(name, bounds)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => crate::chain(&error),
            Err(_late) => "no answer in time".to_owned(),
        };
        tracing::warn!(name = &**name, reason, "dns failed, the last good answer is used");
        let kept = Cached { addresses: old.addresses, at: Instant::now(), ttl: Duration::ZERO };
        let answer = kept.answer(bounds);
        self.cache.answers().insert(name.clone(), kept);
        Ok(answer)
    }

    /// The answer that is at hand, fresh or not.
    pub(super) fn known(&self, name: &str, bounds: TtlBounds) -> Option<Resolution> {
        self.cache.answers().get(name).map(|cached| cached.answer(bounds))
    }

    /// As if a server had answered.
    #[cfg(test)]
    pub(super) fn learn(&self, name: &str, addresses: &[IpAddr]) {
        let cached = Cached { addresses: addresses.into(), at: Instant::now(), ttl: Duration::from_secs(60) };
        self.cache.answers().insert(name.into(), cached);
    }

    /// Runs a future where questions are asked.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        match &self.background {
            Some(background) => background.spawn("dns", move || future).detach(),
            None => drop(tokio::spawn(future)),
        }
    }

    async fn ask(self: &Arc<Self>, name: &Arc<str>, bounds: TtlBounds) -> Result<Resolution, DnsError> {
        let asking = Arc::clone(self).ask_once(name.clone(), bounds);
        let Some(background) = &self.background else { return asking.await };
        let (told, answer) = oneshot::channel();
        let ask = move || async move {
            // Whoever asked may have gone; the answer is in the cache.
            let _ = told.send(asking.await);
        };
        background.spawn("dns", ask).detach();
        answer.await.unwrap_or_else(|_| Err(DnsError::Stopped(name.clone())))
    }

    async fn ask_once(self: Arc<Self>, name: Arc<str>, bounds: TtlBounds) -> Result<Resolution, DnsError> {
        let begun = Instant::now();
        let turn = self.cache.asking().entry(name.clone()).or_default().clone();
        let mut failure = turn.lock().await;
        let outcome = match self.known(&name, bounds).filter(|answer| answer.fresh_until > Instant::now()) {
            Some(answer) => Ok(answer),
            None => match failure.as_ref().filter(|(at, _)| *at > begun) {
                Some((_, error)) => Err(error.clone()),
                None => self.lookup(&name, bounds).await,
            },
        };
        *failure = outcome.as_ref().err().map(|error| (Instant::now(), error.clone()));
        drop(failure);
        let mut asking = self.cache.asking();
        // The map and this function hold the last two references when nobody waits.
        if Arc::strong_count(&turn) == 2 {
            asking.remove(&name);
        }
        outcome
    }

    async fn lookup(&self, name: &Arc<str>, bounds: TtlBounds) -> Result<Resolution, DnsError> {
        let failed = |source: Arc<NetError>| DnsError::Lookup { name: name.clone(), source };
        let client = self.client.get_or_init(|| client(&self.servers).map_err(Arc::new)).as_ref();
        let client = client.map_err(|error| failed(error.clone()))?;
        let found = client.lookup_ip(&**name).await.map_err(|error| failed(Arc::new(error)))?;
        let mut addresses: Vec<IpAddr> = found.iter().collect();
        // Servers rotate their answers; in a fixed order a change is a real change.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(DnsError::Empty(name.clone()));
        }
        let now = Instant::now();
        let ttl = found.valid_until().saturating_duration_since(now);
        let cached = Cached { addresses: addresses.into(), at: now, ttl };
        let answer = cached.answer(bounds);
        let mut answers = self.cache.answers();
        if answers.len() >= MAX_NAMES {
            answers.retain(|_, cached| cached.answer(TtlBounds::default()).fresh_until > now);
        }
        answers.insert(name.clone(), cached);
        Ok(answer)
    }
}

impl Cache {
    fn answers(&self) -> MutexGuard<'_, HashMap<Arc<str>, Cached>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, HashMap<Arc<str>, Question>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses of names that never go to DNS.
pub(super) fn literal(name: &str) -> Option<Addresses> {
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(Arc::new([address]));
    }
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    let local = bare.eq_ignore_ascii_case("localhost")
        || bare.len() > 10
            && bare.is_char_boundary(bare.len() - 10)
            && bare[bare.len() - 10..].eq_ignore_ascii_case(".localhost");
    local.then(|| Arc::new([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]) as Addresses)
}

/// A client that asks these servers for names as they are written, without the search domains of the system. Without servers it
/// is the one that the system's files describe, and without those it asks a server on this machine, as the C library does.
fn client(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let asking = |servers: &[SocketAddr]| {
        let config = ResolverConfig::from_name_servers(servers.iter().map(nameserver).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no usable resolver configuration, names are asked for at 127.0.0.1");
            asking(&[SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))])
        })
    } else {
        asking(servers)
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(Duration::from_secs(2));
    options.cache_size = 0; // this module is the cache, and has to get a new answer when it asks
    builder.build()
}

/// A server that is asked by UDP, and by TCP for what UDP has cut short (RFC 7766 §5).
fn nameserver(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_localhost_never_go_to_dns() {
        assert_eq!(literal("127.0.0.1").unwrap().len(), 1);
        assert_eq!(*literal("[::1]").unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(literal("localhost").unwrap().len(), 2);
        assert_eq!(literal("a.LocalHost.").unwrap().len(), 2);
        assert!(literal("notlocalhost").is_none() && literal("localhost.example").is_none());
        assert!(literal("ääääääääää").is_none());
    }

    #[test]
    fn a_server_is_asked_at_its_port_by_udp_and_tcp() {
        let address: SocketAddr = "[::1]:5353".parse().unwrap();
        let server = nameserver(&address);
        assert_eq!((server.ip, server.connections.len()), (address.ip(), 2));
        assert!(server.connections.iter().all(|connection| connection.port == 5353));
        assert!(client(&[address]).is_ok());
    }

    #[tokio::test(flavor = "local")]
    async fn a_good_answer_outlives_the_server() {
        // Nobody answers there (RFC 5737), and the port is taken by no server of names.
        let resolver = Resolver::new(&[SocketAddr::from(([127, 0, 0, 1], 9))], None);
        let name: Arc<str> = "gone.invalid".into();
        let addresses: Addresses = Arc::new([[192, 0, 2, 1].into()]);
        let old =
            Cached { addresses: addresses.clone(), at: Instant::now() - Duration::from_secs(600), ttl: Duration::ZERO };
        resolver.cache.answers().insert(name.clone(), old);
        let bounds = TtlBounds { min: Duration::from_secs(60), ..TtlBounds::default() };
        let answer = resolver.resolve(&name, bounds).await.unwrap();
        assert_eq!(answer.addresses, addresses);
        assert!(answer.fresh_until > Instant::now() + Duration::from_secs(50));
    }

    #[tokio::test(flavor = "local")]
    async fn answers_are_shared_with_who_asks_other_servers() {
        let [one, two] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let first = Resolver::new(&[one], None);
        assert!(Arc::ptr_eq(&first, &first.with_servers(&[one])));
        let second = first.with_servers(&[two]);
        assert!(!Arc::ptr_eq(&first, &second));
        let cached =
            Cached { addresses: Arc::new([[192, 0, 2, 1].into()]), at: Instant::now(), ttl: Duration::from_secs(9) };
        first.cache.answers().insert("known.test".into(), cached);
        let known = |resolver: &Resolver| resolver.known("known.test", TtlBounds::default());
        assert!(known(&second).is_some() && known(&first) == known(&second));
    }
}
