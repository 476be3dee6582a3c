//! Names to addresses for one worker: a cache over the name servers of the configuration, or else of the system, that refreshes by
//! TTL and keeps the last good answer when DNS fails.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

pub use crate::config::model::TtlBounds;
use crate::deadline;

/// How long a caller waits for a new answer while an old one is at hand.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names that nobody asked for are dropped from the cache beyond this many.
const MAX_NAMES: usize = 4096;
/// Where a name server listens (RFC 1035 §4.2).
const PORT: u16 = 53;

/// The name servers of the configuration; none for the system's. There is one list for the process, as the system has one: for
/// upstreams, for what filters call and for what is fetched for them, on whatever thread.
static NAMESERVERS: LazyLock<ArcSwap<Vec<SocketAddr>>> = LazyLock::new(ArcSwap::default);

/// Asks these servers from now on, or those of the system if there is none, and answers those that were asked before. Answers that are
/// at hand are used to their end.
pub fn use_nameservers(servers: &[SocketAddr]) -> Arc<Vec<SocketAddr>> {
    let before = NAMESERVERS.load_full();
    if *before != servers {
        NAMESERVERS.store(Arc::new(servers.to_vec()));
    }
    before
}

/// Why a name has no addresses.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DnsError {
    #[error("no address for `{name}`")]
    Lookup { name: Arc<str>, source: Arc<NetError> },
    #[error("no address for `{0}`: the answer is empty")]
    Empty(Arc<str>),
}

/// Addresses of a name, never empty, and when to ask again.
#[derive(Debug, Clone)]
pub struct Answer {
    pub addresses: Rc<[IpAddr]>,
    pub fresh_until: Instant,
}

/// Who asks, and the servers it was made for.
struct Resolver {
    servers: Arc<Vec<SocketAddr>>,
    asks: Result<TokioResolver, Arc<NetError>>,
}

/// The resolver of one worker.
#[derive(Default)]
pub struct Dns {
    resolver: RefCell<Option<Resolver>>,
    names: RefCell<HashMap<Arc<str>, Answer>>,
    /// Lookups under way, so that many connections to one name ask once.
    asking: RefCell<HashMap<Arc<str>, Rc<tokio::sync::Mutex<()>>>>,
}

impl Dns {
    /// A resolver that reads the configuration of the system, if it is for that, when the first name is asked for.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// The addresses of a name. IP literals and `localhost` (RFC 6761 §6.3) need no DNS. When DNS fails, the last good
    /// answer is given again, and the next question goes out after the lower bound.
    pub async fn resolve(&self, name: &Arc<str>, bounds: TtlBounds) -> Result<Answer, DnsError> {
        if let Some(addresses) = literal(name) {
            return Ok(Answer { addresses, fresh_until: Instant::now() + Duration::from_secs(86_400) });
        }
        let known = self.names.borrow().get(name).cloned();
        if let Some(answer) = known.as_ref().filter(|answer| answer.fresh_until > Instant::now()) {
            return Ok(answer.clone());
        }
        let Some(old) = known else { return self.ask(name, bounds).await };
        match deadline::timeout(PATIENCE, self.ask(name, bounds)).await {
            Ok(Ok(answer)) => Ok(answer),
            failed => {
                let reason = match failed {
                    Ok(Err(error)) => crate::chain(&error),
                    _ => "no answer in time".to_owned(),
                };
                tracing::warn!(name = &**name, reason, "dns failed, the last good answer is used");
                let answer = Answer { addresses: old.addresses, fresh_until: Instant::now() + bounds.min };
                self.names.borrow_mut().insert(name.clone(), answer.clone());
                Ok(answer)
            }
        }
    }

    async fn ask(&self, name: &Arc<str>, bounds: TtlBounds) -> Result<Answer, DnsError> {
        let turn = self.asking.borrow_mut().entry(name.clone()).or_default().clone();
        let waiting = turn.lock().await;
        let answered = self.names.borrow().get(name).filter(|answer| answer.fresh_until > Instant::now()).cloned();
        let outcome = match answered {
            Some(answer) => Ok(answer),
            None => self.lookup(name, bounds).await,
        };
        drop(waiting);
        // The map and this function hold the last two references when nobody waits.
        if Rc::strong_count(&turn) == 2 {
            self.asking.borrow_mut().remove(name);
        }
        outcome
    }

    fn resolver(&self) -> Result<TokioResolver, Arc<NetError>> {
        let servers = NAMESERVERS.load_full();
        let mut made = self.resolver.borrow_mut();
        let fit = made.take().filter(|made| Arc::ptr_eq(&made.servers, &servers));
        let resolver = fit.unwrap_or_else(|| Resolver { asks: resolver(&servers).map_err(Arc::new), servers });
        made.insert(resolver).asks.clone()
    }

    async fn lookup(&self, name: &Arc<str>, bounds: TtlBounds) -> Result<Answer, DnsError> {
        let failed = |source: Arc<NetError>| DnsError::Lookup { name: name.clone(), source };
        let resolver = self.resolver().map_err(failed)?;
        let found = resolver.lookup_ip(&**name).await.map_err(|error| failed(Arc::new(error)))?;
        let mut addresses: Vec<IpAddr> = found.iter().collect();
        // Servers rotate their answers; in a fixed order a change is a real change.
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(DnsError::Empty(name.clone()));
        }
        let now = Instant::now();
        let ttl = found.valid_until().saturating_duration_since(now).clamp(bounds.min, bounds.max.max(bounds.min));
        let answer = Answer { addresses: addresses.into(), fresh_until: now + ttl };
        let mut names = self.names.borrow_mut();
        if names.len() >= MAX_NAMES {
            names.retain(|_, answer| answer.fresh_until > now);
        }
        names.insert(name.clone(), answer.clone());
        Ok(answer)
    }
}

/// The addresses of names that never go to DNS.
fn literal(name: &str) -> Option<Rc<[IpAddr]>> {
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(Rc::new([address]));
    }
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    let local = bare.eq_ignore_ascii_case("localhost")
        || bare.len() > 10
            && bare.is_char_boundary(bare.len() - 10)
            && bare[bare.len() - 10..].eq_ignore_ascii_case(".localhost");
    local.then(|| Rc::new([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]) as Rc<[IpAddr]>)
}

/// A resolver that asks these servers for names as they are written, without the search domains of the system. Without servers it
/// is the one that the system's files describe, and without those it asks a server on this machine, as the C library does.
fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
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
        assert!(resolver(&[address]).is_ok());
    }

    #[tokio::test(flavor = "local")]
    async fn a_good_answer_outlives_the_server() {
        let dns = Dns::new();
        let name: Arc<str> = "gone.invalid".into();
        let addresses: Rc<[IpAddr]> = Rc::new([[192, 0, 2, 1].into()]);
        let old = Answer { addresses: addresses.clone(), fresh_until: Instant::now() };
        dns.names.borrow_mut().insert(name.clone(), old);
        let bounds = TtlBounds { min: Duration::from_secs(60), ..TtlBounds::default() };
        let answer = dns.resolve(&name, bounds).await.unwrap();
        assert_eq!(answer.addresses, addresses);
        assert!(answer.fresh_until > Instant::now() + Duration::from_secs(50));
        assert!(dns.asking.borrow().is_empty() || dns.asking.borrow().len() == 1);
    }
}
