//! Names to addresses for one worker: a cache over the system's resolver configuration that refreshes by TTL and keeps the
//! last good answer when DNS fails.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::deadline;

/// How long a caller waits for a new answer while an old one is at hand.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names that nobody asked for are dropped from the cache beyond this many.
const MAX_NAMES: usize = 4096;

/// Bounds on the time an answer is used, whatever its TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlBounds {
    pub min: Duration,
    pub max: Duration,
}

impl Default for TtlBounds {
    fn default() -> Self {
        TtlBounds { min: Duration::from_secs(1), max: Duration::from_secs(300) }
    }
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

/// The resolver of one worker.
#[derive(Default)]
pub struct Dns {
    resolver: OnceCell<Result<TokioResolver, Arc<NetError>>>,
    names: RefCell<HashMap<Arc<str>, Answer>>,
    /// Lookups under way, so that many connections to one name ask once.
    asking: RefCell<HashMap<Arc<str>, Rc<tokio::sync::Mutex<()>>>>,
}

impl Dns {
    /// A resolver that reads the system's configuration when the first name is asked for.
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

    async fn lookup(&self, name: &Arc<str>, bounds: TtlBounds) -> Result<Answer, DnsError> {
        let failed = |source: Arc<NetError>| DnsError::Lookup { name: name.clone(), source };
        let resolver = self.resolver.get_or_init(|| system_resolver().map_err(Arc::new)).as_ref();
        let resolver = resolver.map_err(|error| failed(error.clone()))?;
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

/// The resolver that the system's files describe. Without them it asks a server on this machine, as the C library does.
fn system_resolver() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        tracing::warn!(%error, "no usable resolver configuration, names are asked for at 127.0.0.1");
        let config = ResolverConfig::from_name_servers(vec![NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into())]);
        hickory_resolver::Resolver::builder_with_config(config, TokioRuntimeProvider::default())
    });
    let options: &mut ResolverOpts = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(Duration::from_secs(2));
    options.cache_size = 0; // this module is the cache, and has to get a new answer when it asks
    builder.build()
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
